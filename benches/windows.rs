//! Prints where the windows of recordings begin and end, for `bench/voice_activity.py` and for the curious.
//!
//! `cargo bench --bench windows -- [threshold=0.5] [threshold_end=0.4] [padding=0.2] … FILE…`; lengths in seconds.
//! One line a window: first sample, samples, speech segments as `from-to` in samples of the recording.

use std::path::Path;
use std::time::{Duration, Instant};

use whisper_backend_api::audio::{AudioLimits, AudioStream, ChannelMode, UploadedAudio};
use whisper_backend_api::speech::{SAMPLE_RATE_HZ, Windower, WindowerOptions};

fn main() {
    let mut options = WindowerOptions::default();
    for argument in std::env::args().skip(1).filter(|argument| argument != "--bench") {
        match argument.split_once('=') {
            Some((name, value)) => set(&mut options, name, value),
            None => print_windows(Path::new(&argument), options),
        }
    }
}

fn set(options: &mut WindowerOptions, name: &str, value: &str) {
    let value: f32 = value.parse().expect("a number");
    let length = Duration::from_secs_f32(value);
    match name {
        "threshold" => options.threshold = value,
        "threshold_end" => options.threshold_end = value,
        "min_silence" => options.min_silence = length,
        "min_speech" => options.min_speech = length,
        "padding" => options.padding = length,
        "max_window" => options.max_window = length,
        "target_window" => options.target_window = length,
        "min_window" => options.min_window = length,
        "join_gap" => options.join_gap = length,
        _ => panic!("unknown option `{name}`"),
    }
}

fn print_windows(path: &Path, options: WindowerOptions) {
    let limits = AudioLimits {
        max_duration: Duration::from_secs(24 * 3600),
        max_channels: 8,
        max_sample_rate_hz: 192_000,
        max_tracks: 8,
        max_metadata_bytes: 1 << 20,
    };
    let upload = UploadedAudio::from_path(path).expect("a file");
    let mut stream = AudioStream::open(upload, &limits, ChannelMode::Mixed).expect("a recording");
    let mut windower = Windower::new(options);
    let mut spent = Duration::ZERO;
    let mut windows = Vec::new();
    while let Some(block) = stream.next_block().expect("sound samples") {
        let began = Instant::now();
        windows.extend(windower.push(&block.channels[0]));
        spent += began.elapsed();
    }
    windows.extend(windower.finish());
    for window in &windows {
        let speech: Vec<String> = window
            .speech
            .iter()
            .map(|segment| {
                let at = |sample: usize| window.start_sample + sample as u64;
                format!("{}-{}", at(segment.start), at(segment.end))
            })
            .collect();
        println!(
            "{} {} {}",
            window.start_sample,
            window.samples.len(),
            speech.join(",")
        );
    }
    let seconds = windower.samples_seen() as f64 / f64::from(SAMPLE_RATE_HZ);
    eprintln!(
        "{}: {seconds:.1} s, {} windows, {:.0} times real time",
        path.display(),
        windows.len(),
        seconds / spent.as_secs_f64()
    );
}
