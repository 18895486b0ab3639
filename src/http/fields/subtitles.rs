//! Fields that shape srt and vtt. The first three have the names of openai-whisper's command line.

use super::values::{Fields, number, unknown_value, whole_number};
use crate::http::error::ApiError;
use crate::render::{ResponseFormat, SubtitleRules, SubtitleStyle};

/// Narrowest line in columns: a character of two columns and its punctuation must fit.
const NARROWEST_LINE: u32 = 8;

/// Reads them; `None` when none is there.
pub(super) fn subtitles(fields: &Fields, format: ResponseFormat) -> Result<Option<SubtitleRules>, ApiError> {
    const STYLE: &str = "subtitle_style";
    let style = match fields.single(STYLE).map(str::trim) {
        None | Some("" | "none") => SubtitleStyle::None,
        Some("netflix") => SubtitleStyle::Netflix,
        Some("bbc") => SubtitleStyle::Bbc,
        Some(other) => return Err(unknown_value(STYLE, other, "'netflix', 'bbc' and 'none'")),
    };
    let rules = SubtitleRules {
        style,
        max_line_width: whole_number(fields, "max_line_width", NARROWEST_LINE, 1000)?,
        max_line_count: whole_number(fields, "max_line_count", 1, 20)?,
        max_words_per_line: whole_number(fields, "max_words_per_line", 1, 100)?,
        max_cps: number(fields, "max_cps", 1.0, 1000.0)?.map(|value| value as f32),
    };
    if !rules.is_asked() {
        return Ok(None);
    }
    if !matches!(format, ResponseFormat::Srt | ResponseFormat::Vtt) {
        let param = if style == SubtitleStyle::None {
            "max_line_width"
        } else {
            STYLE
        };
        return Err(ApiError::invalid(
            param,
            format!("Invalid value for '{param}': lines of subtitles need response_format 'srt' or 'vtt'."),
        ));
    }
    Ok(Some(rules))
}
