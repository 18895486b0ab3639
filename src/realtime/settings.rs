//! What a client sets for its session, and how it is shown back.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::events::Refusal;
use crate::languages;

/// The two shapes in which a session is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Dialect {
    /// `session.audio.input.…`
    #[default]
    Current,
    /// Flat, as in the beta.
    Beta,
}

/// How the client encodes its audio: mono, always.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Signed 16-bit little-endian samples.
    Pcm {
        /// 24,000, or 16,000 as an extension (MAI-Transcribe has it).
        rate_hz: u32,
    },
    /// G.711 µ-law, 8,000 Hz.
    Pcmu,
    /// G.711 A-law, 8,000 Hz.
    Pcma,
}

impl Format {
    /// Samples a second.
    pub fn rate_hz(self) -> u32 {
        match self {
            Self::Pcm { rate_hz } => rate_hz,
            Self::Pcmu | Self::Pcma => 8_000,
        }
    }

    /// Bytes a sample.
    pub fn sample_bytes(self) -> usize {
        match self {
            Self::Pcm { .. } => 2,
            Self::Pcmu | Self::Pcma => 1,
        }
    }
}

/// How long words are held back before they are shown, at least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Delay {
    /// A look at the audio as often as the machine manages.
    Minimal,
    /// Every half second.
    #[default]
    Low,
    /// Every second.
    Medium,
    /// Every two seconds.
    High,
    /// Only the finished turn.
    Xhigh,
}

impl Delay {
    const ALL: [(Self, &'static str); 5] = [
        (Self::Minimal, "minimal"),
        (Self::Low, "low"),
        (Self::Medium, "medium"),
        (Self::High, "high"),
        (Self::Xhigh, "xhigh"),
    ];

    /// New audio that a partial pass waits for; `None` asks for no partial results.
    pub fn step(self) -> Option<Duration> {
        let milliseconds = match self {
            Self::Minimal => 240,
            Self::Low => 500,
            Self::Medium => 1_000,
            Self::High => 2_000,
            Self::Xhigh => return None,
        };
        Some(Duration::from_millis(milliseconds))
    }
}

/// How impatient `semantic_vad` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Eagerness {
    /// As `medium`.
    #[default]
    Auto,
    /// Lets the speaker take his time.
    Low,
    /// In between.
    Medium,
    /// Cuts in early.
    High,
}

impl Eagerness {
    const ALL: [(Self, &'static str); 4] = [
        (Self::Auto, "auto"),
        (Self::Low, "low"),
        (Self::Medium, "medium"),
        (Self::High, "high"),
    ];

    /// Silence that ends a turn whose last word ends a sentence, and silence that ends any turn. The service waits 8, 4 and
    /// 2 s at most (low, medium, high).
    pub fn silences(self) -> (Duration, Duration) {
        let (sentence, any) = match self {
            Self::High => (300, 900),
            Self::Auto | Self::Medium => (500, 1_500),
            Self::Low => (900, 3_000),
        };
        (Duration::from_millis(sentence), Duration::from_millis(any))
    }
}

/// Who decides where a turn ends, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct TurnDetection {
    /// By silence alone, or by what was said too.
    pub kind: TurnKind,
    /// Audio kept from before the first voice.
    pub prefix_padding: Duration,
    /// Silence after which an empty item says that nobody speaks.
    pub idle_timeout: Option<Duration>,
    /// Shown back; a transcription session answers nothing.
    pub create_response: bool,
    /// Shown back.
    pub interrupt_response: bool,
}

/// The two ways.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum TurnKind {
    /// `server_vad`
    Silence {
        /// Voice probability at which a turn begins.
        threshold: f32,
        /// Silence that ends it.
        silence: Duration,
    },
    /// `semantic_vad`
    Semantic {
        /// How early.
        eagerness: Eagerness,
    },
}

/// The service's `prefix_padding_ms`.
pub const PREFIX_PADDING: Duration = Duration::from_millis(300);
/// The service's `silence_duration_ms` (recorded; its documentation says 500).
const SILENCE: Duration = Duration::from_millis(200);

