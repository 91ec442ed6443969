//! The backup of the database: a copy in the same folder, written some time after each change. A user can restore it.

use super::Db;
use crate::blocking::blocking;
use crate::error::{ControlError, Result};
use drisse_registry::sync_folder_of;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, Connection};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// A backup is written once nothing has changed for this long …
const QUIET: Duration = Duration::from_secs(2);

/// … or once changes have continued for this long. This is also the shortest interval between backups.
const INTERVAL: Duration = Duration::from_secs(10);

/// Returns the path of a database's backup.
pub(crate) fn path_of(database: &Path) -> PathBuf {
    beside(database, ".backup")
}

/// Returns when the backup was written; `None` if there is none.
pub(crate) fn written(database: &Path) -> Option<String> {
    let at = fs::metadata(path_of(database)).and_then(|backup| backup.modified()).ok()?;
    let at = jiff::Timestamp::try_from(at).ok()?;
    Some(format!("{at:.0}"))
}

/// Returns the hint for a database that cannot be used.
pub(crate) fn hint(database: &Path) -> String {
    match written(database) {
        Some(at) => format!("`drisse up --restore` restores the backup of {at}, and keeps the current file"),
        None => "restore it from a backup; to start with an empty workspace, move its folder away".to_owned(),
    }
}

impl Db {
    /// Keeps the backup up to date, without end.
    pub(crate) async fn keep_backup(self) {
        loop {
            self.changed.notify.notified().await;
            let began = Instant::now();
            while let Some(left) = INTERVAL.checked_sub(began.elapsed())
                && tokio::time::timeout(left.min(QUIET), self.changed.notify.notified()).await.is_ok()
            {
            }
            self.back_up().await;
            tokio::time::sleep(INTERVAL.saturating_sub(QUIET)).await;
        }
    }

    /// Writes the backup if something has changed since the last one.
    pub(crate) async fn back_up(&self) {
        if !self.changed.unsaved.swap(false, Relaxed) {
            return;
        }
        if let Err(error) = self.write_backup().await {
            self.changed.unsaved.store(true, Relaxed);
            tracing::warn!("cannot write the database's backup: {:?}", error.failure);
        }
    }

    async fn write_backup(&self) -> Result<()> {
        let (new, place) = (new_backup(&self.path), path_of(&self.path));
        let failed = |path: &Path, error: &io::Error| {
            ControlError::internal(format!("cannot write {}", path.display())).because_of_disk(error)
        };
        let path = new.clone();
        let make = move || {
            remove(&path)?;
            // The file gets its access rights before anything is written, because it will contain keys.
            fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(&path)
        };
        drisse_net::blocking(make).await.map_err(|error| failed(&new, &error))?;
        let copied = sqlx::query("VACUUM INTO ?").bind(new.to_string_lossy()).execute(self.pool()).await;
        if let Err(error) = copied {
            let _ = drisse_net::blocking(move || fs::remove_file(&new)).await;
            return Err(error.into());
        }
        blocking(move || {
            let kept = File::open(&new).and_then(|file| file.sync_all());
            kept.and_then(|()| fs::rename(&new, &place))
                .and_then(|()| sync_folder_of(&place))
                .map_err(|error| failed(&place, &error))
        })
        .await
    }
}

/// Removes an incomplete backup that a killed control plane left.
pub(crate) fn sweep(database: &Path) {
    for end in ["", "-journal"] {
        // If this fails, the next backup replaces the file.
        let _ = remove(&beside(&new_backup(database), end));
    }
}

/// Checks the structure of a database without changing it.
pub(crate) async fn check(path: &Path) -> std::result::Result<(), String> {
    let mut connection = open_to_read(path).await.map_err(|error| error.to_string())?;
    let found = whole(&mut connection).await;
    // An error does not matter: nothing was written.
    let _ = connection.close().await;
    found
}

/// Opens a read-only connection.
pub(crate) async fn open_to_read(path: &Path) -> std::result::Result<SqliteConnection, sqlx::Error> {
    let options = SqliteConnectOptions::new().filename(path).read_only(true);
    // Without a write-ahead log no other process has the database open, and no locks are needed.
    options.immutable(!beside(path, "-wal").exists()).connect().await
}

/// Runs SQLite's quick check of all pages.
pub(crate) async fn whole(connection: &mut SqliteConnection) -> std::result::Result<(), String> {
    let found = sqlx::query_scalar("PRAGMA quick_check(1)").fetch_one(connection).await;
    let found = found.map_err(|error| error.to_string())?;
    if found == "ok" { Ok(()) } else { Err(found) }
}

/// Returns the full name and the package of each registered model.
pub(crate) async fn packages(
    connection: &mut SqliteConnection,
) -> std::result::Result<Vec<(String, String)>, sqlx::Error> {
    let query = sqlx::query_as("SELECT name || ':' || version, package FROM models ORDER BY name, version");
    query.fetch_all(connection).await
}

fn new_backup(database: &Path) -> PathBuf {
    beside(database, ".backup-new")
}

pub(crate) fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
