//! Files that nobody meant well with: whatever comes, an answer in bounded time and memory.

use std::fs;
use std::panic::catch_unwind;
use std::time::{Duration, Instant};

use whisper_backend_api::audio::{AudioError, AudioLimits, AudioStream, ChannelMode, UploadedAudio};

use super::allocations::Watch;
use super::mutants::{Random, mutant};
use super::{decode_bytes, decode_limited, fixture, limits, matrix};

/// Longest a single call may take on a small file, on a slow and busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// Most memory in one piece that a file of some kilobytes may make us ask for.
const LARGEST_ALLOCATION: usize = 40 << 20;

/// Decodes `bytes`, whatever they are, and checks that nobody notices but the sender. A panic ends a decoder's process
/// and is the sender's too.
fn survive(name: &str, bytes: &[u8]) -> Result<usize, AudioError> {
    let watch = Watch::start();
    let started = Instant::now();
    let result = catch_unwind(|| decode_bytes(bytes)).unwrap_or_else(|_| {
        println!("{name}: a panic");
        Err(AudioError::Decoder {
            detail: "it makes no sense".to_owned(),
        })
    });
    let (took, largest) = (started.elapsed(), watch.largest());
    assert!(took < PATIENCE, "{name}: {took:?}");
    assert!(
        largest <= LARGEST_ALLOCATION,
        "{name}: {largest} bytes at once for {} bytes of file",
        bytes.len()
    );
    if let Err(AudioError::Io(error)) = &result {
        panic!("{name}: blamed on this machine's disk: {error}");
    }
    result.map(|samples| samples.len())
}

/// The start of every encoding of the matrix, or of what can be made without tools.
fn specimens() -> Vec<(String, Vec<u8>)> {
    match matrix::encodings() {
        Some(encodings) => encodings
            .iter()
            .map(|encoding| {
                (
                    encoding.path.file_name().unwrap().to_string_lossy().into_owned(),
                    fs::read(&encoding.path).unwrap(),
                )
            })
            .collect(),
        None => vec![("jfk.wav".to_owned(), fs::read(fixture("jfk.wav")).unwrap())],
    }
}

#[test]
fn a_file_cut_off_anywhere_gives_what_is_there() {
    let mut random = Random(4);
    for (name, bytes) in specimens() {
        // Every boundary of the first header fields, then some of every size.
        let mut cuts: Vec<usize> = (0..64).chain((6..21).map(|power| (1 << power) - 1)).collect();
        cuts.extend((0..12).map(|_| random.below(bytes.len())));
        for cut in cuts.into_iter().filter(|cut| *cut < bytes.len()) {
            let _ = survive(&format!("{name} cut at {cut}"), &bytes[..cut]);
        }
        // MP4 and CAF need their index, which may stand at the end.
        let streams = name.contains("faststart") || name.contains("fragmented");
        let index_at_end = !streams
            && [".m4a", ".mp4", ".mov", ".3gp", "caf_alac.caf"]
                .iter()
                .any(|end| name.ends_with(end));
        let half = survive(&format!("{name} cut in half"), &bytes[..bytes.len() / 2]);
        match half {
            Ok(samples) => assert!(
                (50_000..130_000).contains(&samples),
                "{name}: half gave {samples} samples"
            ),
            Err(error) => assert!(index_at_end, "{name}: half gave {error}"),
        }
    }
}

#[test]
fn what_fuzzing_found_stays_mended() {
    // Absent as long as fuzzing has found nothing.
    let Ok(files) = fs::read_dir(fixture("audio-regressions")) else {
        return;
    };
    for file in files {
        let path = file.unwrap().path();
        let _ = survive(&path.to_string_lossy(), &fs::read(&path).unwrap());
    }
}

