//! What Symphonia leaves out of MP4 headers: where the sound starts and ends inside the samples. For uncompressed
//! sound see [`super::mp4_pcm`].
//!
//! Encoders put a frame or two of priming before the sound and padding behind it. The edit list says how much
//! (ISO 14496-12, 8.6.6), or a tag that iTunes writes.

use std::io::{Read, Seek, SeekFrom};

use super::source::Region;

/// Most boxes looked at, on all levels together.
const MAX_BOXES: usize = 100_000;

/// Deepest nesting followed: the deepest box read here, `moov/trak/mdia/minf/stbl/…`, lies on level six.
const MAX_DEPTH: usize = 16;

/// Longest `iTunSMPB` text read, in bytes; Apple writes 121.
const MAX_TAG_BYTES: u64 = 512;

/// What is to be heard of one track, in ticks of its own clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Edit {
    pub(super) track_id: u32,
    /// Ticks a second.
    pub(super) timescale: u32,
    /// Ticks before the sound.
    pub(super) start: u64,
    /// Ticks of sound.
    pub(super) duration: Option<u64>,
}

/// Reads what the index says of all tracks; whatever makes no sense is left out.
pub(super) fn read_movie(region: &mut Region, len: u64) -> Movie {
    let mut reader = BoxReader::new(region);
    let mut movie = Movie::default();
    let _ = reader.walk(0, len, &mut |reader, kind, start, end| {
        if kind == *b"moov" {
            reader.movie(start, end, &mut movie)?;
            return None;
        }
        Some(())
    });
    movie
}

/// Where the last box on the top level ends by its own word: beyond `len` when the file was cut off.
pub(super) fn declared_end(region: &mut Region, len: u64) -> u64 {
    let mut reader = BoxReader::new(region);
    let mut at = 0_u64;
    for _ in 0..MAX_BOXES {
        if at >= len {
            break;
        }
        let size = match reader.number(at) {
            Some(1) => reader.bytes::<8>(at + 8).map(u64::from_be_bytes),
            Some(0) | None => None, // to the end of the file
            Some(size) => Some(u64::from(size)),
        };
        match size
            .filter(|size| *size >= 8)
            .and_then(|size| at.checked_add(size))
        {
            Some(next) => at = next,
            None => return len,
        }
    }
    at.max(len)
}

/// The index of a file.
#[derive(Debug, Default)]
pub(super) struct Movie {
    timescale: u32,
    pub(super) tracks: Vec<MovieTrack>,
    /// Frames of priming, frames of padding, frames of sound, by iTunes.
    gapless: Option<(u64, u64, u64)>,
}

#[derive(Debug, Default, Clone, Copy)]
pub(super) struct MovieTrack {
    pub(super) id: u32,
    pub(super) timescale: u32,
    /// What it is: `soun`, `vide`.
    pub(super) handler: [u8; 4],
    /// Where the contents of these tables start: descriptions, samples a chunk, sizes, offsets of 32 and of 64
    /// bits.
    pub(super) stsd: Option<u64>,
    pub(super) stsc: Option<u64>,
    pub(super) stsz: Option<u64>,
    pub(super) stco: Option<u64>,
    pub(super) co64: Option<u64>,
    /// Ticks of the movie's clock, ticks of the track's.
    edit: Option<(u64, u64)>,
}

impl Movie {
    /// What is to be heard of each track.
    pub(super) fn edits(&self) -> Vec<Edit> {
        let with_clock = self.tracks.iter().filter(|track| track.timescale > 0);
        with_clock
            .filter_map(|track| {
                let (start, duration) = match (track.edit, self.gapless) {
                    // iTunes writes an edit list that says nothing beside its tag.
                    (None | Some((_, 0)), Some((start, _, frames))) if self.tracks.len() == 1 => {
                        (start, Some(frames).filter(|frames| *frames > 0))
                    }
                    (Some((duration, start)), _) => {
                        let ticks = u128::from(duration) * u128::from(track.timescale);
                        let ticks = ticks.checked_div(u128::from(self.timescale)).unwrap_or(0);
                        (start, u64::try_from(ticks).ok().filter(|ticks| *ticks > 0))
                    }
                    (None, _) => return None,
                };
                Some(Edit {
                    track_id: track.id,
                    timescale: track.timescale,
                    start,
                    duration,
                })
            })
            .collect()
    }
}

