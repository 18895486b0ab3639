//! EBML (RFC 8794): elements of an identifier, a size and content, which Matroska is made of.

use std::io::{self, Read, Seek, SeekFrom};

use super::source::Region;

/// Bytes of the longest identifier and the longest size.
const MAX_HEADER_BYTES: usize = 4 + 8;

/// Bytes read at once.
const BUFFER_BYTES: usize = 64 << 10;

/// Where an element is and what it says of itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Element {
    pub(super) id: u32,
    /// First byte of the content.
    pub(super) content: u64,
    /// First byte behind it; `None` where the size is not known, as live recorders write it.
    pub(super) end: Option<u64>,
}

/// A file that is read element by element, from any byte on.
#[derive(Debug)]
pub(super) struct EbmlFile {
    region: Region,
    len: u64,
    /// A piece of the file, and where it starts.
    buffer: Vec<u8>,
    start: u64,
}

impl EbmlFile {
    /// The `len` bytes of `region`.
    pub(super) fn new(region: Region, len: u64) -> Self {
        Self {
            region,
            len,
            buffer: Vec::new(),
            start: 0,
        }
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// What the buffer holds from `at` on.
    fn held(&self, at: u64) -> &[u8] {
        at.checked_sub(self.start)
            .and_then(|skip| self.buffer.get(usize::try_from(skip).ok()?..))
            .unwrap_or_default()
    }

    /// At least `count` bytes from `at` on, at most [`BUFFER_BYTES`]; fewer at the end of the file.
    pub(super) fn peek(&mut self, at: u64, count: usize) -> io::Result<&[u8]> {
        let count = self.len.saturating_sub(at).min(count as u64) as usize;
        if self.held(at).len() < count {
            self.buffer.resize(BUFFER_BYTES, 0);
            let read = read_at(&mut self.region, at, &mut self.buffer);
            self.buffer.truncate(*read.as_ref().unwrap_or(&0));
            self.start = at;
            read?;
        }
        Ok(self.held(at))
    }

    /// As much of the buffer's size as there is from `at` on.
    pub(super) fn peek_buffer(&mut self, at: u64) -> io::Result<&[u8]> {
        self.peek(at, 1)
    }

    /// Some bytes from `at` on without moving the buffer, for looks that go back and forth.
    pub(super) fn peek_apart<const N: usize>(&mut self, at: u64) -> io::Result<([u8; N], usize)> {
        let mut bytes = [0; N];
        let held = self.held(at);
        if held.len() >= N {
            bytes.copy_from_slice(&held[..N]);
            return Ok((bytes, N));
        }
        let count = read_at(&mut self.region, at, &mut bytes)?;
        Ok((bytes, count))
    }

    /// All bytes from `start` to `end`, which must lie within the file.
    pub(super) fn read(&mut self, start: u64, end: u64) -> io::Result<Vec<u8>> {
        let count = end.min(self.len).saturating_sub(start) as usize;
        if count <= BUFFER_BYTES {
            let held = self.peek(start, count)?;
            return Ok(held[..count.min(held.len())].to_vec());
        }
        let mut bytes = vec![0; count];
        let filled = read_at(&mut self.region, start, &mut bytes)?;
        bytes.truncate(filled);
        Ok(bytes)
    }

    /// The element that starts at `at`; `None` where none can.
    pub(super) fn element(&mut self, at: u64) -> io::Result<Option<Element>> {
        let head = self.peek(at, MAX_HEADER_BYTES)?;
        Ok(parse(head, at))
    }

    /// As [`element`](Self::element), by a [`peek_apart`](Self::peek_apart).
    pub(super) fn peek_element(&mut self, at: u64) -> io::Result<Option<Element>> {
        let (bytes, count) = self.peek_apart::<MAX_HEADER_BYTES>(at)?;
        Ok(parse(&bytes[..count], at))
    }
}

fn read_at(region: &mut Region, at: u64, buffer: &mut [u8]) -> io::Result<usize> {
    region.seek(SeekFrom::Start(at))?;
    // One read of a region fills the buffer or reaches the end.
    region.read(buffer)
}

/// The header at the start of `bytes`, which stand at `at`.
fn parse(bytes: &[u8], at: u64) -> Option<Element> {
    let first = *bytes.first()?;
    let id_bytes = first.leading_zeros() as usize + 1;
    if id_bytes > 4 {
        return None;
    }
    let id = bytes
        .get(..id_bytes)?
        .iter()
        .fold(0, |id, byte| id << 8 | u32::from(*byte));
    let (size, size_bytes) = number(bytes.get(id_bytes..)?)?;
    let content = at.checked_add((id_bytes + size_bytes) as u64)?;
    let end = match size {
        Some(size) => Some(content.checked_add(size)?),
        None => None,
    };
    Some(Element { id, content, end })
}

/// A number of variable length, and how long it is. All ones mean that it is not known.
pub(super) fn number(bytes: &[u8]) -> Option<(Option<u64>, usize)> {
    let first = *bytes.first()?;
    let length = first.leading_zeros() as usize + 1;
    if length > 8 {
        return None;
    }
    let value = bytes
        .get(..length)?
        .iter()
        .fold(0, |value: u64, byte| value << 8 | u64::from(*byte));
    let value = value & ((1 << (7 * length)) - 1);
    let unknown = value == (1 << (7 * length)) - 1;
    Some(((!unknown).then_some(value), length))
}

/// Identifiers and contents of the elements in `bytes`, up to the first that makes no sense.
pub(super) fn children(bytes: &[u8]) -> impl Iterator<Item = (u32, &[u8])> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let element = parse(bytes.get(at..)?, at as u64)?;
        // A child of unknown size takes what is left.
        let end = element.end.unwrap_or(bytes.len() as u64) as usize;
        let content = bytes.get(element.content as usize..end)?;
        at = end;
        Some((element.id, content))
    })
}

