//! The native engine with real models: words in every number format, beside whisper.cpp, in any company, and after damage.
//!
//! Needs `models/ggml-tiny.en.bin` and `models/ggml-base.bin` (`WhisperBackendAPI models pull tiny.en base`).
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use whisper_backend_api::engine::child::Backend;
use whisper_backend_api::engine::preemption::{Control, Switches};
use whisper_backend_api::engine::{
    DecodeOptions, EngineSetting, EngineSpec, PrecisionSetting, open_processor_engine,
};
use whisper_backend_api::transcript::{Task, WindowTranscript};

const JFK: &str = "and so my fellow americans ask not what your country can do for you ask what you can do for your country";
const PRECISIONS: [PrecisionSetting; 4] = [
    PrecisionSetting::Int8,
    PrecisionSetting::Int8Block,
    PrecisionSetting::Bf16,
    PrecisionSetting::Exact,
];

fn model(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("models/ggml-{name}.bin"));
    assert!(
        path.exists(),
        "the tests need a real model; run `./build.sh test`, or `cargo run -- models pull {name}`"
    );
    path
}

/// The model in a folder of its own, with nothing packed.
fn copied(name: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.bin");
    if std::fs::hard_link(model(name), &path).is_err() {
        std::fs::copy(model(name), &path).unwrap();
    }
    (folder, path)
}

fn spec(model: &Path, engine: EngineSetting, precision: PrecisionSetting) -> EngineSpec {
    EngineSpec {
        model: model.to_owned(),
        gpu_device: None,
        slots: 2,
        flash_attention: false,
        max_decoders: 5,
        threads: 2,
        engine,
        precision,
    }
}

fn native(model: &Path, precision: PrecisionSetting) -> Box<dyn Backend> {
    open_processor_engine(&spec(model, EngineSetting::Native, precision)).unwrap()
}

fn jfk() -> Vec<f32> {
    let wav = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/jfk.wav")).unwrap();
    wav[44..]
        .as_chunks::<2>()
        .0
        .iter()
        .map(|bytes| f32::from(i16::from_le_bytes(*bytes)) / 32_768.0)
        .collect()
}

fn control(threads: usize) -> (Arc<Switches>, Control) {
    let switches = Arc::new(Switches::new(threads));
    (switches.clone(), Control::new(switches, |_| {}))
}

fn run(engine: &dyn Backend, samples: &[f32], options: &DecodeOptions, threads: u32) -> WindowTranscript {
    let (_, control) = control(threads as usize);
    engine
        .slot()
        .unwrap()
        .run(samples, options, threads, &control)
        .unwrap()
}

fn ids(transcript: &WindowTranscript) -> Vec<i32> {
    let tokens = transcript.segments.iter().flat_map(|segment| &segment.tokens);
    tokens.map(|token| token.id).collect()
}

fn text(transcript: &WindowTranscript) -> String {
    let tokens = transcript.segments.iter().flat_map(|segment| &segment.tokens);
    let bytes: Vec<u8> = tokens.flat_map(|token| token.bytes.clone()).collect();
    String::from_utf8(bytes).unwrap()
}

