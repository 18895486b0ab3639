//! Decoder children: what happens to them happens to one recording, or to nobody.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use whisper_backend_api::audio::{
    AudioError, ChannelMode, DecoderSettings, Decoders, PcmBlock, Recording, StopDecoding, UploadedAudio,
};

use super::support::{is_running, kill, long_clip};
use super::{best_lag, correlation, decode_bytes, decode_path, fixture, limits, matrix};

const PROGRAM: &str = env!("CARGO_BIN_EXE_WhisperBackendAPI");

fn settings() -> DecoderSettings {
    DecoderSettings {
        program: PathBuf::from(PROGRAM),
        limits: limits(),
        memory_bytes: 512 << 20,
        cpu: Duration::from_secs(7200),
        ask_ffmpeg: false,
    }
}

fn decoders() -> Decoders {
    Decoders::new(settings()).unwrap()
}

/// A program that does what `script` says; `$REAL` in it is the real decoder.
fn pretender(folder: &Path, script: &str) -> Decoders {
    let program = folder.join("decoder");
    let script = format!(
        "#!/bin/sh\nREAL='{PROGRAM}'\nFOLDER='{}'\n{script}\n",
        folder.display()
    );
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    Decoders::new(DecoderSettings {
        program,
        ..settings()
    })
    .unwrap()
}

fn open(decoders: &Decoders, bytes: &[u8]) -> Result<Recording, AudioError> {
    let upload = UploadedAudio::from_bytes(bytes, None).unwrap();
    decoders.open(upload, ChannelMode::Mixed, &StopDecoding::default())
}

/// What is left of a recording.
fn rest(recording: &mut Recording) -> Result<Vec<f32>, AudioError> {
    let mut all = Vec::new();
    while let Some(PcmBlock { mut channels }) = recording.next_block()? {
        assert_eq!(channels.len(), 1);
        all.append(&mut channels[0]);
    }
    Ok(all)
}

fn decode(decoders: &Decoders, bytes: &[u8]) -> Result<Vec<f32>, AudioError> {
    rest(&mut open(decoders, bytes)?)
}

fn clip() -> Vec<u8> {
    fs::read(fixture("jfk.wav")).unwrap()
}

/// The decoder's own words for a recording that it does not survive.
fn blame(result: Result<Vec<f32>, AudioError>) -> String {
    match result {
        Err(AudioError::Decoder { detail }) => detail,
        other => panic!("{:?}", other.map(|samples| samples.len())),
    }
}

#[test]
fn a_child_hears_what_the_library_hears_in_every_encoding() {
    let Some(encodings) = matrix::encodings() else {
        return;
    };
    let decoders = decoders();
    for encoding in encodings {
        let expected = decode_path(&encoding.path).unwrap();
        let upload = UploadedAudio::from_path(&encoding.path).unwrap();
        let mut recording = decoders
            .open(upload, ChannelMode::Mixed, &StopDecoding::default())
            .unwrap();
        let heard = rest(&mut recording).unwrap();
        assert!(heard == expected, "{}", encoding.path.display());
        assert_eq!(recording.decoded_samples(), expected.len() as u64);
    }
}

#[test]
fn channels_stay_apart_on_their_way_through_a_child() {
    let stereo = fs::read(matrix_file("wav_44100_stereo.wav")).unwrap();
    let upload = UploadedAudio::from_bytes(&stereo, None).unwrap();
    let mut recording = decoders()
        .open(upload, ChannelMode::Separate, &StopDecoding::default())
        .unwrap();
    assert_eq!(recording.info().unwrap().channels, 2);
    let mut samples = 0;
    while let Some(block) = recording.next_block().unwrap() {
        assert_eq!(block.channels.len(), 2);
        assert_eq!(block.channels[0].len(), block.channels[1].len());
        samples += block.channels[0].len();
    }
    assert_eq!(samples, decode_bytes(&stereo).unwrap().len());
}

fn matrix_file(name: &str) -> PathBuf {
    let encodings = matrix::encodings().expect("the tests need ffmpeg, sox and python3");
    let found = encodings.iter().find(|encoding| encoding.path.ends_with(name));
    found.unwrap().path.clone()
}

