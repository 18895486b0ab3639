//! Blocks of Matroska: their head, and the frames that are laced together in them.

use super::ebml::number;

/// The start of a block (RFC 9559, section 10.1).
pub(super) struct BlockHead {
    pub(super) track: u64,
    pub(super) lacing: u8,
    /// Bytes of the head itself.
    pub(super) bytes: usize,
}

pub(super) fn block_head(bytes: &[u8]) -> Option<BlockHead> {
    let (track, length) = number(bytes)?;
    Some(BlockHead {
        track: track?,
        // Behind a time of two bytes.
        lacing: bytes.get(length + 2)? >> 1 & 3,
        bytes: length + 3,
    })
}

/// A length in Xiph's way, as a sum of bytes that ends with the first below 255: how many, and the length.
pub(super) fn xiph_length(bytes: &[u8]) -> Option<(usize, usize)> {
    let full = bytes.iter().take_while(|byte| **byte == 255).count();
    Some((full + 1, full * 255 + usize::from(*bytes.get(full)?)))
}

/// The frames of a block (RFC 9559, section 10.3).
pub(super) fn laces(body: &[u8], lacing: u8) -> Option<Vec<&[u8]>> {
    if lacing == 0 {
        return Some(vec![body]);
    }
    let (count, mut rest) = body.split_first()?;
    let count = usize::from(*count) + 1;
    if lacing == 2 {
        if rest.is_empty() || rest.len() % count != 0 {
            return None;
        }
        return Some(rest.chunks_exact(rest.len() / count).collect());
    }
    let mut lengths: Vec<usize> = Vec::with_capacity(count);
    for _ in 1..count {
        let (bytes, length) = if lacing == 1 {
            xiph_length(rest)?
        } else {
            let (value, bytes) = number(rest)?;
            let value = i64::try_from(value?).ok()?;
            // The first is a length; each of the others says by how much it differs from the one before.
            let length = match lengths.last() {
                None => value,
                Some(last) => value - ((1 << (7 * bytes - 1)) - 1) + *last as i64,
            };
            (bytes, usize::try_from(length).ok()?)
        };
        rest = rest.get(bytes..)?;
        lengths.push(length);
    }
    let mut frames = Vec::with_capacity(count);
    for length in lengths {
        frames.push(rest.get(..length)?);
        rest = &rest[length..];
    }
    frames.push(rest);
    Some(frames)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn laces_of_every_kind_come_apart() {
        let frames = |body: &[u8], lacing| laces(body, lacing).map(|frames| frames.concat());
        assert_eq!(laces(b"abc", 0), Some(vec![&b"abc"[..]]));
        // Xiph: two frames, the first of one byte.
        assert_eq!(laces(&[1, 1, b'a', b'b', b'c'], 1), Some(vec![&b"a"[..], b"bc"]));
        // Equal lengths.
        assert_eq!(
            laces(&[1, b'a', b'b', b'c', b'd'], 2),
            Some(vec![&b"ab"[..], b"cd"])
        );
        // EBML: lengths 2, then one less, then what is left.
        assert_eq!(
            laces(&[2, 0x82, 0xbe, b'a', b'b', b'c', b'd'], 3),
            Some(vec![&b"ab"[..], b"c", b"d"])
        );
        assert_eq!(frames(&[1, b'a', b'b', b'c'], 2), None);
        assert_eq!(frames(&[1, 9, b'a'], 1), None);
        assert_eq!(frames(&[2, 0x81, 0x81, b'a'], 3), None);
        assert_eq!(frames(&[], 1), None);
        assert_eq!(frames(&[255, 255, 255], 1), None);
    }
}
