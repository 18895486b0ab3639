//! Matroska and WebM (RFC 9559), read from front to back.
//!
//! Nothing is believed but what stands next: neither the sizes of segments and clusters nor any index. So a file
//! that was cut off gives what is there, and behind damage reading goes on with the next block that is followed
//! by others. Symphonia's reader refuses the one and ends at the other.

use std::collections::VecDeque;
use std::io;

use symphonia::core::codecs::CodecParameters;
use symphonia::core::codecs::audio::AudioCodecParameters;
use symphonia::core::codecs::video::VideoCodecParameters;
use symphonia::core::errors::{Error as SymphoniaError, Result as SymphoniaResult};
use symphonia::core::formats::Track;
use symphonia::core::packet::Packet;
use symphonia::core::units::{Duration, TimeBase, Timestamp};

use super::AudioError;
use super::blocks::{corrupt, pcm_frame_bytes};
use super::ebml::{EbmlFile, Element, children, float, signed, unsigned};
use super::lacing::{block_head, laces};
use super::matroska_tracks::TrackEntry;
use super::mp4::Edit;
use super::source::Region;

/// Delays and paddings are counted in nanoseconds, whatever the blocks' clock.
const NANOSECONDS: u32 = 1_000_000_000;

/// Nanoseconds of a tick where the file does not say them.
const DEFAULT_TICK_NS: u64 = 1_000_000;

/// Bytes of the longest description of a track; it may hold a codec's tables.
const MAX_TRACK_BYTES: u64 = 8 << 20;

/// Bytes of the longest block of sound: twenty seconds of stereo in 48,000 Hz.
const MAX_BLOCK_BYTES: u64 = 8 << 20;

/// Frames of uncompressed sound that are decoded at once.
const PCM_FRAMES: usize = 4096;

/// Elements that must follow one another before reading goes on behind damage.
const CONFIRMING_ELEMENTS: usize = 3;

/// Bytes of an element that is skipped without a look at what follows it.
const MAX_UNCHECKED_BYTES: u64 = 4 << 10;

/// Places looked at more closely behind damage, before the caller may look at the clock.
const MAX_TRIES: usize = 20_000;

mod id {
    pub(super) const EBML: u32 = 0x1a45_dfa3;
    pub(super) const SEGMENT: u32 = 0x1853_8067;
    pub(super) const INFO: u32 = 0x1549_a966;
    pub(super) const TRACKS: u32 = 0x1654_ae6b;
    pub(super) const TRACK_ENTRY: u32 = 0xae;
    pub(super) const CLUSTER: u32 = 0x1f43_b675;
    pub(super) const TIMESTAMP: u32 = 0xe7;
    pub(super) const SIMPLE_BLOCK: u32 = 0xa3;
    pub(super) const BLOCK_GROUP: u32 = 0xa0;
    pub(super) const BLOCK: u32 = 0xa1;
    pub(super) const DISCARD_PADDING: u32 = 0x75a2;

    /// What else may stand where those stand: children of segments, of their descriptions, of clusters and of
    /// groups of blocks.
    pub(super) const OTHERS: [u32; 32] = [
        0xec,
        0xbf,
        0x114d_9b74,
        0x1c53_bb6b,
        0x1043_a770,
        0x1254_c367,
        0x1941_a469,
        0x73a4,
        0x7384,
        0x3c_b923,
        0x3c_83ab,
        0x3e_b923,
        0x3e_83bb,
        0x4444,
        0x6924,
        0x2a_d7b1,
        0x4489,
        0x4461,
        0x7ba9,
        0x4d80,
        0x5741,
        0xa7,
        0xab,
        0x5854,
        0xaf,
        0x9b,
        0xfa,
        0xfb,
        0xa4,
        0x75a1,
        0x8e,
        0xfd,
    ];

    pub(super) fn is_known(id: u32) -> bool {
        matches!(
            id,
            EBML | SEGMENT | INFO | TRACKS | TRACK_ENTRY | CLUSTER | TIMESTAMP | SIMPLE_BLOCK
        ) || matches!(id, BLOCK_GROUP | BLOCK | DISCARD_PADDING)
            || OTHERS.contains(&id)
    }
}

