//! Items of the conversation: from the first voice to the transcript.

use std::collections::VecDeque;

use super::super::agreement::{Agreement, Token};
use super::super::events::{InputTokens, ItemFailure, LanguageCode, Logprob, ServerEvent, ShownItem, Usage};
use super::super::settings::Dialect;
use super::Session;
use crate::speech::{FRAME_SAMPLES, SAMPLE_RATE_HZ};
use crate::transcript::is_unspaced;

/// Audio after the last voice that a pass must have heard for its result to be the last word: 96 ms.
const HEARD_OUT: u64 = 6 * FRAME_SAMPLES as u64;
/// What ends a sentence.
const SENTENCE_ENDS: [char; 8] = ['.', '?', '!', '…', '。', '？', '！', '।'];

/// One turn.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) id: String,
    /// First and last sample.
    pub(super) start: u64,
    end: u64,
    /// What is not transcribed yet, in order; the last one may be open.
    pub(super) pieces: VecDeque<Piece>,
    pub(super) committed: bool,
    /// Everything sent so far: the deltas put together.
    text: String,
    logprobs: Vec<Logprob>,
    tokens: u64,
    pub(super) language: Option<String>,
    pub(super) failure: Option<ItemFailure>,
    /// Provisional words shown last.
    intermediate: String,
    /// The next words are the first of their piece: a space may be missing before them.
    between_pieces: bool,
}

/// A stretch of a turn that fits into one window.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) number: u64,
    pub(super) start: u64,
    /// Absent while it grows.
    pub(super) end: Option<u64>,
    /// Its audio, once it has ended.
    pub(super) samples: Vec<f32>,
    /// After its last voiced sample.
    pub(super) voiced_to: u64,
    pub(super) voiced_frames: u64,
    /// It ends where nobody speaks.
    pub(super) in_pause: bool,
    pub(super) agreement: Agreement,
    /// The latest pass has heard its audio up to here.
    pub(super) covered_to: u64,
    /// The committed words were spoken before here.
    pub(super) agreed_to: u64,
    /// The latest pass deserves a second look.
    pub(super) doubtful: bool,
    /// Language of the committed words.
    pub(super) language: Option<String>,
}

impl Piece {
    pub(super) fn new(number: u64, start: u64) -> Self {
        Self {
            number,
            start,
            end: None,
            samples: Vec::new(),
            voiced_to: start,
            voiced_frames: 0,
            in_pause: false,
            agreement: Agreement::default(),
            covered_to: start,
            agreed_to: start,
            doubtful: false,
            language: None,
        }
    }

    /// The latest result is as good as another pass over all of the piece would be.
    pub(super) fn is_heard_out(&self) -> bool {
        self.covered_to > self.start && !self.doubtful && self.covered_to >= self.voiced_to + HEARD_OUT
    }

    /// A pass up to `end` hears all that was said.
    pub(super) fn would_be_heard_out(&self, end: u64) -> bool {
        end >= self.voiced_to + HEARD_OUT
    }

    /// What was heard so far ends as sentences end.
    pub(super) fn says_a_whole_sentence(&self) -> bool {
        let last = self.agreement.provisional().last();
        self.is_heard_out()
            && last.is_some_and(|token| {
                String::from_utf8_lossy(&token.bytes)
                    .trim_end()
                    .ends_with(SENTENCE_ENDS)
            })
    }
}

impl Item {
    pub(super) fn open_piece(&self) -> Option<&Piece> {
        self.pieces.back().filter(|piece| piece.end.is_none())
    }

    /// Somebody spoke, or words of his were sent already.
    pub(super) fn was_spoken(&self) -> bool {
        !self.pieces.is_empty() || !self.text.is_empty() || self.failure.is_some()
    }

    pub(super) fn open_piece_mut(&mut self) -> Option<&mut Piece> {
        self.pieces.back_mut().filter(|piece| piece.end.is_none())
    }

    pub(super) fn is_unspaced(&self) -> bool {
        self.language.as_deref().is_some_and(is_unspaced)
    }

