use super::*;
use crate::http::dialect::Dialect;

type Pairs = &'static [(&'static str, &'static str)];

fn form(pairs: &[(&str, &str)]) -> Fields {
    let mut fields = Fields::default();
    for (name, value) in pairs {
        fields.push(name, (*value).to_owned()).unwrap();
    }
    fields
}

fn options(pairs: &[(&str, &str)]) -> (TranscribeOptions, Presentation) {
    let (options, presentation, _) = read(&form(pairs), Task::Transcribe, "whisper-1", true).unwrap();
    (options, presentation)
}

/// Rows of the table of validity rules: status 400, then param, code, start of the message.
#[test]
fn every_bad_value_has_its_error() {
    let rows: Vec<(&str, Pairs, &str, &str, &str)> = vec![
        (
            "whisper-1",
            &[("language", "XX")],
            "language",
            "invalid_language_format",
            "Invalid language 'XX'. Language parameter must be specified in ISO-639-1 format.",
        ),
        (
            "whisper-1",
            &[("language", "auto")],
            "language",
            "invalid_language_format",
            "Invalid language 'auto'.",
        ),
        (
            "whisper-1",
            &[("language", "zh-tw")],
            "language",
            "invalid_language_format",
            "Invalid language 'zh-tw'.",
        ),
        (
            "whisper-1",
            &[("language", "japanese")],
            "language",
            "invalid_language_format",
            "Invalid language 'japanese'.",
        ),
        (
            "gpt-transcribe",
            &[("languages[]", "en"), ("languages[]", "qq")],
            "languages",
            "invalid_value",
            "Invalid value for 'languages': 'qq'.",
        ),
        (
            "gpt-transcribe",
            &[("language", "fr"), ("languages[]", "en")],
            "languages",
            "invalid_value",
            "Invalid value for 'languages': 'language' is 'fr'",
        ),
        (
            "whisper-1",
            &[("response_format", "xml")],
            "response_format",
            "invalid_value",
            "Invalid value for 'response_format': 'xml'. Supported values are: 'json'",
        ),
        (
            "gpt-4o-transcribe",
            &[("response_format", "diarized_json")],
            "response_format",
            "unsupported_value",
            "response_format 'diarized_json' is not compatible with model 'gpt-4o-transcribe'. Use 'json'",
        ),
        (
            "whisper-1",
            &[("temperature", "warm")],
            "temperature",
            "invalid_value",
            "Invalid value for 'temperature': 'warm'.",
        ),
        (
            "whisper-1",
            &[("temperature", "1.01")],
            "temperature",
            "invalid_value",
            "Invalid value for 'temperature': '1.01'.",
        ),
        (
            "whisper-1",
            &[("temperature", "NaN")],
            "temperature",
            "invalid_value",
            "Invalid value for 'temperature'",
        ),
        (
            "whisper-1",
            &[("timestamp_granularities[]", "word")],
            "timestamp_granularities",
            "invalid_value",
            "Invalid value for 'timestamp_granularities': it needs",
        ),
        (
            "whisper-1",
            &[
                ("timestamp_granularities[]", "line"),
                ("response_format", "verbose_json"),
            ],
            "timestamp_granularities",
            "invalid_value",
            "Invalid value for 'timestamp_granularities': 'line'.",
        ),
        (
            "whisper-1",
            &[("include[]", "usage")],
            "include",
            "invalid_value",
            "Invalid value for 'include': 'usage'.",
        ),
        (
            "whisper-1",
            &[("include[]", "logprobs"), ("response_format", "srt")],
            "include",
            "invalid_value",
            "Invalid value for 'include': 'logprobs' needs",
        ),
        (
            "whisper-1",
            &[("stream", "maybe")],
            "stream",
            "invalid_value",
            "Invalid value for 'stream': 'maybe'.",
        ),
        (
            "gpt-4o-transcribe-diarize",
            &[("prompt", "hello")],
            "prompt",
            "unsupported_parameter",
            "Prompt is not supported for diarization models",
        ),
        (
            "gpt-4o-transcribe",
            &[("chunking_strategy", "manual")],
            "chunking_strategy",
            "invalid_value",
            "Invalid value for 'chunking_strategy': 'manual'.",
        ),
        (
            "gpt-4o-transcribe",
            &[
                ("chunking_strategy[type]", "server_vad"),
                ("chunking_strategy[threshold]", "2"),
            ],
            "chunking_strategy",
            "invalid_value",
            "Invalid value for 'chunking_strategy': 'threshold'",
        ),
        (
            "gpt-4o-transcribe",
            &[("chunking_strategy", "{\"type\":")],
            "chunking_strategy",
            "invalid_value",
            "Invalid value for 'chunking_strategy': EOF",
        ),
        (
            "gpt-4o-transcribe",
            &[
                ("chunking_strategy[type]", "server_vad"),
                ("chunking_strategy[silence_duration_ms]", "-1"),
            ],
            "chunking_strategy",
            "invalid_value",
            "Invalid value for 'chunking_strategy': 'silence_duration_ms' is '-1'",
        ),
        (
            "whisper-1",
            &[("beam_size", "9")],
            "beam_size",
            "invalid_value",
            "Invalid value for 'beam_size': '9'.",
        ),
        (
            "whisper-1",
            &[("beam_size", "2.5")],
            "beam_size",
            "invalid_value",
            "Invalid value for 'beam_size': '2.5'.",
        ),
        (
            "whisper-1",
            &[("vad", "perhaps")],
            "vad",
            "invalid_value",
            "Invalid value for 'vad': 'perhaps'.",
        ),
        (
            "whisper-1",
            &[("priority", "urgent")],
            "priority",
            "invalid_value",
            "Invalid value for 'priority': 'urgent'.",
        ),
        (
            "whisper-1",
            &[("separate_channels", "2")],
            "separate_channels",
            "invalid_value",
            "Invalid value for 'separate_channels': '2'.",
        ),
        (
            "gpt-transcribe",
            &[("keywords[]", "[\"a\", 1]")],
            "keywords",
            "invalid_value",
            "Invalid value for 'keywords': not a JSON array",
        ),
    ];
    for (model, pairs, param, code, message) in rows {
        let Err(error) = read(&form(pairs), Task::Transcribe, model, true) else {
            panic!("{pairs:?} was accepted");
        };
        for dialect in [Dialect::AzureClassic, Dialect::AzureV1, Dialect::OpenAi] {
            let wire = error.wire(dialect);
            assert_eq!(wire.status.as_u16(), 400, "{pairs:?}");
            assert_eq!(wire.error.r#type, "invalid_request_error");
            assert_eq!(
                (wire.error.param, wire.error.code),
                (Some(param), Some(code)),
                "{pairs:?}"
            );
            assert!(
                wire.error.message.starts_with(message),
                "{} / {message}",
                wire.error.message
            );
        }
    }
    let mut fields = Fields::default();
    assert!(fields.push("prompt", "a\0b".to_owned()).is_err());
}

#[test]
fn empty_values_are_absent() {
    let pairs: Pairs = &[
        ("language", ""),
        ("prompt", ""),
        ("temperature", ""),
        ("response_format", ""),
        ("stream", " "),
    ];
    let (options, presentation) = options(pairs);
    assert_eq!(options.language, None);
    assert_eq!(options.prompt, None);
    assert!(options.temperature.abs() < f32::EPSILON);
    assert_eq!(presentation.format, ResponseFormat::Json);
    assert!(!presentation.stream);
}

#[test]
fn arrays_in_every_spelling() {
    for pairs in [
        &[
            ("timestamp_granularities[]", "word"),
            ("timestamp_granularities[]", "segment"),
        ] as Pairs,
        &[
            ("timestamp_granularities", "word"),
            ("timestamp_granularities", "segment"),
        ],
        &[
            ("timestamp_granularities[0]", "word"),
            ("timestamp_granularities[1]", "segment"),
        ],
        &[("timestamp_granularities", "[\"word\", \"segment\"]")],
        &[("timestamp_granularities[]", "word, segment")],
    ] {
        let mut pairs = pairs.to_vec();
        pairs.push(("response_format", "verbose_json"));
        let (read, shown) = options(&pairs);
        assert!(read.word_times && shown.words && shown.segments, "{pairs:?}");
    }
    let (_, shown) = options(&[("response_format", "verbose_json")]);
    assert!(shown.segments && !shown.words);
    let (_, shown) = options(&[
        ("response_format", "verbose_json"),
        ("timestamp_granularities[]", "word"),
    ]);
    assert!(!shown.segments && shown.words);
    let (read, _) = options(&[
        ("languages[]", "EN"),
        ("languages[]", "ja"),
        ("languages[]", "en"),
    ]);
    assert_eq!(read.candidate_languages, ["en", "ja"]);
}

#[test]
fn chunking_strategy_in_its_three_encodings() {
    for pairs in [
        &[(
            "chunking_strategy",
            "{\"type\":\"server_vad\",\"prefix_padding_ms\":100,\"silence_duration_ms\":150,\"threshold\":0.3}",
        )] as Pairs,
        &[
            ("chunking_strategy[type]", "server_vad"),
            ("chunking_strategy[prefix_padding_ms]", "100"),
            ("chunking_strategy[silence_duration_ms]", "150"),
            ("chunking_strategy[threshold]", "0.3"),
        ],
    ] {
        let (read, _) = options(pairs);
        assert_eq!(read.vad, Some(true));
        assert_eq!(
            (read.vad_padding_ms, read.vad_min_silence_ms),
            (Some(100), Some(150))
        );
        assert_eq!(read.vad_threshold, Some(0.3));
    }
    let (read, _) = options(&[("chunking_strategy", "auto")]);
    assert_eq!((read.vad, read.vad_threshold), (Some(true), None));
    let (read, _) = options(&[]);
    assert_eq!(read.vad, None);
}

#[test]
fn keywords_count_as_part_of_the_prompt() {
    let keywords = [("keywords[]", "Kyōto"), ("keywords[]", "ggml")];
    let (read, shown) = options(&[&[("prompt", "A talk. ")][..], &keywords].concat());
    assert_eq!(read.prompt.as_deref(), Some("A talk. "));
    assert_eq!(read.keywords, ["Kyōto", "ggml"]);
    assert_eq!(shown.prompt_bytes, "A talk. Kyōto, ggml".len());
    assert_eq!(options(&keywords).1.prompt_bytes, "Kyōto, ggml".len());
    assert_eq!(options(&[]).1.prompt_bytes, 0);
}

#[test]
fn translations_ignore_what_the_service_ignores_there() {
    let fields = form(&[
        ("language", "klingon"),
        ("timestamp_granularities[]", "word"),
        ("response_format", "verbose_json"),
    ]);
    let (read, shown, _) = read(&fields, Task::Translate, "whisper-1", true).unwrap();
    assert_eq!((read.language, read.word_times), (None, false));
    assert!(shown.segments && !shown.words);
}

#[test]
fn whisper_1_streams_unless_the_service_is_imitated() {
    let fields = form(&[("stream", "True")]);
    for (model, imitate, streams) in [
        ("whisper-1", false, true),
        ("whisper-1", true, false),
        ("base", true, true),
    ] {
        let (_, shown, _) = read(&fields, Task::Transcribe, model, !imitate).unwrap();
        assert_eq!(shown.stream, streams, "{model} {imitate}");
    }
}