#[test]
fn flipped_bits_are_survived() {
    let mut random = Random(0x5eed);
    let specimens = specimens();
    let started = Instant::now();
    let mut decoded = 0;
    for round in 0..3_000 {
        let (name, bytes) = &specimens[round % specimens.len()];
        // Short files make flips in headers likely and rounds fast.
        let mut bytes = bytes[..bytes.len().min(2_000 + random.below(30_000))].to_vec();
        for _ in 0..=random.below(12) {
            let within = if random.below(2) == 0 {
                bytes.len().min(300)
            } else {
                bytes.len()
            };
            let at = random.below(within);
            bytes[at] ^= 1 << random.below(8);
        }
        decoded += usize::from(survive(&format!("{name} round {round}"), &bytes).is_ok());
        if started.elapsed() > Duration::from_secs(120) {
            println!("stopped after {round} rounds");
            break;
        }
    }
    assert!(decoded > 300, "only {decoded} damaged files gave anything");
}

#[test]
fn mutants_of_their_structure_are_survived() {
    let mut random = Random(0x0dd);
    let specimens = specimens();
    let started = Instant::now();
    let mut decoded = 0;
    for round in 0..600 {
        let (name, bytes) = &specimens[round % specimens.len()];
        let (_, donor) = &specimens[random.below(specimens.len())];
        let mutant = mutant(
            &bytes[..bytes.len().min(40_000)],
            &donor[..donor.len().min(40_000)],
            &mut random,
        );
        decoded += usize::from(survive(&format!("{name} mutant {round}"), &mutant).is_ok());
        if started.elapsed() > Duration::from_secs(60) {
            println!("stopped after {round} rounds");
            break;
        }
    }
    assert!(decoded > 60, "only {decoded} mutants gave anything");
}

