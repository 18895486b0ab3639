//! Windows that are not believed at first sight: a change of language that one doubtful window proposes, and a text
//! that is mostly the vocabulary it was told to expect.

use crate::transcript::{Place, WindowTranscript};

/// Probability at which one window alone may change the language.
const SURE: f32 = 0.8;

/// A window on its way, with what a second run needs.
#[derive(Debug)]
pub(super) struct Heard<T> {
    /// Where it stands, and how to run it again.
    pub at: T,
    /// What the first run gave.
    pub window: WindowTranscript,
}

/// What to do with a window.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Verdict {
    /// Take it as it is.
    Keep,
    /// Run it again in this language.
    Again(String),
}

/// The language of one channel, from window to window. A surely recognised window changes it at once; a doubtful one
/// only if the next agrees.
#[derive(Debug)]
pub(super) struct LanguageTracker<T> {
    current: Option<String>,
    held: Option<Heard<T>>,
}

impl<T> LanguageTracker<T> {
    pub(super) fn new() -> Self {
        Self {
            current: None,
            held: None,
        }
    }

    /// Takes the next window of the channel; gives those that are decided, in order.
    pub(super) fn push(&mut self, heard: Heard<T>) -> Vec<(Heard<T>, Verdict)> {
        let mut out = Vec::new();
        let detected = heard.window.language.clone();
        let (Some(detected), false) = (detected, heard.window.segments.is_empty()) else {
            // Nothing was said: it has no part in the question, but it keeps its place.
            out.extend(self.give_up_held());
            out.push((heard, Verdict::Keep));
            return out;
        };
        let sure = heard.window.language_probability.is_none_or(|p| p >= SURE);
        let held = self.held.take();
        let agrees = held
            .as_ref()
            .is_some_and(|held| held.window.language.as_deref() == Some(&detected));
        if self.current.is_none() || self.current.as_ref() == Some(&detected) || sure || agrees {
            if let Some(held) = held {
                let verdict = if agrees { Verdict::Keep } else { self.again() };
                out.push((held, verdict));
            }
            self.current = Some(detected);
            out.push((heard, Verdict::Keep));
        } else {
            if let Some(held) = held {
                out.push((held, self.again()));
            }
            self.held = Some(heard);
        }
        out
    }

    /// The recording ends: nobody agrees any more.
    pub(super) fn finish(&mut self) -> Option<(Heard<T>, Verdict)> {
        self.give_up_held()
    }

    fn give_up_held(&mut self) -> Option<(Heard<T>, Verdict)> {
        let held = self.held.take()?;
        Some((held, self.again()))
    }

    fn again(&self) -> Verdict {
        self.current.clone().map_or(Verdict::Keep, Verdict::Again)
    }
}

/// A text of which so much is vocabulary is not believed.
const MOSTLY: f32 = 0.7;
/// A short answer may well be a name: so few phrases…
const FEW_HITS: usize = 2;
/// …in so many seconds of speech, and one more second for every so many characters.
const FEW_SECONDS: f32 = 2.0;
const CHARACTERS_PER_SECOND: f32 = 8.0;

/// True when the window's text is little else than `phrases`, and more or less than was said: prompts can become the
/// answer.
pub(super) fn is_mostly_vocabulary(window: &WindowTranscript, phrases: &[String], place: Place) -> bool {
    let bytes: Vec<u8> = window
        .segments
        .iter()
        .flat_map(|segment| &segment.tokens)
        .flat_map(|token| token.bytes.iter().copied())
        .collect();
    let text = letters(&String::from_utf8_lossy(&bytes));
    let total = text.chars().count();
    if total == 0 {
        return false;
    }
    let mut list: Vec<String> = phrases
        .iter()
        .map(|p| letters(p))
        .filter(|p| !p.is_empty())
        .collect();
    list.sort_by_key(|phrase| std::cmp::Reverse(phrase.len()));
    let (mut covered, mut hits, mut at) = (0, 0, 0);
    while let Some(first) = text[at..].chars().next() {
        if let Some(phrase) = list.iter().find(|phrase| text[at..].starts_with(phrase.as_str())) {
            covered += phrase.chars().count();
            hits += 1;
            at += phrase.len();
        } else {
            at += first.len_utf8();
        }
    }
    let seconds = place.voiced.unwrap_or(place.length);
    let brief = hits <= FEW_HITS && seconds <= FEW_SECONDS + total as f32 / CHARACTERS_PER_SECOND;
    covered as f32 >= MOSTLY * total as f32 && !brief
}

