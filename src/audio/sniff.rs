//! What a file is, from its bytes; its name decides only where they do not.

use super::upload::UploadedAudio;
use super::{AudioError, mpeg};

/// How far into the file a signature is searched for when none stands at its start.
const SEARCH_BYTES: usize = 1 << 20;

/// Bytes read first; enough for every signature at the start and for a few frames of headerless formats.
const HEAD_BYTES: usize = 64 << 10;

/// Most ID3v2 tags that may stand in a row.
const MAX_ID3_TAGS: usize = 16;

/// Frames of MPEG audio or ADTS that must follow one another before headerless data is believed.
const CONFIRMING_FRAMES: usize = 3;

/// First bytes of AMR files with one channel (RFC 4867, section 5.1).
pub(super) const AMR_MAGIC: &[u8] = b"#!AMR\n";
/// The same of AMR-WB.
pub(super) const AMR_WIDE_MAGIC: &[u8] = b"#!AMR-WB\n";

/// A container this server reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Container {
    /// RIFF/WAVE, RF64 and BW64.
    Wav,
    /// Sony Wave64.
    Wave64,
    /// Sun/NeXT audio.
    Au,
    /// AIFF and AIFF-C.
    Aiff,
    /// Core Audio Format.
    Caf,
    /// Native FLAC.
    Flac,
    /// MPEG audio frames, layers 1 to 3.
    Mpeg,
    /// AAC frames with ADTS headers.
    Adts,
    /// ISO base media: MP4, M4A, MOV, 3GP.
    Mp4,
    /// Ogg.
    Ogg,
    /// Matroska and WebM.
    Matroska,
    /// MPEG program stream.
    MpegProgram,
    /// MPEG transport stream.
    MpegTransport,
    /// AMR narrow band.
    AmrNarrow,
    /// AMR wide band.
    AmrWide,
}

impl Container {
    /// Short name, as ffprobe says it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Wav => "wav",
            Self::Wave64 => "w64",
            Self::Au => "au",
            Self::Aiff => "aiff",
            Self::Caf => "caf",
            Self::Flac => "flac",
            Self::Mpeg => "mp3",
            Self::Adts => "aac",
            Self::Mp4 => "mp4",
            Self::Ogg => "ogg",
            Self::Matroska => "matroska",
            Self::MpegProgram => "mpeg",
            Self::MpegTransport => "mpegts",
            Self::AmrNarrow | Self::AmrWide => "amr",
        }
    }
}

/// What [`UploadedAudio::sniff`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sniffed {
    /// The container.
    pub container: Container,
    /// Where it starts, in bytes: after tags and whatever else stands before it.
    pub offset: u64,
}

impl Sniffed {
    /// Short name of the container.
    pub fn name(&self) -> &'static str {
        self.container.name()
    }
}

/// See [`UploadedAudio::sniff`].
pub(super) fn sniff(upload: &mut UploadedAudio) -> Result<Sniffed, AudioError> {
    if upload.is_empty() {
        return Err(AudioError::Empty);
    }
    let offset = skip_id3(upload)?;
    let mut head = read_up_to(upload, offset, HEAD_BYTES)?;

    if let Some(container) = signature(&head) {
        return Ok(Sniffed { container, offset });
    }
    if let Some(found) = foreign(&head) {
        return Err(AudioError::UnsupportedContainer {
            found: found.to_owned(),
        });
    }
    if let Some(container) = frames(&head, CONFIRMING_FRAMES) {
        return Ok(Sniffed { container, offset });
    }
    if mpeg::transport_shape(&head).is_some() {
        return Ok(Sniffed {
            container: Container::MpegTransport,
            offset,
        });
    }

    if head.len() == HEAD_BYTES {
        head = read_up_to(upload, offset, SEARCH_BYTES)?;
    }
    if let Some((at, container)) = search(&head) {
        return Ok(Sniffed {
            container,
            offset: offset + at as u64,
        });
    }
    by_name(upload.file_name(), &head)
        .map(|container| Sniffed { container, offset })
        .ok_or(AudioError::Unrecognized)
}

/// At most `count` bytes from `offset` on.
fn read_up_to(upload: &mut UploadedAudio, offset: u64, count: usize) -> Result<Vec<u8>, AudioError> {
    let available = upload.len().saturating_sub(offset).min(count as u64);
    let mut head = vec![0; available as usize];
    let filled = upload.read_at(offset, &mut head)?;
    head.truncate(filled);
    Ok(head)
}