impl TurnDetection {
    /// `server_vad` with the service's defaults.
    pub fn silence() -> Self {
        Self {
            kind: TurnKind::Silence {
                threshold: 0.5,
                silence: SILENCE,
            },
            prefix_padding: PREFIX_PADDING,
            idle_timeout: None,
            create_response: true,
            interrupt_response: true,
        }
    }

    fn semantic() -> Self {
        Self {
            kind: TurnKind::Semantic {
                eagerness: Eagerness::Auto,
            },
            ..Self::silence()
        }
    }

    fn to_json(&self) -> Value {
        match self.kind {
            TurnKind::Silence { threshold, silence } => json!({
                "type": "server_vad",
                "threshold": (f64::from(threshold) * 1e4).round() / 1e4,
                "prefix_padding_ms": milliseconds(self.prefix_padding),
                "silence_duration_ms": milliseconds(silence),
                "idle_timeout_ms": self.idle_timeout.map(milliseconds),
                "create_response": self.create_response,
                "interrupt_response": self.interrupt_response,
            }),
            TurnKind::Semantic { eagerness } => json!({
                "type": "semantic_vad",
                "eagerness": name_of(&Eagerness::ALL, eagerness),
                "create_response": self.create_response,
                "interrupt_response": self.interrupt_response,
            }),
        }
    }
}

/// What the model is asked.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Transcription {
    /// Deployment or model name; `None` takes the address's, or the default.
    pub model: Option<String>,
    /// ISO 639-1 code; `None` detects.
    pub language: Option<String>,
    /// When detecting, only these may win.
    pub languages: Vec<String>,
    /// Told to the model as what came before.
    pub prompt: Option<String>,
    /// Put at the end of the prompt.
    pub keywords: Vec<String>,
    /// How soon words are shown; `None` when the client left it out.
    pub delay: Option<Delay>,
}

impl Transcription {
    fn to_json(&self) -> Value {
        let mut shown = Map::new();
        shown.insert("model".to_owned(), json!(self.model));
        shown.insert("language".to_owned(), json!(self.language));
        shown.insert("prompt".to_owned(), json!(self.prompt));
        if !self.languages.is_empty() {
            shown.insert("languages".to_owned(), json!(self.languages));
        }
        if !self.keywords.is_empty() {
            shown.insert("keywords".to_owned(), json!(self.keywords));
        }
        if let Some(delay) = self.delay {
            shown.insert("delay".to_owned(), json!(name_of(&Delay::ALL, delay)));
        }
        Value::Object(shown)
    }
}

/// Everything a client may set.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// How audio comes.
    pub format: Format,
    /// What the model is asked.
    pub transcription: Option<Transcription>,
    /// Kept and shown back; Whisper was trained on noise.
    pub noise_reduction: Option<Value>,
    /// `None`: the client commits.
    pub turn_detection: Option<TurnDetection>,
    /// The client has said who decides.
    turn_detection_chosen: bool,
    /// Log probabilities are wanted.
    pub logprobs: bool,
}

/// Models of the service that take no turn detection: the client commits.
const CLIENT_COMMITS: [&str; 2] = ["gpt-live-transcribe", "gpt-realtime-whisper"];
/// Longest `prompt` in bytes; the model reads the last 224 tokens of it.
const MAX_PROMPT_BYTES: usize = 64 << 10;
/// Longest silence and padding that can be asked for.
const MAX_MILLISECONDS: f64 = 10_000.0;
/// Longest `idle_timeout_ms`.
const MAX_IDLE_MILLISECONDS: f64 = 600_000.0;

impl Settings {
    /// The service's defaults; `model` comes from the address. Without `detect` the client commits.
    pub fn new(model: Option<String>, rate_hz: u32, detect: bool) -> Self {
        let mut settings = Self {
            format: Format::Pcm { rate_hz },
            transcription: model.map(|model| Transcription {
                model: Some(model),
                ..Transcription::default()
            }),
            noise_reduction: None,
            turn_detection: detect.then(TurnDetection::silence),
            turn_detection_chosen: !detect,
            logprobs: false,
        };
        settings.choose_turn_detection();
        settings
    }

