//! The forms, field by field, as the description shows them.

use utoipa::ToSchema;

/// The form of a request. Arrays may be written `name[]`, `name`, `name[0]`, or as one JSON array.
#[derive(ToSchema)]
#[allow(
    dead_code,
    reason = "describes the form; `form` and `fields` read it part by part"
)]
pub(super) struct TranscriptionForm {
    /// The recording.
    #[schema(value_type = String, format = Binary)]
    file: (),
    /// Deployment or model. Where the path names a deployment, it decides instead.
    #[schema(required = false, min_length = 1, example = "whisper-1")]
    model: String,
    /// ISO 639-1 code; absent: detected. Ignored by translations.
    #[schema(required = false, example = "en")]
    language: String,
    /// When detecting, only these may win.
    #[schema(required = false, rename = "languages[]")]
    languages: Vec<String>,
    /// Text the model is told came before.
    #[schema(required = false)]
    prompt: String,
    /// Names and terms, added to the prompt.
    #[schema(required = false, rename = "keywords[]")]
    keywords: Vec<String>,
    /// Form of the answer.
    #[schema(required = false, value_type = FormatName)]
    response_format: (),
    /// 0 to 1.
    #[schema(required = false, minimum = 0, maximum = 1)]
    temperature: f32,
    /// With `verbose_json`: `segment` (default), `word`, or both.
    #[schema(required = false, rename = "timestamp_granularities[]", value_type = Vec<GranularityName>)]
    timestamp_granularities: (),
    /// `logprobs`, with `json`.
    #[schema(required = false, rename = "include[]", value_type = Vec<IncludeName>)]
    include: (),
    /// Server-sent events while the work goes on.
    #[schema(required = false)]
    stream: bool,
    /// `auto`, or an object of type `server_vad` as JSON text or as `chunking_strategy[…]` parts.
    #[schema(required = false, example = "auto")]
    chunking_strategy: String,
    /// Not supported: an error says so.
    #[schema(required = false, rename = "known_speaker_names[]", max_items = 4)]
    known_speaker_names: Vec<String>,
    /// Not supported: an error says so.
    #[schema(required = false, rename = "known_speaker_references[]", max_items = 4)]
    known_speaker_references: Vec<String>,
    /// Name for a file part that has none.
    #[schema(required = false)]
    filename: String,
    /// Extension: beam width; absent takes the configuration's.
    #[schema(required = false, minimum = 1, maximum = 8)]
    beam_size: u32,
    /// Extension: find speech first; absent takes the configuration's choice.
    #[schema(required = false)]
    vad: bool,
    /// Extension: `batch` waits behind interactive requests.
    #[schema(required = false, value_type = PriorityName)]
    priority: (),
    /// Extension: transcribe every channel by itself.
    #[schema(required = false)]
    separate_channels: bool,
    /// Extension: `per_window` lets the language change; what two `languages[]` or more mean.
    #[schema(required = false, value_type = LanguageModeName)]
    language_mode: (),
    /// Extension: how strongly keywords are preferred; absent takes the configuration's weight.
    #[schema(required = false, minimum = 0, maximum = 2)]
    keyword_weight: f32,
    /// Extension, with `srt` and `vtt`: columns of a line; a Chinese, Japanese or Korean character takes two.
    #[schema(required = false, minimum = 8, maximum = 1000)]
    max_line_width: u32,
    /// Extension, with `srt` and `vtt`: lines of a cue.
    #[schema(required = false, minimum = 1, maximum = 20)]
    max_line_count: u32,
    /// Extension, with `srt` and `vtt`: words of a line.
    #[schema(required = false, minimum = 1, maximum = 100)]
    max_words_per_line: u32,
    /// Extension, with `srt` and `vtt`: characters a second.
    #[schema(required = false, minimum = 1, maximum = 1000)]
    max_cps: f32,
    /// Extension, with `srt` and `vtt`: a broadcaster's limits for lines, reading speed and times.
    #[schema(required = false, value_type = SubtitleStyleName)]
    subtitle_style: (),
    /// Extension: `clean` leaves sounds of hesitation out.
    #[schema(required = false, value_type = TranscribeStyleName)]
    transcribe_style: (),
    /// Extension: a JSON object, phrase to what is written in its place.
    #[schema(required = false, example = "{\"say\":\"write\"}")]
    replacements: String,
    /// Extension: what to do with `profanity_words[]` and the configuration's list.
    #[schema(required = false, value_type = ProfanityName)]
    profanity: (),
    /// Extension: your own list; there is no other.
    #[schema(required = false, rename = "profanity_words[]")]
    profanity_words: Vec<String>,
}

/// The form of Azure's fast transcription.
#[derive(ToSchema)]
#[allow(dead_code, reason = "describes the form")]
pub(super) struct FastTranscriptionForm {
    /// The recording.
    #[schema(value_type = String, format = Binary)]
    audio: (),
    /// A JSON object: `locales`, `channels`, `profanityFilterMode`, `phraseList`, `enhancedMode`.
    #[schema(required = false, example = "{\"locales\":[\"en-US\"]}")]
    definition: String,
}

/// Values of `language_mode`.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[allow(dead_code, reason = "describes the form")]
pub(super) enum LanguageModeName {
    PerFile,
    PerWindow,
}

/// Values of `subtitle_style`.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[allow(dead_code, reason = "describes the form")]
pub(super) enum SubtitleStyleName {
    Netflix,
    Bbc,
    None,
}

/// Values of `transcribe_style`.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[allow(dead_code, reason = "describes the form")]
pub(super) enum TranscribeStyleName {
    Verbatim,
    Clean,
}

/// Values of `profanity`.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[allow(dead_code, reason = "describes the form")]
pub(super) enum ProfanityName {
    None,
    Masked,
    Removed,
    Tags,
}

/// Values of `response_format`.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[allow(dead_code, reason = "describes the form")]
pub(super) enum FormatName {
    Json,
    Text,
    Srt,
    VerboseJson,
    Vtt,
}

/// Values of `timestamp_granularities[]`.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[allow(dead_code, reason = "describes the form")]
pub(super) enum GranularityName {
    Word,
    Segment,
}

/// Values of `include[]`.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[allow(dead_code, reason = "describes the form")]
pub(super) enum IncludeName {
    Logprobs,
}

/// Values of `priority`.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[allow(dead_code, reason = "describes the form")]
pub(super) enum PriorityName {
    Interactive,
    Batch,
}
