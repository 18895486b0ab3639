//! The state machine with a detector and a model that read their answers off the audio: each word is a fifth of a second
//! of one amplitude.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::realtime::agreement::Token;
use crate::speech::{FRAME_SAMPLES, SAMPLE_RATE_HZ};

const WORD_SECONDS: f64 = 0.208; // 13 frames
const GAP_SECONDS: f64 = 0.112; // 7 frames

/// Calls loud frames voice.
#[derive(Default)]
struct Loudness(Vec<f32>);

impl Voice for Loudness {
    fn push(&mut self, samples: &[f32], frames: &mut VecDeque<LiveFrame>) {
        self.0.extend_from_slice(samples);
        let whole = self.0.len() / FRAME_SAMPLES * FRAME_SAMPLES;
        for frame in self.0[..whole].chunks(FRAME_SAMPLES) {
            let rms = (frame.iter().map(|s| s * s).sum::<f32>() / frame.len() as f32).sqrt();
            frames.push_back(LiveFrame::new(if rms > 0.03 { 0.95 } else { 0.02 }, rms));
        }
        self.0.drain(..whole);
    }
}

fn pcm(seconds: f64, amplitude: u8) -> Vec<u8> {
    let value = i16::from(amplitude) * 3000;
    (0..(seconds * f64::from(SAMPLE_RATE_HZ)) as usize)
        .flat_map(|n| (if n % 2 == 0 { value } else { -value }).to_le_bytes())
        .collect()
}

/// Words 1 to 9, one after the other.
fn speech(words: &[u8]) -> Vec<u8> {
    words
        .iter()
        .flat_map(|word| [pcm(WORD_SECONDS, *word), pcm(GAP_SECONDS, 0)].concat())
        .collect()
}

/// What the scripted model hears: a token for every stretch of one amplitude that lasts for three frames at least.
fn listen(samples: &[f32]) -> Vec<Token> {
    let mut words: Vec<(i32, usize)> = Vec::new();
    for sample in samples {
        let word = (sample.abs() * 32_768.0 / 3000.0).round() as i32;
        match words.last_mut() {
            Some((last, length)) if *last == word => *length += 1,
            _ => words.push((word, 1)),
        }
    }
    words
        .into_iter()
        .filter(|(word, length)| *word > 0 && *length >= 3 * FRAME_SAMPLES)
        .map(|(word, _)| Token {
            id: word,
            bytes: format!(" {word}").into_bytes(),
            logprob: -0.25,
        })
        .collect()
}

#[allow(clippy::needless_pass_by_value, reason = "callers hand over literals")]
fn session_with(fields: Value, intermediate: bool) -> Session {
    let opening = Opening {
        id: "sess_abc".to_owned(),
        settings: Settings::new(None, 16_000, true),
        dialect: Dialect::Current,
        intermediate,
        expires_at: 0,
        speech: SpeechSettings {
            threshold: 0.5,
            threshold_end: 0.4,
            min_speech: Duration::from_millis(100),
            max_window: Duration::from_secs(28),
        },
    };
    let mut session = Session::new(opening, Box::new(Loudness::default())).unwrap();
    update(&mut session, &fields);
    session
}

fn update(session: &mut Session, input: &Value) {
    let Value::Object(fields) = json!({ "audio": { "input": input } }) else {
        panic!()
    };
    let dialect = Dialect::Current;
    session.handle(
        ClientEvent::Update {
            dialect,
            session: fields,
        },
        None,
    );
}

/// Runs passes as they fall due and keeps what the client would see.
#[derive(Default)]
struct Bench {
    events: Vec<ServerEvent>,
    waiting: Option<Pass>,
    passes: Vec<PassKind>,
}

impl Bench {
    fn turn(&mut self, session: &mut Session) {
        loop {
            if session.take_abandoned() {
                self.waiting = None;
            }
            if self.waiting.is_none() {
                self.waiting = session.next_pass();
                self.passes.extend(self.waiting.as_ref().map(|pass| pass.kind));
            }
            let events = session.take_events();
            if events.is_empty() {
                return;
            }
            self.events.extend(events);
        }
    }

