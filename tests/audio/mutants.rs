//! Recordings changed where their structure is: sizes, counts, nesting, order, ends.
//!
//! Shared by the tests, the fuzz targets and `examples/hostile_uploads.rs`; the same seed gives the same mutants.

/// Small, seeded, the same everywhere (Marsaglia's xorshift).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound.max(1) as u64) as usize
    }
}

/// How a piece says its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SizeField {
    /// Four bytes, high first, the header counted (MP4).
    Box,
    /// Four bytes behind a name, low first (RIFF).
    ChunkLow,
    /// The same, high first (AIFF).
    ChunkHigh,
    /// Eight bytes behind a name, high first (CAF).
    ChunkWide,
    /// A number of variable length behind an identifier (EBML).
    Element,
    /// Three bytes behind one, high first (FLAC).
    Block,
    /// None: found by its signature (Ogg pages, frames).
    Signature,
}

/// A part of a file that has a header of its own.
#[derive(Debug, Clone, Copy)]
struct Piece {
    start: usize,
    /// First byte of the content.
    content: usize,
    end: usize,
    size_at: usize,
    size_bytes: usize,
    field: SizeField,
}

/// Boxes of MP4 that hold boxes.
const PARENTS: [&[u8; 4]; 12] = [
    b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"udta", b"ilst", b"moof", b"traf", b"mvex",
    b"dinf",
];

/// Most pieces looked at.
const MAX_PIECES: usize = 2_000;

/// A copy of `specimen` that is broken in one to four ways; `donor` lends parts.
pub(crate) fn mutant(specimen: &[u8], donor: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = specimen.to_vec();
    for _ in 0..=random.below(3) {
        let pieces = pieces(&bytes);
        bytes = change(bytes, &pieces, donor, random);
    }
    bytes
}

fn change(mut bytes: Vec<u8>, pieces: &[Piece], donor: &[u8], random: &mut Random) -> Vec<u8> {
    if bytes.is_empty() {
        return donor.to_vec();
    }
    if pieces.is_empty() {
        flip(&mut bytes, random);
        return bytes;
    }
    let piece = pieces[random.below(pieces.len())];
    let (start, end) = (piece.start, piece.end.min(bytes.len()));
    match random.below(10) {
        0 | 1 => set_size(&mut bytes, &piece, random),
        2 => return nest(&bytes, &piece, random),
        3 => {
            let many = random.below(4) == 0;
            let copies = 1 + random.below(if many { 5_000 } else { 8 });
            let copies = copies.min((4 << 20) / (end - start).max(1));
            let repeated = bytes[start..end].repeat(copies);
            bytes.splice(end..end, repeated);
        }
        4 => {
            bytes.drain(start..end);
        }
        5 => {
            let other = pieces[random.below(pieces.len())];
            let (first, second) = if other.start < start {
                (other, piece)
            } else {
                (piece, other)
            };
            let second_end = second.end.min(bytes.len());
            if first.end <= second.start {
                let (one, two) = (
                    bytes[first.start..first.end].to_vec(),
                    bytes[second.start..second_end].to_vec(),
                );
                let between = bytes[first.end..second.start].to_vec();
                bytes.splice(first.start..second_end, [two, between, one].concat());
            }
        }
        6 => {
            let at = [start, piece.content.min(end), end, random.below(bytes.len())][random.below(4)];
            bytes.truncate((at + random.below(9)).saturating_sub(4));
        }
        7 => {
            // A count, an offset, a time: whatever stands in the first words of the content.
            let at = piece.content + 4 * random.below(8);
            let value = interesting(end - start, random) as u32;
            let value = if random.below(2) == 0 {
                value.to_be_bytes()
            } else {
                value.to_le_bytes()
            };
            if let Some(place) = bytes.get_mut(at..at + 4) {
                place.copy_from_slice(&value);
            }
        }
        8 => {
            let lent = self::pieces(donor);
            if !lent.is_empty() {
                let lent = lent[random.below(lent.len())];
                let lent = &donor[lent.start..lent.end.min(donor.len())];
                bytes.splice(start..end, lent.iter().copied());
            }
        }
        _ => flip(&mut bytes, random),
    }
    bytes
}

/// A few bits, most of them near the start.
fn flip(bytes: &mut [u8], random: &mut Random) {
    for _ in 0..=random.below(12) {
        let within = if random.below(2) == 0 {
            bytes.len().min(300)
        } else {
            bytes.len()
        };
        let at = random.below(within);
        if let Some(byte) = bytes.get_mut(at) {
            *byte ^= 1 << random.below(8);
        }
    }
}

