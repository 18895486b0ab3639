//! Names, channels, damage and long files: what a sender would notice.

use std::f64::consts::TAU;
use std::fs;
use std::path::Path;
use std::process::Command;

use whisper_backend_api::audio::{
    AudioError, AudioStream, ChannelMode, Container, Spool, SpoolFolder, UploadedAudio,
};

use super::{best_lag, correlation, decode_bytes, decode_path, drain, fixture, limits, matrix};

/// A WAV file of 16 bits, frame by frame.
fn wav(rate_hz: u32, frames: &[Vec<f64>]) -> Vec<u8> {
    let channels = frames[0].len() as u16;
    let mut wav = b"RIFF\xff\xff\xff\xffWAVEfmt \x10\0\0\0\x01\0".to_vec();
    wav.extend(channels.to_le_bytes());
    wav.extend(rate_hz.to_le_bytes());
    wav.extend((rate_hz * u32::from(channels) * 2).to_le_bytes());
    wav.extend((channels * 2).to_le_bytes());
    wav.extend(b"\x10\0data\xff\xff\xff\xff");
    for sample in frames.iter().flatten() {
        wav.extend(((sample * 32_767.0) as i16).to_le_bytes());
    }
    wav
}

fn tone(hz: f64, rate_hz: u32, frame: usize) -> f64 {
    0.5 * (TAU * hz * frame as f64 / f64::from(rate_hz)).sin()
}

/// Power of `hz` in `samples`, between 0 and 1 of a full-scale tone's.
fn power_at(samples: &[f32], hz: f64) -> f64 {
    let (mut re, mut im) = (0.0, 0.0);
    for (n, sample) in samples.iter().enumerate() {
        let phase = TAU * hz * n as f64 / 16_000.0;
        re += f64::from(*sample) * phase.cos();
        im += f64::from(*sample) * phase.sin();
    }
    (re * re + im * im) * 4.0 / (samples.len() as f64).powi(2)
}

fn stereo(left: f64, right: f64) -> Vec<u8> {
    let frames: Vec<_> = (0..44_100 * 3)
        .map(|n| vec![tone(left, 44_100, n), tone(right, 44_100, n)])
        .collect();
    wav(44_100, &frames)
}

#[test]
fn bytes_decide_and_names_only_where_bytes_do_not() {
    let sniff = |bytes: &[u8], name| UploadedAudio::from_bytes(bytes, name).unwrap().sniff();
    let clip = fs::read(fixture("jfk.wav")).unwrap();
    let found = sniff(&clip, Some("meeting.mp3")).unwrap();
    assert_eq!((found.container, found.offset), (Container::Wav, 0));

    let garbage = [b"\r\n--boundary\r\nContent-Type: audio/wav\r\n\r\n", &clip[..]].concat();
    let found = sniff(&garbage, None).unwrap();
    assert_eq!(
        (found.container, found.offset),
        (Container::Wav, garbage.len() as u64 - clip.len() as u64)
    );
    assert_eq!(decode_bytes(&garbage).unwrap().len(), 176_000);

    let tagged = [b"ID3\x03\0\0\0\0\x02\x00", &[0; 256][..], &clip[..]].concat();
    assert_eq!(sniff(&tagged, None).unwrap().offset, 266);

    // One frame of MP3 could be chance; a name makes it likely.
    let mut frame = vec![0xff, 0xfb, 0x90, 0x00];
    frame.resize(417, 0);
    assert!(matches!(sniff(&frame, None), Err(AudioError::Unrecognized)));
    assert!(matches!(
        sniff(&frame, Some("song.doc")),
        Err(AudioError::Unrecognized)
    ));
    assert_eq!(
        sniff(&frame, Some("song.MP3")).unwrap().container,
        Container::Mpeg
    );
    let three = frame.repeat(3);
    assert_eq!(sniff(&three, None).unwrap().container, Container::Mpeg);
}

