//! Files and folders that survive a power cut: a file's contents are synced before the file gets its name, and the
//! name by syncing its folder.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

/// Creates a folder that only this user can access (mode 0700), with its missing parents, and syncs their names.
/// An existing folder is synced too: the process that created it may have been killed before it did so.
///
/// # Errors
///
/// Returns an error if the folder cannot be created or synced, or if a file has its path.
pub fn make_folder(path: &Path) -> io::Result<()> {
    if !path.is_dir() {
        if !folder_of(path).is_dir() {
            make_folder(folder_of(path))?;
        }
        match fs::DirBuilder::new().mode(0o700).create(path) {
            // Another process has created the folder in the meantime.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
            made => made?,
        }
    }
    match sync_folder_of(path) {
        // A parent that may not be opened cannot be synced.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        synced => synced,
    }
}

/// Writes a file atomically, for this user alone (mode 0600): readers see the old contents or the new ones. The
/// file is synced.
///
/// # Errors
///
/// Returns an error if the temporary file beside `path` cannot be written, synced or renamed.
pub fn replace_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = tempfile::NamedTempFile::new_in(folder_of(path))?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    sync_folder_of(path)
}

/// Returns a hint for errors of the disk: full, read-only, failing. `None` for other errors.
pub fn disk_hint(error: &io::Error) -> Option<&'static str> {
    match (error.kind(), error.raw_os_error()) {
        (io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded, _) => {
            Some("free some room on that disk, or put the workspace elsewhere with --workspace")
        }
        (io::ErrorKind::ReadOnlyFilesystem, _) => Some(
            "the disk is read-only, as Linux remounts disks after errors: see `dmesg` and `findmnt`; remount it \
             for writing, then try again",
        ),
        // EIO: the standard library has no `ErrorKind` for it.
        (_, Some(5)) => Some(
            "the disk fails: see `dmesg`, and `drisse doctor` for what is damaged; acknowledged changes are kept, \
             try again",
        ),
        _ => None,
    }
}

/// Syncs the folder that contains `path`, so that the name of a new or renamed file survives a power cut.
///
/// # Errors
///
/// Returns an error if the folder cannot be opened or synced.
pub fn sync_folder_of(path: &Path) -> io::Result<()> {
    sync_folder(folder_of(path))
}

/// Returns the folder that contains `path`: `.` for a bare name.
pub(crate) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder.as_os_str().is_empty() => Path::new("."),
        Some(folder) => folder,
        None => Path::new("/"),
    }
}

/// Syncs a folder, so that the names in it survive a power cut.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_made_with_their_parents_and_a_file_in_the_way_is_an_error() {
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