/// A number at an edge of something.
fn interesting(size: usize, random: &mut Random) -> u64 {
    let size = size as u64;
    let edges = [
        0,
        1,
        7,
        8,
        9,
        size.wrapping_sub(1),
        size + 1,
        size * 2,
        0x7f,
        0x80,
        0xffff,
        0x7fff_ffff,
        0x8000_0000,
        0xffff_fff0,
        0xffff_ffff,
        random.below(1 << 30) as u64,
    ];
    edges[random.below(edges.len())]
}

fn set_size(bytes: &mut [u8], piece: &Piece, random: &mut Random) {
    let value = interesting(piece.end - piece.start, random);
    let Some(place) = bytes.get_mut(piece.size_at..piece.size_at + piece.size_bytes) else {
        return;
    };
    match piece.field {
        SizeField::ChunkLow => place.copy_from_slice(&(value as u32).to_le_bytes()),
        SizeField::Element if random.below(3) == 0 => place[0] = random.below(256) as u8,
        SizeField::Element => {
            let marker = 1_u64 << (7 * piece.size_bytes);
            let coded = (value & (marker - 1)) | marker;
            place.copy_from_slice(&coded.to_be_bytes()[8 - piece.size_bytes..]);
        }
        SizeField::Signature => {}
        SizeField::Box | SizeField::ChunkHigh | SizeField::ChunkWide | SizeField::Block => {
            place.copy_from_slice(&value.to_be_bytes()[8 - piece.size_bytes..]);
        }
    }
}

/// The piece within itself, many times over.
fn nest(bytes: &[u8], piece: &Piece, random: &mut Random) -> Vec<u8> {
    let depth = [2, 17, 100, 3_000, 20_000][random.below(5)];
    let end = piece.end.min(bytes.len());
    let header = &bytes[piece.start..piece.content.min(end)];
    let mut headers = Vec::new();
    for level in 0..depth {
        let inside = (end - piece.start) + (depth - 1 - level) * header.len();
        let length = header.len();
        let mut header = header.to_vec();
        let at = piece.size_at - piece.start;
        match piece.field {
            SizeField::Box => header[at..at + 4].copy_from_slice(&((inside + length) as u32).to_be_bytes()),
            SizeField::ChunkLow => header[at..at + 4].copy_from_slice(&(inside as u32).to_le_bytes()),
            SizeField::ChunkHigh => header[at..at + 4].copy_from_slice(&(inside as u32).to_be_bytes()),
            // Of unknown size, as live recorders write them.
            SizeField::Element => header[at..].fill(0xff),
            SizeField::ChunkWide | SizeField::Block | SizeField::Signature => {}
        }
        headers.extend(header);
    }
    [&bytes[..piece.start], &headers, &bytes[piece.start..]].concat()
}

/// The pieces of a file, outer ones first.
fn pieces(bytes: &[u8]) -> Vec<Piece> {
    let mut found = Vec::new();
    if bytes.get(4..8) == Some(b"ftyp") {
        boxes(bytes, 0, bytes.len(), 0, &mut found);
    } else if bytes.starts_with(b"RIFF") || bytes.starts_with(b"RF64") {
        chunks(bytes, 12, SizeField::ChunkLow, &mut found);
    } else if bytes.starts_with(b"FORM") {
        chunks(bytes, 12, SizeField::ChunkHigh, &mut found);
    } else if bytes.starts_with(b"caff") {
        chunks(bytes, 8, SizeField::ChunkWide, &mut found);
    } else if bytes.starts_with(&[0x1a, 0x45, 0xdf, 0xa3]) {
        elements(bytes, &mut found);
    } else if bytes.starts_with(b"fLaC") {
        blocks(bytes, &mut found);
    } else if bytes.starts_with(b"OggS") {
        signatures(bytes, b"OggS", &mut found);
    } else {
        // Frames of MPEG audio, ADTS or AMR, packets of films: a stretch of bytes is as good as another.
        for start in (0..bytes.len()).step_by((bytes.len() / 64).max(16)) {
            let end = (start + 188).min(bytes.len());
            found.push(Piece {
                start,
                content: (start + 4).min(end),
                end,
                size_at: start,
                size_bytes: 0,
                field: SizeField::Signature,
            });
        }
    }
    found.retain(|piece| piece.start < piece.end && piece.content <= piece.end && piece.end <= bytes.len());
    found.truncate(MAX_PIECES);
    found
}