/// Reads boxes, some of them at most.
pub(super) struct BoxReader<'a> {
    region: &'a mut Region,
    boxes_left: usize,
    /// Levels around the boxes that are walked through.
    depth: usize,
}

pub(super) type Visit<'v> = &'v mut dyn FnMut(&mut BoxReader<'_>, [u8; 4], u64, u64) -> Option<()>;

impl<'a> BoxReader<'a> {
    pub(super) fn new(region: &'a mut Region) -> Self {
        Self {
            region,
            boxes_left: MAX_BOXES,
            depth: 0,
        }
    }

    /// Calls `visit` with type, start and end of the content of each box; `None` from it ends the walk. Boxes deeper
    /// than [`MAX_DEPTH`] are not looked at: `visit` may walk again, and the stack is finite.
    pub(super) fn walk(&mut self, at: u64, end: u64, visit: Visit<'_>) -> Option<()> {
        if self.depth == MAX_DEPTH {
            return None;
        }
        self.depth += 1;
        let walked = self.walk_level(at, end, visit);
        self.depth -= 1;
        walked
    }

    fn walk_level(&mut self, mut at: u64, end: u64, visit: Visit<'_>) -> Option<()> {
        while end.saturating_sub(at) >= 8 {
            self.boxes_left = self.boxes_left.checked_sub(1)?;
            let header = self.bytes::<8>(at)?;
            let kind = [header[4], header[5], header[6], header[7]];
            let (size, start) = match u32::from_be_bytes([header[0], header[1], header[2], header[3]]) {
                0 => (end - at, at + 8),
                1 => (u64::from_be_bytes(self.bytes(at + 8)?), at + 16),
                size => (u64::from(size), at + 8),
            };
            let next = at.checked_add(size)?;
            if next < start {
                return None;
            }
            visit(self, kind, start, next.min(end))?;
            at = next;
        }
        Some(())
    }

    fn movie(&mut self, start: u64, end: u64, movie: &mut Movie) -> Option<()> {
        self.walk(start, end, &mut |reader, kind, start, end| {
            match &kind {
                b"mvhd" => movie.timescale = reader.timescale(start).unwrap_or(0),
                b"trak" => {
                    let mut track = MovieTrack::default();
                    let _ = reader.track(start, end, &mut track);
                    movie.tracks.push(track);
                }
                b"udta" => {
                    let _ = reader.tags(start, end, movie);
                }
                _ => {}
            }
            Some(())
        })
    }

    fn track(&mut self, start: u64, end: u64, track: &mut MovieTrack) -> Option<()> {
        self.walk(start, end, &mut |reader, kind, start, end| {
            match &kind {
                b"tkhd" => {
                    let wide = reader.bytes::<1>(start)?[0] == 1;
                    track.id = reader.number(start + if wide { 20 } else { 12 })?;
                }
                b"edts" | b"mdia" | b"minf" | b"stbl" => {
                    let _ = reader.track(start, end, track);
                }
                b"mdhd" => track.timescale = reader.timescale(start).unwrap_or(0),
                b"elst" => track.edit = reader.edit_list(start),
                b"hdlr" if track.handler == [0; 4] => {
                    track.handler = reader.bytes(start + 8).unwrap_or_default();
                }
                b"stsd" => track.stsd = Some(start),
                b"stsc" => track.stsc = Some(start),
                b"stsz" => track.stsz = Some(start),
                b"stco" => track.stco = Some(start),
                b"co64" => track.co64 = Some(start),
                _ => {}
            }
            Some(())
        })
    }

    /// Of `mvhd` and `mdhd`: behind two times, of 32 or 64 bits each.
    fn timescale(&mut self, start: u64) -> Option<u32> {
        let wide = self.bytes::<1>(start)?[0] == 1;
        self.number(start + if wide { 20 } else { 12 })
    }

    /// Duration and start of the one edit that plays something. Several such edits cut the recording into pieces,
    /// which is not followed: all of it is decoded.
    fn edit_list(&mut self, start: u64) -> Option<(u64, u64)> {
        let wide = self.bytes::<1>(start)?[0] == 1;
        let entries = self.number(start + 4)?;
        let mut found = None;
        for entry in 0..u64::from(entries.min(16)) {
            let (duration, time) = if wide {
                let at = start + 8 + entry * 20;
                (
                    u64::from_be_bytes(self.bytes(at)?),
                    i64::from_be_bytes(self.bytes(at + 8)?),
                )
            } else {
                let at = start + 8 + entry * 12;
                (
                    u64::from(self.number(at)?),
                    i64::from(self.number(at + 4)? as i32),
                )
            };
            // A negative time is a pause before the sound.
            if let Ok(time) = u64::try_from(time)
                && found.replace((duration, time)).is_some()
            {
                return None;
            }
        }
        found
    }

    /// Finds `iTunSMPB` among the user data.
    fn tags(&mut self, start: u64, end: u64, movie: &mut Movie) -> Option<()> {
        self.walk(start, end, &mut |reader, kind, start, end| {
            match &kind {
                // A box with version and flags before its children.
                b"meta" => {
                    let _ = reader.tags(start + 4, end, movie);
                }
                b"ilst" => {
                    let _ = reader.tags(start, end, movie);
                }
                b"----" => {
                    let text = reader.text(start, end);
                    if let Some(found) = text.as_deref().and_then(parse_gapless) {
                        movie.gapless = Some(found);
                    }
                }
                _ => {}
            }
            Some(())
        })
    }

    /// Text of a free-form tag whose name is `iTunSMPB`.
    fn text(&mut self, start: u64, end: u64) -> Option<String> {
        let mut named = false;
        let mut text = None;
        self.walk(start, end, &mut |reader, kind, start, end| {
            let length = end.saturating_sub(start).min(MAX_TAG_BYTES);
            let mut bytes = vec![0; length as usize];
            reader.fill(start, &mut bytes)?;
            match &kind {
                b"name" => named = bytes.get(4..) == Some(b"iTunSMPB"),
                b"data" => text = String::from_utf8(bytes.get(8..)?.to_vec()).ok(),
                _ => {}
            }
            Some(())
        })?;
        text.filter(|_| named)
    }

    pub(super) fn number(&mut self, at: u64) -> Option<u32> {
        self.bytes(at).map(u32::from_be_bytes)
    }

    pub(super) fn bytes<const N: usize>(&mut self, at: u64) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        self.fill(at, &mut bytes)?;
        Some(bytes)
    }

    pub(super) fn fill(&mut self, at: u64, bytes: &mut [u8]) -> Option<()> {
        self.region.seek(SeekFrom::Start(at)).ok()?;
        self.region.read_exact(bytes).ok()
    }
}

