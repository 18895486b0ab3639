//! The events of the Realtime protocol, as types: what a client says, what the server says.

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Serialize;
use serde_json::{Map, Value};

use super::settings::Dialect;

/// Longest `event_id` that is repeated in an error (the service's limit).
const MAX_EVENT_ID_CHARS: usize = 512;
/// Most bytes of audio in one `input_audio_buffer.append` (the service's limit, 15 MiB).
pub const MAX_APPEND_BYTES: usize = 15 << 20;

/// Padding may be there or not: clients in browsers leave it out.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// An event from a client.
#[derive(Debug, Clone, PartialEq)]
pub struct Incoming {
    /// The client's own name for the event, repeated in an error about it.
    pub event_id: Option<String>,
    /// What it asks.
    pub event: ClientEvent,
}

/// What a client asks.
#[derive(Debug, Clone, PartialEq)]
pub enum ClientEvent {
    /// `session.update`, or the beta's `transcription_session.update`.
    Update {
        /// In which of the two shapes `session` is.
        dialect: Dialect,
        /// The `session` object.
        session: Map<String, Value>,
    },
    /// `input_audio_buffer.append`: bytes in the session's format.
    Append(Vec<u8>),
    /// `input_audio_buffer.commit`
    Commit,
    /// `input_audio_buffer.clear`
    Clear,
}

/// Why a client's event is not obeyed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Refusal {
    /// `invalid_request_error` or `server_error`.
    pub r#type: &'static str,
    /// The service's short code.
    pub code: Option<&'static str>,
    /// What is wrong, and what would be right.
    pub message: String,
    /// Path of the field at fault, for example `session.audio.input.format`.
    pub param: Option<String>,
    /// The client's event.
    pub event_id: Option<String>,
}

impl Refusal {
    /// A client's mistake in the field `param`.
    pub fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            r#type: "invalid_request_error",
            code: Some("invalid_value"),
            message: message.into(),
            param: Some(param.into()),
            event_id: None,
        }
    }

    /// The same with another code.
    #[must_use]
    pub fn with_code(mut self, code: &'static str) -> Self {
        self.code = Some(code);
        self
    }

    /// The same about the client's event of this id.
    #[must_use]
    pub fn about(mut self, event_id: Option<String>) -> Self {
        self.event_id = event_id;
        self
    }
}

/// Reads an event. Never panics and keeps nothing, whatever `text` holds.
///
/// # Errors
///
/// With the event's id where it has one.
pub fn parse(text: &str) -> Result<Incoming, Refusal> {
    let value: Value = serde_json::from_str(text).map_err(|error| {
        let mut refusal = Refusal::invalid("", format!("The event is not valid JSON: {error}."));
        refusal.param = None;
        refusal.with_code("invalid_json")
    })?;
    let Value::Object(mut fields) = value else {
        let mut refusal = Refusal::invalid("", "An event is a JSON object with a `type`.");
        refusal.param = None;
        return Err(refusal);
    };
    let event_id = match fields.get("event_id") {
        Some(Value::String(id)) => Some(id.chars().take(MAX_EVENT_ID_CHARS).collect::<String>()),
        _ => None,
    };
    match event(&mut fields) {
        Ok(event) => Ok(Incoming { event_id, event }),
        Err(refusal) => Err(refusal.about(event_id)),
    }
}

fn event(fields: &mut Map<String, Value>) -> Result<ClientEvent, Refusal> {
    let kind = match fields.get("type") {
        Some(Value::String(kind)) => kind.clone(),
        Some(_) => return Err(Refusal::invalid("type", "`type` must be text.")),
        None => {
            let refusal = Refusal::invalid("type", "The event has no `type`.");
            return Err(refusal.with_code("missing_required_parameter"));
        }
    };
    match kind.as_str() {
        "session.update" => update(fields, Dialect::Current),
        "transcription_session.update" => update(fields, Dialect::Beta),
        "input_audio_buffer.append" => append(fields),
        "input_audio_buffer.commit" => Ok(ClientEvent::Commit),
        "input_audio_buffer.clear" => Ok(ClientEvent::Clear),
        other => {
            let shown: String = other.chars().take(100).collect();
            Err(Refusal::invalid(
                "type",
                format!(
                    "Invalid value: '{shown}'. A transcription session takes 'session.update', \
                     'transcription_session.update', 'input_audio_buffer.append', 'input_audio_buffer.commit' and \
                     'input_audio_buffer.clear'."
                ),
            ))
        }
    }
}