    fn answer(&mut self, session: &mut Session, outcome: impl Fn(&Pass) -> Result<Heard, PassError>) {
        if let Some(pass) = self.waiting.take() {
            session.finished(pass.id, outcome(&pass));
        }
        self.turn(session);
    }

    /// Audio in pieces of 50 ms; passes end at once.
    fn say(&mut self, session: &mut Session, audio: &[u8]) {
        for piece in audio.chunks(1600) {
            session.handle(ClientEvent::Append(piece.to_vec()), None);
            self.turn(session);
            self.answer(session, heard);
        }
    }

    fn finish(&mut self, session: &mut Session) {
        self.turn(session);
        while self.waiting.is_some() {
            self.answer(session, heard);
        }
    }

    fn names(&self) -> Vec<String> {
        self.events.iter().map(name).collect()
    }

    fn transcripts(&self) -> Vec<String> {
        let completed = self.events.iter().filter_map(|event| match event {
            ServerEvent::Completed { transcript, .. } => Some(transcript.clone()),
            _ => None,
        });
        completed.collect()
    }

    fn error(&self) -> Option<&Refusal> {
        self.events.iter().rev().find_map(|event| match event {
            ServerEvent::Error { error } => Some(error),
            _ => None,
        })
    }
}

#[allow(clippy::unnecessary_wraps, reason = "an outcome like any other")]
fn heard(pass: &Pass) -> Result<Heard, PassError> {
    Ok(Heard {
        tokens: listen(&pass.samples),
        language: Some("en".to_owned()),
        doubtful: false,
        took: Duration::from_millis(100),
    })
}

fn name(event: &ServerEvent) -> String {
    let event = serde_json::to_value(event).unwrap();
    let name = event["type"].as_str().unwrap();
    name.rsplit('.').next().unwrap().to_owned()
}

#[test]
fn a_turn_is_started_stopped_committed_added_and_completed_in_this_order() {
    let mut session = session_with(json!({}), false);
    let mut bench = Bench::default();
    bench.say(&mut session, &pcm(1.0, 0));
    bench.say(&mut session, &speech(&[1, 2, 3]));
    bench.say(&mut session, &pcm(1.0, 0));
    bench.finish(&mut session);
    let names: Vec<String> = bench.names().into_iter().filter(|name| name != "delta").collect();
    assert_eq!(
        names,
        [
            "created",
            "updated",
            "speech_started",
            "speech_stopped",
            "committed",
            "added",
            "done",
            "completed"
        ]
    );
    assert_eq!(bench.transcripts(), ["1 2 3"]);
    let times: Vec<u64> = bench
        .events
        .iter()
        .filter_map(|event| match event {
            ServerEvent::SpeechStarted { audio_start_ms, .. } => Some(*audio_start_ms),
            ServerEvent::SpeechStopped { audio_end_ms, .. } => Some(*audio_end_ms),
            _ => None,
        })
        .collect();
    // 300 ms of padding before; 200 ms of silence after the last word's end at 1.848 s.
    assert!(
        (680..=720).contains(&times[0]) && (2030..=2110).contains(&times[1]),
        "{times:?}"
    );
    assert!(session.is_idle());
}

#[test]
fn words_come_while_they_are_spoken_and_are_the_transcript() {
    let mut session = session_with(json!({"transcription":{"delay":"minimal"}}), true);
    let mut bench = Bench::default();
    bench.say(&mut session, &speech(&[1, 2, 3, 4, 5, 6, 7, 8, 9]));
    let before: Vec<String> = deltas(&bench.events).remove("item_abc_2").unwrap();
    assert!(
        before.len() >= 4 && before.concat().starts_with("1 2 3 4 5"),
        "{before:?}"
    );
    assert!(bench.names().contains(&"intermediate".to_owned()));
    bench.say(&mut session, &pcm(1.0, 0));
    bench.finish(&mut session);
    assert_eq!(bench.transcripts(), ["1 2 3 4 5 6 7 8 9"]);
    let last = bench.events.iter().rev().find_map(|event| match event {
        ServerEvent::Intermediate { intermediate, .. } => Some(intermediate.as_str()),
        _ => None,
    });
    assert_eq!(last, Some(""), "nothing stays provisional");
}

