//! Replaces the database with its backup, while no control plane runs.

use crate::db::backup::{beside, check, path_of, written};
use crate::error::{ControlError, RunError};
use crate::workspace::Workspace;
use drisse_registry::sync_folder_of;
use std::fs::{self, File};
use std::io;
use std::path::PathBuf;

/// The result of restoring a database from its backup.
#[derive(Debug)]
pub struct Restored {
    /// When the backup was written (RFC 3339).
    pub written: String,
    /// The path at which the replaced database is kept.
    pub kept: PathBuf,
}

/// Replaces the database with its backup, and keeps the old database under another name.
///
/// # Errors
/// Returns an error if a control plane runs, if the backup does not exist or is damaged, or if the disk fails.
pub async fn restore(workspace: &Workspace) -> Result<Restored, RunError> {
    let _lock = workspace.lock()?;
    let database = workspace.database();
    let backup = path_of(&database);
    let Some(written) = written(&database) else {
        let message = format!("backup {} not found", backup.display());
        return Err(ControlError::invalid(message).hint("a backup is written soon after each change").into());
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
        // The log first: SQLite must never apply the old log to the backup.
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
        ControlError::internal(format!("cannot replace {} with its backup", database.display()))
            .because(&error)
    })?;
    Ok(Restored { written, kept })
}
