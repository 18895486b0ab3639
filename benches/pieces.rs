//! Inner pieces of a request that are not inference: what HTTP, decoding, windows and rendering may cost.
//!
//! `cargo bench --bench pieces`. Throughput is in samples of recording at 16 kHz, so 16 Melem/s is 1,000 times real
//! time.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use whisper_backend_api::audio::{AudioLimits, AudioStream, ChannelMode, UploadedAudio};
use whisper_backend_api::render::{Family, FastTranscription, Presentation, ResponseFormat, body};
use whisper_backend_api::speech::{Windower, WindowerOptions};
use whisper_backend_api::transcript::{Segment, Task, Transcript, Word, compression_ratio};

const JFK: &[u8] = include_bytes!("../tests/fixtures/jfk.wav");

fn limits() -> AudioLimits {
    AudioLimits {
        max_duration: Duration::from_secs(3600),
        max_channels: 8,
        max_sample_rate_hz: 192_000,
        max_tracks: 8,
        max_metadata_bytes: 1 << 20,
    }
}

fn decode(bytes: &[u8]) -> Vec<f32> {
    let upload = UploadedAudio::from_bytes(bytes, Some("speech.wav")).expect("bytes can be kept");
    let mut stream = AudioStream::open(upload, &limits(), ChannelMode::Mixed).expect("a WAV file");
    let mut samples = Vec::new();
    while let Some(mut block) = stream.next_block().expect("sound samples") {
        if let Some(mixed) = block.channels.pop() {
            samples.extend(mixed);
        }
    }
    samples
}

/// The recording as 16-bit stereo at 44.1 kHz, by the nearest sample: good enough to time what reads it.
fn as_compact_disc(samples: &[f32]) -> Vec<u8> {
    let rate = 44_100_usize;
    let frames = samples.len() * rate / 16_000;
    let mut wav = Vec::with_capacity(44 + frames * 4);
    wav.extend(b"RIFF");
    wav.extend((36 + frames as u32 * 4).to_le_bytes());
    wav.extend(b"WAVEfmt ");
    wav.extend(16_u32.to_le_bytes());
    for half in [1_u16, 2] {
        wav.extend(half.to_le_bytes());
    }
    wav.extend((rate as u32).to_le_bytes());
    wav.extend((rate as u32 * 4).to_le_bytes());
    for half in [4_u16, 16] {
        wav.extend(half.to_le_bytes());
    }
    wav.extend(b"data");
    wav.extend((frames as u32 * 4).to_le_bytes());
    for frame in 0..frames {
        let sample = (samples[frame * 16_000 / rate] * 32_767.0) as i16;
        wav.extend(sample.to_le_bytes());
        wav.extend(sample.to_le_bytes());
    }
    wav
}

fn windows(c: &mut Criterion) {
    let samples = decode(JFK);
    let mut group = c.benchmark_group("windows");
    group.throughput(Throughput::Elements(samples.len() as u64));
    for (name, vad) in [("detected", true), ("plain", false)] {
        let options = WindowerOptions {
            vad,
            ..WindowerOptions::default()
        };
        group.bench_function(name, |b| {
            b.iter(|| {
                let mut windower = Windower::new(options);
                let mut windows = windower.push(black_box(&samples));
                windows.extend(windower.finish());
                windows
            });
        });
    }
    group.finish();
}

fn decoding(c: &mut Criterion) {
    let samples = decode(JFK);
    let compact_disc = as_compact_disc(&samples);
    let mut group = c.benchmark_group("decode");
    group.throughput(Throughput::Elements(samples.len() as u64));
    group.bench_function("wav 16 kHz mono", |b| b.iter(|| decode(black_box(JFK))));
    group.bench_function("wav 44.1 kHz stereo", |b| {
        b.iter(|| decode(black_box(&compact_disc)));
    });
    group.finish();
}

/// An hour of transcript: 900 segments of ten words.
fn hour() -> Transcript {
    let segment = |id: u32| {
        let start = id as f32 * 4.0;
        let words = (0..10)
            .map(|word| Word {
                text: "country".to_owned(),
                start: start + word as f32 * 0.4,
                end: start + word as f32 * 0.4 + 0.3,
            })
            .collect();
        Segment {
            id,
            seek: id * 400,
            start,
            end: start + 4.0,
            text: " ask not what your country can do for \"you\", ask".to_owned(),
            tokens: (0..14).collect(),
            temperature: 0.0,
            avg_logprob: -0.2,
            compression_ratio: 1.3,
            no_speech_prob: 0.01,
            words,
            logprobs: Vec::new(),
            channel: None,
            language: None,
        }
    };
    Transcript {
        task: Task::Transcribe,
        language: Some("en".to_owned()),
        duration: 3600.0,
        segments: (0..900).map(segment).collect(),
        languages: None,
    }
}

fn rendering(c: &mut Criterion) {
    let transcript = hour();
    let mut group = c.benchmark_group("render an hour");
    for (name, format) in [
        ("json", ResponseFormat::Json),
        ("verbose_json", ResponseFormat::VerboseJson),
        ("srt", ResponseFormat::Srt),
    ] {
        let shown = Presentation {
            format,
            stream: false,
            segments: true,
            words: true,
            logprobs: false,
            family: Family::Whisper,
            task: Task::Transcribe,
            language: None,
            prompt_bytes: 0,
            subtitles: None,
            fast: FastTranscription::default(),
        };
        group.bench_function(name, |b| b.iter(|| body(black_box(&transcript), &shown)));
    }
    group.bench_function("compression ratio of a window", |b| {
        let text = transcript.segments[0].text.repeat(6);
        b.iter(|| compression_ratio(black_box(text.as_bytes())));
    });
    group.finish();
}

criterion_group!(pieces, windows, decoding, rendering);
criterion_main!(pieces);