#[test]
fn a_child_that_is_killed_costs_no_sample_and_doubles_none() {
    let recording = long_clip(60);
    let expected = decode_bytes(&recording).unwrap();
    let decoders = decoders();
    for (signal, every) in [("KILL", 20), ("SEGV", 50), ("ABRT", 60), ("TERM", 70)] {
        let mut stream = open(&decoders, &recording).unwrap();
        let mut heard = Vec::new();
        let mut killed = 0;
        for number in 1.. {
            let Some(mut block) = stream.next_block().unwrap() else {
                break;
            };
            heard.append(&mut block.channels[0]);
            if number % every == 0 {
                kill(i64::from(stream.child_id().unwrap()), signal);
                killed += 1;
            }
        }
        assert!(killed >= 3, "{signal}: {killed} kills");
        assert!(
            heard == expected,
            "{signal}: {} of {} samples",
            heard.len(),
            expected.len()
        );
    }
}

#[test]
fn a_child_that_was_stopped_is_replaced() {
    let recording = long_clip(60);
    let mut stream = open(&decoders(), &recording).unwrap();
    let mut heard = stream.next_block().unwrap().unwrap().channels.swap_remove(0);
    kill(i64::from(stream.child_id().unwrap()), "STOP");
    heard.append(&mut rest(&mut stream).unwrap());
    assert!(heard == decode_bytes(&recording).unwrap());
}

#[test]
fn children_that_die_while_they_wait_cost_nothing() {
    let decoders = decoders();
    for _ in 0..3 {
        std::thread::sleep(Duration::from_millis(300));
        for child in waiting_children() {
            kill(child, "KILL");
        }
        assert_eq!(decode(&decoders, &clip()).unwrap().len(), 176_000);
    }
}

/// Decoders that this process has started. Other tests' are among them, which must bear it too.
fn waiting_children() -> Vec<i64> {
    super::shapes::children()
        .into_iter()
        .filter(|pid| {
            fs::read_to_string(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| line.starts_with(PROGRAM) && line.ends_with("\0decode\0"))
        })
        .filter_map(|pid| pid.parse().ok())
        .collect()
}

#[test]
fn a_recording_that_ends_every_child_is_to_blame_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let decoders = pretender(folder.path(), "kill -SEGV $$");
    assert!(blame(decode(&decoders, &clip())).contains("segmentation fault"));
    let folder = tempfile::tempdir().unwrap();
    let overflown = pretender(
        folder.path(),
        "echo \"thread 'main' has overflowed its stack\" >&2; kill -ABRT $$",
    );
    assert!(blame(decode(&overflown, &clip())).contains("nested too deep"));
}

#[test]
fn a_panic_of_a_library_is_the_recordings_own() {
    let folder = tempfile::tempdir().unwrap();
    let decoders = pretender(
        folder.path(),
        "echo \"thread 'main' panicked at symphonia/src/lib.rs:1:1\" >&2; exit 101",
    );
    assert!(blame(decode(&decoders, &clip())).contains("makes no sense"));
}

#[test]
fn words_that_are_no_frames_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let decoders = pretender(folder.path(), "head -c 100000 /dev/urandom; sleep 100");
    let started = Instant::now();
    blame(decode(&decoders, &clip()));
    assert!(started.elapsed() < Duration::from_secs(20));
}

#[test]
fn two_deaths_from_outside_are_forgiven() {
    let folder = tempfile::tempdir().unwrap();
    let decoders = pretender(
        folder.path(),
        "for n in 1 2; do mkdir \"$FOLDER/$n\" 2>/dev/null && kill -KILL $$; done; exec \"$REAL\" decode",
    );
    assert_eq!(decode(&decoders, &clip()).unwrap().len(), 176_000);
}

#[test]
fn a_program_that_cannot_be_started_is_not_the_recordings_fault() {
    let nowhere = DecoderSettings {
        program: "/nonexistent/decoder".into(),
        ..settings()
    };
    let result = decode(&Decoders::new(nowhere).unwrap(), &clip());
    assert!(matches!(result, Err(AudioError::Internal { .. })), "{result:?}");
}

/// Ten hours of silence as 8 kHz mu-law, which take no room on the disk.
fn ten_hours(path: &Path) -> UploadedAudio {
    let bytes = 10 * 3600 * 8_000_u32;
    let mut header = b".snd\0\0\0\x18\xff\xff\xff\xff\0\0\0\x01".to_vec();
    header.extend(8_000_u32.to_be_bytes());
    header.extend(1_u32.to_be_bytes());
    let mut file = fs::File::create(path).unwrap();
    file.write_all(&header).unwrap();
    file.set_len(u64::from(bytes) + 24).unwrap();
    UploadedAudio::from_path(path).unwrap()
}

