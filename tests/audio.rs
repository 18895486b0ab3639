//! The audio intake against files from real encoders, and against files nobody meant well with.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "audio/allocations.rs"]
mod allocations;
#[path = "audio/decoders.rs"]
mod decoders;
#[path = "audio/hostile.rs"]
mod hostile;
#[path = "audio/matrix.rs"]
mod matrix;
#[path = "audio/mutants.rs"]
mod mutants;
#[path = "audio/shapes.rs"]
mod shapes;
#[allow(dead_code, reason = "shared with the tests of the server")]
#[path = "server/support.rs"]
mod support;
#[path = "audio/transcribed.rs"]
mod transcribed;

use std::path::{Path, PathBuf};
use std::time::Duration;

use whisper_backend_api::audio::{
    AudioError, AudioLimits, AudioStream, ChannelMode, PcmBlock, UploadedAudio,
};

/// The limits of a fresh configuration.
fn limits() -> AudioLimits {
    AudioLimits {
        max_duration: Duration::from_secs(24 * 3600),
        max_channels: 32,
        max_sample_rate_hz: 768_000,
        max_tracks: 64,
        max_metadata_bytes: 16 << 20,
    }
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

/// Everything in a stream, one vector a channel.
fn drain(stream: &mut AudioStream) -> Result<Vec<Vec<f32>>, AudioError> {
    let mut all = Vec::new();
    while let Some(PcmBlock { channels }) = stream.next_block()? {
        assert!(
            channels.iter().all(|channel| channel.len() == channels[0].len()),
            "channels of different lengths"
        );
        assert!(
            channels.iter().all(|channel| channel.len() <= 5 * 16_000),
            "a block longer than 5 s"
        );
        all.resize(channels.len(), Vec::new());
        for (all, channel) in all.iter_mut().zip(channels) {
            assert!(
                channel.iter().all(|sample| (-1.0..=1.0).contains(sample)),
                "a sample beyond full scale"
            );
            all.extend(channel);
        }
    }
    assert_eq!(stream.decoded_samples() as usize, all.first().map_or(0, Vec::len));
    Ok(all)
}

fn decode_path(path: &Path) -> Result<Vec<f32>, AudioError> {
    let mut stream = AudioStream::open(UploadedAudio::from_path(path)?, &limits(), ChannelMode::Mixed)?;
    Ok(drain(&mut stream)?.swap_remove(0))
}

fn decode_bytes(bytes: &[u8]) -> Result<Vec<f32>, AudioError> {
    let upload = UploadedAudio::from_bytes(bytes, None)?;
    let mut stream = AudioStream::open(upload, &limits(), ChannelMode::Mixed)?;
    Ok(drain(&mut stream)?.swap_remove(0))
}

/// Samples that `bytes` give; holds no more than a block of them.
fn decode_limited(bytes: &[u8], limits: &AudioLimits) -> Result<usize, AudioError> {
    let mut stream = AudioStream::open(
        UploadedAudio::from_bytes(bytes, None)?,
        limits,
        ChannelMode::Mixed,
    )?;
    let mut samples = 0;
    while let Some(block) = stream.next_block()? {
        assert!(block.channels[0].len() <= 5 * 16_000, "a block longer than 5 s");
        samples += block.channels[0].len();
    }
    Ok(samples)
}

/// Pearson's correlation of what two signals share when `b` is `lag` samples late.
fn correlation(a: &[f32], b: &[f32], lag: isize) -> f64 {
    let (a, b) = if lag >= 0 {
        (a, b.get(lag as usize..).unwrap_or_default())
    } else {
        (a.get(lag.unsigned_abs()..).unwrap_or_default(), b)
    };
    let count = a.len().min(b.len());
    let (mut aa, mut bb, mut ab) = (0.0_f64, 0.0_f64, 0.0_f64);
    for (a, b) in a[..count].iter().zip(&b[..count]) {
        let (a, b) = (f64::from(*a), f64::from(*b));
        aa += a * a;
        bb += b * b;
        ab += a * b;
    }
    if aa * bb > 0.0 { ab / (aa * bb).sqrt() } else { 0.0 }
}

/// The lag within `reach` samples that aligns `b` with `a` best, judged by half a second from their middle.
fn best_lag(a: &[f32], b: &[f32], reach: isize) -> isize {
    let middle = a.len().min(b.len()) / 2;
    let window = middle.saturating_sub(4_000)..(middle + 4_000).min(a.len().min(b.len()));
    let centre = &a[window.clone()];
    (-reach..=reach)
        .max_by(|one, other| {
            let score = |lag: isize| {
                let start = window.start.checked_add_signed(lag)?;
                let shifted = b.get(start..start + centre.len())?;
                Some(
                    centre
                        .iter()
                        .zip(shifted)
                        .map(|(a, b)| f64::from(a * b))
                        .sum::<f64>(),
                )
            };
            score(*one)
                .unwrap_or(f64::MIN)
                .total_cmp(&score(*other).unwrap_or(f64::MIN))
        })
        .unwrap_or(0)
}
