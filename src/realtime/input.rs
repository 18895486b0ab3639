//! A client's bytes → mono samples at 16 kHz, without a seam between two appends.

use rubato::audioadapter_buffers::direct::SequentialSliceOfVecs;
use rubato::{
    Async, FixedAsync, Resampler, SincInterpolationParameters, SincInterpolationType, WindowFunction,
    calculate_cutoff,
};

use super::settings::Format;
use crate::speech::SAMPLE_RATE_HZ;

/// Taps of the filter at the input's rate: its delay is half of them, 2.7 ms at 24 kHz.
const TAPS: usize = 128;
/// Milliseconds converted at once; what is left over waits for the next append.
const BLOCK_MILLISECONDS: usize = 10;

/// Decodes and resamples one stream.
pub struct Intake {
    format: Format,
    /// First byte of a sample whose second byte has not come.
    odd: Option<u8>,
    filter: Option<Filter>,
    /// Samples at the input's rate so far.
    taken: u64,
}

struct Filter {
    inner: Async<f32>,
    waiting: Vec<f32>,
    input: Vec<Vec<f32>>,
    output: Vec<Vec<f32>>,
    /// Samples of the filter's own delay that are still to be dropped.
    delay: usize,
}

impl std::fmt::Debug for Intake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Intake")
            .field("format", &self.format)
            .field("taken", &self.taken)
            .finish_non_exhaustive()
    }
}

impl Intake {
    /// For a stream in this format.
    ///
    /// # Errors
    ///
    /// A sentence, when the library refuses the rate.
    pub fn new(format: Format) -> Result<Self, String> {
        let filter = if format.rate_hz() == SAMPLE_RATE_HZ {
            None
        } else {
            Some(Filter::new(format.rate_hz())?)
        };
        Ok(Self {
            format,
            odd: None,
            filter,
            taken: 0,
        })
    }

    /// The format.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Milliseconds taken so far.
    pub fn milliseconds(&self) -> f64 {
        self.taken as f64 * 1000.0 / f64::from(self.format.rate_hz())
    }

    /// Takes bytes, appends samples. A sample may be spread over two calls.
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<f32>) {
        let samples = self.decode(bytes);
        self.taken += samples.len() as u64;
        match &mut self.filter {
            None => out.extend(samples),
            Some(filter) => filter.push(&samples, out),
        }
    }

    fn decode(&mut self, mut bytes: &[u8]) -> Vec<f32> {
        let mut samples = Vec::with_capacity(bytes.len() / self.format.sample_bytes() + 1);
        match self.format {
            Format::Pcmu => samples.extend(bytes.iter().map(|&byte| scaled(ulaw(byte)))),
            Format::Pcma => samples.extend(bytes.iter().map(|&byte| scaled(alaw(byte)))),
            Format::Pcm { .. } => {
                if let (Some(low), Some((&high, rest))) = (self.odd, bytes.split_first()) {
                    samples.push(scaled(i16::from_le_bytes([low, high])));
                    self.odd = None;
                    bytes = rest;
                }
                let (pairs, rest) = bytes.as_chunks::<2>();
                samples.extend(pairs.iter().map(|pair| scaled(i16::from_le_bytes(*pair))));
                if let [low] = rest {
                    self.odd = Some(*low);
                }
            }
        }
        samples
    }
}

impl Filter {
    fn new(rate_hz: u32) -> Result<Self, String> {
        let ratio = f64::from(SAMPLE_RATE_HZ) / f64::from(rate_hz);
        let window = WindowFunction::BlackmanHarris2;
        let parameters = SincInterpolationParameters {
            sinc_len: TAPS,
            f_cutoff: Some(calculate_cutoff(TAPS, window)),
            oversampling_factor: 128,
            interpolation: SincInterpolationType::Cubic,
            window,
        };
        let block = rate_hz as usize * BLOCK_MILLISECONDS / 1000;
        let inner = Async::new_sinc(ratio, 1.0, &parameters, block, 1, FixedAsync::Input)
            .map_err(|error| error.to_string())?;
        // Half the filter, less the one output that rubato 5 gives before it has moved on.
        let delay = ((TAPS / 2) as f64 * ratio - 1.0).round().max(0.0) as usize;
        Ok(Self {
            waiting: Vec::new(),
            input: vec![vec![0.0; inner.input_frames_max()]],
            output: vec![vec![0.0; inner.output_frames_max()]],
            inner,
            delay,
        })
    }