#[test]
fn a_recording_beyond_its_processor_time_is_refused_and_its_neighbour_is_heard() {
    let folder = tempfile::tempdir().unwrap();
    let decoders = Decoders::new(DecoderSettings {
        cpu: Duration::from_secs(1),
        ..settings()
    })
    .unwrap();
    let upload = ten_hours(&folder.path().join("long.au"));
    let mut long = decoders
        .open(upload, ChannelMode::Mixed, &StopDecoding::default())
        .unwrap();
    assert!(long.next_block().unwrap().is_some());
    let mut neighbour = open(&decoders, &clip()).unwrap();
    assert!(blame(rest(&mut long)).contains("processor time"));
    assert_eq!(rest(&mut neighbour).unwrap().len(), 176_000);
}

#[test]
fn a_recording_beyond_its_memory_is_refused_and_its_neighbour_is_heard() {
    // Three pictures of 15 MiB, which the reader of FLAC takes in whole.
    let flac = fs::read(matrix_file("flac_16.flac")).unwrap();
    let bytes = 15_u32 << 20;
    let mut picture = vec![6];
    picture.extend(&bytes.to_be_bytes()[1..]);
    picture.extend(3_u32.to_be_bytes());
    picture.extend(9_u32.to_be_bytes());
    picture.extend(b"image/png");
    picture.extend([0; 20]);
    picture.extend((bytes - 41).to_be_bytes());
    picture.resize(4 + bytes as usize, 0);
    let mut bomb = flac[..42].to_vec();
    bomb[4] &= 0x7f;
    bomb.extend(picture.repeat(3));
    bomb.extend(&flac[42..]);

    let mut limits = limits();
    limits.max_metadata_bytes = 64 << 20;
    let within = |memory_bytes| {
        Decoders::new(DecoderSettings {
            memory_bytes,
            limits: limits.clone(),
            ..settings()
        })
        .unwrap()
    };
    let short = within(32 << 20);
    let mut neighbour = open(&short, &clip()).unwrap();
    // The reader of FLAC is told of it and says so; most others are not, and end.
    let refused = decode(&short, &bomb).unwrap_err();
    assert!(
        matches!(refused, AudioError::Corrupt { .. } | AudioError::Decoder { .. })
            && refused.to_string().contains("memory"),
        "{refused}"
    );
    assert_eq!(rest(&mut neighbour).unwrap().len(), 176_000);
    assert!(
        decode(&within(512 << 20), &bomb).is_ok(),
        "within the usual limit it is fine"
    );
}

#[test]
fn stopping_ends_the_child_at_once_and_so_does_dropping() {
    let folder = tempfile::tempdir().unwrap();
    let decoders = decoders();
    let stop = StopDecoding::default();
    let upload = ten_hours(&folder.path().join("long.au"));
    let mut long = decoders.open(upload, ChannelMode::Mixed, &stop).unwrap();
    assert!(long.next_block().unwrap().is_some());
    let child = i64::from(long.child_id().unwrap());
    assert!(is_running(child));
    let stopper = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(200));
        stop.stop();
    });
    assert!(matches!(rest(&mut long), Err(AudioError::Cancelled)));
    stopper.join().unwrap();
    drop(long);
    assert!(
        !Path::new(&format!("/proc/{child}")).exists(),
        "a zombie, or still alive"
    );

    let upload = ten_hours(&folder.path().join("long.au"));
    let dropped = decoders
        .open(upload, ChannelMode::Mixed, &StopDecoding::default())
        .unwrap();
    let child = dropped.child_id().unwrap();
    drop(dropped);
    assert!(
        !Path::new(&format!("/proc/{child}")).exists(),
        "a zombie, or still alive"
    );
}

#[cfg(target_os = "linux")]
#[test]
fn a_child_that_decodes_is_confined() {
    let folder = tempfile::tempdir().unwrap();
    let upload = ten_hours(&folder.path().join("long.au"));
    let mut long = decoders()
        .open(upload, ChannelMode::Mixed, &StopDecoding::default())
        .unwrap();
    assert!(long.next_block().unwrap().is_some());
    let limits = fs::read_to_string(format!("/proc/{}/limits", long.child_id().unwrap())).unwrap();
    let limit = |name: &str| {
        let line = limits.lines().find(|line| line.starts_with(name)).unwrap();
        line[26..].split_whitespace().next().unwrap().to_owned()
    };
    assert_eq!(limit("Max file size"), "0");
    assert_eq!(limit("Max core file size"), "0");
    assert!(limit("Max open files").parse::<u64>().unwrap() <= 16);
    assert!(limit("Max cpu time").parse::<u64>().unwrap() <= 60);
    assert!(limit("Max address space").parse::<u64>().unwrap() > 512 << 20);
}

