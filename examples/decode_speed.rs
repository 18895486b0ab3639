//! How fast recordings are decoded, as a multiple of real time on one core, beside ffmpeg on the same file.
//!
//! ```sh
//! cargo run --release --example decode_speed            # ten minutes in each codec, five runs; needs ffmpeg
//! cargo run --release --example decode_speed -- FILE…   # what is in these files, and how long it took
//! ```
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use whisper_backend_api::audio::{AudioLimits, AudioStream, ChannelMode, SAMPLE_RATE_HZ, UploadedAudio};

/// Length of the files that are made.
const SECONDS: u32 = 600;

/// Runs of each decoder, taking turns; the median counts.
const RUNS: usize = 5;

/// File name, then how ffmpeg encodes it.
const CODECS: [(&str, &str); 16] = [
    ("pcm_s16le_16k.wav", "-c:a pcm_s16le"),
    ("pcm_s16le_44k_stereo.wav", "-ar 44100 -ac 2 -c:a pcm_s16le"),
    ("pcm_mulaw_8k.wav", "-ar 8000 -c:a pcm_mulaw"),
    ("adpcm_ima_8k.wav", "-ar 8000 -c:a adpcm_ima_wav"),
    ("flac_44k_stereo.flac", "-ar 44100 -ac 2 -c:a flac"),
    ("alac_44k_stereo.m4a", "-ar 44100 -ac 2 -c:a alac"),
    ("mp3_16k_mono.mp3", "-c:a libmp3lame -b:a 32k"),
    ("mp3_44k_stereo.mp3", "-ar 44100 -ac 2 -c:a libmp3lame -b:a 128k"),
    ("mp2_44k_stereo.mp2", "-ar 44100 -ac 2 -c:a mp2 -b:a 192k"),
    ("aac_16k_mono.m4a", "-c:a aac -b:a 48k"),
    ("aac_44k_stereo.m4a", "-ar 44100 -ac 2 -c:a aac -b:a 128k"),
    ("vorbis_44k_stereo.ogg", "-ar 44100 -ac 2 -c:a libvorbis"),
    ("opus_48k_mono.ogg", "-ar 48000 -c:a libopus -b:a 32k"),
    ("opus_48k_stereo.webm", "-ar 48000 -ac 2 -c:a libopus -b:a 96k"),
    ("pcm_s16le_48k_stereo.mov", "-ar 48000 -ac 2 -c:a pcm_s16le"),
    ("aac_48k_stereo_video.mp4", "-ar 48000 -ac 2 -c:a aac -b:a 128k"),
];

fn main() -> Result<()> {
    let files: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    if files.is_empty() {
        return compare();
    }
    for file in files {
        let started = Instant::now();
        match decode(&file) {
            Ok(stream) => println!("{}: {stream:?} in {:?}", file.display(), started.elapsed()),
            Err(error) => println!("{}: {error:#}", file.display()),
        }
    }
    Ok(())
}

fn decode(file: &Path) -> Result<AudioStream> {
    let limits = AudioLimits {
        max_duration: Duration::from_secs(24 * 3600),
        max_channels: 32,
        max_sample_rate_hz: 768_000,
        max_tracks: 64,
        max_metadata_bytes: 16 << 20,
    };
    let mut stream = AudioStream::open(UploadedAudio::from_path(file)?, &limits, ChannelMode::Mixed)?;
    while stream.next_block()?.is_some() {}
    Ok(stream)
}

fn compare() -> Result<()> {
    let clip = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/jfk.wav");
    let dir = tempfile::tempdir()?;
    println!(
        "{:28} {:>10} {:>10} {:>8}",
        "10 minutes of", "ours", "ffmpeg", "ratio"
    );
    for (name, how) in CODECS {
        let file = dir.path().join(name);
        let mut make = Command::new("ffmpeg");
        make.args(["-nostdin", "-loglevel", "error", "-stream_loop", "-1", "-i"])
            .arg(&clip);
        if name.contains("video") {
            make.args([
                "-f",
                "lavfi",
                "-i",
                "testsrc=size=320x240:rate=25",
                "-c:v",
                "mpeg4",
            ]);
        }
        make.args(["-t", &SECONDS.to_string()])
            .args(how.split(' '))
            .arg(&file);
        ensure!(
            make.status()
                .context("ffmpeg is needed to make the files")?
                .success(),
            "ffmpeg cannot make {name}"
        );
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..RUNS {
            let started = Instant::now();
            let stream = decode(&file)?;
            ours.push(started.elapsed());
            let seconds = stream.decoded_samples() / u64::from(SAMPLE_RATE_HZ);
            ensure!(
                seconds.abs_diff(u64::from(SECONDS)) <= 1,
                "{name}: {seconds} s decoded"
            );
            let started = Instant::now();
            let ffmpeg = Command::new("ffmpeg")
                .args(["-nostdin", "-loglevel", "error", "-threads", "1", "-i"])
                .arg(&file)
                .args(["-vn", "-f", "f32le", "-ac", "1", "-ar", "16000", "-"])
                .stdout(Stdio::null())
                .status()?;
            ensure!(ffmpeg.success(), "ffmpeg cannot read {name}");
            theirs.push(started.elapsed());
        }
        let speed = |runs: &mut Vec<Duration>| {
            runs.sort();
            f64::from(SECONDS) / runs[RUNS / 2].as_secs_f64()
        };
        let (ours, theirs) = (speed(&mut ours), speed(&mut theirs));
        println!("{name:28} {ours:9.0}x {theirs:9.0}x {:8.2}", ours / theirs);
    }
    Ok(())
}
