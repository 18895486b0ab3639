//! The sound in MPEG program streams (`.mpg`, DVD) and transport streams (`.ts`, `.mts`): cut out, it is a
//! plain stream of MPEG audio or ADTS frames.

use std::io::{self, BufReader, Read, Seek, SeekFrom};

use symphonia::core::io::MediaSource;

use super::AudioError;
use super::source::Region;

/// Bytes looked at to find the first sound.
const SEARCH_BYTES: u64 = 8 << 20;

/// Bytes of a transport packet (ISO 13818-1, 2.4.3.2), with the time code that cameras put before it, and
/// with the check bytes that broadcasters put behind it.
const PACKET_BYTES: [(usize, usize); 3] = [(0, 188), (4, 192), (0, 204)];

/// Packets whose first bytes must agree before a transport stream is believed.
const CONFIRMING_PACKETS: usize = 4;

/// What the sound is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Elementary {
    Mpeg,
    Adts,
}

/// Reads the payload of the first sound track, one packet behind the other. Cannot be sought in.
#[derive(Debug)]
pub(super) struct ElementaryStream {
    file: BufReader<Region>,
    kind: StreamKind,
    /// Payload that has been cut out and waits.
    ready: Vec<u8>,
    position: usize,
}

#[derive(Debug)]
enum StreamKind {
    Program {
        /// Its number, once one was met.
        stream: Option<u8>,
        /// The number of a private stream that was met instead.
        private: bool,
    },
    Transport(Transport),
}

#[derive(Debug)]
struct Transport {
    /// Bytes before the sync byte, and bytes in all.
    shape: (usize, usize),
    /// Packet number of the table that lists the tracks.
    table: Option<u16>,
    /// Packet number of the sound, and its type in that table.
    sound: Option<(u16, u8)>,
    /// Type of a track that is sound this server does not read.
    other: Option<u8>,
    /// Whether the table has been read.
    listed: bool,
}

/// Where the packets of a transport stream start and how long they are; `None` when `head` is none.
pub(super) fn transport_shape(head: &[u8]) -> Option<(usize, usize)> {
    PACKET_BYTES.into_iter().find(|(before, bytes)| {
        (0..CONFIRMING_PACKETS).all(|packet| head.get(before + packet * bytes) == Some(&0x47))
    })
}

impl ElementaryStream {
    /// A program stream.
    pub(super) fn program(region: Region) -> Self {
        Self::new(
            region,
            StreamKind::Program {
                stream: None,
                private: false,
            },
        )
    }

    /// A transport stream with packets of this shape.
    pub(super) fn transport(region: Region, shape: (usize, usize)) -> Self {
        let transport = Transport {
            shape,
            table: None,
            sound: None,
            other: None,
            listed: false,
        };
        Self::new(region, StreamKind::Transport(transport))
    }

    fn new(mut region: Region, kind: StreamKind) -> Self {
        region.rewind();
        Self {
            file: BufReader::with_capacity(32 << 10, region),
            kind,
            ready: Vec::new(),
            position: 0,
        }
    }

    /// Reads up to the first sound and says what it is.
    ///
    /// # Errors
    ///
    /// [`AudioError::NoAudioTrack`], [`AudioError::UnsupportedCodec`], [`AudioError::Io`].
    pub(super) fn find(&mut self, container: &'static str) -> Result<Elementary, AudioError> {
        let found = self.fill_from(SEARCH_BYTES)?;
        let unsupported = |codec: &str| AudioError::UnsupportedCodec {
            container: container.to_owned(),
            codec: codec.to_owned(),
        };
        match &self.kind {
            StreamKind::Program { .. } if found => Ok(Elementary::Mpeg),
            // Private streams are AC-3, DTS, LPCM, or subtitles.
            StreamKind::Program { private: true, .. } => Err(unsupported("ac3, dts or lpcm")),
            StreamKind::Transport(Transport {
                sound: Some((_, kind)),
                ..
            }) if found => Ok(if *kind == 0x0f {
                Elementary::Adts
            } else {
                Elementary::Mpeg
            }),
            StreamKind::Transport(Transport {
                other: Some(kind), ..
            }) => Err(unsupported(match kind {
                0x11 | 0x1c => "aac in latm",
                0x81 | 0x87 | 0x06 => "ac3",
                0x82 | 0x85 | 0x8a => "dts",
                _ => "unknown",
            })),
            _ => Err(AudioError::NoAudioTrack {
                container: container.to_owned(),
            }),
        }
    }

    /// Fills `ready` unless the stream ends or `limit` bytes pass without sound.
    fn fill_from(&mut self, limit: u64) -> io::Result<bool> {
        let start = self.file.stream_position()?;
        self.ready.clear();
        self.position = 0;
        while self.ready.is_empty() {
            let more = match &mut self.kind {
                StreamKind::Program { stream, private } => {
                    next_pack(&mut self.file, &mut self.ready, stream, private)
                }
                StreamKind::Transport(transport) => transport.next_packet(&mut self.file, &mut self.ready),
            };
            match more {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
                Err(error) => return Err(error),
            }
            if self.file.stream_position()?.saturating_sub(start) > limit {
                break;
            }
        }
        Ok(!self.ready.is_empty())
    }
}

impl Read for ElementaryStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.position == self.ready.len() && !self.fill_from(u64::MAX)? {
            return Ok(0);
        }
        let count = buffer.len().min(self.ready.len() - self.position);
        buffer[..count].copy_from_slice(&self.ready[self.position..self.position + count]);
        self.position += count;
        Ok(count)
    }
}

