//! Reading tar archives from untrusted sources: regular files under plain paths, each once, within bounds.

mod zstd;

use crate::blobs::hex;
use crate::package::is_plain;
use flate2::bufread::MultiGzDecoder;
use sha2::{Digest, Sha256};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use zstd::Frames;

/// Longest headers of an entry, in bytes (1 MiB): long names and attributes are read into memory.
const MAX_HEADERS: u64 = 1 << 20;

/// Why an archive is refused.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Refused(pub(crate) String);

/// How an archive is compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Compression {
    Plain,
    Gzip,
    Zstd,
}

impl Compression {
    /// Returns the uncompressed bytes of a file.
    pub(crate) fn reader(self, file: File) -> Box<dyn Read> {
        let file = BufReader::with_capacity(256 << 10, file);
        match self {
            Self::Plain => Box::new(file),
            Self::Gzip => Box::new(MultiGzDecoder::new(file)),
            Self::Zstd => Box::new(Frames::new(file)),
        }
    }
}

/// The bytes of an uncompressed archive, which are counted and hashed while they are read.
pub(crate) struct Stream<R>(RefCell<State<R>>);

struct State<R> {
    inner: R,
    hasher: Sha256,
    /// The most bytes that the stream may have, and how many of them are left.
    most: u64,
    left: u64,
    /// How many bytes may be read until the next entry begins; `None` inside of an entry.
    headers: Option<u64>,
    /// Why reading has failed.
    failed: Option<String>,
}

impl<R: Read> Stream<R> {
    pub(crate) fn new(inner: R, most: u64) -> Self {
        let (hasher, headers, failed) = (Sha256::new(), None, None);
        Self(RefCell::new(State { inner, hasher, most, left: most, headers, failed }))
    }

    /// Calls `take` with the path, the size and the bytes of each file whose name `wants` accepts. Nothing is checked of
    /// the other entries, and folders are passed over.
    pub(crate) fn files<E: From<Refused>>(
        &self,
        mut wants: impl FnMut(&str) -> bool,
        mut take: impl FnMut(&str, u64, &mut dyn Read) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut archive = tar::Archive::new(self);
        let mut entries = archive.entries().map_err(|error| self.refused(&error))?;
        let mut seen = BTreeSet::new();
        loop {
            self.0.borrow_mut().headers = Some(MAX_HEADERS);
            let Some(entry) = entries.next() else { return Ok(()) };
            let mut entry = entry.map_err(|error| self.refused(&error))?;
            self.0.borrow_mut().headers = None;
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let (kind, size) = (entry.header().entry_type(), entry.size());
            let mut data = Counted { inner: &mut entry, count: 0 };
            if !kind.is_dir() && !kind.is_pax_global_extensions() && wants(name.trim_start_matches("./")) {
                let path = plain(&name)?;
                if !kind.is_file() {
                    return Err(Refused(format!("its entry `{path}` is not a regular file")).into());
                }
                if !seen.insert(path.clone()) {
                    return Err(Refused(format!("its entry `{path}` appears twice")).into());
                }
                // A reader's error must not look like one of the writer to which `take` copies.
                let taken = take(&path, size, &mut data);
                taken.map_err(|error| self.failure().map_or(error, |why| Refused(why).into()))?;
            }
            io::copy(&mut data, &mut io::sink()).map_err(|error| self.refused(&error))?;
            if data.count != size {
                return Err(Refused(format!("it ends inside `{name:.100}`")).into());
            }
        }
    }

    /// Reads what is left, and returns the digest of all bytes: `sha256:HEX`.
    pub(crate) fn digest(self) -> Result<String, Refused> {
        self.0.borrow_mut().headers = None;
        io::copy(&mut &self, &mut io::sink()).map_err(|error| self.refused(&error))?;
        Ok(format!("sha256:{}", hex(&self.0.into_inner().hasher.finalize())))
    }

    fn failure(&self) -> Option<String> {
        self.0.borrow().failed.clone()
    }

    fn refused(&self, error: &io::Error) -> Refused {
        Refused(self.failure().unwrap_or_else(|| unreadable(error)))
    }
}

impl<R: Read> Read for &Stream<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let state = &mut *self.0.borrow_mut();
        let read = state.inner.read(buffer);
        if let Err(error) = &read
            && error.kind() != io::ErrorKind::Interrupted
        {
            state.failed = Some(unreadable(error));
        }
        let count = read?;
        state.hasher.update(&buffer[..count]);
        let (bytes, most) = (count as u64, state.most);
        let mut spend = |left: u64, why: String| {
            left.checked_sub(bytes).ok_or_else(|| {
                state.failed = Some(why.clone());
                io::Error::other(why)
            })
        };
        state.left = spend(state.left, format!("it unpacks to more than {most} bytes"))?;
        if let Some(left) = state.headers {
            let why = format!("the headers of an entry have more than {MAX_HEADERS} bytes");
            state.headers = Some(spend(left, why)?);
        }
        Ok(count)
    }
}

/// A reader that counts.
struct Counted<R> {
    inner: R,
    count: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.count += count as u64;
        Ok(count)
    }
}

/// Returns the path of an entry in its shortest form.
fn plain(name: &str) -> Result<String, Refused> {
    let path = name.trim_start_matches("./");
    if !is_plain(path) {
        return Err(Refused(format!(
            "its entry {name:.100?} is not a plain path of a file inside the archive"
        )));
    }
    Ok(Path::new(path).components().collect::<PathBuf>().display().to_string())
}

/// Says why reading failed, in few words: the error may have bytes of the archive in it.
fn unreadable(error: &io::Error) -> String {
    let text: String = error.to_string().chars().take(60).collect();
    format!("it cannot be read: {}", text.split(':').next().unwrap_or_default())
}

#[cfg(test)]
pub(crate) mod tests;