    /// The name of the model asked for.
    pub fn model(&self) -> Option<&str> {
        self.transcription.as_ref().and_then(|t| t.model.as_deref())
    }

    /// Lays the fields that are present over these settings; `null` clears.
    ///
    /// # Errors
    ///
    /// Names the first field at fault; nothing is changed then.
    pub fn patched(&self, dialect: Dialect, session: &Map<String, Value>) -> Result<Self, Refusal> {
        let mut new = self.clone();
        match dialect {
            Dialect::Current => new.patch_current(session)?,
            Dialect::Beta => new.patch_beta(session)?,
        }
        new.choose_turn_detection();
        Ok(new)
    }

    /// Where the client has not said who decides, the model's name does.
    fn choose_turn_detection(&mut self) {
        if self.turn_detection_chosen {
            return;
        }
        let commits = self.model().is_some_and(|model| CLIENT_COMMITS.contains(&model));
        if commits {
            self.turn_detection = None;
        } else if self.turn_detection.is_none() {
            self.turn_detection = Some(TurnDetection::silence());
        }
    }

    fn patch_current(&mut self, session: &Map<String, Value>) -> Result<(), Refusal> {
        match session.get("type") {
            None => {}
            Some(Value::String(kind)) if kind == "transcription" => {}
            Some(_) => {
                return Err(Refusal::invalid(
                    "session.type",
                    "This server transcribes: `session.type` must be 'transcription'.",
                ));
            }
        }
        if let Some(include) = session.get("include") {
            self.logprobs = includes_logprobs(include, "session.include")?;
        }
        let Some(audio) = object(session, "audio", "session.audio")? else {
            return Ok(());
        };
        let Some(input) = object(audio, "input", "session.audio.input")? else {
            return Ok(());
        };
        let at = |name: &str| format!("session.audio.input.{name}");
        if let Some(format) = input.get("format").filter(|format| !format.is_null()) {
            self.format = parse_format(format, &at("format"))?;
        }
        self.patch_rest(input, ["transcription", "noise_reduction", "turn_detection"], at)
    }

    fn patch_beta(&mut self, session: &Map<String, Value>) -> Result<(), Refusal> {
        if let Some(include) = session.get("include") {
            self.logprobs = includes_logprobs(include, "session.include")?;
        }
        let at = |name: &str| format!("session.{name}");
        if let Some(format) = session
            .get("input_audio_format")
            .filter(|format| !format.is_null())
        {
            self.format = match format.as_str() {
                Some("pcm16") => Format::Pcm { rate_hz: 24_000 },
                Some("g711_ulaw") => Format::Pcmu,
                Some("g711_alaw") => Format::Pcma,
                _ => {
                    return Err(Refusal::invalid(
                        "session.input_audio_format",
                        "`input_audio_format` must be 'pcm16', 'g711_ulaw' or 'g711_alaw'.",
                    ));
                }
            };
        }
        let names = [
            "input_audio_transcription",
            "input_audio_noise_reduction",
            "turn_detection",
        ];
        self.patch_rest(session, names, at)
    }

    fn patch_rest(
        &mut self,
        from: &Map<String, Value>,
        [transcription, noise, turns]: [&str; 3],
        at: impl Fn(&str) -> String,
    ) -> Result<(), Refusal> {
        match from.get(transcription) {
            None => {}
            Some(Value::Null) => self.transcription = None,
            Some(Value::Object(fields)) => {
                let old = self.transcription.clone().unwrap_or_default();
                self.transcription = Some(patch_transcription(old, fields, &at(transcription))?);
            }
            Some(_) => {
                return Err(Refusal::invalid(
                    at(transcription),
                    "An object or null is accepted.",
                ));
            }
        }
        match from.get(noise) {
            None => {}
            Some(Value::Null) => self.noise_reduction = None,
            Some(Value::Object(fields)) => {
                let kind = fields.get("type").and_then(Value::as_str);
                if !matches!(kind, Some("near_field" | "far_field")) {
                    let message = "`type` must be 'near_field' or 'far_field'.";
                    return Err(Refusal::invalid(format!("{}.type", at(noise)), message));
                }
                self.noise_reduction = Some(json!({ "type": kind }));
            }
            Some(_) => return Err(Refusal::invalid(at(noise), "An object or null is accepted.")),
        }
        match from.get(turns) {
            None => {}
            Some(Value::Null) => {
                self.turn_detection = None;
                self.turn_detection_chosen = true;
            }
            Some(Value::Object(fields)) => {
                let old = self.turn_detection.take();
                self.turn_detection = Some(patch_turns(old, fields, &at(turns))?);
                self.turn_detection_chosen = true;
            }
            Some(_) => return Err(Refusal::invalid(at(turns), "An object or null is accepted.")),
        }
        Ok(())
    }

