use super::*;

fn row(error: &ApiError, dialect: Dialect) -> (u16, Option<&'static str>, Option<&'static str>, String) {
    let wire = error.wire(dialect);
    (
        wire.status.as_u16(),
        wire.error.param,
        wire.error.code,
        wire.error.message,
    )
}

#[test]
fn recordings_are_refused_in_the_words_of_their_family() {
    type Case = (
        AudioError,
        Family,
        bool,
        Option<&'static str>,
        Option<&'static str>,
        &'static str,
    );
    let cases: Vec<Case> = vec![
        (
            AudioError::Empty,
            Family::Whisper,
            true,
            Some("file"),
            Some("audio_too_short"),
            "Audio file is too short. Minimum audio length is 0.1 seconds.",
        ),
        (
            AudioError::TooShort { seconds: 0.01 },
            Family::Gpt4o,
            true,
            Some("file"),
            Some("audio_too_short"),
            "Audio file is too short. Minimum audio length is 0.1 seconds.",
        ),
        (
            AudioError::Unrecognized,
            Family::Whisper,
            true,
            None,
            None,
            "Invalid file format. Supported formats: ['flac', 'm4a', 'mp3', 'mp4', 'mpeg', 'mpga', 'oga', 'ogg', 'wav', 'webm']",
        ),
        (
            AudioError::Unrecognized,
            Family::Whisper,
            false,
            None,
            None,
            "Unrecognized file format. Supported formats: ['flac', ",
        ),
        (
            AudioError::UnsupportedContainer {
                found: "zip".to_owned(),
            },
            Family::Whisper,
            false,
            None,
            None,
            "Invalid file format. Supported formats: ",
        ),
        (
            AudioError::Corrupt {
                container: "wav".to_owned(),
                detail: "x".to_owned(),
            },
            Family::Gpt4o,
            true,
            Some("file"),
            Some("invalid_value"),
            "Audio file might be corrupted or unsupported",
        ),
        (
            AudioError::TooLong { limit_seconds: 1400 },
            Family::Gpt4o,
            true,
            None,
            Some("invalid_value"),
            "audio duration is longer than 1400 seconds which is the maximum for this model",
        ),
        (
            AudioError::Channels { found: 99, limit: 32 },
            Family::Whisper,
            true,
            Some("file"),
            Some("invalid_value"),
            "the recording has 99 channels",
        ),
    ];
    for (error, family, has_extension, param, code, message) in cases {
        let error = ApiError::Audio {
            error,
            family,
            has_extension,
        };
        for dialect in [Dialect::AzureClassic, Dialect::AzureV1, Dialect::OpenAi] {
            let found = row(&error, dialect);
            assert_eq!((found.0, found.1, found.2), (400, param, code), "{error:?}");
            assert!(
                found.3.starts_with(message),
                "{} does not start with {message}",
                found.3
            );
            assert_eq!(error.wire(dialect).error.r#type, "invalid_request_error");
            assert_eq!(error.wire(dialect).retry, Retry::Never);
        }
    }
}

#[test]
fn our_own_faults_tell_no_detail() {
    let error = ApiError::Internal {
        detail: "/secret/path".to_owned(),
        permanent: false,
    };
    for dialect in [Dialect::AzureClassic, Dialect::OpenAi] {
        let wire = error.wire(dialect);
        assert_eq!((wire.status.as_u16(), wire.error.r#type), (500, "server_error"));
        assert!(!wire.error.message.contains("secret"));
    }
}

#[test]
fn waits_stay_within_what_every_client_obeys() {
    for (seconds, header) in [(0.0, "1"), (0.4, "1"), (2.1, "3"), (900.0, "60")] {
        let busy = ApiError::Busy {
            taken: "every place is taken",
            retry_after: Duration::from_secs_f64(seconds),
        };
        let response = answer(&busy, Dialect::OpenAi, Some("OpenAI/Python 2.54.0"));
        assert_eq!(response.headers()["retry-after"], header);
        assert!(response.headers().get("x-should-retry").is_none());
        let response = answer(&busy, Dialect::OpenAi, Some("OpenAI/JS 4.104.0"));
        assert_eq!(response.headers()["x-should-retry"], "false");
    }
}
