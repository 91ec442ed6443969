//! Files and folders that are there after a power cut: contents are synced before they get their name, and
//! names by syncing the folder they are in.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

/// Makes a folder for this user alone, with those above it, where they are not there, and sees to it that
/// it stays. One that is there may have been made by who was killed before that.
pub fn make_folder(path: &Path) -> io::Result<()> {
    if !path.is_dir() {
        if !folder_of(path).is_dir() {
            make_folder(folder_of(path))?;
        }
        match fs::DirBuilder::new().mode(0o700).create(path) {
            // Somebody else was faster.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
            made => made?,
        }
    }
    match sync_folder_of(path) {
        // Of a folder that may not be listed nothing can be promised.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        synced => synced,
    }
}

/// Puts a whole file, for this user alone, in another's place.
pub fn replace_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = tempfile::NamedTempFile::new_in(folder_of(path))?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    sync_folder_of(path)
}

/// What to do about a disk that refuses, where something is known.
pub fn disk_hint(error: &io::Error) -> Option<&'static str> {
    match (error.kind(), error.raw_os_error()) {
        (io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded, _) => {
            Some("free some room on that disk, or put the workspace elsewhere with --workspace")
        }
        (io::ErrorKind::ReadOnlyFilesystem, _) => Some(
            "the disk is read-only, which Linux makes it after errors: `dmesg` and `findmnt` say more; mount it \
             for writing, then try again",
        ),
        // EIO: the standard library has no word for it.
        (_, Some(5)) => Some(
            "the disk fails: `dmesg` says more, `drisse doctor` what is damaged; what was acknowledged is kept, \
             try again",
        ),
        _ => None,
    }
}

/// Makes the name of a file or folder stay: a rename is there after a power cut once its folder is.
pub fn sync_folder_of(path: &Path) -> io::Result<()> {
    sync_folder(folder_of(path))
}

/// The folder that a path is in; of a name alone, the current one.
fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder.as_os_str().is_empty() => Path::new("."),
        Some(folder) => folder,
        None => Path::new("/"),
    }
}

/// Makes the names in a folder stay.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_made_with_those_above_and_a_file_in_the_way_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("a/b/c");
        make_folder(&deep).unwrap();
        make_folder(&deep).unwrap();
        replace_file(&deep.join("f"), b"one").unwrap();
        replace_file(&deep.join("f"), b"two").unwrap();
        assert_eq!(fs::read(deep.join("f")).unwrap(), b"two");
        assert_eq!(fs::read_dir(&deep).unwrap().count(), 1, "nothing else is left");
        assert!(make_folder(&deep.join("f")).is_err() && make_folder(&deep.join("f/g")).is_err());
    }
}