    fn usage(&self, model: Option<&str>, prompt_bytes: usize) -> Usage {
        let samples = self.end.saturating_sub(self.start);
        if !model.is_some_and(|model| model.starts_with("gpt-4o-")) {
            return Usage::Duration {
                seconds: samples.div_ceil(u64::from(SAMPLE_RATE_HZ)),
            };
        }
        let audio_tokens = (samples * 10).div_ceil(u64::from(SAMPLE_RATE_HZ));
        let text_tokens = prompt_bytes.div_ceil(4) as u64;
        Usage::Tokens {
            total_tokens: audio_tokens + text_tokens + self.tokens,
            input_tokens: audio_tokens + text_tokens,
            output_tokens: self.tokens,
            input_token_details: InputTokens {
                text_tokens,
                audio_tokens,
            },
        }
    }

    /// Adds words for good; gives the delta that says them.
    fn add(&mut self, tokens: &[Token], last: bool) -> Option<(String, Vec<Logprob>)> {
        let bytes: Vec<u8> = tokens
            .iter()
            .flat_map(|token| token.bytes.iter().copied())
            .collect();
        let mut delta = readable(bytes);
        if last {
            delta.truncate(delta.trim_end().len());
        }
        if self.text.is_empty() {
            delta.drain(..delta.len() - delta.trim_start().len());
        } else if !delta.is_empty()
            && !self.is_unspaced()
            && !delta.starts_with(|c: char| c.is_whitespace() || c.is_ascii_punctuation())
            && !self.text.ends_with(char::is_whitespace)
            && self.between_pieces
        {
            delta.insert(0, ' ');
        }
        if delta.is_empty() {
            return None;
        }
        self.text.push_str(&delta);
        self.tokens += tokens.len() as u64;
        let logprobs: Vec<Logprob> = tokens
            .iter()
            .map(|token| Logprob {
                token: String::from_utf8_lossy(&token.bytes).into_owned(),
                logprob: token.logprob,
                bytes: token.bytes.clone(),
            })
            .collect();
        Some((delta, logprobs))
    }
}

/// Text of bytes that may end inside a character.
fn readable(bytes: Vec<u8>) -> String {
    match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let whole = error.utf8_error().valid_up_to();
            let cut_short = error.utf8_error().error_len().is_none();
            let mut bytes = error.into_bytes();
            if cut_short {
                bytes.truncate(whole);
            }
            String::from_utf8_lossy(&bytes).into_owned()
        }
    }
}

impl Session {
    /// The turn under way.
    pub(super) fn open_item(&self) -> Option<&Item> {
        self.items.back().filter(|item| !item.committed)
    }

    pub(super) fn open_item_mut(&mut self) -> Option<&mut Item> {
        self.items.back_mut().filter(|item| !item.committed)
    }

    pub(super) fn open_new_item(&mut self, start: u64) {
        let number = self.number();
        let name = self.opening.id.strip_prefix("sess_").unwrap_or(&self.opening.id);
        self.items.push_back(Item {
            id: format!("item_{name}_{number}"),
            start,
            end: start,
            pieces: VecDeque::new(),
            committed: false,
            text: String::new(),
            logprobs: Vec::new(),
            tokens: 0,
            language: None,
            failure: None,
            intermediate: String::new(),
            between_pieces: false,
        });
    }

    pub(super) fn drop_open_item(&mut self) {
        if self.open_item().is_some() {
            self.items.pop_back();
            self.abandon_what_is_in_vain();
        }
        self.tracker.end();
    }

    pub(super) fn commit_open_item(&mut self, end: u64) {
        let previous_item_id = self.last_item.clone();
        let Some(item) = self.open_item_mut() else {
            return;
        };
        item.committed = true;
        item.end = end;
        // A piece that is still open has heard no voice.
        item.pieces.retain(|piece| piece.end.is_some());
        let item_id = item.id.clone();
        let shown = ShownItem::new(&item_id);
        self.last_item = Some(item_id.clone());
        self.out.push(ServerEvent::Committed {
            item_id,
            previous_item_id: previous_item_id.clone(),
        });
        match self.dialect {
            Dialect::Current => {
                self.out.push(ServerEvent::ItemAdded {
                    previous_item_id: previous_item_id.clone(),
                    item: shown.clone(),
                });
                self.out.push(ServerEvent::ItemDone {
                    previous_item_id,
                    item: shown,
                });
            }
            Dialect::Beta => self.out.push(ServerEvent::BetaItemCreated {
                previous_item_id,
                item: shown,
            }),
        }
    }

