//! Layers: tar archives whose bytes depend only on the files, folders and links in them.
//!
//! Specification: <https://github.com/opencontainers/image-spec/blob/v1.1.1/layer.md>.

use super::ImageError;
use crate::blobs::{Hashing, hex};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// A layer's entries by path, without a leading `/`. Sorted, so that a folder comes before its contents.
#[derive(Clone, Debug, Default)]
pub(super) struct Layer(BTreeMap<String, Entry>);

#[derive(Clone, Debug)]
enum Entry {
    Folder,
    Link(String),
    File(Source),
    Program(Source),
}

/// Most symbolic links in one path, as in the Linux kernel.
const MAX_LINKS: usize = 40;

/// The source of a file's bytes.
#[derive(Clone, Debug)]
pub(super) enum Source {
    Bytes(Vec<u8>),
    /// The first `size` bytes of a file: its size when the layer was composed.
    File {
        path: PathBuf,
        size: u64,
    },
    /// The first `size` bytes of a program, with the references to its removed rest cleared.
    Cut {
        path: PathBuf,
        size: u64,
    },
}

impl Source {
    /// Takes a whole file.
    pub(super) fn file(path: &Path) -> Result<Self, ImageError> {
        let size = path.metadata().map_err(|error| ImageError::io("read", path, error))?.len();
        Ok(Self::File { path: path.to_owned(), size })
    }

    /// Takes the part of a program that is loaded to run it.
    pub(super) fn loaded(path: &Path) -> Result<Self, ImageError> {
        let failed = |error| ImageError::io("read", path, error);
        let size = path.metadata().map_err(failed)?.len();
        let loaded = super::Elf::open(path).map_err(failed)?.map_or(size, |elf| elf.loaded);
        Ok(Self::Cut { path: path.to_owned(), size: loaded.clamp(64, size.max(64)) })
    }

    fn size(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File { size, .. } | Self::Cut { size, .. } => *size,
        }
    }

    fn write(
        &self,
        archive: &mut tar::Builder<impl Write>,
        header: &mut tar::Header,
        name: &str,
    ) -> io::Result<()> {
        match self {
            Self::Bytes(bytes) => archive.append_data(header, name, &**bytes),
            Self::File { path, size } => {
                archive.append_data(header, name, exact(crate::digest::open(path)?, *size))
            }
            Self::Cut { path, size } => {
                let mut file = crate::digest::open(path)?;
                let mut head = [0; 64];
                file.read_exact(&mut head)?;
                super::elf::cut(&mut head);
                let rest = exact(file, size.saturating_sub(64));
                archive.append_data(header, name, (&head[..]).chain(rest))
            }
        }
    }
}

/// Reads exactly `size` bytes: a file that has become shorter is an error, and not a broken archive.
fn exact(file: File, size: u64) -> impl Read {
    struct Exact(io::Take<File>);
    impl Read for Exact {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let count = self.0.read(buffer)?;
            if count == 0 && self.0.limit() > 0 && !buffer.is_empty() {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file has become shorter"));
            }
            Ok(count)
        }
    }
    Exact(file.take(size))
}

impl Layer {
    pub(super) fn file(&mut self, path: &str, source: Source) {
        self.add(path, Entry::File(source));
    }

    pub(super) fn program(&mut self, path: &str, source: Source) {
        self.add(path, Entry::Program(source));
    }

    pub(super) fn folder(&mut self, path: &str) {
        self.add(path, Entry::Folder);
    }

    pub(super) fn link(&mut self, path: &str, target: &str) {
        self.add(path, Entry::Link(target.to_owned()));
    }

    /// Adds a file of this machine at the same path, with the symbolic links in that path. Returns the file's real path.
    pub(super) fn host(&mut self, path: &Path, as_program: bool) -> Result<PathBuf, ImageError> {
        let failed = |error| ImageError::io("read", path, error);
        let mut at = PathBuf::from("/");
        let mut left: Vec<_> = path.components().map(|part| part.as_os_str().to_owned()).rev().collect();
        let mut links = 0;
        while let Some(part) = left.pop() {
            match part.to_str() {
                Some("/") => at = PathBuf::from("/"),
                Some(".") => {}
                Some("..") => drop(at.pop()),
                _ => {
                    let next = at.join(&part);
                    let Ok(target) = next.read_link() else {
                        at = next;
                        continue;
                    };
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(failed(io::Error::other("its path has too many links")));
                    }
                    self.link(utf8(&next)?, utf8(&target)?);
                    left.extend(target.components().map(|part| part.as_os_str().to_owned()).rev());
                }
            }
        }
        let source = Source::file(&at)?;
        let entry = if as_program { Entry::Program(source) } else { Entry::File(source) };
        self.add(utf8(&at)?, entry);
        Ok(at)
    }

    /// Returns a hash of the layer's paths and its files' sizes and times. Does not read the files' contents.
    pub(super) fn key(&self) -> Result<String, ImageError> {
        use std::os::unix::fs::MetadataExt;
        let mut hasher = Sha256::new();
        for (path, entry) in &self.0 {
            hasher.update(format!("{path}\0{entry:?}\0"));
            if let Entry::File(source) | Entry::Program(source) = entry
                && let Source::File { path, .. } | Source::Cut { path, .. } = source
            {
                let metadata = path.metadata().map_err(|error| ImageError::io("read", path, error))?;
                let (inode, seconds, nanos) = (metadata.ino(), metadata.mtime(), metadata.mtime_nsec());
                hasher.update(format!("{inode} {} {seconds}.{nanos}\0", metadata.len()));
            }
        }
        Ok(hex(&hasher.finalize()))
    }

    fn add(&mut self, path: &str, entry: Entry) {
        let path = path.trim_start_matches('/');
        for (at, _) in path.match_indices('/') {
            self.0.entry(path[..at].to_owned()).or_insert(Entry::Folder);
        }
        self.0.insert(path.to_owned(), entry);
    }

    /// Writes the archive. All entries belong to root and date from 1970, and files are read-only.
    pub(super) fn write(&self, out: impl Write) -> io::Result<()> {
        let mut archive = tar::Builder::new(out);
        for (path, entry) in &self.0 {
            let mut header = tar::Header::new_gnu();
            let (kind, mode, size) = match entry {
                Entry::Folder if path == "tmp" => (tar::EntryType::Directory, 0o1777, 0),
                Entry::Folder => (tar::EntryType::Directory, 0o755, 0),
                Entry::Link(_) => (tar::EntryType::Symlink, 0o777, 0),
                Entry::File(source) => (tar::EntryType::Regular, 0o444, source.size()),
                Entry::Program(source) => (tar::EntryType::Regular, 0o555, source.size()),
            };
            header.set_entry_type(kind);
            header.set_mode(mode);
            header.set_size(size);
            header.set_mtime(0);
            header.set_uid(0);
            header.set_gid(0);
            match entry {
                Entry::Folder => archive.append_data(&mut header, format!("{path}/"), io::empty()),
                Entry::Link(target) => archive.append_link(&mut header, path, target),
                Entry::File(source) | Entry::Program(source) => source.write(&mut archive, &mut header, path),
            }?;
        }
        archive.into_inner()?.flush()
    }

    /// Returns the digest and size of the archive that [`Self::write`] writes.
    pub(super) fn measure(&self) -> io::Result<crate::Blob> {
        let mut out = Hashing::new(io::sink());
        self.write(&mut out)?;
        Ok(out.finish())
    }
}