/// Reads one track of a Matroska file.
#[derive(Debug)]
pub(super) struct MatroskaReader {
    file: EbmlFile,
    /// Where the next element starts.
    at: u64,
    tracks: Vec<TrackEntry>,
    /// Tracks kept at most.
    max_tracks: usize,
    tick_ns: u64,
    /// Of the whole recording, by its own word.
    duration_ticks: Option<f64>,
    /// Index of the track that packets are given of.
    chosen: usize,
    ready: VecDeque<Packet>,
    /// Where the group ends whose block was read last: until there its padding may still be named.
    group_end: u64,
    /// Whether `at` is where reading failed.
    out_of_sync: bool,
}

impl MatroskaReader {
    /// Reads up to the first cluster.
    ///
    /// # Errors
    ///
    /// [`AudioError::Corrupt`] when no track is described; [`AudioError::Io`].
    pub(super) fn open(
        region: Region,
        len: u64,
        container: &str,
        max_tracks: usize,
    ) -> Result<Self, AudioError> {
        let mut reader = Self {
            file: EbmlFile::new(region, len),
            at: 0,
            tracks: Vec::new(),
            max_tracks: max_tracks.saturating_add(1),
            tick_ns: DEFAULT_TICK_NS,
            duration_ticks: None,
            chosen: 0,
            ready: VecDeque::new(),
            group_end: 0,
            out_of_sync: false,
        };
        let mut first_cluster = None;
        loop {
            let element = reader.file.element(reader.at)?;
            if let Some(cluster) = element.filter(|element| element.id == id::CLUSTER) {
                first_cluster.get_or_insert(reader.at);
                if !reader.tracks.is_empty() {
                    break;
                }
                // Some writers put the tracks behind the sound.
                reader.at = cluster.end.unwrap_or(cluster.content);
            } else {
                match reader.step() {
                    Ok(true) | Err(SymphoniaError::DecodeError(_)) => {}
                    Ok(false) => break,
                    Err(SymphoniaError::IoError(error)) => return Err(error.into()),
                    Err(error) => return Err(corrupt(container, &error.to_string())),
                }
            }
        }
        if reader.tracks.is_empty() {
            return Err(corrupt(container, "it describes no tracks"));
        }
        reader.at = first_cluster.unwrap_or(reader.at);
        reader.out_of_sync = false;
        reader.ready.clear();
        Ok(reader)
    }

    /// The tracks; each is called by its index.
    pub(super) fn tracks(&self) -> Vec<Track> {
        let ticks = self.duration_ticks.unwrap_or(0.0) * self.tick_ns as f64;
        let describe = |(index, entry): (usize, &TrackEntry)| {
            let mut track = Track::new(index as u32);
            track.with_codec_params(match &entry.audio {
                Some(params) => CodecParameters::Audio(params.clone()),
                None => CodecParameters::Video(VideoCodecParameters::default()),
            });
            if let Some(base) = TimeBase::try_from_recip(NANOSECONDS) {
                track.with_time_base(base);
            }
            track.with_duration(Duration::new(ticks as u64));
            track
        };
        self.tracks.iter().enumerate().map(describe).collect()
    }

    /// The silence before each track's sound, where the file names it.
    pub(super) fn edits(&self) -> Vec<Edit> {
        let tracks = self.tracks.iter().enumerate();
        tracks
            // Opus says it in its own header too, where writers get it right more often.
            .filter(|(_, entry)| entry.delay_ns > 0 && !entry.is_opus())
            .map(|(index, entry)| Edit {
                track_id: index as u32,
                timescale: NANOSECONDS,
                start: entry.delay_ns,
                duration: None,
            })
            .collect()
    }

    /// What the file calls the codec of its first sound.
    pub(super) fn codec_name(&self) -> Option<&str> {
        let entry = self.tracks.iter().find(|entry| entry.audio.is_some())?;
        Some(&entry.codec_name)
    }

    /// Gives packets of this track from now on.
    pub(super) fn choose(&mut self, track: u32) {
        self.chosen = track as usize;
    }

