//! Recordings whose structure was changed, and any bytes: decoding ends, within its limits, with samples or an error that is not the server's fault.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::{fuzz_mutator, fuzz_target};
use whisper_backend_api::audio::{AudioError, AudioLimits, AudioStream, ChannelMode, UploadedAudio};

/// Blocks looked at: a file of a few kilobytes may honestly hold hours at 1 Hz.
const MAX_BLOCKS: usize = 40;

#[path = "../../tests/audio/mutants.rs"]
mod mutants;

// Half of the mutants are libFuzzer's own, half change sizes, counts, nesting, order and ends.
fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let mut random = mutants::Random(u64::from(seed) << 1 | 1);
    if random.below(2) == 0 {
        return libfuzzer_sys::fuzzer_mutate(data, size, max_size);
    }
    let mutant = mutants::mutant(&data[..size], &data[..size], &mut random);
    let kept = mutant.len().min(max_size);
    data[..kept].copy_from_slice(&mutant[..kept]);
    kept
});

/// Panics in libraries end a decoder's process and cost its recording; overflows there, which only this build checks, are
/// among them. One of our own ends the run.
fn forgive_libraries() {
    let end_the_run = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let is_library = |place: &std::panic::Location<'_>| place.file().contains("/registry/src/");
        if !panic.location().is_some_and(is_library) {
            end_the_run(panic);
        }
    }));
}

fuzz_target!(init: forgive_libraries(), |data: &[u8]| {
    // What unwinds comes from a library: ours have ended the run by now.
    let _ = std::panic::catch_unwind(|| decode(data));
});

fn decode(data: &[u8]) {
    let limits = AudioLimits {
        max_duration: Duration::from_secs(120),
        max_channels: 8,
        max_sample_rate_hz: 192_000,
        max_tracks: 8,
        max_metadata_bytes: 1 << 20,
    };
    // The last byte chooses, so that the corpus stays made of true files.
    let mode = if data.last().is_some_and(|byte| byte & 1 == 1) { ChannelMode::Separate } else { ChannelMode::Mixed };
    let upload = UploadedAudio::from_bytes(data, None).expect("memory is no disk");
    let mut stream = match AudioStream::open(upload, &limits, mode) {
        Ok(stream) => stream,
        Err(error) => return assert!(!matches!(error, AudioError::Io(_)), "{error}"),
    };
    let mut samples = 0;
    for _ in 0..MAX_BLOCKS {
        match stream.next_block() {
            Ok(Some(block)) => {
                let length = block.channels.first().map_or(0, Vec::len);
                assert!(length <= 5 * 16_000 && block.channels.iter().all(|channel| channel.len() == length));
                assert!(block.channels.iter().flatten().all(|sample| (-1.0..=1.0).contains(sample)));
                samples += length as u64;
                assert_eq!(stream.decoded_samples(), samples);
            }
            Ok(None) => {
                assert!(samples >= 1_600);
                assert!(stream.next_block().is_ok_and(|block| block.is_none()), "the end is not the end");
                return;
            }
            Err(error) => return assert!(!matches!(error, AudioError::Io(_)), "{error}"),
        }
    }
}