fn utf8(path: &Path) -> Result<&str, ImageError> {
    let wrong = || ImageError::io("pack", path, io::Error::other("its name is not UTF-8"));
    path.to_str().ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Blob;
    use std::os::unix::fs::PermissionsExt;

    fn unpacked(layer: &Layer) -> (tempfile::TempDir, Vec<u8>) {
        let mut bytes = Vec::new();
        layer.write(&mut bytes).unwrap();
        let folder = tempfile::tempdir().unwrap();
        tar::Archive::new(&*bytes).unpack(folder.path()).unwrap();
        (folder, bytes)
    }

    #[test]
    fn a_layer_is_the_same_bytes_in_whatever_order_it_was_filled() {
        let (mut one, mut other) = (Layer::default(), Layer::default());
        let put = |layer: &mut Layer, name: &str| layer.file(name, Source::Bytes(name.into()));
        ["/a/b/c", "a/d", "e"].iter().for_each(|name| put(&mut one, name));
        ["e", "a/d", "/a/b/c"].iter().for_each(|name| put(&mut other, name));
        let (folder, bytes) = unpacked(&one);
        assert_eq!(bytes, unpacked(&other).1);
        assert_eq!(Blob::of(&bytes), one.measure().unwrap());
        assert_eq!(std::fs::read(folder.path().join("a/b/c")).unwrap(), b"/a/b/c");
        let mode = folder.path().join("e").metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o444, "the file is read-only");
    }

    #[test]
    fn a_file_of_this_machine_comes_with_the_links_that_lead_to_it() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        std::fs::create_dir_all(root.join("usr/lib")).unwrap();
        std::fs::write(root.join("usr/lib/libx.so.1.2"), "x").unwrap();
        for (target, link) in [("usr/lib", "lib"), ("libx.so.1.2", "usr/lib/libx.so.1"), ("..", "usr/lib/up")]
        {
            std::os::unix::fs::symlink(target, root.join(link)).unwrap();
        }
        let mut layer = Layer::default();
        let at = layer.host(&root.join("lib/up/lib/libx.so.1"), false).unwrap();
        assert_eq!(at, root.join("usr/lib/libx.so.1.2"));
        let (made, _) = unpacked(&layer);
        let there = made.path().join(root.strip_prefix("/").unwrap());
        assert_eq!(std::fs::read(there.join("lib/libx.so.1")).unwrap(), b"x");
        assert_eq!(there.join("lib").read_link().unwrap(), Path::new("usr/lib"));
        std::os::unix::fs::symlink("loop", root.join("loop")).unwrap();
        let error = layer.host(&root.join("loop"), false).unwrap_err();
        assert!(format!("{error:?}").contains("has too many links"), "{error:?}");
    }

    #[test]
    fn a_program_runs_without_what_is_for_debuggers() {
        let program = std::env::current_exe().unwrap();
        let mut layer = Layer::default();
        layer.program("program", Source::loaded(&program).unwrap());
        let (folder, _) = unpacked(&layer);
        let cut = folder.path().join("program");
        assert!(cut.metadata().unwrap().len() < program.metadata().unwrap().len());
        let listed = std::process::Command::new(cut).args(["--list", "image::"]).output().unwrap();
        assert!(listed.status.success() && listed.stdout.ends_with(b"\n"), "{listed:?}");
    }

    #[test]
    fn a_file_that_became_shorter_is_an_error_and_not_a_broken_archive() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(100).unwrap();
        let mut layer = Layer::default();
        layer.file("f", Source::file(file.path()).unwrap());
        file.as_file().set_len(10).unwrap();
        assert!(layer.measure().unwrap_err().to_string().contains("shorter"));
    }
}
