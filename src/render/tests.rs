use super::*;
use crate::transcript::{Segment, Task, TokenLogprob, Word};

fn shown(format: ResponseFormat) -> Presentation {
    Presentation {
        format,
        stream: false,
        segments: format == ResponseFormat::VerboseJson,
        words: false,
        logprobs: false,
        family: Family::Whisper,
        task: Task::Transcribe,
        language: None,
        prompt_bytes: 0,
        subtitles: None,
        fast: FastTranscription::default(),
    }
}

fn segment(text: &str, start: f32, end: f32) -> Segment {
    Segment {
        id: 0,
        seek: 0,
        start,
        end,
        text: text.to_owned(),
        tokens: vec![50364, 2425, 50464],
        temperature: 0.4,
        avg_logprob: -0.504_329_74,
        compression_ratio: 0.823_529_4,
        no_speech_prob: 0.002_052_504_8,
        words: Vec::new(),
        logprobs: Vec::new(),
        channel: None,
        language: None,
    }
}

fn transcript(segments: Vec<Segment>, duration: f32) -> Transcript {
    Transcript {
        task: Task::Transcribe,
        language: Some("en".to_owned()),
        duration,
        segments,
        languages: None,
    }
}

fn rendered(transcript: &Transcript, shown: &Presentation) -> (&'static str, String) {
    let (content_type, bytes) = body(transcript, shown).unwrap();
    (content_type, String::from_utf8(bytes).unwrap())
}

/// The recorded bodies of the real service for one recording of 2 s.
#[test]
fn golden_bytes_of_every_format() {
    let recording = transcript(vec![segment(" Hello, world! This is a test.", 0.0, 2.0)], 1.7);
    let (content_type, text) = rendered(&recording, &shown(ResponseFormat::Text));
    assert_eq!(
        (content_type, text.as_str()),
        (PLAIN, "Hello, world! This is a test.\n")
    );
    assert_eq!(text.len(), 30);

    let (content_type, srt) = rendered(&recording, &shown(ResponseFormat::Srt));
    assert_eq!(content_type, PLAIN);
    assert_eq!(
        srt,
        "1\n00:00:00,000 --> 00:00:02,000\nHello, world! This is a test.\n\n\n"
    );
    assert_eq!(srt.len(), 64);

    let (content_type, vtt) = rendered(&recording, &shown(ResponseFormat::Vtt));
    assert_eq!(content_type, PLAIN);
    assert_eq!(
        vtt,
        "WEBVTT\n\n00:00:00.000 --> 00:00:02.000\nHello, world! This is a test.\n\n"
    );
    assert_eq!(vtt.len(), 69);

    let (content_type, json) = rendered(&recording, &shown(ResponseFormat::Json));
    assert_eq!(content_type, "application/json");
    assert_eq!(
        json,
        r#"{"text":"Hello, world! This is a test.","usage":{"type":"duration","seconds":2}}"#
    );
}

#[test]
fn golden_bytes_of_verbose_json() {
    let mut spoken = segment(" Hello world, this is a test.", 0.0, 1.46);
    spoken.words = vec![
        Word {
            text: "Hello".to_owned(),
            start: 0.0,
            end: 0.32,
        },
        Word {
            text: "world".to_owned(),
            start: 0.32,
            end: 0.62,
        },
    ];
    let recording = transcript(vec![spoken], 1.7);
    let mut shown = shown(ResponseFormat::VerboseJson);
    shown.words = true;
    let head = r#"{"task":"transcribe","language":"english","duration":1.7000000476837158,"text":"Hello world, this is a test.""#;
    let segments = r#","segments":[{"id":0,"seek":0,"start":0.0,"end":1.4600000381469727,"text":" Hello world, this is a test.","tokens":[50364,2425,50464],"temperature":0.4000000059604645,"avg_logprob":-0.5043297410011292,"compression_ratio":0.8235294222831726,"no_speech_prob":0.002052504802122712}]"#;
    let words = r#","words":[{"word":"Hello","start":0.0,"end":0.3199999928474426},{"word":"world","start":0.3199999928474426,"end":0.6200000047683716}]"#;
    let usage = r#","usage":{"type":"duration","seconds":2}}"#;
    assert_eq!(
        rendered(&recording, &shown).1,
        format!("{head}{segments}{words}{usage}")
    );
    shown.segments = false;
    assert_eq!(rendered(&recording, &shown).1, format!("{head}{words}{usage}"));
    (shown.segments, shown.words) = (true, false);
    assert_eq!(rendered(&recording, &shown).1, format!("{head}{segments}{usage}"));
}

#[test]
fn silence_has_bodies_too() {
    let silence = Transcript {
        duration: 3.0,
        ..Transcript::default()
    };
    for (format, expected) in [
        (ResponseFormat::Text, "\n"),
        (ResponseFormat::Srt, "\n"),
        (ResponseFormat::Vtt, "WEBVTT\n\n"),
        (
            ResponseFormat::Json,
            r#"{"text":"","usage":{"type":"duration","seconds":3}}"#,
        ),
        (
            ResponseFormat::VerboseJson,
            r#"{"task":"transcribe","language":"english","duration":3.0,"text":"","segments":[],"usage":{"type":"duration","seconds":3}}"#,
        ),
    ] {
        assert_eq!(rendered(&silence, &shown(format)).1, expected, "{format:?}");
    }
}

#[test]
fn numbers_that_json_cannot_hold_become_numbers() {
    let mut broken = segment(" x", 0.0, f32::INFINITY);
    broken.avg_logprob = f32::NEG_INFINITY;
    broken.no_speech_prob = f32::NAN;
    let (_, text) = rendered(
        &transcript(vec![broken], f32::NAN),
        &shown(ResponseFormat::VerboseJson),
    );
    assert!(!text.contains("null"), "{text}");
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert!(value["segments"][0]["avg_logprob"].as_f64().unwrap() < -1e38);
    assert!(value["duration"].is_number());
}

#[test]
fn token_usage_languages_and_logprobs_follow_the_name_asked_for() {
    let mut spoken = segment("日", 0.0, 1.7);
    spoken.logprobs = vec![
        TokenLogprob {
            bytes: vec![0xE6, 0x97],
            logprob: -0.5,
        },
        TokenLogprob {
            bytes: vec![0xA5],
            logprob: -0.25,
        },
    ];
    let recording = transcript(vec![spoken], 1.7);
    let mut presentation = shown(ResponseFormat::Json);
    presentation.family = Family::Gpt4o;
    presentation.logprobs = true;
    assert_eq!(
        rendered(&recording, &presentation).1,
        r#"{"text":"日","logprobs":[{"token":"\\xe6\\x97","logprob":-0.5,"bytes":[230,151]},{"token":"\\xa5","logprob":-0.25,"bytes":[165]}],"usage":{"type":"tokens","total_tokens":19,"input_tokens":17,"input_token_details":{"text_tokens":0,"audio_tokens":17},"output_tokens":2}}"#
    );
    presentation.family = Family::GptTranscribe;
    presentation.logprobs = false;
    assert_eq!(
        rendered(&recording, &presentation).1,
        r#"{"text":"日","languages":[{"code":"en"}],"usage":{"type":"duration","seconds":2}}"#
    );
    presentation.task = Task::Translate;
    assert_eq!(rendered(&recording, &presentation).1, r#"{"text":"日"}"#);
}