fn update(fields: &mut Map<String, Value>, dialect: Dialect) -> Result<ClientEvent, Refusal> {
    match fields.remove("session") {
        Some(Value::Object(session)) => Ok(ClientEvent::Update { dialect, session }),
        Some(_) => Err(Refusal::invalid("session", "`session` must be an object.")),
        None => {
            let refusal = Refusal::invalid("session", "The event has no `session`.");
            Err(refusal.with_code("missing_required_parameter"))
        }
    }
}

fn append(fields: &mut Map<String, Value>) -> Result<ClientEvent, Refusal> {
    let audio = match fields.remove("audio") {
        Some(Value::String(audio)) => audio,
        Some(_) => return Err(Refusal::invalid("audio", "`audio` must be base64 text.")),
        None => {
            let refusal = Refusal::invalid("audio", "The event has no `audio`.");
            return Err(refusal.with_code("missing_required_parameter"));
        }
    };
    let bytes = BASE64
        .decode(audio.as_bytes())
        .map_err(|error| Refusal::invalid("audio", format!("`audio` is not valid base64: {error}.")))?;
    if bytes.len() > MAX_APPEND_BYTES {
        let message = format!(
            "`audio` holds {} bytes; at most {MAX_APPEND_BYTES} are taken at once.",
            bytes.len()
        );
        return Err(Refusal::invalid("audio", message));
    }
    Ok(ClientEvent::Append(bytes))
}

/// Log probability of one token of a delta.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[allow(clippy::struct_field_names, reason = "the service's names")]
pub struct Logprob {
    /// The token's text; bytes that are no UTF-8 by themselves are replaced.
    pub token: String,
    /// Natural logarithm.
    pub logprob: f32,
    /// The token's bytes.
    pub bytes: Vec<u8>,
}

/// How much was heard, in the two forms the service bills by.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Usage {
    /// Every name but those below.
    Duration {
        /// Seconds of audio, rounded up.
        seconds: u64,
    },
    /// Names that begin with `gpt-4o-`.
    Tokens {
        /// Sum of both.
        total_tokens: u64,
        /// Audio at ten tokens a second.
        input_tokens: u64,
        /// Tokens of text.
        output_tokens: u64,
        /// The parts of `input_tokens`.
        input_token_details: InputTokens,
    },
}

/// The parts of `input_tokens`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct InputTokens {
    /// Of the prompt.
    pub text_tokens: u64,
    /// Ten a second.
    pub audio_tokens: u64,
}

/// A language.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LanguageCode {
    /// ISO 639-1.
    pub code: String,
}

/// Why an item has no transcript.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ItemFailure {
    /// `server_error`
    pub r#type: &'static str,
    /// For example `model_unavailable`.
    pub code: Option<&'static str>,
    /// One sentence.
    pub message: String,
    /// Always null.
    pub param: Option<String>,
}

/// An item of the conversation, as `conversation.item.added` and its like show it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ShownItem {
    id: String,
    object: &'static str,
    r#type: &'static str,
    status: &'static str,
    role: &'static str,
    content: [ShownContent; 1],
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct ShownContent {
    r#type: &'static str,
    transcript: Option<String>,
}

impl ShownItem {
    /// A committed piece of audio whose transcript follows.
    pub fn new(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            object: "realtime.item",
            r#type: "message",
            status: "completed",
            role: "user",
            content: [ShownContent {
                r#type: "input_audio",
                transcript: None,
            }],
        }
    }
}

/// An event from the server. `event_id` is added on the way out.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "type")]
#[allow(
    missing_docs,
    reason = "the fields are the protocol's; docs/realtime.md says what they hold"
)]
pub enum ServerEvent {
    #[serde(rename = "session.created")]
    SessionCreated { session: Value },
    #[serde(rename = "session.updated")]
    SessionUpdated { session: Value },
    #[serde(rename = "transcription_session.created")]
    BetaSessionCreated { session: Value },
    #[serde(rename = "transcription_session.updated")]
    BetaSessionUpdated { session: Value },
    #[serde(rename = "input_audio_buffer.speech_started")]
    SpeechStarted { audio_start_ms: u64, item_id: String },
    #[serde(rename = "input_audio_buffer.speech_stopped")]
    SpeechStopped { audio_end_ms: u64, item_id: String },
    #[serde(rename = "input_audio_buffer.timeout_triggered")]
    TimeoutTriggered {
        audio_start_ms: u64,
        audio_end_ms: u64,
        item_id: String,
    },
    #[serde(rename = "input_audio_buffer.committed")]
    Committed {
        item_id: String,
        previous_item_id: Option<String>,
    },
    #[serde(rename = "input_audio_buffer.cleared")]
    Cleared {},
    #[serde(rename = "conversation.item.added")]
    ItemAdded {
        previous_item_id: Option<String>,
        item: ShownItem,
    },
    #[serde(rename = "conversation.item.done")]
    ItemDone {
        previous_item_id: Option<String>,
        item: ShownItem,
    },
    #[serde(rename = "conversation.item.created")]
    BetaItemCreated {
        previous_item_id: Option<String>,
        item: ShownItem,
    },
    #[serde(rename = "conversation.item.input_audio_transcription.delta")]
    Delta {
        item_id: String,
        content_index: u32,
        delta: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        logprobs: Option<Vec<Logprob>>,
    },
    #[serde(rename = "conversation.item.input_audio_transcription.intermediate")]
    Intermediate {
        item_id: String,
        content_index: u32,
        intermediate: String,
    },
    #[serde(rename = "conversation.item.input_audio_transcription.completed")]
    Completed {
        item_id: String,
        content_index: u32,
        transcript: String,
        usage: Usage,
        #[serde(skip_serializing_if = "Option::is_none")]
        logprobs: Option<Vec<Logprob>>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        languages: Vec<LanguageCode>,
    },
    #[serde(rename = "conversation.item.input_audio_transcription.failed")]
    Failed {
        item_id: String,
        content_index: u32,
        error: ItemFailure,
    },
    #[serde(rename = "error")]
    Error { error: Refusal },
}