fn words(transcript: &WindowTranscript) -> String {
    let text = text(transcript).to_lowercase();
    let bare: String = text
        .chars()
        .filter(|c| c.is_alphanumeric() || *c == ' ')
        .collect();
    bare.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn the_words_are_right_in_every_number_format_on_one_core_and_on_two() {
    for name in ["tiny.en", "base"] {
        for precision in PRECISIONS {
            let engine = native(&model(name), precision);
            let report = engine.report();
            assert_eq!(report.engine, "native");
            assert!(
                !report.precision.is_empty() && !report.isa.is_empty(),
                "{report:?}"
            );
            for threads in [1, 2] {
                let heard = run(engine.as_ref(), &jfk(), &DecodeOptions::default(), threads);
                assert_eq!(words(&heard), JFK, "{name} {precision:?} on {threads}");
                assert_eq!(heard.language.as_deref(), Some("en"));
            }
        }
    }
}

#[cfg(feature = "whisper")]
#[test]
fn f32_says_what_whisper_cpp_says_token_by_token() {
    let options = DecodeOptions {
        short_context: false,
        language: Some("en".to_owned()),
        ..DecodeOptions::default()
    };
    for name in ["tiny.en", "base"] {
        let theirs = open_processor_engine(&spec(
            &model(name),
            EngineSetting::WhisperCpp,
            PrecisionSetting::Auto,
        ));
        let theirs = run(theirs.unwrap().as_ref(), &jfk(), &options, 2);
        let ours = run(
            native(&model(name), PrecisionSetting::Exact).as_ref(),
            &jfk(),
            &options,
            2,
        );
        let text = |t: &WindowTranscript| ids(t).into_iter().filter(|id| *id < 50_256).collect::<Vec<_>>();
        assert_eq!(text(&ours), text(&theirs), "{name}");
        let sure = |t: &WindowTranscript| {
            let tokens: Vec<f32> = t
                .segments
                .iter()
                .flat_map(|s| &s.tokens)
                .map(|t| t.logprob)
                .collect();
            tokens.iter().sum::<f32>() / tokens.len() as f32
        };
        assert!(
            (sure(&ours) - sure(&theirs)).abs() < 0.05,
            "{} and {}",
            sure(&ours),
            sure(&theirs)
        );
    }
}

#[test]
fn prompts_languages_beams_and_temperatures_do_what_they_say() {
    let engine = native(&model("base"), PrecisionSetting::Auto);
    let plain = DecodeOptions::default();
    let beam = DecodeOptions {
        beam_size: 5,
        ..plain.clone()
    };
    let by_beam = run(engine.as_ref(), &jfk(), &beam, 2);
    assert_eq!(words(&by_beam), JFK);
    // Left to the engine: several texts side by side, and one for a first look.
    let mut unsaid = DecodeOptions {
        beam_size: 0,
        ..plain.clone()
    };
    assert_eq!(
        run(engine.as_ref(), &jfk(), &unsaid, 2).segments,
        by_beam.segments
    );
    unsaid.draft = true;
    assert_eq!(
        run(engine.as_ref(), &jfk(), &unsaid, 2).segments,
        run(engine.as_ref(), &jfk(), &plain, 2).segments
    );
    let warm = DecodeOptions {
        temperature: 0.4,
        ..plain.clone()
    };
    let heard = run(engine.as_ref(), &jfk(), &warm, 2);
    assert_eq!(words(&heard), JFK);
    assert!((heard.temperature - 0.4).abs() < 1e-6);
    assert_eq!(
        ids(&run(engine.as_ref(), &jfk(), &warm, 1)),
        ids(&heard),
        "the same draw each time"
    );

    // The prompt's spelling is taken up.
    let prompted = DecodeOptions {
        prompt: Some(
            "AND SO MY FELLOW CITIZENS, WE MUST DO THIS FOR OUR COUNTRY, THE PRESIDENT SAID.".to_owned(),
        ),
        ..plain.clone()
    };
    let heard = run(engine.as_ref(), &jfk(), &prompted, 2);
    assert_eq!(words(&heard), JFK);
    let in_capitals = |word: &str| word.len() > 2 && word.chars().all(|c| c.is_ascii_uppercase());
    assert!(text(&heard).split(' ').any(in_capitals), "{}", text(&heard));
    // One far longer than the model's memory is cut to its end.
    let endless = DecodeOptions {
        prompt: Some("So it goes on, and on. ".repeat(5_000)),
        ..plain.clone()
    };
    run(engine.as_ref(), &jfk()[..48_000], &endless, 2);

    let among = DecodeOptions {
        candidate_languages: vec!["de".to_owned(), "fr".to_owned()],
        ..plain.clone()
    };
    let guessed = run(engine.as_ref(), &jfk(), &among, 2).language.unwrap();
    assert!(["de", "fr"].contains(&guessed.as_str()), "{guessed}");
    let german = DecodeOptions {
        language: Some("de".to_owned()),
        ..plain.clone()
    };
    let heard = run(engine.as_ref(), &jfk(), &german, 2);
    assert_eq!(heard.language.as_deref(), Some("de"));
    let translated = DecodeOptions {
        task: Task::Translate,
        ..plain
    };
    assert_eq!(words(&run(engine.as_ref(), &jfk(), &translated, 2)), JFK);
}

#[test]
fn onsets_of_words_are_monotone_and_where_they_are_spoken() {
    let options = DecodeOptions {
        word_times: true,
        ..DecodeOptions::default()
    };
    for name in ["tiny.en", "base"] {
        let engine = native(&model(name), PrecisionSetting::Auto);
        let heard = run(engine.as_ref(), &jfk(), &options, 2);
        let onsets: Vec<(String, f32)> = heard
            .segments
            .iter()
            .flat_map(|segment| &segment.tokens)
            .filter(|token| !token.bytes.is_empty())
            .map(|token| {
                let word = String::from_utf8(token.bytes.clone()).unwrap();
                (word.trim().to_owned(), token.onset.unwrap())
            })
            .collect();
        assert!(onsets.is_sorted_by(|a, b| a.1 <= b.1), "{onsets:?}");
        // By ear, to a quarter of a second.
        for (word, second) in [("fellow", 1.1), ("Americans", 1.7), ("country", 5.9)] {
            let found = onsets
                .iter()
                .find(|(w, _)| w == word)
                .unwrap_or_else(|| panic!("{onsets:?}"))
                .1;
            assert!(
                (found - second).abs() < 0.5,
                "{name}: {word} at {found}, expected {second}"
            );
        }
        assert!(onsets.last().unwrap().1 < 11.0);
    }
}

/// Pieces of the clip: seconds from and to.
const PIECES: [(f32, f32); 6] = [
    (0.0, 2.4),
    (3.0, 7.7),
    (0.0, 11.0),
    (7.8, 10.8),
    (3.2, 10.6),
    (0.0, 0.3),
];

#[test]
fn a_window_says_the_same_in_any_company() {
    let engine: Arc<dyn Backend> = native(&model("tiny.en"), PrecisionSetting::Auto).into();
    let samples = jfk();
    let piece = |index: usize| {
        let (from, to) = PIECES[index];
        samples[(from * 16_000.0) as usize..(to * 16_000.0) as usize].to_vec()
    };
    let variants: Vec<DecodeOptions> = [
        (1, None, 0.0),
        (1, Some("Hello there."), 0.0),
        (3, None, 0.0),
        (1, None, 0.6),
    ]
    .into_iter()
    .map(|(beam_size, prompt, temperature)| DecodeOptions {
        beam_size,
        prompt: prompt.map(str::to_owned),
        temperature,
        word_times: beam_size > 1,
        ..DecodeOptions::default()
    })
    .collect();
    let said = |transcript: &WindowTranscript| {
        let tokens = transcript.segments.iter().flat_map(|s| &s.tokens);
        tokens
            .map(|t| (t.id, t.logprob.to_bits(), t.onset.map(f32::to_bits)))
            .collect::<Vec<_>>()
    };
    let alone: Vec<Vec<_>> = (0..PIECES.len())
        .map(|index| {
            variants
                .iter()
                .map(|options| said(&run(engine.as_ref(), &piece(index), options, 1)))
                .collect()
        })
        .collect();
    let alone = Arc::new(alone);
    // Six windows at a time on two cores, one in eight given up; they join and leave as they end.
    std::thread::scope(|scope| {
        for worker in 0..6_u32 {
            let (engine, alone, variants) = (engine.clone(), alone.clone(), &variants);
            scope.spawn(move || {
                let mut random = worker.wrapping_mul(2_654_435_761) | 1;
                for _ in 0..25 {
                    random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    let (index, variant) =
                        ((random >> 16) as usize % PIECES.len(), (random >> 8) as usize % 4);
                    let mut options = variants[variant].clone();
                    options.urgent = random >> 28 == 3;
                    let (switches, control) = control(1);
                    let given_up = random >> 29 == 0;
                    if given_up {
                        std::thread::spawn(move || {
                            std::thread::sleep(Duration::from_millis(u64::from(random >> 20 & 31)));
                            switches.cancel();
                        });
                    }
                    match engine.slot().unwrap().run(&piece(index), &options, 1, &control) {
                        Ok(heard) => assert_eq!(
                            said(&heard),
                            alone[index][variant],
                            "piece {index}, variant {variant}"
                        ),
                        Err(None) => assert!(given_up),
                        Err(Some(error)) => panic!("{error}"),
                    }
                }
            });
        }
    });
}

#[test]
fn a_cancelled_window_ends_within_a_layer() {
    let engine = native(&model("base"), PrecisionSetting::Exact);
    let long: Vec<f32> = jfk().into_iter().cycle().take(30 * 16_000).collect();
    for threads in [1, 2] {
        let began = Instant::now();
        run(engine.as_ref(), &long, &DecodeOptions::default(), threads);
        let whole = began.elapsed();
        let (switches, control) = control(threads as usize);
        let mut slot = engine.slot().unwrap();
        let stopper = std::thread::spawn(move || {
            std::thread::sleep(whole / 20);
            switches.cancel();
        });
        let began = Instant::now();
        let outcome = slot.run(&long, &DecodeOptions::default(), threads, &control);
        assert_eq!(outcome.map(|t| text(&t)), Err(None));
        assert!(began.elapsed() < whole / 2, "{:?} of {whole:?}", began.elapsed());
        stopper.join().unwrap();
    }
}

#[test]
fn cores_can_be_taken_from_a_window_that_runs() {
    let engine = native(&model("base"), PrecisionSetting::Auto);
    let long: Vec<f32> = jfk().into_iter().cycle().take(25 * 16_000).collect();
    let switches = Arc::new(Switches::new(2));
    let (told, heard) = std::sync::mpsc::channel();
    let control = Control::new(switches.clone(), move |threads| told.send(threads).unwrap());
    switches.set_threads(1);
    engine
        .slot()
        .unwrap()
        .run(&long, &DecodeOptions::default(), 2, &control)
        .unwrap();
    assert_eq!(heard.try_recv(), Ok(1));
}

fn packed_files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "packed"))
        .collect();
    files.sort();
    files
}

