//! The mel filter bank that ggml files carry, computed as librosa does for openai-whisper's `mel_filters.npz`.

use super::super::ggml::MEL_BINS;

/// Hz between two bins: 16 kHz samples, 400-sample FFT.
const BIN_HZ: f64 = 40.0;
const HIGHEST_HZ: f64 = 8000.0;
/// Slaney's mel scale (librosa `hz_to_mel`): linear below 1 kHz, logarithmic above.
const LINEAR_HZ_PER_MEL: f64 = 200.0 / 3.0;
const LOG_START_HZ: f64 = 1000.0;
const LOG_START_MEL: f64 = 15.0;

fn log_step() -> f64 {
    libm::log(6.4) / 27.0
}

fn hz_of(mel: f64) -> f64 {
    if mel < LOG_START_MEL {
        LINEAR_HZ_PER_MEL * mel
    } else {
        LOG_START_HZ * libm::exp(log_step() * (mel - LOG_START_MEL))
    }
}

/// `bands` triangular filters of 201 bins each, band by band; 80 and 128 bands equal openai-whisper's to the bit
/// (`libm`, not the system's, so that they do so on every machine).
pub(crate) fn filters(bands: u32) -> Vec<f32> {
    let highest_mel = LOG_START_MEL + libm::log(HIGHEST_HZ / LOG_START_HZ) / log_step();
    let step = highest_mel / f64::from(bands + 1);
    let mut edges: Vec<f64> = (0..bands + 2).map(|i| hz_of(step * f64::from(i))).collect();
    edges[bands as usize + 1] = hz_of(highest_mel);
    let mut filters = Vec::with_capacity((bands * MEL_BINS) as usize);
    for edge in edges.windows(3) {
        // Slaney's normalisation: equal area.
        let height = 2.0 / (edge[2] - edge[0]);
        for bin in 0..MEL_BINS {
            let hz = f64::from(bin) * BIN_HZ;
            let rising = (hz - edge[0]) / (edge[1] - edge[0]);
            let falling = (edge[2] - hz) / (edge[2] - edge[1]);
            let weight = rising.min(falling).max(0.0) as f32;
            // Adding zero makes a negative zero positive, as in the published files.
            filters.push((f64::from(weight) * height) as f32 + 0.0);
        }
    }
    filters
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    #[test]
    fn filters_equal_the_published_ones_to_the_bit() {
        // SHA-256 of `mel_80` and `mel_128` of openai-whisper 20250625 as little-endian f32, negative zeros made positive.
        for (bands, expected) in [
            (
                80,
                "85818f156f7e189453901a515e4726d270d307f976e161cf9403e8caab405498",
            ),
            (
                128,
                "e399c2d72d2f7375e503c296d8453cefcc0c1e47a9c1a0a09e0d70f59c820f20",
            ),
        ] {
            let bytes: Vec<u8> = super::filters(bands)
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect();
            assert_eq!(hex::encode(Sha256::digest(&bytes)), expected, "{bands} bands");
        }
    }
}