/// An unsigned integer (RFC 8794, section 7.2).
pub(super) fn unsigned(content: &[u8]) -> Option<u64> {
    (content.len() <= 8).then(|| {
        content
            .iter()
            .fold(0, |value, byte| value << 8 | u64::from(*byte))
    })
}

/// A signed integer (section 7.1).
pub(super) fn signed(content: &[u8]) -> Option<i64> {
    if content.is_empty() {
        return Some(0);
    }
    let value = unsigned(content)?;
    let unused = 64 - 8 * content.len();
    Some((value << unused) as i64 >> unused)
}

/// A floating point number (section 7.3).
pub(super) fn float(content: &[u8]) -> Option<f64> {
    match content.len() {
        0 => Some(0.0),
        4 => Some(f64::from(f32::from_be_bytes(content.try_into().ok()?))),
        8 => Some(f64::from_be_bytes(content.try_into().ok()?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_say_how_long_they_are() {
        assert_eq!(number(&[0x81]), Some((Some(1), 1)));
        assert_eq!(number(&[0x40, 0x02]), Some((Some(2), 2)));
        assert_eq!(number(&[0xff]), Some((None, 1)));
        assert_eq!(
            number(&[0x01, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
            Some((None, 8))
        );
        assert_eq!(number(&[0x00, 0xff]), None);
        assert_eq!(number(&[0x40]), None);
    }

    #[test]
    fn integers_and_floats_have_any_length() {
        assert_eq!(unsigned(&[1, 0]), Some(256));
        assert_eq!(unsigned(&[0; 9]), None);
        assert_eq!(signed(&[0xff]), Some(-1));
        assert_eq!(signed(&[0x7f, 0xff]), Some(32_767));
        assert_eq!(signed(&[]), Some(0));
        assert_eq!(float(&16_000_f32.to_be_bytes()), Some(16_000.0));
        assert_eq!(float(&[0; 5]), None);
    }

    #[test]
    fn children_end_where_they_make_no_sense() {
        let bytes = [0xd7, 0x81, 7, 0x83, 0x81, 2, 0x86, 0x90, b'x'];
        let found: Vec<_> = children(&bytes).collect();
        assert_eq!(found, [(0xd7, &[7][..]), (0x83, &[2][..])]);
    }
}
