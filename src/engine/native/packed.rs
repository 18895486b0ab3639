//! Packed weights in a file of their own, mapped and shared by every process that runs the model.
//!
//! Packing a model takes from half a second to some ten seconds, reading it back takes none. The file stands beside the model,
//! or in the user's cache folder where the models' folder cannot be written. It is written under another name and renamed, so
//! that it is whole or not there; a checksum over all of it and the model's fingerprint are compared before it is used.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;
use whisper_native::{Isa, Precision, Shape, Weights};

use crate::models::{Checkpoint, cache_folder};

/// First bytes of a file of packed weights.
const MAGIC: [u8; 8] = *b"WBPACKED";
/// Version of the header.
const VERSION: u32 = 1;
/// Where the weights begin: a page, so that they are aligned for the kernels.
const HEADER: usize = 4096;
/// Bytes of the header that are used.
const USED: usize = 96;
/// The fingerprint reads so many pieces of a model, spread evenly, and both ends.
const PIECES: u64 = 64;
const PIECE: usize = 4096;

/// Opens the weights of the model at `path` in `precision`: from their packed file, or packed now.
///
/// # Errors
///
/// One sentence when the model cannot be read or has no room. A packed file that cannot be written is no error: the weights
/// then live in memory.
pub(super) fn open(
    checkpoint: &mut Checkpoint,
    path: &Path,
    precision: Precision,
    isa: Isa,
) -> Result<Weights, String> {
    let shape = checkpoint.shape();
    let expected = Header {
        shape,
        precision,
        length: Weights::packed_len(&shape, precision).map_err(|e| e.to_string())?,
        fingerprint: fingerprint(path).map_err(|e| format!("`{}` cannot be read: {e}", path.display()))?,
    };
    let places = places(path, precision);
    for place in &places {
        match map(place, &expected) {
            Ok(mapped) => {
                return Weights::open(shape, precision, isa, Arc::new(mapped)).map_err(|e| e.to_string());
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => log('W', &format!("`{}` is packed anew: {error}", place.display())),
        }
    }
    let weights = Weights::pack(shape, precision, isa, checkpoint).map_err(|e| e.to_string())?;
    for place in &places {
        let kept = write(place, &expected, weights.bytes()).and_then(|()| map(place, &expected));
        match kept {
            // The copy in memory goes; the file's pages are shared and can be taken back by the system.
            Ok(mapped) => {
                return Weights::open(shape, precision, isa, Arc::new(mapped)).map_err(|e| e.to_string());
            }
            Err(error) => log(
                'W',
                &format!("packed weights are not kept in `{}`: {error}", place.display()),
            ),
        }
    }
    Ok(weights)
}

/// Where the packed file of a model may be: beside it, or in the cache.
fn places(model: &Path, precision: Precision) -> Vec<PathBuf> {
    let name = model.file_stem().unwrap_or_default().to_string_lossy();
    let file = format!("{name}.{}-{}.packed", precision.name(), Weights::LAYOUT);
    let mut places = vec![model.with_file_name(&file)];
    places.extend(cache_folder("packed").map(|folder| folder.join(file)));
    places
}

/// What a packed file says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Header {
    shape: Shape,
    precision: Precision,
    length: usize,
    /// Of the model that it was packed from.
    fingerprint: u64,
}

impl Header {
    /// The first bytes of the file, with the checksum of the weights.
    fn bytes(&self, checksum: u32) -> [u8; HEADER] {
        let shape = &self.shape;
        let sizes = [
            shape.n_vocab,
            shape.n_audio_ctx,
            shape.audio_state,
            shape.audio_heads,
            shape.audio_layers,
            shape.text_ctx,
            shape.text_state,
            shape.text_heads,
            shape.text_layers,
            shape.n_mels,
        ];
        let mut used = Vec::with_capacity(USED);
        used.extend_from_slice(&MAGIC);
        for word in [VERSION, Weights::LAYOUT] {
            used.extend_from_slice(&word.to_le_bytes());
        }
        let mut name = [0; 16];
        let precision = self.precision.name().as_bytes();
        name[..precision.len()].copy_from_slice(precision);
        used.extend_from_slice(&name);
        used.extend_from_slice(&(self.length as u64).to_le_bytes());
        used.extend_from_slice(&self.fingerprint.to_le_bytes());
        for size in sizes {
            used.extend_from_slice(&(size as u32).to_le_bytes());
        }
        used.extend_from_slice(&checksum.to_le_bytes());
        let mut bytes = [0; HEADER];
        bytes[..used.len()].copy_from_slice(&used);
        bytes
    }
}

/// The weights in a mapped file.
struct Mapped(Mmap);

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        &self.0[HEADER..]
    }
}

fn damaged(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason.to_owned())
}

/// Maps a packed file when it is whole and the one that is expected.
fn map(path: &Path, expected: &Header) -> io::Result<Mapped> {
    let file = File::open(path)?;
    if file.metadata()?.len() != (HEADER + expected.length) as u64 {
        return Err(damaged("it has another length"));
    }
    #[allow(unsafe_code, reason = "a file is mapped")]
    // SAFETY: the mapping is read-only and private to this program's files: they are replaced by renaming, never written to
    // in place. Whoever cuts one short while it is in use ends this engine by a signal, as with any mapped library; the server
    // starts another, which packs anew.
    let mapped = unsafe { Mmap::map(&file) }?;
    // The length as it is mapped, should it have changed since.
    if mapped.len() != HEADER + expected.length {
        return Err(damaged("it has another length"));
    }
    let (header, weights) = mapped.split_at(HEADER);
    if header != expected.bytes(crc32fast::hash(weights)) {
        return Err(damaged("it is damaged, or of another model or version"));
    }
    Ok(Mapped(mapped))
}

fn write(path: &Path, header: &Header, weights: &[u8]) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let mut staged = tempfile::Builder::new().prefix(".packed-").tempfile_in(folder)?;
    let weights = &weights[..header.length];
    staged.write_all(&header.bytes(crc32fast::hash(weights)))?;
    staged.write_all(weights)?;
    staged.flush()?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // As readable as the model beside it usually is.
        staged
            .as_file()
            .set_permissions(std::fs::Permissions::from_mode(0o644))?;
    }
    staged.persist(path).map_err(|error| error.error)?;
    Ok(())
}

/// Tells models apart in a few milliseconds, whatever their size: length, both ends and pieces between.
fn fingerprint(path: &Path) -> io::Result<u64> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let mut hasher = crc32fast::Hasher::new();
    let mut piece = vec![0; PIECE];
    for number in 0..=PIECES {
        let offset = (length.saturating_sub(PIECE as u64)) / PIECES * number;
        let offset = if number == PIECES {
            length.saturating_sub(PIECE as u64)
        } else {
            offset
        };
        file.seek(SeekFrom::Start(offset))?;
        let mut taken = (&mut file).take(PIECE as u64);
        let mut filled = 0;
        loop {
            match taken.read(&mut piece[filled..])? {
                0 => break,
                count => filled += count,
            }
        }
        hasher.update(&piece[..filled]);
    }
    Ok(u64::from(hasher.finalize()) << 32 | (length & u64::from(u32::MAX)))
}

/// A line for the server's log, with its level.
fn log(level: char, text: &str) {
    let _ = writeln!(io::stderr(), "{level} {text}");
}
