//! What a request may ask of subtitles, and the limits that follow from it for one language.

/// A broadcaster's set of limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SubtitleStyle {
    /// Only the limits that are given.
    #[default]
    None,
    /// Netflix's Timed Text Style Guides: 42 characters on 2 lines at 20 a second; Japanese 13 at 4, Chinese 16 at 9,
    /// Korean 16 at 12.
    Netflix,
    /// The BBC's Subtitle Guidelines: 37 characters on 2 lines (teletext's line), 180 words a minute, which is 18
    /// characters a second at six characters a word with its space.
    Bbc,
}

/// What a request asks of its srt or vtt. `None` takes the style's value.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct SubtitleRules {
    /// Set of limits.
    pub style: SubtitleStyle,
    /// Columns of a line; a character of Chinese, Japanese or Korean takes two.
    pub max_line_width: Option<u32>,
    /// Lines of a cue.
    pub max_line_count: Option<u32>,
    /// Words of a line; in scripts without spaces every character counts as one.
    pub max_words_per_line: Option<u32>,
    /// Characters a second that a reader must take in.
    pub max_cps: Option<f32>,
}

/// Shortest display of a cue in seconds (Netflix, General Requirements: 5/6 second).
pub(super) const SHORTEST_SECONDS: f64 = 5.0 / 6.0;
/// Longest display of a cue in seconds (Netflix, General Requirements: 7 seconds).
pub(super) const LONGEST_SECONDS: f64 = 7.0;

/// The limits of one language.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Limits {
    /// Columns of a line.
    pub width: usize,
    /// Lines of a cue.
    pub lines: usize,
    /// Words of a line.
    pub words: usize,
    /// Characters a second; infinite when nobody set it.
    pub cps: f64,
    /// A character is two columns: Chinese, Japanese, Korean.
    pub wide: bool,
    /// A cue is a segment, however many lines that takes (openai-whisper's rule when no line count is given).
    pub whole_segments: bool,
}

/// Languages whose limits are counted in full-width characters.
fn is_wide(language: Option<&str>) -> bool {
    matches!(language, Some("ja" | "zh" | "yue" | "ko"))
}

impl SubtitleRules {
    /// True when anything is asked; otherwise subtitles are the segments, as the service writes them.
    pub fn is_asked(&self) -> bool {
        *self != Self::default()
    }

    /// The limits for text in `language`.
    pub(super) fn limits(&self, language: Option<&str>) -> Limits {
        let wide = is_wide(language);
        let (width, lines, cps) = match (self.style, language) {
            (SubtitleStyle::None, _) => (usize::MAX, usize::MAX, f64::INFINITY),
            (_, Some("ja")) => (2 * 13, 2, 4.0),
            (_, Some("zh" | "yue")) => (2 * 16, 2, 9.0),
            (_, Some("ko")) => (2 * 16, 2, 12.0),
            (SubtitleStyle::Netflix, _) => (42, 2, 20.0),
            (SubtitleStyle::Bbc, _) => (37, 2, 18.0),
        };
        let given = |value: Option<u32>, style: usize| value.map_or(style, |value| value as usize);
        Limits {
            width: given(self.max_line_width, width),
            lines: given(self.max_line_count, lines),
            words: given(self.max_words_per_line, usize::MAX),
            cps: self.max_cps.map_or(cps, f64::from),
            wide,
            whole_segments: self.style == SubtitleStyle::None && self.max_line_count.is_none(),
        }
    }
}