    /// The next packet; `None` at the end.
    ///
    /// # Errors
    ///
    /// A decode error where something was left out, after which the next packet may be good; an input error.
    pub(super) fn next_packet(&mut self) -> SymphoniaResult<Option<Packet>> {
        loop {
            if (self.at >= self.group_end || self.out_of_sync)
                && let Some(packet) = self.ready.pop_front()
            {
                return Ok(Some(packet));
            }
            if !self.step()? {
                self.group_end = 0;
                return Ok(self.ready.pop_front());
            }
        }
    }

    /// Takes one element, descending into those that hold others; false at the end of the file.
    fn step(&mut self) -> SymphoniaResult<bool> {
        if self.out_of_sync {
            return self.resync();
        }
        if self.at >= self.file.len() {
            return Ok(false);
        }
        let element = self.file.element(self.at)?;
        let Some(element) = element.filter(|element| id::is_known(element.id)) else {
            return self.take_unknown(element);
        };
        match (element.id, element.end) {
            (id::SEGMENT | id::CLUSTER | id::TRACKS, _) | (id::INFO | id::BLOCK_GROUP, None) => {
                self.at = element.content;
                return Ok(true);
            }
            (_, None) => return self.lose_sync(),
            (_, Some(end)) if end > self.file.len() => return self.lose_sync(),
            (id::SIMPLE_BLOCK | id::BLOCK, Some(_)) if !self.is_block(element.content)? => {
                return self.lose_sync();
            }
            (_, Some(end)) if end - element.content > MAX_UNCHECKED_BYTES && !self.is_in_sync(end)? => {
                return self.lose_sync();
            }
            (id::BLOCK_GROUP, Some(end)) => {
                self.group_end = end;
                self.at = element.content;
            }
            (kind, Some(end)) => {
                self.at = end;
                self.take(kind, element.content, end)?;
            }
        }
        Ok(true)
    }

    /// An element that Matroska does not know is skipped if those that it knows follow.
    fn take_unknown(&mut self, element: Option<Element>) -> SymphoniaResult<bool> {
        match element.and_then(|element| element.end) {
            Some(end) if self.is_in_sync(end)? => {
                self.at = end;
                Ok(true)
            }
            _ => self.lose_sync(),
        }
    }

