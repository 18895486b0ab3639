//! Audio in: where turns begin and end, where pieces are cut, what may be forgotten.

use std::collections::VecDeque;
use std::time::Duration;

use super::super::events::ServerEvent;
use super::super::settings::{PREFIX_PADDING, TurnKind};
use super::super::turns::frames_in;
use super::items::{Item, Piece};
use super::{Session, milliseconds};
use crate::speech::{FRAME_SAMPLES, SAMPLE_RATE_HZ, quietest, sounds_like_a_tone};

const FRAME: u64 = FRAME_SAMPLES as u64;
/// Silence that ends a turn is never shorter: the detector's blocks are half as long.
const MIN_SILENCE: Duration = Duration::from_millis(96);
/// Kept after the last voice, for soft last consonants.
const TAIL_PADDING: Duration = Duration::from_millis(300);
/// A pause of this length inside a turn ends a piece whatever its length: silence makes the model invent.
const LONG_PAUSE: Duration = Duration::from_secs(1);
/// Audio without a voice that a client's commit may still want: a short word that the detector does not know.
const UNHEARD: u64 = 2 * SAMPLE_RATE_HZ as u64;
/// Level (−60 dBFS) above which such audio is worth a pass, as for short recordings.
const UNHEARD_RMS: f32 = 1e-3;
/// From this length on a piece is cut at a pause of that length: seconds, milliseconds. The longer a piece, the more each
/// look at it costs.
const CUTS: [(u64, u64); 3] = [(22, 48), (18, 96), (12, 192)];

impl Session {
    /// Samples at 16 kHz taken so far.
    pub(super) fn heard(&self) -> u64 {
        self.held_start + self.held.len() as u64
    }

    /// Samples judged so far.
    pub(super) fn judged(&self) -> u64 {
        self.tracker.now() * FRAME
    }

    pub(super) fn append(&mut self, bytes: &[u8]) {
        if self.draining {
            return;
        }
        let mut samples = Vec::new();
        self.intake.push(bytes, &mut samples);
        if samples.is_empty() {
            return;
        }
        if self.detection().is_none() && self.open_item().is_none() {
            self.open_new_item(self.heard());
        }
        let mut fresh = VecDeque::new();
        for block in samples.chunks(FRAME_SAMPLES * 3) {
            self.held.extend(block);
            self.voice.push(block, &mut fresh);
            while let Some(frame) = fresh.pop_front() {
                self.frames.push_back(frame);
                self.judge(frame.voice());
            }
        }
        self.forget();
    }

    fn judge(&mut self, voice: f32) {
        if let Some(start) = self.tracker.push(voice) {
            self.speech_began(start * FRAME);
        }
        let voiced_to = self.tracker.voiced_to().map(|frame| frame * FRAME);
        if self.tracker.speaking()
            && let Some(voiced_to) = voiced_to
            && let Some(piece) = self.open_piece_mut()
            && voiced_to > piece.voiced_to
        {
            piece.voiced_to = voiced_to;
            piece.voiced_frames += 1;
        }
        if !self.tracker.speaking() {
            self.check_idle();
            return;
        }
        let silence = self.tracker.silence();
        if self.detection().is_some() {
            if silence > 0 && self.turn_is_over(silence) {
                self.commit_turn();
                return;
            }
        } else if silence >= frames_in(LONG_PAUSE) {
            let end = self.tail_end();
            self.close_piece(end);
            self.tracker.end();
            return;
        }
        self.cut_if_long(silence);
    }

    fn speech_began(&mut self, start: u64) {
        let padding = self.padding();
        let start = start.saturating_sub(padding).max(self.floor).max(self.held_start);
        if self.detection().is_some() {
            self.open_new_item(start);
            if let Some(item) = self.items.back() {
                self.out.push(ServerEvent::SpeechStarted {
                    audio_start_ms: milliseconds(start),
                    item_id: item.id.clone(),
                });
            }
        }
        let number = self.number();
        if let Some(item) = self.open_item_mut() {
            item.pieces.push_back(Piece::new(number, start));
        }
    }