#[test]
fn ffmpeg_decodes_what_nothing_here_can_and_only_when_asked() {
    if matrix::encodings().is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let clip = decode_path(&fixture("jfk.wav")).unwrap();
    let asking = Decoders::new(DecoderSettings {
        ask_ffmpeg: true,
        ..settings()
    })
    .unwrap();
    let silent = decoders();
    for (name, codec) in [
        ("a.ac3", "ac3"),
        ("a.wma", "wmav2"),
        ("a.wv", "wavpack"),
        ("a.mka", "ac3"),
    ] {
        let path = dir.path().join(name);
        encode(
            &path,
            &[
                "-i",
                &fixture("jfk.wav").display().to_string(),
                "-ar",
                "44100",
                "-c:a",
                codec,
            ],
        );
        let bytes = fs::read(&path).unwrap();
        let refused = open(&silent, &bytes).unwrap_err();
        assert!(
            matches!(
                refused,
                AudioError::UnsupportedContainer { .. } | AudioError::UnsupportedCodec { .. }
            ),
            "{name}: {refused}"
        );
        // From a file, and from memory.
        for upload in [
            UploadedAudio::from_path(&path).unwrap(),
            UploadedAudio::from_bytes(&bytes, None).unwrap(),
        ] {
            let mut recording = asking
                .open(upload, ChannelMode::Mixed, &StopDecoding::default())
                .unwrap();
            assert_eq!(recording.info().unwrap().container, "ffmpeg");
            let heard = rest(&mut recording).unwrap();
            let lag = best_lag(&clip, &heard, 2_000);
            assert!(correlation(&clip, &heard, lag) > 0.97, "{name}");
        }
    }
    let refused = open(&asking, b"PK\x03\x04 and more");
    assert!(matches!(refused, Err(AudioError::UnsupportedContainer { found }) if found == "zip"));
    let no_sound = open(&asking, b"wvpk and nothing that makes any sense behind it");
    assert!(
        matches!(no_sound, Err(AudioError::UnsupportedContainer { .. })),
        "{no_sound:?}"
    );
}

fn encode(path: &Path, arguments: &[&str]) {
    let made = Command::new("ffmpeg")
        .args(["-nostdin", "-loglevel", "error"])
        .args(arguments)
        .arg(path)
        .status();
    assert!(made.unwrap().success());
}

#[test]
fn an_ffmpeg_that_is_killed_is_replaced_and_one_that_fails_is_told() {
    if matrix::encodings().is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("long.ac3");
    encode(&path, &["-f", "lavfi", "-i", "sine=duration=300", "-c:a", "ac3"]);
    let bytes = fs::read(&path).unwrap();
    let asking = Decoders::new(DecoderSettings {
        ask_ffmpeg: true,
        ..settings()
    })
    .unwrap();
    let whole = decode(&asking, &bytes).unwrap();
    assert!(whole.len().abs_diff(300 * 16_000) < 3_200, "{}", whole.len());
    let mut recording = open(&asking, &bytes).unwrap();
    let mut heard = recording.next_block().unwrap().unwrap().channels.swap_remove(0);
    let child = recording.child_id().unwrap();
    let name = fs::read_to_string(format!("/proc/{child}/comm")).unwrap();
    assert_eq!(name.trim(), "ffmpeg");
    kill(i64::from(child), "KILL");
    heard.append(&mut rest(&mut recording).unwrap());
    assert!(heard == whole, "{} of {}", heard.len(), whole.len());
    drop(recording);

    // B22: a second of samples, then an error.
    let folder = tempfile::tempdir().unwrap();
    let failing = "case \"$2\" in --with-ffmpeg) \
                   printf '.snd\\0\\0\\0\\030\\377\\377\\377\\377\\0\\0\\0\\006\\0\\0\\076\\200\\0\\0\\0\\001'; \
                   head -c 64000 /dev/zero; exit 69;; *) exec \"$REAL\" decode;; esac";
    drop(pretender(folder.path(), failing));
    let failing = Decoders::new(DecoderSettings {
        program: folder.path().join("decoder"),
        ask_ffmpeg: true,
        ..settings()
    })
    .unwrap();
    let result = decode(&failing, &bytes);
    assert!(
        matches!(&result, Err(AudioError::Corrupt { detail, .. }) if detail.contains("exit code 69")),
        "{result:?}"
    );
}
