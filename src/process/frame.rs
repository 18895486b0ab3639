//! What this program and its children say to each other.
//!
//! A frame on the pipe is two little-endian `u32`, the length of a JSON header and the number of samples, then the
//! header, then the samples as little-endian `f32`.

use std::io::{self, Read, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Longest header accepted, in bytes; a transcript of 30 s is a few KiB.
const MAX_HEADER_BYTES: u32 = 4 << 20;
/// Most samples accepted: a window has at most 30 s (480,000).
const MAX_SAMPLES: u32 = 1 << 22;

/// Writes one frame and flushes.
pub fn write_frame(out: &mut impl Write, message: &impl Serialize, samples: &[f32]) -> io::Result<()> {
    out.write_all(&encode_frame(message, samples)?)?;
    out.flush()
}

/// One frame as bytes.
///
/// # Errors
///
/// `InvalidInput` when the other side would refuse it.
pub fn encode_frame(message: &impl Serialize, samples: &[f32]) -> io::Result<Vec<u8>> {
    let header = serde_json::to_vec(message)?;
    if header.len() > MAX_HEADER_BYTES as usize || samples.len() > MAX_SAMPLES as usize {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "a frame beyond all measure",
        ));
    }
    let mut frame = Vec::with_capacity(8 + header.len() + samples.len() * 4);
    frame.extend_from_slice(&(header.len() as u32).to_le_bytes());
    frame.extend_from_slice(&(samples.len() as u32).to_le_bytes());
    frame.extend_from_slice(&header);
    for sample in samples {
        frame.extend_from_slice(&sample.to_le_bytes());
    }
    Ok(frame)
}

/// Reads one frame; `None` at a clean end.
///
/// # Errors
///
/// `UnexpectedEof` within a frame, `InvalidData` for what is none.
pub fn read_frame<T: DeserializeOwned>(input: &mut impl Read) -> io::Result<Option<(T, Vec<f32>)>> {
    let mut lengths = [0u8; 8];
    loop {
        match input.read(&mut lengths[..1]) {
            Ok(0) => return Ok(None),
            Ok(_) => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    input.read_exact(&mut lengths[1..])?;
    let (header_bytes, samples) = frame_lengths(lengths)?;
    let mut header = vec![0u8; header_bytes];
    input.read_exact(&mut header)?;
    let mut bytes = vec![0u8; samples * 4];
    input.read_exact(&mut bytes)?;
    Ok(Some((
        serde_json::from_slice(&header)?,
        samples_from_bytes(&bytes),
    )))
}

/// Splits and checks a frame's first eight bytes: header bytes, samples.
pub fn frame_lengths(lengths: [u8; 8]) -> io::Result<(usize, usize)> {
    let both = u64::from_le_bytes(lengths);
    let (header, samples) = (both as u32, (both >> 32) as u32);
    if header > MAX_HEADER_BYTES || samples > MAX_SAMPLES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not a frame"));
    }
    Ok((header as usize, samples as usize))
}

fn samples_from_bytes(bytes: &[u8]) -> Vec<f32> {
    bytes
        .as_chunks::<4>()
        .0
        .iter()
        .map(|c| f32::from_le_bytes(*c))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_survives_the_pipe() {
        let mut pipe = Vec::new();
        write_frame(&mut pipe, &("window", 7), &[0.5, -1.0]).unwrap();
        write_frame(&mut pipe, &("end", 8), &[]).unwrap();
        let mut pipe = pipe.as_slice();
        let (message, samples) = read_frame::<(String, u32)>(&mut pipe).unwrap().unwrap();
        assert_eq!((message.0.as_str(), message.1), ("window", 7));
        assert_eq!(samples, [0.5, -1.0]);
        assert!(read_frame::<(String, u32)>(&mut pipe).unwrap().is_some());
        assert!(read_frame::<(String, u32)>(&mut pipe).unwrap().is_none());
    }

    #[test]
    fn a_stray_line_on_the_pipe_is_refused_not_allocated() {
        let mut pipe: &[u8] = b"whisper_init: loading model";
        assert!(read_frame::<String>(&mut pipe).is_err());
    }

    #[test]
    fn half_a_frame_is_an_error_and_not_an_end() {
        let frame = encode_frame(&"words", &[1.0; 4]).unwrap();
        for cut in 1..frame.len() {
            assert!(read_frame::<String>(&mut &frame[..cut]).is_err(), "cut at {cut}");
        }
    }
}