    /// Takes in an element that lies within the file.
    fn take(&mut self, kind: u32, start: u64, end: u64) -> SymphoniaResult<()> {
        match kind {
            id::INFO if end - start <= MAX_TRACK_BYTES => {
                for (id, content) in children(&self.file.read(start, end)?) {
                    match id {
                        0x2a_d7b1 => {
                            self.tick_ns = unsigned(content).filter(|ns| *ns > 0).unwrap_or(DEFAULT_TICK_NS);
                        }
                        0x4489 => self.duration_ticks = float(content).filter(|ticks| *ticks >= 0.0),
                        _ => {}
                    }
                }
            }
            id::TRACK_ENTRY if end - start <= MAX_TRACK_BYTES && self.tracks.len() < self.max_tracks => {
                let entry = TrackEntry::read(&self.file.read(start, end)?);
                // Files put together of several describe their tracks again.
                if self.tracks.iter().all(|known| known.number != entry.number) {
                    self.tracks.push(entry);
                }
            }
            id::SIMPLE_BLOCK => {
                self.group_end = 0;
                self.take_block(start, end)?;
            }
            id::BLOCK => {
                if !self.ready.is_empty() {
                    self.group_end = 0;
                }
                self.take_block(start, end)?;
            }
            id::DISCARD_PADDING if self.group_end >= end => {
                let padding = signed(&self.file.read(start, end)?);
                if let (Some(padding), Some(packet)) = (padding, self.ready.back_mut()) {
                    let trim = Duration::new(padding.unsigned_abs());
                    if padding < 0 {
                        packet.trim_start = trim;
                    } else {
                        packet.trim_end = trim;
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Queues the frames of a block, if it is of the chosen track.
    fn take_block(&mut self, start: u64, end: u64) -> SymphoniaResult<()> {
        let Some(entry) = self.tracks.get(self.chosen) else {
            return Ok(());
        };
        let Some(head) = block_head(self.file.peek(start, 12)?) else {
            return Ok(());
        };
        if head.track != entry.number {
            return Ok(());
        }
        if end - start > MAX_BLOCK_BYTES {
            return Err(SymphoniaError::DecodeError("a block of absurd size"));
        }
        let block = self.file.read(start, end)?;
        let frames = block.get(head.bytes..).and_then(|body| laces(body, head.lacing));
        let Some(frames) = frames else {
            return Err(SymphoniaError::DecodeError(
                "a block that cannot be divided into frames",
            ));
        };
        let piece_bytes = entry.audio.as_ref().and_then(pcm_piece_bytes);
        for frame in frames {
            let frame = if entry.stripped.is_empty() {
                frame.to_vec()
            } else {
                [&entry.stripped[..], frame].concat()
            };
            for piece in frame.chunks(piece_bytes.unwrap_or(usize::MAX)) {
                let packet = Packet::new(self.chosen as u32, Timestamp::new(0), Duration::ZERO, piece);
                self.ready.push_back(packet);
            }
        }
        Ok(())
    }

    fn lose_sync(&mut self) -> SymphoniaResult<bool> {
        self.out_of_sync = true;
        self.group_end = 0;
        self.at += 1;
        self.resync()
    }

    /// Goes on where elements follow one another again.
    fn resync(&mut self) -> SymphoniaResult<bool> {
        for _ in 0..MAX_TRIES {
            let is_start = |byte: &u8| matches!(byte, 0xa3 | 0xa0 | 0x1f | 0x1a | 0x18 | 0x16);
            let buffer = self.file.peek_buffer(self.at)?;
            let count = buffer.len();
            match buffer.iter().position(is_start) {
                Some(skip) => {
                    self.at += skip as u64;
                    if self.is_in_sync(self.at)? {
                        self.out_of_sync = false;
                        return Err(SymphoniaError::DecodeError("a part of the file is damaged"));
                    }
                    self.at += 1;
                }
                None if count == 0 => {
                    self.out_of_sync = false;
                    return Err(SymphoniaError::DecodeError("the file ends in the middle"));
                }
                None => self.at += count as u64,
            }
        }
        Err(SymphoniaError::DecodeError("a large part of the file is damaged"))
    }

    /// Whether the elements from `at` on make sense.
    fn is_in_sync(&mut self, mut at: u64) -> io::Result<bool> {
        for seen in 0..CONFIRMING_ELEMENTS {
            if at == self.file.len() {
                return Ok(true);
            }
            let Some(element) = self.file.peek_element(at)? else {
                return Ok(false);
            };
            let bytes = element.end.map(|end| end - element.content);
            let sound = match element.id {
                id::EBML | id::SEGMENT | id::TRACKS | id::CLUSTER => true,
                id::TIMESTAMP => bytes.is_some_and(|bytes| bytes <= 8),
                id::SIMPLE_BLOCK | id::BLOCK => {
                    bytes.is_some_and(|bytes| bytes > 4) && self.is_block(element.content)?
                }
                id::BLOCK_GROUP => self
                    .file
                    .peek_element(element.content)?
                    .is_some_and(|first| matches!(first.id, id::BLOCK | 0x9b | 0xfb | 0xfa)),
                kind => id::is_known(kind) && bytes.is_some(),
            };
            let inside = matches!(
                element.id,
                id::SEGMENT | id::TRACKS | id::CLUSTER | id::BLOCK_GROUP
            );
            at = match element.end {
                Some(end) if !inside => end,
                _ => element.content,
            };
            if !sound {
                return Ok(false);
            }
            if at > self.file.len() {
                // The last element of a file that was cut off; alone it says nothing.
                return Ok(seen > 0);
            }
        }
        Ok(true)
    }

    fn is_block(&mut self, start: u64) -> io::Result<bool> {
        let (bytes, count) = self.file.peek_apart::<12>(start)?;
        let head = block_head(&bytes[..count]);
        Ok(head.is_some_and(|head| self.tracks.iter().any(|entry| entry.number == head.track)))
    }
}

/// Bytes of uncompressed sound that become one packet.
fn pcm_piece_bytes(params: &AudioCodecParameters) -> Option<usize> {
    Some(pcm_frame_bytes(params)? as usize * PCM_FRAMES)
}
