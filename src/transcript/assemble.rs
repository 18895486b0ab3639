//! Windows' results, in the order of the recording → segments on one clock.

use super::{Segment, TokenLogprob, WindowSegment, WindowToken, WindowTranscript, compression_ratio, words};
use crate::domain::repetition::loop_at_end;

/// Segments in a row with the same long text that are still believed.
const MAX_SAME_SEGMENTS: usize = 2;
/// Texts shorter than this many characters may repeat as often as they like («Yes.», «はい。»).
const SHORT_TEXT_CHARS: usize = 12;
/// A segment is a hallucination when the model itself doubts that it heard speech…
const HALLUCINATED_NO_SPEECH: f32 = 0.6;
/// …and doubts what it wrote.
const HALLUCINATED_LOGPROB: f32 = -0.7;
/// With hardly any voice detected, less doubt is enough.
const HALLUCINATED_NO_SPEECH_UNVOICED: f32 = 0.3;
/// Seconds of voice in a window below which it counts as hardly any.
const UNVOICED_SECONDS: f32 = 0.2;

/// Where a window stands in the recording.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Place {
    /// Seconds from the start of the recording.
    pub start: f32,
    /// Seconds.
    pub length: f32,
    /// Seconds of it with detected voice; `None` without detection.
    pub voiced: Option<f32>,
    /// Channel, when channels are transcribed apart.
    pub channel: Option<u16>,
}

/// Takes windows in order, gives segments in order.
#[derive(Debug, Default)]
pub struct Assembler {
    next_id: u32,
    clock: f32,
    language: Option<String>,
    word_times: bool,
    last_text: String,
    same: usize,
    dropped: u64,
}

impl Assembler {
    /// `word_times` fills [`Segment::words`].
    pub fn new(word_times: bool) -> Self {
        Self {
            word_times,
            ..Self::default()
        }
    }

    /// Language of the first window that had text.
    pub fn language(&self) -> Option<&str> {
        self.language.as_deref()
    }

    /// Segments not delivered because they repeat or were hallucinated.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Adds the next window; returns its segments.
    pub fn push(&mut self, place: Place, window: WindowTranscript) -> Vec<Segment> {
        let language = window.language.clone().or_else(|| self.language.clone());
        let mut out = Vec::new();
        let mut carry: Vec<u8> = Vec::new();
        let count = window.segments.len();
        for (index, segment) in window.segments.into_iter().enumerate() {
            let last = index + 1 == count;
            let Some(segment) = self.segment(
                place,
                segment,
                &mut carry,
                last,
                window.temperature,
                language.as_deref(),
            ) else {
                continue;
            };
            out.push(segment);
        }
        if !out.is_empty() && self.language.is_none() {
            self.language = language;
        }
        out
    }

    fn segment(
        &mut self,
        place: Place,
        mut raw: WindowSegment,
        carry: &mut Vec<u8>,
        last: bool,
        temperature: f32,
        language: Option<&str>,
    ) -> Option<Segment> {
        cut_loop(&mut raw.tokens);
        let mut bytes = std::mem::take(carry);
        bytes.extend(raw.tokens.iter().flat_map(|t| &t.bytes));
        let (text, rest) = split_utf8(bytes, last);
        *carry = rest;
        if text.trim().is_empty() {
            return None;
        }
        let scored: Vec<f32> = raw.tokens.iter().map(|t| t.logprob).collect();
        let avg_logprob = scored.iter().sum::<f32>() / scored.len().max(1) as f32;
        if is_hallucination(place, raw.no_speech_prob, avg_logprob) || self.repeats(&text) {
            self.dropped += 1;
            return None;
        }
        let end_of_window = place.start + place.length;
        let start = (place.start + raw.start).clamp(self.clock.min(end_of_window), end_of_window);
        let end = (place.start + raw.end).clamp(start, end_of_window);
        if place.channel.is_none() {
            self.clock = start;
        }
        let words = if self.word_times {
            words::words(&raw.tokens, place.start, (start, end), language)
        } else {
            Vec::new()
        };
        let id = self.next_id;
        self.next_id += 1;
        Some(Segment {
            id,
            seek: (place.start * 100.0) as u32,
            start,
            end,
            compression_ratio: compression_ratio(text.as_bytes()),
            tokens: raw.tokens.iter().map(|t| t.id).collect(),
            temperature,
            avg_logprob,
            no_speech_prob: raw.no_speech_prob,
            words,
            logprobs: raw
                .tokens
                .into_iter()
                .filter(|t| !t.bytes.is_empty())
                .map(|t| TokenLogprob {
                    bytes: t.bytes,
                    logprob: t.logprob,
                })
                .collect(),
            channel: place.channel,
            language: language.map(str::to_owned),
            text,
        })
    }