    /// Finishes whatever needs no further pass.
    pub(super) fn settle(&mut self) {
        while let Some(item) = self.items.front_mut() {
            if let Some(piece) = item.pieces.front().filter(|piece| piece.end.is_some()) {
                let failed = item.failure.is_some();
                let unvoiced = piece.voiced_frames == 0 && piece.agreement.is_open();
                if failed || unvoiced {
                    item.pieces.pop_front();
                } else if piece.in_pause && piece.is_heard_out() {
                    self.finish_piece(None);
                } else {
                    return;
                }
                self.abandon_what_is_in_vain();
                continue;
            }
            if !item.committed || !item.pieces.is_empty() {
                return;
            }
            self.complete();
        }
    }

    /// The front piece of the front item is done: with `result`, or with what the latest partial pass gave.
    pub(super) fn finish_piece(&mut self, result: Option<Vec<Token>>) {
        let wants_logprobs = self.settings.logprobs;
        let Some(item) = self.items.front_mut() else {
            return;
        };
        let Some(mut piece) = item.pieces.pop_front() else {
            return;
        };
        let unspaced = item.is_unspaced();
        let rest = match result {
            Some(result) => piece.agreement.finish(result, unspaced),
            None => piece.agreement.finish_as_it_is(unspaced),
        };
        let delta = item.add(rest, true);
        item.between_pieces = true;
        if !item.intermediate.is_empty() {
            item.intermediate.clear();
            if self.opening.intermediate {
                let item_id = item.id.clone();
                self.out.push(ServerEvent::Intermediate {
                    item_id,
                    content_index: 0,
                    intermediate: String::new(),
                });
            }
        }
        send_delta(item, delta, wants_logprobs, &mut self.out);
    }

    /// Words of a partial pass over the open or front piece.
    pub(super) fn grow_piece(&mut self, number: u64, result: Vec<Token>, language: Option<String>) {
        let (wants_logprobs, wants_intermediate) = (self.settings.logprobs, self.opening.intermediate);
        let found = self.items.iter_mut().find_map(|item| {
            let at = item.pieces.iter().position(|piece| piece.number == number)?;
            Some((item, at))
        });
        let Some((item, at)) = found else {
            return;
        };
        if item.language.is_none() {
            item.language.clone_from(&language);
        }
        let unspaced = item.is_unspaced();
        let Some(piece) = item.pieces.get_mut(at) else {
            return;
        };
        let fresh = piece.agreement.update(result, unspaced).to_vec();
        if !piece.agreement.is_open() && piece.language.is_none() {
            piece.language = language;
        }
        let provisional = piece
            .agreement
            .provisional()
            .iter()
            .flat_map(|token| token.bytes.iter().copied());
        let provisional = readable(provisional.collect());
        let delta = item.add(&fresh, false);
        if !fresh.is_empty() {
            item.between_pieces = false;
        }
        send_delta(item, delta, wants_logprobs, &mut self.out);
        if provisional != item.intermediate {
            item.intermediate = provisional;
            if wants_intermediate {
                self.out.push(ServerEvent::Intermediate {
                    item_id: item.id.clone(),
                    content_index: 0,
                    intermediate: item.intermediate.clone(),
                });
            }
        }
    }

    fn complete(&mut self) {
        let Some(item) = self.items.pop_front() else {
            return;
        };
        let asked = self.settings.transcription.as_ref();
        let prompt_bytes = asked
            .and_then(|asked| asked.prompt.as_ref())
            .map_or(0, String::len);
        let usage = item.usage(self.settings.model(), prompt_bytes);
        self.out.push(match item.failure {
            Some(error) => ServerEvent::Failed {
                item_id: item.id,
                content_index: 0,
                error,
            },
            None => ServerEvent::Completed {
                item_id: item.id,
                content_index: 0,
                transcript: item.text,
                usage,
                logprobs: self.settings.logprobs.then_some(item.logprobs),
                languages: item
                    .language
                    .into_iter()
                    .map(|code| LanguageCode { code })
                    .collect(),
            },
        });
    }
}

fn send_delta(
    item: &mut Item,
    delta: Option<(String, Vec<Logprob>)>,
    wants_logprobs: bool,
    out: &mut Vec<ServerEvent>,
) {
    let Some((delta, logprobs)) = delta else {
        return;
    };
    if wants_logprobs {
        item.logprobs.extend(logprobs.iter().cloned());
    }
    out.push(ServerEvent::Delta {
        item_id: item.id.clone(),
        content_index: 0,
        delta,
        logprobs: wants_logprobs.then_some(logprobs),
    });
}