#[test]
fn an_upload_in_pieces_is_the_upload() {
    let clip = fs::read(fixture("jfk.wav")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    // Most of it beyond the memory's share.
    let mut spool = Spool::new(
        10_000,
        1 << 20,
        std::sync::Arc::new(SpoolFolder::in_folder(dir.path().to_owned())),
    );
    for piece in clip.chunks(777) {
        spool.write(piece).unwrap();
    }
    assert_eq!(spool.len(), clip.len() as u64);
    let upload = spool.finish(Some("a/../../etc/passwd.wav".to_owned())).unwrap();
    let mut stream = AudioStream::open(upload, &limits(), ChannelMode::Mixed).unwrap();
    assert_eq!(
        drain(&mut stream).unwrap()[0],
        decode_path(&fixture("jfk.wav")).unwrap()
    );
}

#[test]
fn channels_are_mixed_or_kept_apart_on_one_clock() {
    let bytes = stereo(440.0, 1_000.0);
    let mixed = decode_bytes(&bytes).unwrap();
    assert_eq!(mixed.len(), 48_000);
    // Each tone at half its level: a quarter of the power.
    for hz in [440.0, 1_000.0] {
        assert!(
            (power_at(&mixed, hz) - 0.0625).abs() < 0.001,
            "{hz} Hz: {}",
            power_at(&mixed, hz)
        );
    }

    let upload = UploadedAudio::from_bytes(&bytes, None).unwrap();
    let mut stream = AudioStream::open(upload, &limits(), ChannelMode::Separate).unwrap();
    assert_eq!(stream.info().channels, 2);
    assert_eq!(stream.info().sample_rate_hz, 44_100);
    let apart = drain(&mut stream).unwrap();
    assert_eq!(apart.iter().map(Vec::len).collect::<Vec<_>>(), [48_000, 48_000]);
    for (channel, hz, other) in [(0, 440.0, 1_000.0), (1, 1_000.0, 440.0)] {
        assert!((power_at(&apart[channel], hz) - 0.25).abs() < 0.002);
        assert!(power_at(&apart[channel], other) < 1e-6, "the channels leak");
    }
}

#[test]
fn opposite_phases_cancel_when_mixed_and_survive_apart() {
    let frames: Vec<_> = (0..16_000)
        .map(|n| vec![tone(440.0, 16_000, n), -tone(440.0, 16_000, n)])
        .collect();
    let bytes = wav(16_000, &frames);
    assert!(
        decode_bytes(&bytes)
            .unwrap()
            .iter()
            .all(|sample| sample.abs() < 1e-4)
    );
    let upload = UploadedAudio::from_bytes(&bytes, None).unwrap();
    let apart = drain(&mut AudioStream::open(upload, &limits(), ChannelMode::Separate).unwrap()).unwrap();
    assert!(power_at(&apart[0], 440.0) > 0.24 && power_at(&apart[1], 440.0) > 0.24);
}

#[test]
fn blocks_come_in_seconds_not_in_hours() {
    // Ten minutes of one sample a millisecond: 600,000 frames that become 9.6 million samples.
    let frames: Vec<_> = (0..600_000).map(|n| vec![tone(50.0, 1_000, n)]).collect();
    let upload = UploadedAudio::from_bytes(&wav(1_000, &frames), None).unwrap();
    let mut stream = AudioStream::open(upload, &limits(), ChannelMode::Mixed).unwrap();
    let mut blocks = 0;
    while let Some(block) = stream.next_block().unwrap() {
        assert!(block.channels[0].len() <= 4 * 16_000);
        blocks += 1;
    }
    assert_eq!(stream.decoded_samples(), 9_600_000);
    assert!(blocks >= 150, "{blocks} blocks");
    assert!(stream.next_block().unwrap().is_none(), "the end stays the end");
}

#[test]
fn silence_is_a_recording() {
    let silence = decode_bytes(&wav(8_000, &vec![vec![0.0]; 8_000])).unwrap();
    assert_eq!(silence.len(), 16_000);
    assert!(silence.iter().all(|sample| *sample == 0.0));
}

#[test]
fn of_he_aac_the_core_is_heard() {
    let clip = decode_path(&fixture("jfk.wav")).unwrap();
    // Of v2 the core has one channel: the second is described, not coded.
    for (name, channels) in [("he_aac_v1.aac", 2), ("he_aac_v2.aac", 1)] {
        let upload = UploadedAudio::from_path(&fixture(name)).unwrap();
        let mut stream = AudioStream::open(upload, &limits(), ChannelMode::Mixed).unwrap();
        let found = (stream.info().sample_rate_hz, stream.info().channels);
        assert_eq!(found, (22_050, channels), "{name}");
        let heard = drain(&mut stream).unwrap().swap_remove(0);
        let lag = best_lag(&clip, &heard, 4_000);
        let alike = correlation(&clip, &heard, lag);
        println!(
            "{name}: {} samples, lag {lag}, correlation {alike:.4}",
            heard.len()
        );
        assert!(alike > 0.97, "{name}: correlation {alike}");
        let within = clip.len()..clip.len() * 105 / 100;
        assert!(within.contains(&heard.len()), "{name}: {} samples", heard.len());
    }
}

#[cfg(feature = "amr")]
#[test]
fn wide_band_amr_is_heard_and_its_gaps_are_filled() {
    use codec_core::codecs::amr::AmrCodec;
    use codec_core::types::{CodecConfig, VariableRateCodec as _};

    let clip = decode_path(&fixture("jfk.wav")).unwrap();
    let mut codec = AmrCodec::new(&CodecConfig::amr_wb()).unwrap();
    let mut file = b"#!AMR-WB\n".to_vec();
    for (index, frame) in clip.chunks_exact(320).enumerate() {
        let samples: Vec<i16> = frame.iter().map(|sample| (sample * 32_767.0) as i16).collect();
        let coded = codec.encode_frame(&samples).unwrap();
        // Every fiftieth frame says that it was lost, every fifty-first that it holds nothing.
        match index % 50 {
            48 => file.push(14 << 3 | 4),
            49 => file.push(15 << 3 | 4),
            _ => {
                file.push(coded.mode << 3 | 4);
                file.extend(coded.data);
            }
        }
    }
    // Half a frame at the end: a recorder that was switched off.
    file.truncate(file.len() - 20);
    let upload = UploadedAudio::from_bytes(&file, None).unwrap();
    let mut stream = AudioStream::open(upload, &limits(), ChannelMode::Mixed).unwrap();
    assert_eq!(
        (stream.info().codec.as_str(), stream.info().sample_rate_hz),
        ("amr_wb", 16_000)
    );
    let heard = drain(&mut stream).unwrap().swap_remove(0);
    // The two frames without content and the half one before them are gone.
    assert_eq!(heard.len(), clip.len() - 3 * 320);
    let lag = best_lag(&clip, &heard, 400);
    let alike = correlation(&clip, &heard, lag);
    assert!(alike > 0.9, "correlation {alike}");
}

#[test]
fn damage_in_the_middle_costs_only_the_middle() {
    let Some(encodings) = matrix::encodings() else {
        return;
    };
    for name in [
        "mp3_44100_cbr.mp3",
        "aac_adts_44100_stereo.aac",
        "ogg_opus_voip.opus",
        "flac_16.flac",
        "webm_opus.webm",
    ] {
        let encoding = encodings
            .iter()
            .find(|encoding| encoding.path.ends_with(name))
            .unwrap();
        let whole = decode_path(&encoding.path).unwrap();
        let mut bytes = fs::read(&encoding.path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle..middle + 2_000].fill(0x55);
        let rest = decode_bytes(&bytes).unwrap();
        // 2,000 bytes are at most 0.7 s of these. An Ogg page has one checksum and holds a second of sound: two fall.
        let percent = if name.starts_with("ogg") { 80 } else { 85 };
        assert!(
            rest.len() * 100 > whole.len() * percent,
            "{name}: {} of {} samples left",
            rest.len(),
            whole.len()
        );
        let (rest, whole) = (&rest[rest.len() - 48_000..], &whole[whole.len() - 48_000..]);
        // Padding at the end cannot always be told apart once frames are missing.
        let lag = best_lag(rest, whole, 1_500);
        let alike = correlation(rest, whole, lag);
        assert!(
            alike > 0.99,
            "{name}: the end is not what it was, correlation {alike:.3}"
        );
    }
}

/// Runs sox; the matrix has made sure that it is there.
fn sox(args: &[&str]) {
    assert!(
        Command::new("sox")
            .arg("-R")
            .args(args)
            .status()
            .unwrap()
            .success(),
        "sox {args:?}"
    );
}

#[test]
fn resampling_is_as_good_as_sox_at_its_best() {
    if matrix::encodings().is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
    let clip = fixture("jfk.wav").to_string_lossy().into_owned();
    for rate in ["8000", "11025", "22050", "32000", "44100", "48000", "96000"] {
        // Speech of that rate, and a sweep through all that both rates can hold.
        let top = (rate.parse::<f64>().unwrap() / 2.0).min(8_000.0) * 0.9;
        sox(&[&clip, "-r", rate, "-b", "24", &path("speech.wav"), "rate", "-v"]);
        let sweep = format!("50:{top}");
        sox(&[
            "-n",
            "-r",
            rate,
            "-b",
            "24",
            &path("sweep.wav"),
            "synth",
            "4",
            "sine",
            &sweep,
            "gain",
            "-6",
        ]);
        for kind in ["speech", "sweep"] {
            let source = path(&format!("{kind}.wav"));
            sox(&[
                &source,
                "-r",
                "16000",
                "-e",
                "float",
                "-b",
                "32",
                &path("reference.wav"),
                "rate",
                "-v",
            ]);
            let ours = decode_path(Path::new(&source)).unwrap();
            let reference = decode_path(Path::new(&path("reference.wav"))).unwrap();
            assert!(
                ours.len().abs_diff(reference.len()) <= 1,
                "{} and {} samples",
                ours.len(),
                reference.len()
            );
            let inner = 800..ours.len().min(reference.len()) - 800;
            let (mut error, mut signal) = (0.0, 0.0);
            for (a, b) in ours[inner.clone()].iter().zip(&reference[inner]) {
                error += f64::from(a - b).powi(2);
                signal += f64::from(*b).powi(2);
            }
            let decibels = 10.0 * (signal / error).log10();
            println!("{rate:>6} Hz {kind:6}: {decibels:5.1} dB above its difference from sox");
            assert!(decibels > 40.0, "{rate} Hz {kind}: {decibels:.1} dB");
        }
    }
}

/// Strength of a tone in `samples` of 16 kHz, in decibels relative to full scale.
fn level_of(samples: &[f32], hertz: f64) -> f64 {
    let (mut sine, mut cosine) = (0.0, 0.0);
    // A Hann window keeps what is left at other frequencies out.
    let count = samples.len() as f64;
    for (index, sample) in samples.iter().enumerate() {
        let window = 1.0 - (std::f64::consts::TAU * index as f64 / count).cos();
        let angle = std::f64::consts::TAU * hertz * index as f64 / 16_000.0;
        sine += f64::from(*sample) * window * angle.sin();
        cosine += f64::from(*sample) * window * angle.cos();
    }
    20.0 * (2.0 * sine.hypot(cosine) / count).log10()
}

#[test]
fn tones_keep_their_strength_and_those_above_the_band_are_gone() {
    if matrix::encodings().is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
    for rate in [8_000_u32, 11_025, 22_050, 32_000, 44_100, 48_000, 96_000] {
        let half = f64::from(rate.min(16_000)) / 2.0;
        let mut lines = Vec::new();
        // Within the band; then above it, where a mirror image below 8 kHz would be heard.
        for part in [0.02, 0.25, 0.5, 0.75, 0.9, 0.95, 1.05, 1.1, 1.25, 1.5] {
            let hertz = (half * part).round();
            if hertz >= f64::from(rate) / 2.0 {
                continue;
            }
            sox(&[
                "-n",
                "-r",
                &rate.to_string(),
                "-b",
                "32",
                "-e",
                "float",
                &path("tone.wav"),
                "synth",
                "2",
                "sine",
                &hertz.to_string(),
                "gain",
                "-6",
            ]);
            sox(&[
                &path("tone.wav"),
                "-r",
                "16000",
                "-e",
                "float",
                "-b",
                "32",
                &path("theirs.wav"),
                "rate",
                "-v",
            ]);
            let level = |name: &str| {
                let samples = decode_path(Path::new(&path(name))).unwrap();
                let inner = &samples[1_600..samples.len() - 1_600];
                let heard = if hertz < 8_000.0 { hertz } else { 16_000.0 - hertz };
                // The tone was made 6 dB below full scale.
                level_of(inner, heard) + 6.0
            };
            let (ours, theirs) = (level("tone.wav"), level("theirs.wav"));
            lines.push(format!("{hertz:6} Hz {ours:7.2} {theirs:7.2}"));
            if part < 0.92 {
                assert!(
                    ours.abs() < 0.1,
                    "{rate} Hz: a tone of {hertz} Hz at {ours:.2} dB"
                );
            } else if part > 1.08 {
                assert!(ours < -80.0, "{rate} Hz: an image of {hertz} Hz at {ours:.1} dB");
            }
        }
        println!("{rate} Hz, ours and sox, dB:\n{}", lines.join("\n"));
    }
}

/// Children of this process, by number.
#[cfg(target_os = "linux")]
pub(super) fn children() -> Vec<String> {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let of_task =
        |task: std::io::Result<fs::DirEntry>| fs::read_to_string(task.ok()?.path().join("children")).ok();
    let all: Vec<_> = tasks.filter_map(of_task).collect();
    all.iter()
        .flat_map(|list| list.split_whitespace().map(str::to_owned))
        .collect()
}

#[test]
fn a_stream_may_move_to_another_thread() {
    fn is_send<T: Send>() {}
    is_send::<AudioStream>();
    is_send::<UploadedAudio>();
    is_send::<Spool>();
}