    /// Samples kept from before a voice.
    fn padding(&self) -> u64 {
        let padding = self
            .detection()
            .map_or(PREFIX_PADDING, |turns| turns.prefix_padding);
        frames_in(padding) * FRAME
    }

    fn turn_is_over(&self, silence: u64) -> bool {
        match self.detection().map(|turns| turns.kind) {
            Some(TurnKind::Silence { silence: wanted, .. }) => silence >= frames_in(wanted.max(MIN_SILENCE)),
            Some(TurnKind::Semantic { eagerness }) => {
                let (sentence, any) = eagerness.silences();
                silence >= frames_in(any)
                    || silence >= frames_in(sentence)
                        && self.open_piece().is_some_and(Piece::says_a_whole_sentence)
            }
            None => false,
        }
    }

    /// Where a piece ends whose speech has ended.
    fn tail_end(&self) -> u64 {
        let voiced_to = self
            .tracker
            .voiced_to()
            .map_or(self.judged(), |frame| frame * FRAME);
        (voiced_to + frames_in(TAIL_PADDING) * FRAME).min(self.judged())
    }

    /// The turn is over, by silence or by the client: it becomes an item of the conversation.
    pub(super) fn commit_turn(&mut self) {
        let speaking = self.tracker.speaking();
        if self.detection().is_some() {
            let end = if speaking { self.tail_end() } else { self.heard() };
            if speaking {
                self.close_piece(end);
                if let Some(item) = self.open_item() {
                    let item_id = item.id.clone();
                    self.out.push(ServerEvent::SpeechStopped {
                        audio_end_ms: milliseconds(self.judged()),
                        item_id,
                    });
                }
            } else if self.open_item().is_none() {
                let start = self.floor.max(self.held_start);
                self.open_new_item(start);
                if self.tracker.burst().is_some() {
                    self.add_closed_piece(start, end);
                }
            }
            self.commit_open_item(end);
            self.restart_buffer(end);
        } else {
            let end = self.heard();
            if speaking {
                self.close_piece(end);
            } else if let Some(start) = self.tracker.burst() {
                let start = (start * FRAME).saturating_sub(self.padding());
                self.add_closed_piece(start.max(self.floor).max(self.held_start), end);
            } else if self
                .open_item()
                .is_some_and(|item| item.pieces.is_empty() && end - item.start <= UNHEARD)
                && self.frames.iter().any(|frame| frame.rms() >= UNHEARD_RMS)
            {
                self.add_closed_piece(self.floor.max(self.held_start), end);
            }
            self.commit_open_item(end);
            self.restart_buffer(end);
        }
    }

    /// What comes from `floor` on is another turn's.
    pub(super) fn restart_buffer(&mut self, floor: u64) {
        self.tracker.end();
        self.floor = floor;
        self.idle_from = floor;
        self.floor_milliseconds = self.intake.milliseconds();
        self.forget();
    }

    fn add_closed_piece(&mut self, start: u64, end: u64) {
        let number = self.number();
        if let Some(item) = self.open_item_mut() {
            let mut piece = Piece::new(number, start);
            piece.voiced_to = end;
            piece.voiced_frames = (end - start) / FRAME;
            item.pieces.push_back(piece);
        }
        self.close_piece(end);
    }

    fn close_piece(&mut self, end: u64) {
        let (held_start, heard) = (self.held_start, self.heard());
        let Some(piece) = self.open_piece() else {
            return;
        };
        let local = |sample: u64| (sample.clamp(held_start, heard) - held_start) as usize;
        let range = local(piece.start)..local(end).max(local(piece.start));
        let in_frames = range.start / FRAME_SAMPLES..(range.end / FRAME_SAMPLES).min(self.frames.len());
        let is_tone = piece.agreement.is_open()
            && !in_frames.is_empty()
            && sounds_like_a_tone(self.frames.range(in_frames));
        let samples: Vec<f32> = self.held.range(range).copied().collect();
        let in_pause = self.tracker.voiced_to().is_none_or(|frame| frame * FRAME <= end);
        if let Some(piece) = self.open_piece_mut() {
            piece.samples = samples;
            piece.end = Some(end);
            piece.in_pause = in_pause;
            piece.voiced_to = piece.voiced_to.min(end);
            if is_tone {
                piece.voiced_frames = 0;
            }
        }
        self.abandon_what_is_in_vain();
        self.floor = self.floor.max(end);
    }