#[test]
fn a_pass_in_the_pause_is_the_last_word() {
    let mut session = session_with(json!({"turn_detection":{"silence_duration_ms":500}}), false);
    let mut bench = Bench::default();
    bench.say(&mut session, &speech(&[1, 2, 3]));
    bench.say(&mut session, &pcm(1.0, 0));
    bench.finish(&mut session);
    assert_eq!(bench.transcripts(), ["1 2 3"]);
    assert!(
        bench.passes.iter().all(|kind| *kind == PassKind::Partial),
        "{:?}",
        bench.passes
    );
}

#[test]
fn with_delay_xhigh_only_whole_turns_are_looked_at() {
    let mut session = session_with(json!({"transcription":{"delay":"xhigh"}}), false);
    let mut bench = Bench::default();
    bench.say(&mut session, &speech(&[1, 2, 3, 4, 5, 6, 7]));
    bench.say(&mut session, &pcm(1.0, 0));
    bench.finish(&mut session);
    assert_eq!(bench.passes, [PassKind::Final]);
    assert_eq!(bench.transcripts(), ["1 2 3 4 5 6 7"]);
}

#[test]
fn speech_without_end_is_cut_in_gaps_and_no_word_is_lost_or_said_twice() {
    for turn_detection in [
        json!({"type":"server_vad","silence_duration_ms":900}),
        Value::Null,
    ] {
        let mut session = session_with(json!({ "turn_detection": turn_detection }), false);
        let mut bench = Bench::default();
        let words: Vec<u8> = (0..300).map(|n| 1 + (n * 5 % 9) as u8).collect();
        bench.say(&mut session, &speech(&words));
        assert!(session.held.len() < 30 * SAMPLE_RATE_HZ as usize);
        bench.say(&mut session, &pcm(1.5, 0));
        if turn_detection.is_null() {
            session.handle(ClientEvent::Commit, None);
        }
        bench.finish(&mut session);
        let wanted: Vec<String> = words.iter().map(u8::to_string).collect();
        assert_eq!(bench.transcripts(), [wanted.join(" ")], "{turn_detection}");
    }
}

#[test]
fn the_client_may_commit() {
    let mut session = session_with(json!({"turn_detection":null}), false);
    let mut bench = Bench::default();
    bench.say(&mut session, &speech(&[4, 5]));
    session.handle(ClientEvent::Commit, Some("c1".to_owned()));
    bench.say(&mut session, &speech(&[6]));
    session.handle(ClientEvent::Commit, None);
    bench.finish(&mut session);
    assert_eq!(bench.transcripts(), ["4 5", "6"]);
    assert_eq!(bench.error(), None);
    let chain: Vec<Option<String>> = bench
        .events
        .iter()
        .filter_map(|event| match event {
            ServerEvent::Committed { previous_item_id, .. } => Some(previous_item_id.clone()),
            _ => None,
        })
        .collect();
    assert_eq!(chain.len(), 2);
    assert!(chain[0].is_none() && chain[1].is_some());
}

#[test]
fn committing_nothing_is_an_error_with_the_event_s_id_and_silence_is_an_empty_item() {
    for turn_detection in [json!({"type":"server_vad"}), Value::Null] {
        let mut session = session_with(json!({ "turn_detection": turn_detection }), false);
        let mut bench = Bench::default();
        session.handle(ClientEvent::Commit, Some("mine".to_owned()));
        bench.turn(&mut session);
        let error = bench.error().unwrap();
        assert_eq!(error.code, Some("input_audio_buffer_commit_empty"));
        assert_eq!(error.event_id.as_deref(), Some("mine"));
        bench.say(&mut session, &pcm(3.0, 0));
        session.handle(ClientEvent::Commit, None);
        session.handle(ClientEvent::Clear, None);
        bench.finish(&mut session);
        assert_eq!(bench.transcripts(), [""], "{turn_detection}");
        assert!(bench.passes.is_empty(), "silence reaches no model");
        let names = bench.names();
        let at = |wanted: &str| names.iter().position(|name| name == wanted).unwrap();
        assert!(at("committed") < at("cleared"));
    }
}

