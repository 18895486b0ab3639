//! Every encoding of `matrix.py`, beside ffmpeg's decode of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use whisper_backend_api::audio::{AudioStream, ChannelMode, UploadedAudio};

use super::{best_lag, correlation, drain, fixture, limits};

/// What the matrix needs; the names are those of Debian's packages too.
const TOOLS: [&str; 3] = ["ffmpeg", "sox", "python3"];

/// Furthest our samples may be from ffmpeg's in time: 50 ms, a third of a syllable.
const MAX_LAG: usize = 800;

/// One line of the manifest.
pub(super) struct Encoding {
    pub(super) path: PathBuf,
    least_correlation: f64,
    container: String,
    codec: String,
}

/// The encodings; `None`, said aloud, where the tools are missing and nobody insists.
pub(super) fn encodings() -> Option<&'static [Encoding]> {
    static MADE: OnceLock<Option<Vec<Encoding>>> = OnceLock::new();
    MADE.get_or_init(make).as_deref()
}

fn make() -> Option<Vec<Encoding>> {
    let missing: Vec<_> = TOOLS.into_iter().filter(|tool| !is_installed(tool)).collect();
    if !missing.is_empty() {
        let missing = missing.join(", ");
        let insists =
            |name: &str| std::env::var_os(name).is_some_and(|value| value == "true" || value == "1");
        assert!(
            !insists("CI") && !insists("WBA_REQUIRE_TOOLS"),
            "{missing} not found; install with: sudo apt-get install ffmpeg sox python3"
        );
        eprintln!("skipped: no {missing}; install with: sudo apt-get install ffmpeg sox python3");
        return None;
    }
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("matrix");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/audio/matrix.py");
    let status = Command::new("python3")
        .arg(script)
        .arg(fixture("jfk.wav"))
        .arg(&out)
        .status()
        .unwrap();
    assert!(status.success(), "matrix.py failed");
    let manifest = fs::read_to_string(out.join("manifest.tsv")).unwrap();
    let built_in = |line: &&str| cfg!(feature = "amr") || !line.contains("\tamr\t");
    let encodings = manifest.lines().filter(built_in).map(|line| {
        let fields: Vec<_> = line.split('\t').collect();
        Encoding {
            path: out.join(fields[0]),
            least_correlation: fields[1].parse().unwrap(),
            container: fields[2].to_owned(),
            codec: fields[3].to_owned(),
        }
    });
    Some(encodings.collect())
}

fn is_installed(tool: &str) -> bool {
    // `sox --version` and `ffmpeg -version` differ; being there is what counts.
    std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).any(|dir| dir.join(tool).is_file())
}

fn floats_of_fixture() -> &'static [f32] {
    static CLIP: OnceLock<Vec<f32>> = OnceLock::new();
    CLIP.get_or_init(|| super::decode_path(&fixture("jfk.wav")).unwrap())
}

/// Little-endian floats of a file.
fn floats(path: &Path) -> Vec<f32> {
    let bytes = fs::read(path).unwrap();
    bytes
        .chunks_exact(4)
        .map(|sample| f32::from_le_bytes(sample.try_into().unwrap()))
        .collect()
}

#[test]
fn every_encoding_decodes_to_what_ffmpeg_hears() {
    let Some(encodings) = encodings() else { return };
    assert!(encodings.len() >= 45, "only {} encodings", encodings.len());
    let mut failures = Vec::new();
    for encoding in encodings {
        let name = encoding.path.file_name().unwrap().to_string_lossy();
        match compare(encoding) {
            Ok(line) => println!("{name:32} {line}"),
            Err(line) => failures.push(format!("{name}: {line}")),
        }
    }
    assert_none_failed(&failures, encodings);
}

/// All failures at once, not the first alone.
pub(super) fn assert_none_failed(failures: &[String], encodings: &[Encoding]) {
    assert!(
        failures.is_empty(),
        "{} of {}:\n{}",
        failures.len(),
        encodings.len(),
        failures.join("\n")
    );
}

fn compare(encoding: &Encoding) -> Result<String, String> {
    let upload = UploadedAudio::from_path(&encoding.path).map_err(|error| error.to_string())?;
    let mut stream =
        AudioStream::open(upload, &limits(), ChannelMode::Mixed).map_err(|error| error.to_string())?;
    let info = stream.info().clone();
    let ours = drain(&mut stream)
        .map_err(|error| error.to_string())?
        .swap_remove(0);
    let mut reference = encoding.path.clone().into_os_string();
    reference.push(".f32");
    let theirs = floats(Path::new(&reference));

    let lag = best_lag(&ours, &theirs, MAX_LAG as isize + 200);
    let alike = correlation(&ours, &theirs, lag);
    let original = floats_of_fixture();
    let delay = best_lag(original, &ours, MAX_LAG as isize + 2000);
    let line = format!(
        "{delay:5} {:8} {:14} {:6} Hz {}ch  {:7} samples, ffmpeg {:7}, lag {lag:5}, correlation {alike:.5}",
        info.container,
        info.codec,
        info.sample_rate_hz,
        info.channels,
        ours.len(),
        theirs.len()
    );
    let apart = ours.len().abs_diff(theirs.len());
    let whole = theirs.len();
    let good = apart * 100 <= whole
        && alike >= encoding.least_correlation
        && lag.unsigned_abs() <= MAX_LAG
        && stream.skipped_packets() == 0
        && (info.container, info.codec) == (encoding.container.clone(), encoding.codec.clone());
    if good {
        Ok(line)
    } else {
        Err(format!("{line}, skipped {}", stream.skipped_packets()))
    }
}