/// What is done to a packed file.
type Damage = fn(&mut Vec<u8>);

#[test]
fn a_damaged_cut_or_foreign_packed_file_is_made_anew() {
    let (folder, path) = copied("tiny.en");
    let hear = || {
        words(&run(
            native(&path, PrecisionSetting::Int8).as_ref(),
            &jfk(),
            &DecodeOptions::default(),
            2,
        ))
    };
    assert_eq!(hear(), JFK);
    let files = packed_files(folder.path());
    assert_eq!(files.len(), 1, "{files:?}");
    let whole = std::fs::read(&files[0]).unwrap();
    let damages: [(&str, Damage); 5] = [
        ("cut", |bytes| bytes.truncate(bytes.len() / 2)),
        ("empty", Vec::clear),
        ("longer", |bytes| bytes.push(0)),
        ("a byte of the weights", |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        }),
        ("another version", |bytes| bytes[12] ^= 1),
    ];
    for (name, damage) in damages {
        let mut bytes = whole.clone();
        damage(&mut bytes);
        std::fs::write(&files[0], bytes).unwrap();
        assert_eq!(hear(), JFK, "{name}");
        assert_eq!(std::fs::read(&files[0]).unwrap(), whole, "{name}");
    }
    // One that is whole is used as it is.
    let before = std::fs::metadata(&files[0]).unwrap().modified().unwrap();
    assert_eq!(hear(), JFK);
    assert_eq!(std::fs::metadata(&files[0]).unwrap().modified().unwrap(), before);
    assert_eq!(packed_files(folder.path()), files);
}