#[test]
fn what_was_cleared_is_never_heard_of_again() {
    let mut session = session_with(json!({"turn_detection":null}), false);
    let mut bench = Bench::default();
    for piece in speech(&[1, 2, 3, 4]).chunks(1600) {
        session.handle(ClientEvent::Append(piece.to_vec()), None);
        bench.turn(&mut session); // the pass is never answered
    }
    assert!(bench.waiting.is_some());
    session.handle(ClientEvent::Clear, None);
    bench.turn(&mut session);
    assert!(bench.waiting.is_none(), "the pass is given up");
    bench.say(&mut session, &speech(&[7, 8]));
    session.handle(ClientEvent::Commit, None);
    bench.finish(&mut session);
    assert_eq!(bench.transcripts(), ["7 8"]);
}

#[test]
fn an_unfinished_sentence_is_waited_for() {
    let sentence = |pass: &Pass, end: &str| {
        let mut heard = heard(pass).unwrap();
        heard.tokens.push(Token {
            id: 99,
            bytes: end.as_bytes().to_vec(),
            logprob: -0.1,
        });
        Ok(heard)
    };
    for (end, silence) in [(".", 0.5), (",", 1.5)] {
        let mut session = session_with(
            json!({"turn_detection":{"type":"semantic_vad","eagerness":"medium"}}),
            false,
        );
        let mut bench = Bench::default();
        let mut spoken = 0.0;
        for piece in [speech(&[1, 2, 3]), pcm(2.5, 0)].concat().chunks(512) {
            session.handle(ClientEvent::Append(piece.to_vec()), None);
            bench.turn(&mut session);
            bench.answer(&mut session, |pass| sentence(pass, end));
            spoken += 0.016;
            if bench.names().contains(&"speech_stopped".to_owned()) {
                break;
            }
        }
        let waited = spoken - 3.0 * (WORD_SECONDS + GAP_SECONDS) + GAP_SECONDS;
        assert!((waited - silence).abs() < 0.1, "{end}: {waited} s");
    }
}

#[test]
fn nobody_speaking_is_said_as_often_as_asked() {
    let mut session = session_with(json!({"turn_detection":{"idle_timeout_ms":5000}}), false);
    let mut bench = Bench::default();
    bench.say(&mut session, &pcm(11.0, 0));
    let triggered = bench
        .names()
        .iter()
        .filter(|name| *name == "timeout_triggered")
        .count();
    assert_eq!(triggered, 2);
    assert_eq!(bench.transcripts(), ["", ""]);
    assert!(
        session.held.len() < SAMPLE_RATE_HZ as usize,
        "{}",
        session.held.len()
    );
}

#[test]
fn a_failed_pass_fails_its_item_alone() {
    let mut session = session_with(json!({"transcription":{"delay":"xhigh"}}), false);
    let mut bench = Bench::default();
    for (words, fails) in [([1, 2, 3], true), ([4, 5, 6], false)] {
        for piece in [speech(&words), pcm(0.5, 0)].concat().chunks(1600) {
            session.handle(ClientEvent::Append(piece.to_vec()), None);
            bench.turn(&mut session);
        }
        bench.answer(&mut session, |pass| {
            if fails {
                Err(PassError::Failed)
            } else {
                heard(pass)
            }
        });
    }
    bench.finish(&mut session);
    assert_eq!(bench.names().iter().filter(|name| *name == "failed").count(), 1);
    assert_eq!(bench.transcripts(), ["4 5 6"]);
}

#[test]
fn a_machine_that_is_too_slow_gives_whole_turns_only() {
    let mut session = session_with(json!({"turn_detection":null}), false);
    let mut bench = Bench::default();
    let slow = |pass: &Pass| {
        Ok(Heard {
            took: Duration::from_secs(5),
            ..heard(pass).unwrap()
        })
    };
    for piece in speech(&[1; 40]).chunks(1600) {
        session.handle(ClientEvent::Append(piece.to_vec()), None);
        bench.turn(&mut session);
        bench.answer(&mut session, slow);
    }
    assert!(session.gives_finals_only());
    assert_eq!(
        bench
            .passes
            .iter()
            .filter(|kind| **kind == PassKind::Partial)
            .count(),
        1
    );
}

