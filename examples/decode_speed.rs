//! Decodes files and says what was in them.
use std::path::Path;
use std::time::Instant;
use whisper_backend_api::audio::{AudioLimits, AudioStream, ChannelMode, UploadedAudio};

fn main() {
    let limits = AudioLimits {
        max_duration: std::time::Duration::from_secs(86_400),
        max_channels: 32,
        max_sample_rate_hz: 768_000,
        max_tracks: 64,
        max_metadata_bytes: 16 << 20,
        max_decode_seconds_per_second: 1.0,
    };
    for path in std::env::args().skip(1) {
        let started = Instant::now();
        let run = || {
            let upload = UploadedAudio::from_path(Path::new(&path))?;
            let mut stream = AudioStream::open(upload, &limits, ChannelMode::Mixed)?;
            let mut peak = 0_f32;
            while let Some(block) = stream.next_block()? {
                peak = block.channels[0]
                    .iter()
                    .fold(peak, |peak, sample| peak.max(sample.abs()));
            }
            Ok::<_, whisper_backend_api::audio::AudioError>((
                stream.info().clone(),
                stream.decoded_samples(),
                peak,
                stream.skipped_packets(),
            ))
        };
        println!("{path}: {:?} in {:?}", run(), started.elapsed());
    }
}
