//! Putting the database's backup in its place, while no control plane runs.

use crate::db::backup::{beside, check, path_of, written};
use crate::error::ControlError;
use crate::run::RunError;
use crate::workspace::Workspace;
use drisse_registry::sync_folder_of;
use std::fs::{self, File};
use std::io;
use std::path::PathBuf;

/// What took the database's place.
#[derive(Debug)]
pub struct Restored {
    /// When it was written, as RFC 3339 has it.
    pub written: String,
    /// Where what was there before is kept.
    pub kept: PathBuf,
}

/// Puts the backup in the database's place, and keeps what was there.
///
/// # Errors
/// Returns an error if a control plane runs, if there is no backup or it is damaged, or if the disk fails.
pub async fn restore(workspace: &Workspace) -> Result<Restored, RunError> {
    let _lock = workspace.lock()?;
    let database = workspace.database();
    let backup = path_of(&database);
    let Some(written) = written(&database) else {
        let message = format!("there is no backup {}", backup.display());
        return Err(ControlError::invalid(message).hint("one is written soon after each change").into());
    };
    if let Err(why) = check(&backup).await {
        return Err(
            ControlError::invalid(format!("the backup {} is damaged: {why}", backup.display())).into()
        );
    }
    let now = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ");
    let kept = beside(&database, &format!(".damaged-{now}"));
    let put = || -> io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(&workspace.root)?;
        io::copy(&mut File::open(&backup)?, &mut file)?;
        file.as_file().sync_all()?;
        // Its log first: it must never be taken for the backup's.
        for end in ["-wal", "-shm", "-journal", ""] {
            match fs::rename(beside(&database, end), beside(&kept, end)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => sync_folder_of(&database)?,
            }
        }
        file.persist(&database).map_err(|error| error.error)?;
        sync_folder_of(&database)
    };
    put().map_err(|error| {
        ControlError::internal(format!("cannot put the backup in the place of {}", database.display()))
            .because(&error)
    })?;
    Ok(Restored { written, kept })
}