    /// The session as `dialect` shows it.
    pub fn to_json(&self, dialect: Dialect, id: &str, expires_at: u64) -> Value {
        let include = self
            .logprobs
            .then(|| json!(["item.input_audio_transcription.logprobs"]));
        let transcription = self.transcription.as_ref().map(Transcription::to_json);
        let turns = self.turn_detection.as_ref().map(TurnDetection::to_json);
        match dialect {
            Dialect::Current => json!({
                "type": "transcription",
                "object": "realtime.transcription_session",
                "id": id,
                "expires_at": expires_at,
                "audio": { "input": {
                    "format": match self.format {
                        Format::Pcm { rate_hz } => json!({ "type": "audio/pcm", "rate": rate_hz }),
                        Format::Pcmu => json!({ "type": "audio/pcmu" }),
                        Format::Pcma => json!({ "type": "audio/pcma" }),
                    },
                    "transcription": transcription,
                    "noise_reduction": self.noise_reduction,
                    "turn_detection": turns,
                }},
                "include": include,
            }),
            Dialect::Beta => json!({
                "object": "realtime.transcription_session",
                "id": id,
                "expires_at": expires_at,
                "input_audio_format": match self.format {
                    Format::Pcm { .. } => "pcm16",
                    Format::Pcmu => "g711_ulaw",
                    Format::Pcma => "g711_alaw",
                },
                "input_audio_transcription": transcription,
                "input_audio_noise_reduction": self.noise_reduction,
                "turn_detection": turns,
                "include": include,
            }),
        }
    }
}

fn object<'v>(
    from: &'v Map<String, Value>,
    name: &str,
    path: &str,
) -> Result<Option<&'v Map<String, Value>>, Refusal> {
    match from.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(fields)) => Ok(Some(fields)),
        Some(_) => Err(Refusal::invalid(path, "An object is accepted.")),
    }
}

fn includes_logprobs(value: &Value, path: &str) -> Result<bool, Refusal> {
    match value {
        Value::Null => Ok(false),
        Value::Array(items) => Ok(items
            .iter()
            .any(|item| item.as_str() == Some("item.input_audio_transcription.logprobs"))),
        _ => Err(Refusal::invalid(
            path,
            "`include` is a list; 'item.input_audio_transcription.logprobs' is known.",
        )),
    }
}

fn parse_format(value: &Value, path: &str) -> Result<Format, Refusal> {
    let kind = match value {
        Value::String(kind) => Some(kind.as_str()),
        Value::Object(fields) => fields.get("type").and_then(Value::as_str),
        _ => None,
    };
    match kind {
        Some("audio/pcm" | "pcm16") => match value.get("rate") {
            None | Some(Value::Null) => Ok(Format::Pcm { rate_hz: 24_000 }),
            Some(rate) => match rate.as_f64() {
                Some(24_000.0) => Ok(Format::Pcm { rate_hz: 24_000 }),
                Some(16_000.0) => Ok(Format::Pcm { rate_hz: 16_000 }),
                _ => Err(Refusal::invalid(
                    format!("{path}.rate"),
                    "`rate` must be 24000 or 16000 (Hz, mono, signed 16 bits, little-endian).",
                )),
            },
        },
        Some("audio/pcmu" | "g711_ulaw") => Ok(Format::Pcmu),
        Some("audio/pcma" | "g711_alaw") => Ok(Format::Pcma),
        _ => Err(Refusal::invalid(
            format!("{path}.type"),
            "`type` must be 'audio/pcm', 'audio/pcmu' or 'audio/pcma'.",
        )),
    }
}