/// Letters and digits alone, in lower case: what two spellings of a list have in common.
fn letters(text: &str) -> String {
    text.chars()
        .filter(|c| c.is_alphanumeric())
        .flat_map(char::to_lowercase)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transcript::{WindowSegment, WindowToken};

    fn window(language: &str, probability: f32, text: &str) -> WindowTranscript {
        let token = WindowToken {
            id: 1,
            bytes: text.as_bytes().to_vec(),
            logprob: -0.1,
            onset: None,
        };
        let segment = WindowSegment {
            start: 0.0,
            end: 1.0,
            tokens: vec![token],
            no_speech_prob: 0.0,
        };
        WindowTranscript {
            segments: if text.is_empty() {
                Vec::new()
            } else {
                vec![segment]
            },
            language: Some(language.to_owned()),
            language_probability: Some(probability),
            ..WindowTranscript::default()
        }
    }

    /// Each window's language as it is settled, in order.
    fn settled(windows: &[(&str, f32)]) -> Vec<String> {
        let mut tracker = LanguageTracker::new();
        let mut out = Vec::new();
        for (at, (language, probability)) in windows.iter().enumerate() {
            let text = if *language == "-" { "" } else { " x" };
            out.extend(tracker.push(Heard {
                at,
                window: window(language, *probability, text),
            }));
        }
        out.extend(tracker.finish());
        assert!(
            out.iter().enumerate().all(|(i, (heard, _))| heard.at == i),
            "order"
        );
        out.into_iter()
            .map(|(heard, verdict)| match verdict {
                Verdict::Keep => heard.window.language.unwrap_or_default(),
                Verdict::Again(language) => language,
            })
            .collect()
    }

    #[test]
    fn one_doubtful_window_does_not_change_the_language() {
        assert_eq!(
            settled(&[("en", 0.9), ("cy", 0.4), ("en", 0.9)]),
            ["en", "en", "en"]
        );
        assert_eq!(settled(&[("en", 0.9), ("cy", 0.4)]), ["en", "en"]);
        assert_eq!(
            settled(&[("en", 0.9), ("cy", 0.4), ("nn", 0.5), ("en", 0.5)]),
            ["en"; 4]
        );
    }

    #[test]
    fn a_sure_window_changes_it_and_so_do_two_that_agree() {
        assert_eq!(
            settled(&[("en", 0.9), ("de", 0.85), ("de", 0.5)]),
            ["en", "de", "de"]
        );
        assert_eq!(
            settled(&[("en", 0.9), ("de", 0.6), ("de", 0.7), ("de", 0.5)]),
            ["en", "de", "de", "de"]
        );
        assert_eq!(
            settled(&[("en", 0.9), ("nl", 0.6), ("de", 0.9)]),
            ["en", "en", "de"]
        );
    }

    #[test]
    fn silence_between_settles_what_was_held() {
        assert_eq!(
            settled(&[("en", 0.9), ("de", 0.6), ("-", 0.9), ("de", 0.6)]),
            ["en", "en", "-", "en"]
        );
    }

    #[test]
    fn a_list_is_not_an_answer_but_a_name_is() {
        let phrases = ["Kyōto".to_owned(), "ggml".to_owned(), "Wiśniewski".to_owned()];
        let at = |voiced: f32| Place {
            start: 0.0,
            length: 20.0,
            voiced: Some(voiced),
            channel: None,
        };
        let mostly =
            |text: &str, voiced| is_mostly_vocabulary(&window("en", 1.0, text), &phrases, at(voiced));
        assert!(mostly(" Kyōto, ggml, Wiśniewski.", 3.0));
        assert!(mostly(" Kyōto.", 8.0));
        assert!(!mostly(" Wiśniewski.", 1.2));
        assert!(!mostly(" We met Mr. Wiśniewski in Kyōto.", 3.0));
        assert!(!mostly("", 3.0));
    }
}
