//! Whether the model keeps up with speech on this machine, and which one would.

use crate::locale::Locale;

/// Slower than this many seconds of audio a second, a user waits for every recording.
const SLOW: f64 = 1.5;
/// A model that is named instead should do at least this much.
const GOOD: f64 = 3.0;

/// Catalogue models, largest first, with the size of one pass in multiply-adds of its transformer blocks: layers × width²,
/// encoder and decoder together (the models' dimensions, openai-whisper `model.py`). Speeds go by it.
const MODELS: [(&str, f64); 6] = [
    ("large-v3-q5_0", 105.0),
    ("large-v3-turbo-q5_0", 59.0),
    ("medium-q5_0", 50.0),
    ("small-q8_0", 14.0),
    ("base-q8_0", 3.1),
    ("tiny-q8_0", 1.2),
];

/// What is said of a model that is too slow.
#[derive(Debug, Clone, PartialEq)]
pub struct SpeedAdvice {
    /// Seconds of audio a second, with every core at work.
    pub times_real_time: f64,
    /// The largest model that would reach three times real time; none when not even the smallest would.
    pub model: Option<&'static str>,
}

impl SpeedAdvice {
    /// For a model of this file name or size class that does so many seconds of audio a second; `None` when that is
    /// enough.
    pub fn new(model: &str, times_real_time: f64) -> Option<Self> {
        if !(times_real_time > 0.0 && times_real_time < SLOW) {
            return None;
        }
        // Of `large-v3` and `large-v3-turbo`, which begins with it, the longer name counts.
        let now = MODELS
            .iter()
            .filter(|(name, _)| model.contains(family(name)))
            .max_by_key(|(name, _)| family(name).len())
            .map_or(105.0, |(_, work)| *work);
        let reaches = |work: f64| times_real_time * now / work >= GOOD;
        let model = MODELS
            .iter()
            .find(|(_, work)| *work < now && reaches(*work))
            .map(|(name, _)| *name);
        Some(Self {
            times_real_time: (times_real_time * 100.0).round() / 100.0,
            model,
        })
    }

    /// One sentence.
    pub fn say(&self, locale: Locale) -> String {
        let speed = self.times_real_time;
        match (locale, self.model) {
            (Locale::English, Some(model)) => format!(
                "This model does {speed:.1} seconds of audio a second here; `{model}` would do three: set \
                 whisper.model_path, or start with --model {model}"
            ),
            (Locale::English, None) => {
                format!(
                    "This model does {speed:.1} seconds of audio a second here, and no smaller one would do three"
                )
            }
            (Locale::Japanese, Some(model)) => format!(
                "このモデルは実時間の{speed:.1}倍でしか処理できません。`{model}`なら3倍に達します（whisper.model_path、または--model {model}）"
            ),
            (Locale::Japanese, None) => {
                format!(
                    "このモデルは実時間の{speed:.1}倍でしか処理できず、より小さいモデルでも3倍には達しません"
                )
            }
        }
    }
}

/// A catalogue name without its number format: what all files of a size have in their names.
fn family(name: &str) -> &str {
    name.rsplit_once("-q").map_or(name, |(family, _)| family)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_model_that_keeps_up_is_named() {
        let named = |model: &str, speed: f64| SpeedAdvice::new(model, speed).and_then(|advice| advice.model);
        assert_eq!(named("ggml-medium-q5_0.bin", 0.9), Some("small-q8_0"));
        assert_eq!(named("ggml-large-v3-turbo-q5_0.bin", 0.2), Some("base-q8_0"));
        assert_eq!(named("ggml-large-v3-turbo-q5_0.bin", 0.8), Some("small-q8_0"));
        assert_eq!(named("ggml-large-v3.bin", 1.4), Some("small-q8_0"));
        assert_eq!(named("ggml-tiny.bin", 0.5), None);
        assert!(SpeedAdvice::new("ggml-tiny.bin", 0.5).is_some());
        assert!(SpeedAdvice::new("ggml-medium.bin", 1.6).is_none());
        assert!(SpeedAdvice::new("ggml-medium.bin", 0.0).is_none());
    }
}