/// Hexadecimal numbers: zero, priming, padding, frames of sound, and more that does not matter.
fn parse_gapless(text: &str) -> Option<(u64, u64, u64)> {
    let mut numbers = text
        .split_whitespace()
        .skip(1)
        .map(|word| u64::from_str_radix(word, 16).ok());
    Some((numbers.next()??, numbers.next()??, numbers.next()??))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::source::Meter;
    use super::super::upload::UploadedAudio;
    use super::*;

    /// `depth` boxes of eight bytes, each the only child of the one before.
    fn nested(kind: [u8; 4], depth: u32) -> Vec<u8> {
        (0..depth)
            .rev()
            .flat_map(|inner| [(8 * (inner + 1)).to_be_bytes(), kind].concat())
            .collect()
    }

    fn boxed(kind: [u8; 4], content: &[u8]) -> Vec<u8> {
        [&(content.len() as u32 + 8).to_be_bytes()[..], &kind, content].concat()
    }

    #[test]
    fn boxes_nested_beyond_all_measure_are_not_followed() {
        // 240 KB: without a limit each level takes a few hundred bytes of a stack of 2 MiB.
        for (outer, inner) in [(*b"trak", *b"mdia"), (*b"trak", *b"stbl"), (*b"udta", *b"ilst")] {
            let index = boxed(*b"moov", &boxed(outer, &nested(inner, 30_000)));
            let len = index.len() as u64;
            let upload = UploadedAudio::from_bytes(&index, None).unwrap();
            let meter = Arc::new(Meter::default());
            meter.allow(u64::MAX);
            let mut region = Region::new(upload, 0, len, meter);
            let movie = read_movie(&mut region, len);
            assert_eq!(movie.tracks.len(), usize::from(&outer == b"trak"));
        }
    }

    #[test]
    fn itunes_text_is_priming_padding_and_frames() {
        let text = " 00000000 00000840 000001CA 00000000003F31F6 00000000 00000000";
        assert_eq!(parse_gapless(text), Some((0x840, 0x1ca, 0x3f_31f6)));
        assert_eq!(parse_gapless("nothing"), None);
    }
}