fn patch_transcription(
    mut new: Transcription,
    fields: &Map<String, Value>,
    path: &str,
) -> Result<Transcription, Refusal> {
    let text = |name: &str| match fields.get(name) {
        None => Ok(None),
        Some(Value::Null) => Ok(Some(None)),
        Some(Value::String(text)) if text.contains('\0') => Err(Refusal::invalid(
            format!("{path}.{name}"),
            "NUL characters are not accepted.",
        )),
        Some(Value::String(text)) if text.trim().is_empty() => Ok(Some(None)),
        Some(Value::String(text)) => Ok(Some(Some(text.clone()))),
        Some(_) => Err(Refusal::invalid(
            format!("{path}.{name}"),
            "Text or null is accepted.",
        )),
    };
    let list = |name: &str| match fields.get(name) {
        None => Ok(None),
        Some(Value::Null) => Ok(Some(Vec::new())),
        Some(Value::Array(items)) => {
            let texts: Option<Vec<String>> = items
                .iter()
                .map(|item| {
                    item.as_str()
                        .filter(|text| !text.contains('\0'))
                        .map(str::to_owned)
                })
                .collect();
            match texts {
                Some(texts) => Ok(Some(texts)),
                None => Err(Refusal::invalid(
                    format!("{path}.{name}"),
                    "A list of texts is accepted.",
                )),
            }
        }
        Some(_) => Err(Refusal::invalid(
            format!("{path}.{name}"),
            "A list of texts is accepted.",
        )),
    };
    if let Some(model) = text("model")? {
        new.model = model;
    }
    if let Some(language) = text("language")? {
        new.language = match language {
            None => None,
            Some(text) => Some(known_language(&text, &format!("{path}.language"))?),
        };
    }
    if let Some(languages) = list("languages")? {
        let path = format!("{path}.languages");
        let known: Result<Vec<String>, Refusal> =
            languages.iter().map(|text| known_language(text, &path)).collect();
        new.languages = known?;
    }
    if let Some(prompt) = text("prompt")? {
        new.prompt = prompt;
    }
    if let Some(keywords) = list("keywords")? {
        new.keywords = keywords;
    }
    let told =
        new.prompt.as_ref().map_or(0, String::len) + new.keywords.iter().map(String::len).sum::<usize>();
    if told > MAX_PROMPT_BYTES {
        let message =
            format!("The prompt and keywords hold {told} bytes; at most {MAX_PROMPT_BYTES} are taken.");
        return Err(Refusal::invalid(format!("{path}.prompt"), message));
    }
    let delay = choice(fields, "delay", &Delay::ALL, path)?;
    if fields.contains_key("delay") {
        new.delay = delay;
    }
    Ok(new)
}

/// `en`, `EN` and `en-US` are English.
fn known_language(text: &str, path: &str) -> Result<String, Refusal> {
    let base = text.split(['-', '_']).next().unwrap_or_default();
    let code = languages::code(text).or_else(|| languages::code(base));
    code.map(str::to_owned).ok_or_else(|| {
        let shown: String = text.chars().take(40).collect();
        Refusal::invalid(
            path,
            format!("Invalid language '{shown}'. Language parameter must be specified in ISO-639-1 format."),
        )
    })
}