#[test]
fn log_probabilities_and_usage_come_when_asked() {
    let mut session = session_with(json!({"transcription":{"model":"gpt-4o-transcribe"}}), false);
    let Value::Object(include) = json!({"include":["item.input_audio_transcription.logprobs"]}) else {
        panic!()
    };
    let dialect = Dialect::Current;
    session.handle(
        ClientEvent::Update {
            dialect,
            session: include,
        },
        None,
    );
    let mut bench = Bench::default();
    bench.say(&mut session, &[speech(&[1, 2, 3]), pcm(1.0, 0)].concat());
    bench.finish(&mut session);
    let Some(ServerEvent::Completed {
        usage,
        logprobs,
        languages,
        ..
    }) = bench.events.last()
    else {
        panic!("{:?}", bench.events.last())
    };
    let usage = serde_json::to_value(usage).unwrap();
    assert_eq!(
        (&usage["type"], &usage["output_tokens"]),
        (&json!("tokens"), &json!(3))
    );
    assert_eq!(logprobs.as_ref().unwrap().len(), 3);
    assert_eq!(languages[0].code, "en");
}

#[test]
fn draining_finishes_what_was_said() {
    let mut session = session_with(json!({"transcription":{"delay":"xhigh"}}), false);
    let mut bench = Bench::default();
    bench.say(&mut session, &speech(&[1, 2, 3]));
    session.drain();
    bench.say(&mut session, &speech(&[4]));
    bench.finish(&mut session);
    assert_eq!(bench.transcripts(), ["1 2 3"]);
    assert!(session.is_idle());
}

fn deltas(events: &[ServerEvent]) -> HashMap<String, Vec<String>> {
    let mut out: HashMap<String, Vec<String>> = HashMap::new();
    for event in events {
        if let ServerEvent::Delta { item_id, delta, .. } = event {
            out.entry(item_id.clone()).or_default().push(delta.clone());
        }
    }
    out
}

/// What holds for every session, whatever was done to it.
fn check(events: &[ServerEvent]) -> Result<(), TestCaseError> {
    let mut committed: Vec<String> = Vec::new();
    let mut done: HashSet<String> = HashSet::new();
    let sent = deltas(events);
    for event in events {
        match event {
            ServerEvent::Committed {
                item_id,
                previous_item_id,
            } => {
                prop_assert_eq!(previous_item_id.as_ref(), committed.last());
                prop_assert!(!committed.contains(item_id));
                committed.push(item_id.clone());
            }
            ServerEvent::Completed {
                item_id, transcript, ..
            } => {
                prop_assert!(committed.contains(item_id) && done.insert(item_id.clone()));
                let whole = sent
                    .get(item_id)
                    .map(|deltas| deltas.concat())
                    .unwrap_or_default();
                prop_assert_eq!(&whole, transcript);
            }
            ServerEvent::Failed { item_id, .. } => {
                prop_assert!(committed.contains(item_id) && done.insert(item_id.clone()));
            }
            ServerEvent::Delta { item_id, .. } => prop_assert!(!done.contains(item_id)),
            _ => {}
        }
    }
    prop_assert_eq!(done.len(), committed.len(), "every committed item gets an answer");
    Ok(())
}

#[test]
fn an_hour_of_silence_costs_no_pass_and_no_memory() {
    for detection in [
        Value::Null,
        json!({"type":"server_vad"}),
        json!({"type":"semantic_vad"}),
    ] {
        let mut session = session_with(json!({ "turn_detection": detection }), true);
        let mut bench = Bench::default();
        let second = pcm(1.0, 0);
        for _ in 0..3600 {
            session.handle(ClientEvent::Append(second.clone()), None);
            bench.turn(&mut session);
        }
        assert!(
            session.held.capacity() <= 8 * SAMPLE_RATE_HZ as usize,
            "{}",
            session.held.capacity()
        );
        assert!(session.frames.capacity() <= 1000 && session.items.len() <= 1);
        // The next word is heard as the first would have been.
        bench.say(&mut session, &[speech(&[4, 2]), pcm(1.0, 0)].concat());
        session.drain();
        bench.finish(&mut session);
        assert_eq!(bench.transcripts().concat().trim(), "4 2", "{detection}");
        assert!(bench.events.len() < 30, "{:?}", bench.names());
    }
}

