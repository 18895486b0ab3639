//! What the demuxers read from: a region of the upload, with a meter on it.

use std::io::{self, Read, Seek, SeekFrom};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use symphonia::core::io::MediaSource;

use super::upload::UploadedAudio;

/// Largest single read a demuxer may ask for, in bytes.
///
/// A demuxer reads a whole packet at once, so this is the largest packet accepted: far above any audio packet,
/// above video key frames, and far below what a made-up 32-bit size asks for.
const MAX_READ_BYTES: usize = 32 << 20;

/// Bounds what one step of a demuxer may read, and remembers why a read failed.
#[derive(Debug, Default)]
pub(super) struct Meter {
    allowance_bytes: AtomicU64,
    exhausted: AtomicBool,
    failure: Mutex<Option<io::Error>>,
}

impl Meter {
    /// Allows `bytes` more bytes, forgetting what was left.
    pub(super) fn allow(&self, bytes: u64) {
        self.allowance_bytes.store(bytes, Ordering::Relaxed);
        self.exhausted.store(false, Ordering::Relaxed);
    }

    /// Whether a read was refused since the last [`allow`](Self::allow).
    pub(super) fn is_exhausted(&self) -> bool {
        self.exhausted.load(Ordering::Relaxed)
    }

    /// The disk's error, if a read failed for that reason.
    pub(super) fn take_failure(&self) -> Option<io::Error> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn refuse(&self) -> io::Error {
        self.exhausted.store(true, Ordering::Relaxed);
        io::Error::other("the demuxer reads too much at once")
    }
}

/// A region of the upload as a file of its own, so that offsets in a container count from its first byte
/// whatever stands before it.
#[derive(Debug)]
pub(super) struct Region {
    upload: UploadedAudio,
    start: u64,
    len: u64,
    /// Where the end is said to be; beyond `len` for a file that was cut off.
    declared_end: u64,
    position: u64,
    meter: Arc<Meter>,
}

impl Region {
    /// `len` bytes from `start`, or fewer when the upload ends before.
    pub(super) fn new(upload: UploadedAudio, start: u64, len: u64, meter: Arc<Meter>) -> Self {
        let len = len.min(upload.len().saturating_sub(start));
        Self {
            upload,
            start,
            len,
            declared_end: len,
            position: 0,
            meter,
        }
    }

    /// Back to the first byte.
    pub(super) fn rewind(&mut self) {
        self.position = 0;
    }

    /// The `len` bytes from `start` of this region, as a region.
    pub(super) fn narrow(self, start: u64, len: u64) -> Self {
        let len = len.min(self.len.saturating_sub(start));
        Self {
            start: self.start + start.min(self.len),
            len,
            declared_end: len,
            position: 0,
            ..self
        }
    }

    /// Says that the end is at `end`, so that a reader that checks sizes against it takes a file that was cut off;
    /// reading beyond the real end gives nothing.
    pub(super) fn declare_end(&mut self, end: u64) {
        self.declared_end = end.max(self.len);
    }
}

impl Read for Region {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.len.saturating_sub(self.position);
        if buffer.len() > MAX_READ_BYTES {
            return Err(self.meter.refuse());
        }
        let wanted = left.min(buffer.len() as u64) as usize;
        if wanted == 0 {
            return Ok(0);
        }
        let allowed = self.meter.allowance_bytes.load(Ordering::Relaxed);
        if allowed < wanted as u64 {
            return Err(self.meter.refuse());
        }
        match self
            .upload
            .read_at(self.start + self.position, &mut buffer[..wanted])
        {
            Ok(count) => {
                self.meter
                    .allowance_bytes
                    .store(allowed - count as u64, Ordering::Relaxed);
                self.position += count as u64;
                Ok(count)
            }
            Err(error) => {
                let kind = error.kind();
                *self.meter.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                Err(kind.into())
            }
        }
    }
}

impl Seek for Region {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        let target = match position {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::End(delta) => self.declared_end.checked_add_signed(delta),
            SeekFrom::Current(delta) => self.position.checked_add_signed(delta),
        };
        // Positions past the end are allowed, as in files; reads there give nothing.
        self.position = target.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.position)
    }
}

impl MediaSource for Region {
    fn is_seekable(&self) -> bool {
        true
    }

    fn byte_len(&self) -> Option<u64> {
        Some(self.declared_end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(allow: u64) -> Region {
        let upload = UploadedAudio::from_bytes(b"junkHELLO WORLD!", None).unwrap();
        let meter = Arc::new(Meter::default());
        meter.allow(allow);
        Region::new(upload, 4, 5, meter)
    }

    #[test]
    fn offsets_count_from_the_start_of_the_region_and_end_with_it() {
        let mut region = region(100);
        let mut all = String::new();
        region.read_to_string(&mut all).unwrap();
        assert_eq!(all, "HELLO");
        region.seek(SeekFrom::End(-2)).unwrap();
        let mut tail = [0; 8];
        assert_eq!(region.read(&mut tail).unwrap(), 2);
        assert_eq!(&tail[..2], b"LO");
        region.seek(SeekFrom::Start(u64::MAX)).unwrap();
        assert_eq!(region.read(&mut tail).unwrap(), 0);
    }

    #[test]
    fn a_spent_meter_and_an_absurd_packet_are_refused() {
        let mut spent = region(3);
        assert!(spent.read(&mut [0; 4]).is_err());
        assert!(spent.meter.is_exhausted());
        let mut greedy = region(u64::MAX);
        assert!(greedy.read(&mut vec![0; MAX_READ_BYTES + 1]).is_err());
        assert!(greedy.meter.is_exhausted());
    }
}