fn patch_turns(
    old: Option<TurnDetection>,
    fields: &Map<String, Value>,
    path: &str,
) -> Result<TurnDetection, Refusal> {
    let old = old.unwrap_or_else(TurnDetection::silence);
    let is_silence = matches!(old.kind, TurnKind::Silence { .. });
    let mut new = match fields.get("type").map(Value::as_str) {
        None => old,
        Some(Some("server_vad")) if is_silence => old,
        Some(Some("server_vad")) => TurnDetection::silence(),
        Some(Some("semantic_vad")) if !is_silence => old,
        Some(Some("semantic_vad")) => TurnDetection::semantic(),
        Some(_) => {
            return Err(Refusal::invalid(
                format!("{path}.type"),
                "`type` must be 'server_vad' or 'semantic_vad'; null leaves committing to the client.",
            ));
        }
    };
    let number = |name: &str, most: f64| match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_f64() {
            Some(number) if (0.0..=most).contains(&number) => Ok(Some(number)),
            _ => Err(Refusal::invalid(
                format!("{path}.{name}"),
                format!("A number from 0 to {most} is accepted."),
            )),
        },
    };
    let lasting = |milliseconds: f64| Duration::from_secs_f64(milliseconds / 1000.0);
    if let Some(padding) = number("prefix_padding_ms", MAX_MILLISECONDS)? {
        new.prefix_padding = lasting(padding);
    }
    let asked_threshold = number("threshold", 1.0)?;
    let asked_silence = number("silence_duration_ms", MAX_MILLISECONDS)?;
    let asked_eagerness = choice(fields, "eagerness", &Eagerness::ALL, path)?;
    match &mut new.kind {
        TurnKind::Silence { threshold, silence } => {
            if let Some(asked) = asked_threshold {
                *threshold = asked as f32;
            }
            if let Some(asked) = asked_silence {
                *silence = lasting(asked);
            }
        }
        TurnKind::Semantic { eagerness } => {
            if let Some(asked) = asked_eagerness {
                *eagerness = asked;
            }
        }
    }
    if fields.contains_key("idle_timeout_ms") {
        new.idle_timeout = number("idle_timeout_ms", MAX_IDLE_MILLISECONDS)?
            .map(|asked| lasting(asked).max(Duration::from_secs(1)));
    }
    for (name, field) in [
        ("create_response", &mut new.create_response),
        ("interrupt_response", &mut new.interrupt_response),
    ] {
        match fields.get(name) {
            None | Some(Value::Null) => {}
            Some(Value::Bool(asked)) => *field = *asked,
            Some(_) => {
                return Err(Refusal::invalid(
                    format!("{path}.{name}"),
                    "true or false is accepted.",
                ));
            }
        }
    }
    Ok(new)
}