#[test]
fn another_model_under_the_same_name_is_packed_anew() {
    let (_folder, path) = copied("tiny.en");
    let english = native(&path, PrecisionSetting::Int8).report();
    assert!(!english.multilingual);
    std::fs::remove_file(&path).unwrap();
    std::fs::copy(model("base"), &path).unwrap();
    let engine = native(&path, PrecisionSetting::Int8);
    assert!(engine.report().multilingual);
    assert_eq!(
        words(&run(engine.as_ref(), &jfk(), &DecodeOptions::default(), 2)),
        JFK
    );
}

#[test]
fn hostile_model_files_are_refused_with_a_reason() {
    let whole = std::fs::read(model("tiny.en")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.bin");
    let refused = |bytes: &[u8], name: &str| {
        std::fs::write(&path, bytes).unwrap();
        let outcome = open_processor_engine(&spec(&path, EngineSetting::Native, PrecisionSetting::Auto));
        let reason = outcome.err().unwrap_or_else(|| panic!("{name} was taken"));
        assert!(reason.contains("model.bin"), "{name}: {reason}");
    };
    refused(b"", "an empty file");
    refused(b"GGUF and so on", "another format");
    refused(&whole[..whole.len() / 3], "a third of a model");
    refused(&whole[..whole.len() - 1], "all but a byte");
    // Each number of the header in turn, as great as it gets: nothing is allocated by it.
    for word in 1..12 {
        let mut bytes = whole[..1 << 20].to_vec();
        bytes[word * 4..word * 4 + 4].copy_from_slice(&u32::MAX.to_le_bytes());
        refused(&bytes, &format!("word {word}"));
        bytes[word * 4..word * 4 + 4].copy_from_slice(&0_u32.to_le_bytes());
        refused(&bytes, &format!("word {word} without a value"));
    }
}

#[test]
fn an_unknown_instruction_set_is_refused_with_those_that_are() {
    // In a process of its own: the variable is the whole process's.
    let outcome = std::process::Command::new(env!("CARGO_BIN_EXE_WhisperBackendAPI"))
        .args([
            "--model",
            model("tiny.en").to_str().unwrap(),
            "transcribe",
            "tests/fixtures/jfk.wav",
        ])
        .env("WHISPER_BACKEND_ISA", "mmx")
        .env("WHISPER_BACKEND__WHISPER__ENGINE", "native")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&outcome.stderr);
    assert!(!outcome.status.success());
    assert!(said.contains("mmx") && said.contains("portable"), "{said}");
}

#[test]
fn every_instruction_set_of_this_processor_hears_the_same_words() {
    for isa in whisper_native::Isa::ALL.into_iter().filter(|isa| isa.available()) {
        if isa == whisper_native::Isa::Portable {
            continue; // minutes in a debug build; the crate's own tests compare it
        }
        let outcome = std::process::Command::new(env!("CARGO_BIN_EXE_WhisperBackendAPI"))
            .args([
                "--model",
                model("tiny.en").to_str().unwrap(),
                "transcribe",
                "tests/fixtures/jfk.wav",
            ])
            .env("WHISPER_BACKEND_ISA", isa.name())
            .env("WHISPER_BACKEND__WHISPER__ENGINE", "native")
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&outcome.stdout).to_lowercase();
        assert!(said.contains("my fellow americans"), "{}: {said}", isa.name());
    }
}
