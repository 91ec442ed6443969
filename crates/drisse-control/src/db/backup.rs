//! The database's backup: a copy beside it, written some time after each change, and taken in its place when
//! the user says so.

use super::Db;
use crate::blocking::blocking;
use crate::error::{ControlError, Result};
use drisse_registry::sync_folder_of;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, Connection, Row};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// A backup is written once nothing has changed for this long …
const QUIET: Duration = Duration::from_secs(2);

/// … or changes have gone on for this long; and no oftener.
const INTERVAL: Duration = Duration::from_secs(10);

/// Where a database's backup is.
pub(crate) fn path_of(database: &Path) -> PathBuf {
    beside(database, ".backup")
}

/// When the backup was written, if there is one.
pub(crate) fn written(database: &Path) -> Option<String> {
    let at = fs::metadata(path_of(database)).and_then(|backup| backup.modified()).ok()?;
    let at = jiff::Timestamp::try_from(at).ok()?;
    Some(format!("{at:.0}"))
}

/// What to do about a database that cannot be used.
pub(crate) fn hint(database: &Path) -> String {
    match written(database) {
        Some(at) => format!("`drisse up --restore` takes its backup of {at}, and keeps what is there now"),
        None => "restore it from a backup; to begin anew, move the workspace's folder away".to_owned(),
    }
}

impl Db {
    /// Keeps the backup up to date.
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

    /// Writes the backup, where something has changed since the last one.
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
            // Keys are in it: it is for this user alone before anything is.
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

/// Removes what a control plane that was killed left of a backup.
pub(crate) fn sweep(database: &Path) {
    for end in ["", "-journal"] {
        // It is written anew in any case.
        let _ = remove(&beside(&new_backup(database), end));
    }
}

/// Reads a database's structure, without changing anything.
pub(crate) async fn check(path: &Path) -> std::result::Result<(), String> {
    let mut connection = open_to_read(path).await.map_err(|error| error.to_string())?;
    let found = whole(&mut connection).await;
    // Whatever it says, nothing was written.
    let _ = connection.close().await;
    found
}

/// A connection that writes nothing.
pub(crate) async fn open_to_read(path: &Path) -> std::result::Result<SqliteConnection, sqlx::Error> {
    let options = SqliteConnectOptions::new().filename(path).read_only(true);
    // Without a log beside it there is nothing that a reader would have to take part in.
    options.immutable(!beside(path, "-wal").exists()).connect().await
}

/// SQLite's own look at its pages.
pub(crate) async fn whole(connection: &mut SqliteConnection) -> std::result::Result<(), String> {
    let row = sqlx::query("PRAGMA quick_check(1)").fetch_one(connection).await;
    let said = row.and_then(|row| row.try_get::<String, _>(0)).map_err(|error| error.to_string())?;
    if said == "ok" { Ok(()) } else { Err(said) }
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