    fn repeats(&mut self, text: &str) -> bool {
        let text = text.trim();
        if text == self.last_text {
            self.same += 1;
        } else {
            text.clone_into(&mut self.last_text);
            self.same = 1;
        }
        self.same > MAX_SAME_SEGMENTS && text.chars().count() >= SHORT_TEXT_CHARS
    }
}

/// The text tokens of one window by itself, without loops and hallucinations.
pub fn believed(place: Place, window: WindowTranscript) -> Vec<WindowToken> {
    let mut out = Vec::new();
    for mut segment in window.segments {
        cut_loop(&mut segment.tokens);
        let count = segment.tokens.len().max(1) as f32;
        let avg_logprob = segment.tokens.iter().map(|t| t.logprob).sum::<f32>() / count;
        if !is_hallucination(place, segment.no_speech_prob, avg_logprob) {
            out.extend(segment.tokens.into_iter().filter(|token| !token.bytes.is_empty()));
        }
    }
    out
}

fn is_hallucination(place: Place, no_speech_prob: f32, avg_logprob: f32) -> bool {
    let unvoiced = place.voiced.is_some_and(|seconds| seconds < UNVOICED_SECONDS);
    (no_speech_prob > HALLUCINATED_NO_SPEECH && avg_logprob < HALLUCINATED_LOGPROB)
        || (unvoiced && no_speech_prob > HALLUCINATED_NO_SPEECH_UNVOICED)
}

/// Splits off an incomplete character at the end; at the window's end it is dropped. Other invalid bytes
/// become U+FFFD.
fn split_utf8(bytes: Vec<u8>, last: bool) -> (String, Vec<u8>) {
    match String::from_utf8(bytes) {
        Ok(text) => (text, Vec::new()),
        Err(error) => {
            let incomplete = error.utf8_error().error_len().is_none();
            let valid = error.utf8_error().valid_up_to();
            let mut bytes = error.into_bytes();
            if incomplete {
                let rest = bytes.split_off(valid);
                let text = String::from_utf8_lossy(&bytes).into_owned();
                (text, if last { Vec::new() } else { rest })
            } else {
                (String::from_utf8_lossy(&bytes).into_owned(), Vec::new())
            }
        }
    }
}