#[derive(Debug, Clone)]
enum Step {
    Speak(Vec<u8>),
    Silence(u32),
    Odd(Vec<u8>),
    Commit,
    Clear,
    Set(u8),
    Answer,
    Garble,
    Fail,
    Doubt,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => proptest::collection::vec(1u8..10, 1..30).prop_map(Step::Speak),
        4 => (1u32..2500).prop_map(Step::Silence),
        2 => proptest::collection::vec(any::<u8>(), 0..2000).prop_map(Step::Odd),
        2 => Just(Step::Commit),
        1 => Just(Step::Clear),
        2 => (0u8..8).prop_map(Step::Set),
        6 => Just(Step::Answer),
        2 => Just(Step::Garble),
        1 => Just(Step::Fail),
        1 => Just(Step::Doubt),
    ]
}

fn settings(kind: u8) -> Value {
    match kind {
        0 => json!({"turn_detection":null}),
        1 => json!({"turn_detection":{"type":"server_vad","silence_duration_ms":200}}),
        2 => {
            json!({"turn_detection":{"type":"server_vad","silence_duration_ms":1500,"idle_timeout_ms":1000}})
        }
        3 => json!({"turn_detection":{"type":"semantic_vad","eagerness":"low"}}),
        4 => json!({"transcription":{"delay":"minimal"}}),
        5 => json!({"transcription":{"delay":"xhigh"}}),
        6 => json!({"format":{"type":"audio/pcm","rate":16000}}),
        _ => json!({"format":{"type":"audio/pcma"}}),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn in_any_order_of_events_deltas_are_the_transcript_and_every_commit_is_answered(
        steps in proptest::collection::vec(step(), 0..60),
    ) {
        let mut session = session_with(json!({}), true);
        let mut bench = Bench::default();
        for step in steps {
            match step {
                Step::Speak(words) => {
                    for piece in speech(&words).chunks(16_001) {
                        session.handle(ClientEvent::Append(piece.to_vec()), None);
                        bench.turn(&mut session);
                    }
                }
                Step::Silence(milliseconds) => {
                    let audio = pcm(f64::from(milliseconds) / 1000.0, 0);
                    session.handle(ClientEvent::Append(audio), None);
                }
                Step::Odd(bytes) => session.handle(ClientEvent::Append(bytes), None),
                Step::Commit => session.handle(ClientEvent::Commit, None),
                Step::Clear => session.handle(ClientEvent::Clear, None),
                Step::Set(kind) => update(&mut session, &settings(kind)),
                Step::Answer => bench.answer(&mut session, heard),
                Step::Garble => bench.answer(&mut session, |pass| {
                    let mut heard = heard(pass).unwrap();
                    heard.tokens.reverse();
                    heard.tokens.truncate(5);
                    Ok(heard)
                }),
                Step::Fail => bench.answer(&mut session, |_| Err(PassError::Failed)),
                Step::Doubt => bench.answer(&mut session, |pass| Ok(Heard { doubtful: true, ..heard(pass).unwrap() })),
            }
            bench.turn(&mut session);
            prop_assert!(session.held.len() <= 32 * SAMPLE_RATE_HZ as usize, "{} held", session.held.len());
        }
        session.drain();
        bench.finish(&mut session);
        check(&bench.events)?;
        prop_assert!(session.is_idle() && session.items.is_empty());
        prop_assert!(session.backlog_seconds() == 0.0);
    }

    #[test]
    fn how_audio_is_divided_into_appends_does_not_move_a_turn(size in 1usize..5000) {
        let audio = [pcm(0.7, 0), speech(&[1, 2, 3, 4]), pcm(0.9, 0), speech(&[5, 6]), pcm(0.9, 0)].concat();
        let events = |size: usize| {
            let mut session = session_with(json!({"transcription":{"delay":"xhigh"}}), false);
            let mut bench = Bench::default();
            for piece in audio.chunks(size) {
                session.handle(ClientEvent::Append(piece.to_vec()), None);
                bench.turn(&mut session);
                bench.answer(&mut session, heard);
            }
            bench.finish(&mut session);
            bench.events
        };
        prop_assert_eq!(events(size), events(1600));
    }
}