/// One of `all`; `None` where the field is left out or null.
fn choice<T: Copy>(
    fields: &Map<String, Value>,
    name: &str,
    all: &[(T, &'static str)],
    path: &str,
) -> Result<Option<T>, Refusal> {
    let Some(value) = fields.get(name).filter(|value| !value.is_null()) else {
        return Ok(None);
    };
    if let Some((found, _)) = all.iter().find(|(_, known)| value.as_str() == Some(*known)) {
        return Ok(Some(*found));
    }
    let known: Vec<&str> = all.iter().map(|(_, known)| *known).collect();
    let message = format!("One of {} is accepted.", known.join(", "));
    Err(Refusal::invalid(format!("{path}.{name}"), message))
}

fn name_of<T: PartialEq + Copy>(all: &[(T, &'static str)], value: T) -> &'static str {
    all.iter()
        .find(|(known, _)| *known == value)
        .map_or("auto", |(_, name)| name)
}

fn milliseconds(duration: Duration) -> u64 {
    duration.as_millis() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patched(settings: &Settings, dialect: Dialect, session: Value) -> Result<Settings, Refusal> {
        let Value::Object(session) = session else { panic!() };
        settings.patched(dialect, &session)
    }

    fn input(fields: &Value) -> Value {
        json!({ "type": "transcription", "audio": { "input": fields } })
    }

    #[test]
    fn the_defaults_are_the_recorded_ones() {
        let shown = Settings::new(None, 24_000, true).to_json(Dialect::Current, "sess_1", 0);
        assert_eq!(
            shown,
            json!({"type":"transcription","object":"realtime.transcription_session","id":"sess_1","expires_at":0,
            "audio":{"input":{"format":{"type":"audio/pcm","rate":24000},"transcription":null,"noise_reduction":null,
              "turn_detection":{"type":"server_vad","threshold":0.5,"prefix_padding_ms":300,"silence_duration_ms":200,
                "idle_timeout_ms":null,"create_response":true,"interrupt_response":true}}},
            "include":null})
        );
    }

    #[test]
    fn only_what_is_present_changes_and_null_clears() {
        let settings = Settings::new(Some("whisper-1".to_owned()), 24_000, true);
        let new = patched(
            &settings,
            Dialect::Current,
            input(&json!({"transcription":{"language":"EN","prompt":"Kubernetes"},"turn_detection":{"silence_duration_ms":700}})),
        )
        .unwrap();
        let asked = new.transcription.clone().unwrap();
        assert_eq!(asked.model.as_deref(), Some("whisper-1"));
        assert_eq!(asked.language.as_deref(), Some("en"));
        let turns = new.turn_detection.as_ref().unwrap();
        assert!(
            matches!(turns.kind, TurnKind::Silence { silence, threshold } if silence.as_millis() == 700 && (threshold - 0.5).abs() < 1e-6)
        );
        let cleared = patched(
            &new,
            Dialect::Current,
            input(&json!({"transcription":{"language":null},"turn_detection":null})),
        )
        .unwrap();
        let asked = cleared.transcription.unwrap();
        assert_eq!(
            (asked.language, asked.prompt.as_deref()),
            (None, Some("Kubernetes"))
        );
        assert_eq!(cleared.turn_detection, None);
    }

    #[test]
    fn the_flat_shape_is_an_alias() {
        let settings = Settings::new(None, 24_000, true);
        let new = patched(
            &settings,
            Dialect::Beta,
            json!({"input_audio_format":"g711_ulaw","input_audio_transcription":{"model":"m","prompt":"","language":""},
                   "turn_detection":{"type":"semantic_vad","eagerness":"high"},"include":["item.input_audio_transcription.logprobs"]}),
        )
        .unwrap();
        assert_eq!(new.format, Format::Pcmu);
        assert!(new.logprobs);
        assert_eq!(new.model(), Some("m"));
        let shown = new.to_json(Dialect::Beta, "sess_1", 5);
        assert_eq!(shown["input_audio_format"], "g711_ulaw");
        assert_eq!(shown["turn_detection"]["eagerness"], "high");
    }

    #[test]
    fn models_that_take_no_detection_leave_committing_to_the_client_unless_told() {
        let settings = Settings::new(None, 24_000, true);
        let model = json!({"transcription":{"model":"gpt-realtime-whisper","delay":"minimal"}});
        let new = patched(&settings, Dialect::Current, input(&model)).unwrap();
        assert_eq!(new.turn_detection, None);
        let back = patched(
            &new,
            Dialect::Current,
            input(&json!({"transcription":{"model":"whisper-1"}})),
        )
        .unwrap();
        assert!(back.turn_detection.is_some());
        let told = patched(
            &new,
            Dialect::Current,
            input(&json!({"turn_detection":{"type":"server_vad"}})),
        )
        .unwrap();
        assert!(told.turn_detection.is_some());
    }

    #[test]
    fn a_wrong_field_is_named_and_changes_nothing() {
        let settings = Settings::new(None, 24_000, true);
        for (fields, param) in [
            (
                json!({"format":{"type":"audio/mp3"}}),
                "session.audio.input.format.type",
            ),
            (
                json!({"format":{"type":"audio/pcm","rate":44100}}),
                "session.audio.input.format.rate",
            ),
            (
                json!({"transcription":{"language":"klingon"}}),
                "session.audio.input.transcription.language",
            ),
            (
                json!({"transcription":{"delay":"now"}}),
                "session.audio.input.transcription.delay",
            ),
            (
                json!({"transcription":{"prompt":"a\u{0}b"}}),
                "session.audio.input.transcription.prompt",
            ),
            (json!({"transcription":7}), "session.audio.input.transcription"),
            (
                json!({"turn_detection":{"type":"psychic"}}),
                "session.audio.input.turn_detection.type",
            ),
            (
                json!({"turn_detection":{"threshold":3}}),
                "session.audio.input.turn_detection.threshold",
            ),
            (
                json!({"noise_reduction":{"type":"loud"}}),
                "session.audio.input.noise_reduction.type",
            ),
        ] {
            let refusal = patched(&settings, Dialect::Current, input(&fields)).unwrap_err();
            assert_eq!(refusal.param.as_deref(), Some(param));
        }
        let kind = patched(&settings, Dialect::Current, json!({"type":"realtime"})).unwrap_err();
        assert_eq!(kind.param.as_deref(), Some("session.type"));
    }
}