/// The event as it goes over the wire.
pub fn to_json(event_id: &str, event: &ServerEvent) -> String {
    #[derive(Serialize)]
    struct Envelope<'e> {
        event_id: &'e str,
        #[serde(flatten)]
        event: &'e ServerEvent,
    }
    // Maps with text for keys, and numbers that are finite: this does not fail.
    serde_json::to_string(&Envelope { event_id, event }).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn base64_with_and_without_padding_and_of_odd_length() {
        for (text, bytes) in [
            ("AAE=", vec![0, 1]),
            ("AAE", vec![0, 1]),
            ("AAEC", vec![0, 1, 2]),
            ("", vec![]),
        ] {
            let event = format!(r#"{{"type":"input_audio_buffer.append","audio":"{text}"}}"#);
            assert_eq!(parse(&event).unwrap().event, ClientEvent::Append(bytes), "{text}");
        }
        for text in ["A", "AAE==", "%%%%", "AA E"] {
            let event = format!(r#"{{"type":"input_audio_buffer.append","audio":"{text}","event_id":"e1"}}"#);
            let refusal = parse(&event).unwrap_err();
            assert_eq!(refusal.param.as_deref(), Some("audio"), "{text}");
            assert_eq!(refusal.event_id.as_deref(), Some("e1"));
        }
    }

    #[test]
    fn a_refusal_names_the_event_and_the_field() {
        let refusal = parse(r#"{"event_id":"mine","type":"response.create"}"#).unwrap_err();
        assert_eq!(refusal.event_id.as_deref(), Some("mine"));
        assert_eq!(
            (refusal.code, refusal.param.as_deref()),
            (Some("invalid_value"), Some("type"))
        );
        assert_eq!(parse("{").unwrap_err().code, Some("invalid_json"));
        assert_eq!(parse("[]").unwrap_err().event_id, None);
        assert_eq!(
            parse(r#"{"event_id":7}"#).unwrap_err().code,
            Some("missing_required_parameter")
        );
        let deep = "[".repeat(100_000);
        assert_eq!(parse(&deep).unwrap_err().code, Some("invalid_json"));
    }

    #[test]
    fn server_events_have_the_protocol_s_shape() {
        let event = ServerEvent::Committed {
            item_id: "item_1".to_owned(),
            previous_item_id: None,
        };
        assert_eq!(
            serde_json::from_str::<Value>(&to_json("event_1", &event)).unwrap(),
            serde_json::json!({"event_id":"event_1","type":"input_audio_buffer.committed","item_id":"item_1","previous_item_id":null})
        );
        let cleared = to_json("event_2", &ServerEvent::Cleared {});
        assert_eq!(
            cleared,
            r#"{"event_id":"event_2","type":"input_audio_buffer.cleared"}"#
        );
    }

    proptest! {
        #[test]
        fn any_text_is_an_event_or_refused(text in ".{0,200}") {
            let _ = parse(&text);
        }

        #[test]
        fn any_bytes_survive_the_way(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let audio = BASE64.encode(&bytes);
            for audio in [audio.trim_end_matches('='), audio.as_str()] {
                let event = format!(r#"{{"type":"input_audio_buffer.append","audio":"{audio}"}}"#);
                prop_assert_eq!(parse(&event).unwrap().event, ClientEvent::Append(bytes.clone()));
            }
        }
    }
}