#[test]
fn what_is_no_recording_is_named_or_refused() {
    let found = |bytes: &[u8]| match survive("foreign", bytes) {
        Err(AudioError::UnsupportedContainer { found }) => found,
        other => panic!("{other:?}"),
    };
    assert_eq!(found(b"PK\x03\x04\x14\0\0\0rest of a zip file"), "zip");
    assert_eq!(found(b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR"), "png");
    assert_eq!(found(b"%PDF-1.7\n%\xe2\xe3\xcf\xd3"), "pdf");
    assert_eq!(found(b"<!DOCTYPE html><html>"), "html");
    assert_eq!(found(b"#!AMR_MC1.0\n\0\0\0\x02"), "amr of several channels");

    assert!(matches!(survive("empty", b""), Err(AudioError::Empty)));
    let text = "Not a recording at all, but a text of some length.\n".repeat(400);
    assert!(matches!(
        survive("text", text.as_bytes()),
        Err(AudioError::Unrecognized)
    ));
    for (name, byte) in [("zeros", 0), ("ones", 0xff), ("sync bytes", 0xf0)] {
        let result = survive(name, &vec![byte; 3 << 20]);
        assert!(
            matches!(result, Err(AudioError::Unrecognized)),
            "{name}: {result:?}"
        );
    }
    let mut random = Random(99);
    let noise: Vec<u8> = (0..2 << 20).map(|_| random.below(256) as u8).collect();
    assert!(survive("noise", &noise).is_err());
    let transport = [&[0x47_u8][..], &[0x1f; 187]].concat().repeat(50);
    assert!(matches!(
        survive("transport stream", &transport),
        Err(AudioError::NoAudioTrack { .. })
    ));
    let program = [&b"\0\0\x01\xba"[..], &[0x44; 10], b"\0\0\x01\xe0\xff\xff"].concat();
    assert!(matches!(
        survive("program stream", &program),
        Err(AudioError::NoAudioTrack { .. })
    ));
    for magic in [
        &b"RIFF\0\0\0\0WAVE"[..],
        b"fLaC",
        b"OggS\0",
        b"caff\0\x01",
        b".snd\0\0\0\x18",
        b"\x1a\x45\xdf\xa3",
    ] {
        for tail in [0, 4, 100, 5_000] {
            let bytes = [magic, &vec![0; tail]].concat();
            assert!(
                survive("bare signature", &bytes).is_err(),
                "{magic:?} and {tail} zeros"
            );
        }
    }
}

/// A WAV header of 44 bytes, with samples behind it.
fn wav(channels: u16, rate_hz: u32, bits: u16, data_bytes: u32, samples: &[u8]) -> Vec<u8> {
    let block = channels.wrapping_mul(bits / 8);
    let mut wav = b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0\x01\0".to_vec();
    wav.extend(channels.to_le_bytes());
    wav.extend(rate_hz.to_le_bytes());
    wav.extend(rate_hz.wrapping_mul(u32::from(block)).to_le_bytes());
    wav.extend(block.to_le_bytes());
    wav.extend(bits.to_le_bytes());
    wav.extend(b"data");
    wav.extend(data_bytes.to_le_bytes());
    wav.extend(samples);
    wav
}

/// A Sun AU header.
fn au(channels: u32, rate_hz: u32, samples: &[u8]) -> Vec<u8> {
    let mut au = b".snd\0\0\0\x18\xff\xff\xff\xff\0\0\0\x03".to_vec();
    au.extend(rate_hz.to_be_bytes());
    au.extend(channels.to_be_bytes());
    au.extend(samples);
    au
}

#[test]
fn headers_may_claim_anything() {
    let second = vec![0; 32_000];
    // Ten hours in a file of one second.
    let claims = wav(1, 16_000, 16, 1_152_000_000, &second);
    assert_eq!(survive("ten hours", &claims).unwrap(), 16_000);
    for (name, bytes) in [
        ("2^31 channels", au(1 << 31, 16_000, &second)),
        ("65,535 channels", au(65_535, 16_000, &second)),
        ("65,535 channels", wav(65_535, 16_000, 16, 32_000, &second)),
        ("no channel", wav(0, 16_000, 16, 32_000, &second)),
        ("no channel", au(0, 16_000, &second)),
    ] {
        let result = survive(name, &bytes);
        assert!(
            matches!(result, Err(AudioError::Channels { .. })),
            "{name}: {result:?}"
        );
    }
    for (name, bytes) in [
        ("2^31 Hz", wav(1, 1 << 31, 16, 32_000, &second)),
        ("2^31 Hz", au(1, 1 << 31, &second)),
        ("2^32 - 1 Hz", wav(1, u32::MAX, 16, 32_000, &second)),
        ("0 Hz", wav(1, 0, 16, 32_000, &second)),
        ("0 Hz", au(1, 0, &second)),
    ] {
        let result = survive(name, &bytes);
        assert!(
            matches!(result, Err(AudioError::SampleRate { .. })),
            "{name}: {result:?}"
        );
    }
    // 16,000 frames a second apart are four hours of sound: fine in blocks, whole it would be 900 MB.
    let slow = decode_limited(&wav(1, 1, 8, 16_000, &[128; 600]), &limits());
    assert_eq!(slow.unwrap(), 600 * 16_000);
    let _ = survive("no bits", &wav(1, 16_000, 0, 32_000, &second));
}

#[test]
fn sizes_of_chunks_may_claim_anything() {
    let huge = [0x3f_ff_ff_ff_u32, u32::MAX - 1, u32::MAX];
    let mut files: Vec<(&str, Vec<u8>)> = Vec::new();
    for size in huge {
        let le = size.to_le_bytes();
        let be = size.to_be_bytes();
        files.push((
            "wav list",
            [&b"RIFF\0\0\0\0WAVELIST"[..], &le, b"INFOISFT", &le, &[0; 64]].concat(),
        ));
        files.push(("wav fmt", [&b"RIFF\0\0\0\0WAVEfmt "[..], &le, &[1; 64]].concat()));
        files.push((
            "aiff text",
            [&b"FORM"[..], &be, b"AIFFANNO", &be, &[0; 64]].concat(),
        ));
        files.push((
            "aiff name",
            [&b"FORM"[..], &be, b"AIFFNAME", &be, &[0; 64]].concat(),
        ));
        files.push((
            "aiff instruments",
            [&b"FORM"[..], &be, b"AIFCAPPL", &be, &[0; 64]].concat(),
        ));
        files.push(("id3", [&b"ID3\x04\0\0\x7f\x7f\x7f\x7f"[..], &[0; 64]].concat()));
        files.push((
            "mp4 ftyp",
            [
                &b"\0\0\0\x20ftypM4A "[..],
                &[0; 20],
                &be,
                b"moov",
                &be,
                b"trak",
                &[0; 64],
            ]
            .concat(),
        ));
        // A FLAC file whose picture claims four gigabytes.
        let mut flac = b"fLaC\0\0\0\x22".to_vec();
        flac.extend([
            0x10, 0, 0x10, 0, 0, 0, 0, 0, 0, 0, 0x03, 0xe8, 0x00, 0xf0, 0, 0, 0, 0,
        ]);
        flac.extend([0; 16]);
        flac.extend([0x86, 0xff, 0xff, 0xff]);
        flac.extend([&3_u32.to_be_bytes()[..], &be, b"image/png"].concat());
        flac.extend([0; 64]);
        files.push(("flac picture", flac));
    }
    for size in [1_u64 << 33, 1 << 46, i64::MAX as u64 - 1, u64::MAX] {
        let be = size.to_be_bytes();
        let desc = [
            &b"caff\0\x01\0\0desc\0\0\0\0\0\0\0\x20"[..],
            &16_000_f64.to_be_bytes(),
            b"lpcm\0\0\0\0",
            &2_u32.to_be_bytes(),
            &1_u32.to_be_bytes(),
            &1_u32.to_be_bytes(),
            &16_u32.to_be_bytes(),
        ]
        .concat();
        for chunk in [b"kuki", b"pakt", b"chan", b"info", b"data", b"free"] {
            files.push(("caf chunk", [&desc[..], chunk, &be, &be, &be, &[0; 64]].concat()));
        }
        files.push((
            "mp4 wide box",
            [
                &b"\0\0\0\x14ftypM4A \0\0\0\0M4A \0\0\0\x01moov"[..],
                &be,
                &[0; 64],
            ]
            .concat(),
        ));
    }
    for (name, bytes) in &files {
        let result = survive(name, bytes);
        assert!(result.is_err(), "{name}: {result:?}");
    }
}

/// An EBML element with a size of eight bytes; `None` for a size that is not known.
fn ebml(id: &[u8], size: Option<u64>, content: &[u8]) -> Vec<u8> {
    let size = size.map_or([0x01, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], |size| {
        ((1 << 56) | (size & ((1 << 56) - 1))).to_be_bytes()
    });
    [id, &size, content].concat()
}

fn sized(id: &[u8], content: &[u8]) -> Vec<u8> {
    ebml(id, Some(content.len() as u64), content)
}

#[test]
fn a_live_matroska_file_cannot_make_us_allocate_what_it_does_not_hold() {
    let head = sized(&[0x1a, 0x45, 0xdf, 0xa3], &sized(&[0x42, 0x82], b"webm"));
    let info = sized(
        &[0x15, 0x49, 0xa9, 0x66],
        &sized(&[0x2a, 0xd7, 0xb1], &1_000_000_u32.to_be_bytes()),
    );
    let audio = sized(
        &[0xe1],
        &[sized(&[0xb5], &16_000_f64.to_be_bytes()), sized(&[0x9f], &[1])].concat(),
    );
    let track = [
        sized(&[0xd7], &[1]),
        sized(&[0x73, 0xc5], &[1]),
        sized(&[0x83], &[2]),
        sized(&[0x86], b"A_PCM/INT/LIT"),
        audio,
    ]
    .concat();
    let tracks = sized(&[0x16, 0x54, 0xae, 0x6b], &sized(&[0xae], &track));
    for size in [1 << 31, 1 << 36, 1 << 44, (1 << 56) - 2] {
        // A block, a block in a group, a tag, a codec's private data: each larger than the file, in parents
        // of unknown size.
        let block = ebml(&[0xa3], Some(size), &[0x81, 0, 0, 0x80, 1, 2, 3, 4]);
        let group = ebml(&[0xa0], None, &ebml(&[0xa1], Some(size), &[0x81, 0, 0, 0]));
        let time = sized(&[0xe7], &[0]);
        for blocks in [&block, &group] {
            let cluster = ebml(&[0x1f, 0x43, 0xb6, 0x75], None, &[&time[..], blocks].concat());
            let segment = ebml(
                &[0x18, 0x53, 0x80, 0x67],
                None,
                &[&info[..], &tracks, &cluster].concat(),
            );
            let result = survive("matroska", &[&head[..], &segment].concat());
            assert!(result.is_err(), "{result:?}");
        }
        let title = ebml(
            &[0x15, 0x49, 0xa9, 0x66],
            None,
            &ebml(&[0x7b, 0xa9], Some(size), b"title"),
        );
        let segment = ebml(&[0x18, 0x53, 0x80, 0x67], None, &[&title[..], &tracks].concat());
        assert!(survive("matroska title", &[&head[..], &segment].concat()).is_err());
        let bad_head = ebml(
            &[0x1a, 0x45, 0xdf, 0xa3],
            Some(size),
            &ebml(&[0x42, 0x82], Some(size), b"webm"),
        );
        assert!(survive("matroska head", &bad_head).is_err());
    }
}

#[test]
fn limits_are_kept_and_named() {
    let second = vec![0; 32_000];
    let three = wav(1, 16_000, 16, 96_000, &second.repeat(3));
    let with = |change: fn(&mut AudioLimits)| {
        let mut limits = limits();
        change(&mut limits);
        limits
    };
    let result = decode_limited(
        &three,
        &with(|limits| limits.max_duration = Duration::from_secs(2)),
    );
    assert!(
        matches!(result, Err(AudioError::TooLong { limit_seconds: 2 })),
        "{result:?}"
    );
    let result = decode_limited(
        &three,
        &with(|limits| limits.max_duration = Duration::from_secs(3)),
    );
    assert_eq!(result.unwrap(), 48_000);
    let result = decode_limited(
        &wav(3, 16_000, 16, 96_000, &three),
        &with(|limits| limits.max_channels = 2),
    );
    assert!(
        matches!(result, Err(AudioError::Channels { found: 3, limit: 2 })),
        "{result:?}"
    );
    let result = decode_limited(
        &wav(1, 48_000, 16, 9_600, &three),
        &with(|limits| limits.max_sample_rate_hz = 44_100),
    );
    assert!(
        matches!(
            result,
            Err(AudioError::SampleRate {
                found: 48_000,
                limit: 44_100
            })
        ),
        "{result:?}"
    );
    let result = decode_limited(&wav(1, 16_000, 16, 3_000, &second), &limits());
    assert!(
        matches!(result, Err(AudioError::TooShort { seconds }) if seconds < 0.1),
        "{result:?}"
    );
    let result = decode_limited(&wav(1, 16_000, 16, 3_200, &second), &limits());
    assert_eq!(result.unwrap(), 1_600, "0.1 s is enough");
}

#[test]
fn an_upload_that_vanishes_in_the_middle_blames_nobody_else() {
    let upload = UploadedAudio::from_path(&fixture("jfk.wav")).unwrap();
    let mut stream = AudioStream::open(upload, &limits(), ChannelMode::Mixed).unwrap();
    assert!(stream.next_block().unwrap().is_some());
    // Dropping a stream in the middle must not wait for its end.
    let started = Instant::now();
    drop(stream);
    assert!(started.elapsed() < Duration::from_secs(1));
}