fn be(bytes: &[u8], at: usize, count: usize) -> Option<usize> {
    let field = bytes.get(at..at.checked_add(count)?)?;
    Some(
        field
            .iter()
            .fold(0, |value, byte| value << 8 | usize::from(*byte)),
    )
}

fn boxes(bytes: &[u8], mut at: usize, end: usize, depth: usize, found: &mut Vec<Piece>) {
    while let Some(size) = be(bytes, at, 4) {
        let next = at.saturating_add(size).min(end);
        if size < 8 || at + 8 > end || found.len() >= MAX_PIECES {
            return;
        }
        found.push(Piece {
            start: at,
            content: at + 8,
            end: next,
            size_at: at,
            size_bytes: 4,
            field: SizeField::Box,
        });
        if depth < 8
            && PARENTS
                .iter()
                .any(|parent| bytes.get(at + 4..at + 8) == Some(&parent[..]))
        {
            boxes(bytes, at + 8, next, depth + 1, found);
        }
        at = next;
    }
}

fn chunks(bytes: &[u8], mut at: usize, field: SizeField, found: &mut Vec<Piece>) {
    let size_bytes = if field == SizeField::ChunkWide { 8 } else { 4 };
    while found.len() < MAX_PIECES && at + 4 + size_bytes <= bytes.len() {
        let size = match field {
            SizeField::ChunkLow => bytes[at + 4..at + 8]
                .iter()
                .rev()
                .fold(0, |value, byte| value << 8 | usize::from(*byte)),
            _ => be(bytes, at + 4, size_bytes).unwrap_or(0),
        };
        let content = at + 4 + size_bytes;
        let end = content.saturating_add(size).min(bytes.len());
        found.push(Piece {
            start: at,
            content,
            end,
            size_at: at + 4,
            size_bytes,
            field,
        });
        at = end + if size_bytes == 4 { size & 1 } else { 0 };
    }
}

fn elements(bytes: &[u8], found: &mut Vec<Piece>) {
    // What holds others: the segment, clusters, tracks, a track, its audio, groups.
    const PARENTS: [u32; 6] = [0x1853_8067, 0x1f43_b675, 0x1654_ae6b, 0xae, 0xe1, 0xa0];
    let mut at = 0;
    while at < bytes.len() && found.len() < MAX_PIECES {
        let id_bytes = bytes[at].leading_zeros() as usize + 1;
        let size_at = at + id_bytes;
        let (Some(id), Some(first)) = (be(bytes, at, id_bytes.min(4)), bytes.get(size_at)) else {
            return;
        };
        let size_bytes = (first.leading_zeros() as usize + 1).min(8);
        let Some(coded) = be(bytes, size_at, size_bytes) else {
            return;
        };
        let size = coded & ((1 << (7 * size_bytes)) - 1);
        let content = size_at + size_bytes;
        let end = content.saturating_add(size).min(bytes.len());
        found.push(Piece {
            start: at,
            content,
            end,
            size_at,
            size_bytes,
            field: SizeField::Element,
        });
        at = if PARENTS.contains(&(id as u32)) {
            content
        } else {
            end
        };
    }
}

fn blocks(bytes: &[u8], found: &mut Vec<Piece>) {
    let mut at = 4;
    while let (Some(kind), Some(size)) = (bytes.get(at), be(bytes, at + 1, 3)) {
        let end = (at + 4 + size).min(bytes.len());
        found.push(Piece {
            start: at,
            content: (at + 4).min(end),
            end,
            size_at: at + 1,
            size_bytes: 3,
            field: SizeField::Block,
        });
        if kind & 0x80 != 0 || found.len() >= MAX_PIECES {
            return;
        }
        at = end;
    }
}

fn signatures(bytes: &[u8], signature: &[u8], found: &mut Vec<Piece>) {
    let starts: Vec<usize> = (0..bytes.len().saturating_sub(signature.len()))
        .filter(|at| bytes[*at..].starts_with(signature))
        .take(MAX_PIECES)
        .collect();
    for (index, start) in starts.iter().enumerate() {
        let end = starts.get(index + 1).copied().unwrap_or(bytes.len());
        found.push(Piece {
            start: *start,
            content: (start + 27).min(end),
            end,
            size_at: start + 26,
            size_bytes: 0,
            field: SizeField::Signature,
        });
    }
}