impl Seek for ElementaryStream {
    fn seek(&mut self, _: SeekFrom) -> io::Result<u64> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl MediaSource for ElementaryStream {
    fn is_seekable(&self) -> bool {
        false
    }

    fn byte_len(&self) -> Option<u64> {
        None
    }
}

/// Reads on to the next start code of a program stream and past what it starts (ISO 13818-1, 2.5.3).
fn next_pack(
    file: &mut BufReader<Region>,
    ready: &mut Vec<u8>,
    stream: &mut Option<u8>,
    private: &mut bool,
) -> io::Result<()> {
    let mut window = u32::MAX;
    while window & 0xffff_ff00 != 0x100 {
        window = window << 8 | u32::from(bytes::<1>(file)?[0]);
    }
    match (window & 0xff) as u8 {
        // A pack: MPEG-2 marks itself with 01 and ends in stuffing, MPEG-1 with 0010.
        0xba => {
            let first = bytes::<1>(file)?[0];
            if first >> 6 == 1 {
                let rest: [u8; 9] = bytes(file)?;
                skip(file, u64::from(rest[8] & 7))
            } else {
                skip(file, 7)
            }
        }
        code @ 0xbb..=0xff => {
            let length = u16::from_be_bytes(bytes(file)?);
            *private |= code == 0xbd;
            if (0xc0..=0xdf).contains(&code) && *stream.get_or_insert(code) == code {
                let mut packet = vec![0; usize::from(length)];
                file.read_exact(&mut packet)?;
                ready.extend_from_slice(packet.get(header_bytes(&packet)..).unwrap_or_default());
                Ok(())
            } else {
                skip(file, u64::from(length))
            }
        }
        _ => Ok(()),
    }
}

/// Bytes before the payload of a PES packet, counted from behind its length (ISO 13818-1, 2.4.3.6; for MPEG-1
/// ISO 11172-1, 2.4.3.3).
fn header_bytes(packet: &[u8]) -> usize {
    let at = |index: usize| packet.get(index).copied().unwrap_or(0);
    if at(0) >> 6 == 2 {
        return 3 + usize::from(at(2));
    }
    let mut start = 0;
    while at(start) == 0xff && start < 16 {
        start += 1;
    }
    if at(start) >> 6 == 1 {
        start += 2;
    }
    start
        + match at(start) >> 4 {
            2 => 5,
            3 => 10,
            _ => 1,
        }
}

impl Transport {
    /// Reads one packet; keeps its payload if it is the sound's.
    fn next_packet(&mut self, file: &mut BufReader<Region>, ready: &mut Vec<u8>) -> io::Result<()> {
        let (before, size) = self.shape;
        let mut packet = vec![0; size];
        file.read_exact(&mut packet)?;
        if packet[before] != 0x47 {
            // Lost: on by a byte until packets line up again.
            return file.seek_relative(1 - size as i64);
        }
        let header = &packet[before..before + 188];
        let starts = header[1] & 0x40 != 0;
        let number = u16::from_be_bytes([header[1] & 0x1f, header[2]]);
        let payload = match header[3] >> 4 & 3 {
            1 => 4,
            3 => 5 + usize::from(header[4]),
            _ => return Ok(()),
        };
        let payload = header.get(payload..).unwrap_or_default();
        if number == 0 && self.table.is_none() && starts {
            self.table = first_program(payload);
        } else if Some(number) == self.table && !self.listed && starts {
            self.list_tracks(payload);
        } else if self.sound.is_some_and(|(sound, _)| sound == number) {
            let skip = if starts && payload.starts_with(&[0, 0, 1]) {
                6 + header_bytes(payload.get(6..).unwrap_or_default())
            } else {
                0
            };
            ready.extend_from_slice(payload.get(skip..).unwrap_or_default());
        }
        Ok(())
    }

    /// Picks the first sound from the table of tracks (ISO 13818-1, 2.4.4.8).
    fn list_tracks(&mut self, payload: &[u8]) {
        let Some(section) = section(payload) else { return };
        self.listed = true;
        let described = section.get(10..12).map_or(0, length12);
        let mut rest = section.get(12 + described..).unwrap_or_default();
        // Four bytes of checksum end the section.
        while let [kind, high, low, more_high, more_low, behind @ ..] = rest
            && behind.len() >= 4
        {
            let number = u16::from_be_bytes([high & 0x1f, *low]);
            match kind {
                0x03 | 0x04 | 0x0f if self.sound.is_none() => self.sound = Some((number, *kind)),
                0x06 | 0x11 | 0x1c | 0x81..=0x8a => self.other = self.other.or(Some(*kind)),
                _ => {}
            }
            rest = behind
                .get(length12(&[*more_high, *more_low])..)
                .unwrap_or_default();
        }
    }
}

/// The packet number of the first program's table (ISO 13818-1, 2.4.4.3).
fn first_program(payload: &[u8]) -> Option<u16> {
    let programs = section(payload)?.get(8..)?;
    // Program zero is the network's own table.
    let program = programs.chunks_exact(4).find(|entry| entry[..2] != [0, 0])?;
    Some(u16::from_be_bytes([program[2] & 0x1f, program[3]]))
}

/// A section that starts in this packet, behind its pointer.
fn section(payload: &[u8]) -> Option<&[u8]> {
    let start = 1 + usize::from(*payload.first()?);
    let section = payload.get(start..)?;
    let length = 3 + length12(section.get(1..3)?);
    section.get(..length.min(section.len()))
}

/// A length of twelve bits.
fn length12(bytes: &[u8]) -> usize {
    usize::from(u16::from_be_bytes([bytes[0] & 0xf, bytes[1]]))
}

fn bytes<const N: usize>(file: &mut BufReader<Region>) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn skip(file: &mut BufReader<Region>, count: u64) -> io::Result<()> {
    file.seek_relative(i64::try_from(count).unwrap_or(i64::MAX))?;
    // Past the end a seek succeeds; the next read says so.
    Ok(())
}
