//! Which symbolic links among a model's files are followed.
//!
//! The folder of a model may come from a stranger, and a link in it may lead to any file of the user who deploys it. So
//! a link is followed only if it ends below the folder that the user named, or below the blobs of the same repository
//! in a Hugging Face cache. What is checked is the opened file, so that a link that is swapped meanwhile changes
//! nothing.

use crate::InspectError;
use rustix::fs::{CWD, Mode, OFlags, openat};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The links that are followed when the files of one model are opened.
#[derive(Clone, Debug)]
pub(crate) struct Links {
    /// The file that the user named, if it is not a folder. It may lie anywhere.
    named: Option<PathBuf>,
    /// The real paths of the folders below which links may end; the first is the folder that the user named.
    folders: Vec<PathBuf>,
    /// Whether links may end anywhere.
    anywhere: bool,
}

/// An opened file.
pub(crate) struct Opened {
    pub(crate) file: File,
    /// The file's path without links.
    pub(crate) real: PathBuf,
    /// Whether links led out of the folders below which they may end.
    pub(crate) outside: bool,
}

impl Links {
    /// Returns the links to follow for the file or folder that the user named.
    pub(crate) fn of(named: &Path, anywhere: bool) -> Result<Self, InspectError> {
        let is_folder = named.is_dir();
        let folder = if is_folder { named } else { crate::durable::folder_of(named) };
        let real = folder.canonicalize();
        let real = real.map_err(|source| InspectError::Io { path: named.to_owned(), source })?;
        let blobs = blobs_of(&real);
        let named = (!is_folder).then(|| named.to_owned());
        Ok(Self { named, folders: std::iter::once(real).chain(blobs).collect(), anywhere })
    }

    /// Opens a regular file.
    ///
    /// # Errors
    /// Returns [`InspectError::Link`] if the path leads out of the folders, or [`InspectError::Io`] if there is no such
    /// file or it is not a regular one.
    pub(crate) fn open(&self, path: &Path) -> Result<Opened, InspectError> {
        let io = |source| InspectError::Io { path: path.to_owned(), source };
        // Opening a file only to look at it does not wait for a pipe and does not wake a device.
        let found = openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
        let found = File::from(found.map_err(|error| io(error.into()))?);
        if !found.metadata().map_err(io)?.is_file() {
            return Err(io(io::Error::other("not a regular file")));
        }
        let descriptor = PathBuf::from(format!("/proc/self/fd/{}", found.as_raw_fd()));
        let real = descriptor.read_link().map_err(io)?;
        let inside = |folder: &PathBuf| real.starts_with(folder);
        let outside = self.named.as_deref() != Some(path) && !self.folders.iter().any(inside);
        if outside && !self.anywhere {
            let folder = self.folders[0].clone();
            return Err(InspectError::Link { path: path.to_owned(), target: real, folder });
        }
        let nonblock = OFlags::NONBLOCK.bits().cast_signed();
        let file = File::options().read(true).custom_flags(nonblock).open(&descriptor).map_err(io)?;
        Ok(Opened { file, real, outside })
    }
}

/// Returns the folder of the blobs that the snapshots of a repository in a Hugging Face cache link to, if `folder` is
/// in such a snapshot.
///
/// Source: <https://huggingface.co/docs/huggingface_hub/guides/manage-cache>.
fn blobs_of(folder: &Path) -> Option<PathBuf> {
    Some(hub_repository(folder)?.join("blobs"))
}

/// Returns the folder of the repository in a Hugging Face cache (`models--ORGANIZATION--NAME`) that has `path` in one
/// of its snapshots.
pub(crate) fn hub_repository(path: &Path) -> Option<&Path> {
    let named = |path: &Path, is: &dyn Fn(&str) -> bool| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(is)
    };
    let snapshots = path.ancestors().skip(1).find(|path| named(path, &|name| name == "snapshots"))?;
    snapshots.parent().filter(|path| named(path, &|name| name.starts_with("models--")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{create_dir_all, write};
    use std::os::unix::fs::symlink;

    fn outcome(links: &Links, path: &Path) -> &'static str {
        match links.open(path) {
            Ok(_) => "opened",
            Err(InspectError::Link { .. }) => "refused",
            Err(_) => "unreadable",
        }
    }

    #[test]
    fn links_end_below_the_named_folder_or_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (model, secret) = (folder.path().join("model"), folder.path().join("secret"));
        create_dir_all(model.join("..data")).unwrap();
        write(model.join("..data/weights"), "w").unwrap();
        write(&secret, "s").unwrap();
        symlink("..data/weights", model.join("weights")).unwrap();
        symlink("../secret", model.join("stolen")).unwrap();
        symlink("..", model.join("up")).unwrap();
        symlink("nowhere", model.join("dangling")).unwrap();
        symlink("../model", folder.path().join("current")).unwrap();
        let links = Links::of(&model, false).unwrap();
        assert_eq!(outcome(&links, &model.join("weights")), "opened");
        assert_eq!(outcome(&links, &model.join("..data/weights")), "opened");
        for refused in ["stolen", "up/secret", "up/model/stolen"] {
            assert_eq!(outcome(&links, &model.join(refused)), "refused", "{refused}");
        }
        for unreadable in ["dangling", "..data", "/dev/zero"] {
            assert_eq!(outcome(&links, &model.join(unreadable)), "unreadable", "{unreadable}");
        }
        let anywhere = Links::of(&model, true).unwrap();
        assert!(anywhere.open(&model.join("stolen")).unwrap().outside);
        assert_eq!(
            outcome(&Links::of(&model.join("stolen"), false).unwrap(), &model.join("stolen")),
            "opened"
        );
    }

    #[test]
    fn a_snapshot_of_a_hugging_face_cache_links_to_its_own_blobs_only() {
        let folder = tempfile::tempdir().unwrap();
        let cache = folder.path().canonicalize().unwrap();
        for name in ["models--a--b", "models--a--c"] {
            create_dir_all(cache.join(name).join("blobs")).unwrap();
            create_dir_all(cache.join(name).join("snapshots/1/onnx")).unwrap();
            write(cache.join(name).join("blobs/x"), "x").unwrap();
        }
        let snapshot = cache.join("models--a--b/snapshots/1/onnx");
        symlink("../../../blobs/x", snapshot.join("own")).unwrap();
        symlink("../../../../models--a--c/blobs/x", snapshot.join("other")).unwrap();
        let links = Links::of(&snapshot, false).unwrap();
        assert_eq!(outcome(&links, &snapshot.join("own")), "opened");
        assert_eq!(outcome(&links, &snapshot.join("other")), "refused");
        // The blobs of a repository that a stranger made may be a link themselves.
        std::fs::rename(cache.join("models--a--b/blobs"), cache.join("elsewhere")).unwrap();
        symlink("../elsewhere", cache.join("models--a--b/blobs")).unwrap();
        assert_eq!(outcome(&links, &snapshot.join("own")), "refused");
    }
}
