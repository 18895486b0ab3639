//! What a decoder child costs a clip: from an open upload to its last sample, by a child and in this process, taking turns.
//!
//! ```sh
//! cargo build --release && cargo run --release --example decoder_latency [-- FILE…]
//! ```
//! Run it on a quiet machine. `DECODER` names another program than the one beside this example.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;
use whisper_backend_api::audio::{
    AudioLimits, AudioStream, ChannelMode, DecoderSettings, Decoders, StopDecoding, UploadedAudio,
};

/// Runs of each, taking turns.
const RUNS: usize = 200;

/// Pause before each run: clips that come one by one find a child ready.
const PAUSE: Duration = Duration::from_millis(150);

fn limits() -> AudioLimits {
    AudioLimits {
        max_duration: Duration::from_secs(24 * 3600),
        max_channels: 32,
        max_sample_rate_hz: 768_000,
        max_tracks: 64,
        max_metadata_bytes: 16 << 20,
    }
}

fn main() -> Result<()> {
    let mut files: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    if files.is_empty() {
        files.push(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/jfk.wav"));
    }
    let beside = std::env::current_exe()?
        .parent()
        .unwrap()
        .join("../WhisperBackendAPI");
    let program = std::env::var_os("DECODER").map_or(beside, PathBuf::from);
    let decoders = Decoders::new(DecoderSettings {
        program,
        limits: limits(),
        memory_bytes: 512 << 20,
        cpu: Duration::from_secs(7200),
        ask_ffmpeg: false,
    })?;
    println!(
        "{:32} {:>22} {:>22} {:>22}",
        "milliseconds", "child (median, p95)", "here (median, p95)", "first block: child"
    );
    for file in &files {
        let (mut child, mut here, mut first) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..RUNS {
            std::thread::sleep(PAUSE);
            let upload = UploadedAudio::from_bytes(&std::fs::read(file)?, None)?;
            let started = Instant::now();
            let mut recording = decoders.open(upload, ChannelMode::Mixed, &StopDecoding::default())?;
            recording.next_block()?;
            first.push(started.elapsed());
            while recording.next_block()?.is_some() {}
            child.push(started.elapsed());
            drop(recording);
            let upload = UploadedAudio::from_bytes(&std::fs::read(file)?, None)?;
            let started = Instant::now();
            let mut stream = AudioStream::open(upload, &limits(), ChannelMode::Mixed)?;
            while stream.next_block()?.is_some() {}
            here.push(started.elapsed());
        }
        println!(
            "{:32} {:>22} {:>22} {:>22}",
            file.file_name().unwrap_or_default().to_string_lossy(),
            shown(&mut child),
            shown(&mut here),
            shown(&mut first)
        );
    }
    Ok(())
}

fn shown(times: &mut [Duration]) -> String {
    times.sort();
    let at = |part: usize| times[(times.len() * part / 100).min(times.len() - 1)].as_secs_f64() * 1e3;
    format!("{:.2}, {:.2}", at(50), at(95))
}