/// Keeps the first round of a phrase that the end of the segment repeats over and over.
fn cut_loop(tokens: &mut Vec<WindowToken>) {
    let text: Vec<usize> = (0..tokens.len())
        .filter(|&i| !tokens[i].bytes.is_empty())
        .collect();
    let ids: Vec<i32> = text.iter().map(|&i| tokens[i].id).collect();
    let Some(first_repeat) = loop_at_end(&ids).map(|from| text[from]) else {
        return;
    };
    let mut index = 0;
    tokens.retain(|token| {
        index += 1;
        index - 1 < first_repeat || token.bytes.is_empty()
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(id: i32, bytes: &[u8]) -> WindowToken {
        WindowToken {
            id,
            bytes: bytes.to_vec(),
            logprob: -0.2,
            onset: None,
        }
    }

    fn window(segments: &[(&[&[u8]], f32, f32)]) -> WindowTranscript {
        let segments = segments
            .iter()
            .map(|(pieces, start, end)| WindowSegment {
                start: *start,
                end: *end,
                tokens: pieces
                    .iter()
                    .enumerate()
                    .map(|(i, b)| token(i as i32, b))
                    .collect(),
                no_speech_prob: 0.01,
            })
            .collect();
        WindowTranscript {
            segments,
            language: Some("ja".to_owned()),
            ..WindowTranscript::default()
        }
    }

    fn at(start: f32) -> Place {
        Place {
            start,
            length: 10.0,
            voiced: None,
            channel: None,
        }
    }

    #[test]
    fn a_character_cut_between_two_segments_is_whole_in_the_second() {
        let mut a = Assembler::new(false);
        let kanji = "日".as_bytes();
        let out = a.push(
            at(0.0),
            window(&[
                (&["今".as_bytes(), &kanji[..2]], 0.0, 1.0),
                (&[&kanji[2..]], 1.0, 2.0),
            ]),
        );
        assert_eq!(
            out.iter().map(|s| s.text.as_str()).collect::<Vec<_>>(),
            ["今", "日"]
        );
    }

    #[test]
    fn half_a_character_at_the_very_end_is_dropped() {
        let mut a = Assembler::new(false);
        let out = a.push(
            at(0.0),
            window(&[(&["今".as_bytes(), &"日".as_bytes()[..1]], 0.0, 1.0)]),
        );
        assert_eq!(out[0].text, "今");
    }

    #[test]
    fn times_count_from_the_start_of_the_recording_and_never_go_back() {
        let mut a = Assembler::new(false);
        a.push(at(0.0), window(&[(&[b" one"], 0.0, 12.0)]));
        let out = a.push(
            at(10.0),
            window(&[(&[b" two"], 0.5, 2.0), (&[b" three"], 0.1, 3.0)]),
        );
        assert!((out[0].start - 10.5).abs() < 1e-6);
        assert!(out[1].start >= out[0].start);
        assert_eq!(out[1].id, 2);
    }

    #[test]
    fn a_phrase_that_loops_is_delivered_once() {
        let mut a = Assembler::new(false);
        let pieces: Vec<WindowToken> = (0..60)
            .map(|i| {
                if i % 3 == 0 {
                    token(1, b" ab")
                } else {
                    token(2 + i % 3, b"x")
                }
            })
            .collect();
        let mut w = window(&[]);
        w.segments.push(WindowSegment {
            start: 0.0,
            end: 9.0,
            tokens: pieces,
            no_speech_prob: 0.0,
        });
        let out = a.push(at(0.0), w);
        assert_eq!(out[0].text, " abxx");
    }

    #[test]
    fn a_long_sentence_three_times_in_a_row_is_a_loop_but_yes_is_not() {
        let mut a = Assembler::new(false);
        let mut long = 0;
        let mut short = 0;
        for i in 0..6 {
            long += a
                .push(
                    at(i as f32),
                    window(&[(&[b" Thanks for watching everyone."], 0.0, 1.0)]),
                )
                .len();
        }
        for i in 6..12 {
            short += a.push(at(i as f32), window(&[(&[b" Yes."], 0.0, 1.0)])).len();
        }
        assert_eq!((long, short), (2, 6));
    }

    #[test]
    fn doubtful_text_over_silence_is_not_delivered() {
        let mut a = Assembler::new(false);
        let mut w = window(&[(&[b" Thank you."], 0.0, 1.0)]);
        w.segments[0].no_speech_prob = 0.5;
        assert_eq!(
            a.push(
                Place {
                    voiced: Some(0.05),
                    ..at(0.0)
                },
                w.clone()
            )
            .len(),
            0
        );
        assert_eq!(
            a.push(
                Place {
                    voiced: Some(3.0),
                    ..at(0.0)
                },
                w
            )
            .len(),
            1
        );
        assert_eq!(a.dropped(), 1);
    }
}