/// Where the file starts behind its ID3v2 tags (ID3v2.4.0 structure, section 3.1) and zero padding.
fn skip_id3(upload: &mut UploadedAudio) -> Result<u64, AudioError> {
    let mut offset = 0;
    for _ in 0..MAX_ID3_TAGS {
        let mut header = [0; 10];
        if upload.read_at(offset, &mut header)? < header.len() || &header[..3] != b"ID3" {
            break;
        }
        let size = &header[6..10];
        if header[3] == 0xff || header[4] == 0xff || size.iter().any(|byte| byte & 0x80 != 0) {
            break;
        }
        let body = size.iter().fold(0_u64, |size, byte| size << 7 | u64::from(*byte));
        let footer = if header[5] & 0x10 != 0 { 10 } else { 0 };
        let next = offset + 10 + body + footer;
        if next >= upload.len() {
            // A tag that claims the whole file: the size is wrong, the sound may still be found by search.
            return Ok(offset + 10);
        }
        offset = next;
    }
    Ok(offset)
}

/// A container whose signature stands at the start of `head`.
fn signature(head: &[u8]) -> Option<Container> {
    let at = |offset: usize, bytes: &[u8]| head.get(offset..offset + bytes.len()) == Some(bytes);
    if (at(0, b"RIFF") || at(0, b"RF64") || at(0, b"BW64")) && at(8, b"WAVE") {
        return Some(Container::Wav);
    }
    if at(0, &super::riff::W64_RIFF) {
        return Some(Container::Wave64);
    }
    if at(0, b"FORM") && (at(8, b"AIFF") || at(8, b"AIFC")) {
        return Some(Container::Aiff);
    }
    if at(0, b".snd") && super::au::is_au_header(head) {
        return Some(Container::Au);
    }
    // CAF specification: file type, then version 1.
    if at(0, b"caff\0\x01") {
        return Some(Container::Caf);
    }
    if at(0, b"fLaC") {
        return Some(Container::Flac);
    }
    // RFC 3533: capture pattern, then version 0.
    if at(0, b"OggS\0") {
        return Some(Container::Ogg);
    }
    // RFC 8794: the EBML header's ID.
    if at(0, &[0x1a, 0x45, 0xdf, 0xa3]) {
        return Some(Container::Matroska);
    }
    if at(0, b"\0\0\x01\xba") {
        return Some(Container::MpegProgram);
    }
    if at(0, AMR_MAGIC) {
        return Some(Container::AmrNarrow);
    }
    if at(0, AMR_WIDE_MAGIC) {
        return Some(Container::AmrWide);
    }
    // ISO 14496-12: `ftyp` is the first box, of a size that holds a brand and not much more.
    if at(4, b"ftyp") && matches!(be32(head, 0), Some(8..=1024)) {
        return Some(Container::Mp4);
    }
    None
}

/// Short names of formats that are known by sight and hold nothing this server reads.
fn foreign(head: &[u8]) -> Option<&'static str> {
    const SIGNATURES: &[(usize, &[u8], &str)] = &[
        (0, b"#!AMR", "amr of several channels"),
        (0, b"PK\x03\x04", "zip"),
        (0, b"%PDF", "pdf"),
        (0, b"\x89PNG", "png"),
        (0, b"\xff\xd8\xff", "jpeg"),
        (0, b"GIF8", "gif"),
        (0, b"\x1f\x8b\x08", "gzip"),
        (0, b"7z\xbc\xaf\x27\x1c", "7z"),
        (0, b"Rar!\x1a\x07", "rar"),
        (0, b"\x7fELF", "elf"),
        (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "asf (wma, wmv)"),
        (0, b".RMF", "realmedia"),
        (0, b".ra\xfd", "realaudio"),
        (0, b"FLV\x01", "flv"),
        (0, b"wvpk", "wavpack"),
        (0, b"MAC ", "monkey's audio"),
        (0, b"MPCK", "musepack"),
        (0, b"MP+", "musepack"),
        (0, b"TTA1", "tta"),
        (0, b"DSD ", "dsf"),
        (0, b"FRM8", "dsdiff"),
        (0, b"MThd", "midi"),
        (0, b"\x0b\x77", "ac3"),
        (0, b"Creative Voice File", "voc"),
        (0, b"NIST_1A", "sphere"),
        (0, b"SQLite format 3", "sqlite"),
        (0, b"<!DOCTYPE", "html"),
        (0, b"<html", "html"),
        (0, b"<?xml", "xml"),
        (8, b"AVI ", "avi"),
        (8, b"WEBP", "webp"),
        (8, b"8SVX", "8svx"),
    ];
    SIGNATURES
        .iter()
        .find(|(offset, bytes, _)| head.get(*offset..offset + bytes.len()) == Some(*bytes))
        .map(|(_, _, name)| *name)
}

/// Whether a name that [`foreign`] gave is one of sound or film.
pub(super) fn is_media(found: &str) -> bool {
    const OTHERS: [&str; 13] = [
        "zip", "pdf", "png", "jpeg", "gif", "gzip", "7z", "rar", "elf", "sqlite", "html", "xml", "webp",
    ];
    !OTHERS.contains(&found)
}

