//! Several files read as one: model weights that were split into pieces or shards.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use crate::models::ModelError;

/// Files one after the other, addressed by one offset.
#[derive(Debug)]
pub(crate) struct Parts {
    files: Vec<Part>,
    position: u64,
}

#[derive(Debug)]
struct Part {
    path: PathBuf,
    file: File,
    start: u64,
    length: u64,
}

impl Parts {
    pub(crate) fn open(paths: &[PathBuf]) -> Result<Self, ModelError> {
        let mut start = 0;
        let files = paths
            .iter()
            .map(|path| {
                let file = File::open(path).map_err(|e| ModelError::io("open", path, e))?;
                let length = file
                    .metadata()
                    .map_err(|e| ModelError::io("read", path, e))?
                    .len();
                let part = Part {
                    path: path.clone(),
                    file,
                    start,
                    length,
                };
                start += length;
                Ok(part)
            })
            .collect::<Result<Vec<_>, ModelError>>()?;
        Ok(Self { files, position: 0 })
    }

    pub(crate) fn length(&self) -> u64 {
        self.files.last().map_or(0, |part| part.start + part.length)
    }

    /// Where the `index`th file begins.
    pub(crate) fn start_of(&self, index: usize) -> u64 {
        self.files.get(index).map_or(self.length(), |part| part.start)
    }

    /// Fills `buffer` from `offset` on, across borders between files.
    ///
    /// # Errors
    ///
    /// `Malformed` when the files end before the buffer is full.
    pub(crate) fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), ModelError> {
        self.position = offset;
        self.read_exact(buffer).map_err(|error| {
            let path = self.current().map_or(Path::new(""), |part| &part.path);
            if error.kind() == io::ErrorKind::UnexpectedEof {
                let path = self.files.last().map_or(path, |part| &part.path);
                ModelError::malformed(path, "it ends in the middle of its weights")
            } else {
                ModelError::io("read", path, error)
            }
        })
    }

    fn current(&self) -> Option<&Part> {
        self.files
            .iter()
            .find(|part| (part.start..part.start + part.length).contains(&self.position))
    }
}

impl Read for Parts {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let position = self.position;
        let Some(part) = self
            .files
            .iter_mut()
            .find(|part| (part.start..part.start + part.length).contains(&position))
        else {
            return Ok(0);
        };
        let within = position - part.start;
        let count = buffer
            .len()
            .min(usize::try_from(part.length - within).unwrap_or(usize::MAX));
        part.file.seek(SeekFrom::Start(within))?;
        let count = part.file.read(&mut buffer[..count])?;
        self.position += count as u64;
        Ok(count)
    }
}

impl Seek for Parts {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::Current(delta) => self.position.checked_add_signed(delta),
            SeekFrom::End(delta) => self.length().checked_add_signed(delta),
        };
        self.position = target.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.position)
    }
}