    fn cut_if_long(&mut self, silence: u64) {
        let max = frames_in(self.opening.speech.max_window) * FRAME;
        let now = self.judged();
        let Some(piece) = self.open_piece() else {
            return;
        };
        let length = now.saturating_sub(piece.start);
        let seconds = length / u64::from(SAMPLE_RATE_HZ);
        let pause = frames_in(LONG_PAUSE);
        let wanted = CUTS
            .iter()
            .find(|(from, _)| seconds >= *from)
            .map_or(pause, |(_, milliseconds)| {
                frames_in(Duration::from_millis(*milliseconds))
            });
        let cut = if silence >= wanted && piece.voiced_frames > 0 {
            piece.voiced_to + silence * FRAME / 2
        } else if length >= max {
            // Words that were sent are in this piece: the cut comes after them.
            let from = (piece.start + max * 2 / 3).max(piece.agreed_to);
            let local = |sample: u64| (sample.saturating_sub(self.held_start) / FRAME) as usize;
            let (from, to) = (local(from), local(now).min(self.frames.len()));
            self.held_start + quietest(&self.frames, from.min(to)..to) as u64 * FRAME
        } else {
            return;
        };
        let cut = cut.max(piece.agreed_to).clamp(piece.start + FRAME, now) / FRAME * FRAME;
        self.close_piece(cut);
        let voiced_to = self.tracker.voiced_to().map_or(cut, |frame| frame * FRAME);
        let number = self.number();
        let mut next = Piece::new(number, cut);
        if voiced_to > cut {
            next.voiced_to = voiced_to;
            next.voiced_frames = (voiced_to - cut) / FRAME;
        }
        if let Some(item) = self.open_item_mut() {
            item.pieces.push_back(next);
        }
        self.forget();
    }

    /// Nobody has spoken for as long as the client wanted to know of.
    fn check_idle(&mut self) {
        let Some(timeout) = self.detection().and_then(|turns| turns.idle_timeout) else {
            return;
        };
        let now = self.judged();
        if self.tracker.burst().is_some() || now.saturating_sub(self.idle_from) < frames_in(timeout) * FRAME {
            return;
        }
        let start = self.idle_from;
        self.open_new_item(start);
        if let Some(item) = self.items.back() {
            self.out.push(ServerEvent::TimeoutTriggered {
                audio_start_ms: milliseconds(start),
                audio_end_ms: milliseconds(now),
                item_id: item.id.clone(),
            });
        }
        self.commit_open_item(now);
        self.restart_buffer(now);
    }

    /// Lets go of audio that no piece can need any more.
    pub(super) fn forget(&mut self) {
        let now = self.judged();
        let kept_for_a_burst = |start: u64| (start * FRAME).saturating_sub(self.padding());
        let from = if let Some(piece) = self.open_piece() {
            piece.start
        } else if let Some(start) = self.tracker.burst() {
            kept_for_a_burst(start)
        } else if self.detection().is_none() {
            now.saturating_sub(UNHEARD + self.padding())
        } else {
            // A voice may have begun to rise up to 300 ms ago without being called one yet.
            now.saturating_sub(self.padding() + frames_in(TAIL_PADDING) * FRAME)
        };
        let from = from.max(self.floor).min(now);
        let frames = (from.saturating_sub(self.held_start) / FRAME) as usize;
        let frames = frames.min(self.frames.len());
        self.frames.drain(..frames);
        self.held.drain(..frames * FRAME_SAMPLES);
        self.held_start += (frames * FRAME_SAMPLES) as u64;
    }

    fn open_piece(&self) -> Option<&Piece> {
        self.open_item().and_then(Item::open_piece)
    }

    fn open_piece_mut(&mut self) -> Option<&mut Piece> {
        self.open_item_mut().and_then(Item::open_piece_mut)
    }

    pub(super) fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }
}