/// MPEG audio or ADTS when `count` frames follow one another from the start of `head` (or all up to its end,
/// if there are at least two).
fn frames(head: &[u8], count: usize) -> Option<Container> {
    [
        (Container::Adts, adts_frame_bytes as fn(&[u8]) -> Option<usize>),
        (Container::Mpeg, mpeg_frame_bytes),
    ]
    .into_iter()
    .find(|(_, frame_bytes)| {
        let mut at = 0;
        let mut seen = 0;
        while seen < count {
            match head.get(at..).and_then(frame_bytes) {
                Some(bytes) => at += bytes,
                None => break,
            }
            seen += 1;
        }
        seen >= count || (seen >= 2 && at + 4 >= head.len())
    })
    .map(|(container, _)| container)
}

/// Bytes of the ADTS frame that starts here (ISO 13818-7, section 6.2), when its header is sound.
fn adts_frame_bytes(data: &[u8]) -> Option<usize> {
    let header = data.get(..7)?;
    let sound = header[0] == 0xff
        && header[1] & 0xf6 == 0xf0
        // Sampling frequency index 13 and up are reserved.
        && (header[2] >> 2 & 0xf) < 13;
    let bytes = usize::from(header[3] & 3) << 11 | usize::from(header[4]) << 3 | usize::from(header[5]) >> 5;
    (sound && bytes > 7).then_some(bytes)
}

/// Bytes of the MPEG audio frame that starts here (ISO 11172-3 and 13818-3, section 2.4.2.3, and the common
/// extension to half rates), when its header is sound and its bit rate not free.
fn mpeg_frame_bytes(data: &[u8]) -> Option<usize> {
    // Kilobits a second by index, for MPEG 1 layers 1 to 3 and MPEG 2 layers 1 and 2-3.
    const RATES: [[u16; 14]; 5] = [
        [32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448],
        [32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384],
        [32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320],
        [32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256],
        [8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160],
    ];
    let header = data.get(..4)?;
    if header[0] != 0xff || header[1] & 0xe0 != 0xe0 {
        return None;
    }
    let version = header[1] >> 3 & 3;
    let layer = 4 - (header[1] >> 1 & 3);
    let rate_index = usize::from(header[2] >> 4);
    let sample_rate = match header[2] >> 2 & 3 {
        0 => 44_100,
        1 => 48_000,
        2 => 32_000,
        _ => return None,
    };
    let (divisor, table) = match (version, layer) {
        (1, _) | (_, 4) => return None,
        (3, layer) => (1, usize::from(layer) - 1),
        (version, layer) => (if version == 2 { 2 } else { 4 }, if layer == 1 { 3 } else { 4 }),
    };
    let sample_rate = sample_rate / divisor;
    let kilobits = usize::from(*RATES[table].get(rate_index.checked_sub(1)?)?);
    let padding = usize::from(header[2] >> 1 & 1);
    Some(match layer {
        1 => (12_000 * kilobits / sample_rate + padding) * 4,
        // Layer 3 of the half rates has one granule a frame.
        3 if version != 3 => 72_000 * kilobits / sample_rate + padding,
        _ => 144_000 * kilobits / sample_rate + padding,
    })
}

/// The first place in `data` where a container starts, past garbage.
fn search(data: &[u8]) -> Option<(usize, Container)> {
    (1..data.len()).find_map(|at| {
        let rest = &data[at..];
        let container = match rest[0] {
            // `ftyp` stands four bytes behind the start of its box, whose size is below 1024.
            0 | b'R' | b'B' | b'F' | b'.' | b'c' | b'f' | b'O' | 0x1a => signature(rest),
            0xff => frames(rest, CONFIRMING_FRAMES + 1),
            _ => None,
        }?;
        Some((at, container))
    })
}

/// What the name promises, for data that has frames too few or too broken to be sure of.
fn by_name(name: Option<&str>, head: &[u8]) -> Option<Container> {
    let extension = name?.rsplit_once('.')?.1.to_ascii_lowercase();
    let has_frame = |frame_bytes: fn(&[u8]) -> Option<usize>| {
        (0..head.len()).any(|at| head[at] == 0xff && frame_bytes(&head[at..]).is_some())
    };
    match extension.as_str() {
        "mp3" | "mp2" | "mp1" | "mpga" | "mpeg" if has_frame(mpeg_frame_bytes) => Some(Container::Mpeg),
        "aac" | "adts" if has_frame(adts_frame_bytes) => Some(Container::Adts),
        _ => None,
    }
}

/// Big-endian 32-bit number at `offset`.
fn be32(data: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_be_bytes(data.get(offset..offset + 4)?.try_into().ok()?))
}