    fn push(&mut self, samples: &[f32], out: &mut Vec<f32>) {
        self.waiting.extend_from_slice(samples);
        let mut used = 0;
        loop {
            let frames = self.inner.input_frames_next();
            let Some(block) = self.waiting.get(used..used + frames) else {
                break;
            };
            self.input[0][..frames].copy_from_slice(block);
            used += frames;
            let room = self.output[0].len();
            let converted = SequentialSliceOfVecs::new(&self.input, 1, frames)
                .ok()
                .and_then(|source| {
                    let mut sink = SequentialSliceOfVecs::new_mut(&mut self.output, 1, room).ok()?;
                    self.inner.process_into_buffer(&source, &mut sink, None).ok()
                });
            // The buffers are as large as the filter asks: it does not fail. Silence keeps the clock if it does.
            let produced = converted.map_or(0, |(_, produced)| produced);
            let skip = self.delay.min(produced);
            self.delay -= skip;
            out.extend(
                self.output[0][skip..produced]
                    .iter()
                    .map(|sample| sample.clamp(-1.0, 1.0)),
            );
        }
        self.waiting.drain(..used);
    }
}

fn scaled(sample: i16) -> f32 {
    f32::from(sample) / 32_768.0
}

/// G.711 µ-law (ITU-T G.711, table 2a): sign, three bits of exponent, four of mantissa, all inverted.
fn ulaw(byte: u8) -> i16 {
    const BIAS: i16 = 0x84;
    let byte = !byte;
    let magnitude = ((i16::from(byte & 0x0F) << 3) + BIAS) << ((byte & 0x70) >> 4);
    if byte & 0x80 == 0 {
        magnitude - BIAS
    } else {
        BIAS - magnitude
    }
}

/// G.711 A-law (ITU-T G.711, table 1a): as above, every other bit inverted.
fn alaw(byte: u8) -> i16 {
    let byte = byte ^ 0x55;
    let exponent = (byte & 0x70) >> 4;
    let mantissa = i16::from(byte & 0x0F) << 4;
    let magnitude = if exponent == 0 {
        mantissa + 8
    } else {
        (mantissa + 0x108) << (exponent - 1)
    };
    if byte & 0x80 == 0 { -magnitude } else { magnitude }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PCM24: Format = Format::Pcm { rate_hz: 24_000 };

    fn whole(format: Format, pieces: impl IntoIterator<Item = Vec<u8>>) -> Vec<f32> {
        let mut intake = Intake::new(format).unwrap();
        let mut out = Vec::new();
        for piece in pieces {
            intake.push(&piece, &mut out);
        }
        out
    }

    fn tone(hz: f64, rate: f64, seconds: f64) -> Vec<u8> {
        (0..(rate * seconds) as usize)
            .flat_map(|n| {
                let sample = (std::f64::consts::TAU * hz * n as f64 / rate).sin() * 16_384.0;
                (sample.round() as i16).to_le_bytes()
            })
            .collect()
    }

    #[test]
    fn a_tone_keeps_its_place_and_its_level() {
        let out = whole(PCM24, [tone(440.0, 24_000.0, 1.0)]);
        assert!(out.len() > 15_800, "{}", out.len());
        for (n, sample) in out.iter().enumerate().skip(200).take(15_000) {
            let ideal = (std::f64::consts::TAU * 440.0 * n as f64 / 16_000.0).sin() * 0.5;
            assert!(
                (f64::from(*sample) - ideal).abs() < 0.03,
                "sample {n}: {sample} {ideal}"
            );
        }
    }

    #[test]
    fn what_whisper_cannot_hear_does_not_fold_back() {
        let out = whole(PCM24, [tone(10_500.0, 24_000.0, 0.5)]);
        let rms = (out[400..].iter().map(|s| s * s).sum::<f32>() / (out.len() - 400) as f32).sqrt();
        assert!(rms < 0.002, "{rms}");
    }

    #[test]
    fn g711_is_the_standard_s() {
        // ITU-T G.711: the codes for silence and for the greatest amplitudes.
        assert_eq!(
            (ulaw(0xFF), ulaw(0x7F), ulaw(0x00), ulaw(0x80)),
            (0, 0, -32_124, 32_124)
        );
        assert_eq!(
            (alaw(0xD5), alaw(0x55), alaw(0xAA), alaw(0x2A)),
            (8, -8, 32_256, -32_256)
        );
        for byte in 0..=0x7F_u8 {
            assert_eq!(ulaw(byte), -ulaw(byte | 0x80));
            assert_eq!(alaw(byte), -alaw(byte | 0x80));
        }
    }

    proptest! {
        #[test]
        fn how_audio_is_divided_makes_no_difference(cuts in proptest::collection::vec(0usize..997, 0..40), kind in 0..4) {
            let format = [PCM24, Format::Pcm { rate_hz: 16_000 }, Format::Pcmu, Format::Pcma][kind as usize];
            let bytes = tone(300.0, 24_000.0, 0.3);
            let mut rest = bytes.as_slice();
            let mut pieces = Vec::new();
            for cut in cuts {
                let (piece, tail) = rest.split_at(cut.min(rest.len()));
                pieces.push(piece.to_vec());
                rest = tail;
            }
            pieces.push(rest.to_vec());
            prop_assert_eq!(whole(format, pieces), whole(format, [bytes]));
        }
    }
}
