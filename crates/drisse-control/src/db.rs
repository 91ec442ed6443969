//! The workspace's database: registered models, the desired state of services, and operations. Each change is synced to
//! disk before it is acknowledged or acted on.

pub(crate) mod backup;
pub(crate) mod models;
pub(crate) mod operations;
pub(crate) mod services;
mod signatures;
mod targets;
#[cfg(test)]
mod tests;

use crate::error::{ControlError, Result};
use drisse_core::crash_point;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::pool::PoolConnection;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow, SqliteSynchronous,
};
use sqlx::{Row, Sqlite};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;
use tokio::sync::Notify;

/// The migrations of the schema, one per version. They are applied in this order.
const SCHEMA: [&str; 10] = [
    include_str!("db/schema.sql"),
    include_str!("db/schema-2.sql"),
    include_str!("db/schema-3.sql"),
    include_str!("db/schema-4.sql"),
    include_str!("db/schema-5.sql"),
    include_str!("db/schema-6.sql"),
    include_str!("db/schema-7.sql"),
    include_str!("db/schema-8.sql"),
    include_str!("db/schema-9.sql"),
    include_str!("db/schema-10.sql"),
];

/// The number of connections: one writes, the others read.
const CONNECTIONS: u32 = 3;

/// The cache of each connection in KiB (SQLite takes a negative number for KiB). Enough for the upper pages of tables.
const CACHE: &str = "-512";

/// How long a writer waits for another one.
const BUSY: Duration = Duration::from_secs(10);

/// How long to wait for a free connection: longer than a disk may hang, which must not make a request fail.
const STANDSTILL: Duration = Duration::from_secs(300);

/// The database. Clones share its connections.
#[derive(Clone, Debug)]
pub(crate) struct Db {
    pool: SqlitePool,
    path: PathBuf,
    changed: Arc<Changed>,
}

/// Whether the database has changed since its backup was written.
#[derive(Debug, Default)]
struct Changed {
    unsaved: AtomicBool,
    notify: Notify,
}

impl Db {
    /// Opens the database, or creates it, and migrates it to this version's schema.
    pub(crate) async fn open(path: &Path) -> Result<Self> {
        if let Some(how) = missing(path) {
            return Err(damaged(path, how));
        }
        backup::sweep(path);
        let changed = Arc::new(Changed::default());
        let hook = Arc::clone(&changed);
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // A commit is on disk before it is acknowledged.
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(BUSY)
            .pragma("cache_size", CACHE)
            // Deleted data may be secret.
            .pragma("secure_delete", "ON")
            .foreign_keys(true);
        let pool = SqlitePoolOptions::new().max_connections(CONNECTIONS).acquire_timeout(STANDSTILL);
        let pool = pool.after_connect(move |connection, _| {
            let hook = Arc::clone(&hook);
            Box::pin(async move {
                connection.lock_handle().await?.set_commit_hook(move || {
                    hook.unsaved.store(true, Relaxed);
                    hook.notify.notify_one();
                    true
                });
                Ok(())
            })
        });
        let unusable = |error: &(dyn std::error::Error + 'static)| {
            let failed = ControlError::internal(format!("cannot open the database {}", path.display()));
            failed.because(error).hint(backup::hint(path))
        };
        let pool = pool.connect_with(options).await.map_err(|error| unusable(&error))?;
        let mut connection = pool.acquire().await.map_err(|error| unusable(&error))?;
        // Damage is reported now, not when a damaged page is read.
        if let Err(why) = backup::whole(&mut connection).await {
            return Err(damaged(path, "damaged").because(&std::io::Error::other(why)));
        }
        drop(connection);
        let db = Self { pool, path: path.to_owned(), changed };
        db.migrate(path).await?;
        Ok(db)
    }

    async fn migrate(&self, path: &Path) -> Result<()> {
        let version: i64 = sqlx::query_scalar("PRAGMA user_version").fetch_one(&self.pool).await?;
        let newest = SCHEMA.len() as i64;
        if version > newest {
            let message = format!("the database {} was written by a newer drisse", path.display());
            return Err(ControlError::invalid(message).hint("use that version of drisse or a later one"));
        }
        for (number, schema) in (1_i64..).zip(SCHEMA).skip(usize::try_from(version).unwrap_or(0)) {
            let mut write = self.write().await?;
            sqlx::raw_sql(schema).execute(&mut *write.connection).await?;
            let pragma = sqlx::AssertSqlSafe(format!("PRAGMA user_version = {number}"));
            sqlx::raw_sql(pragma).execute(&mut *write.connection).await?;
            write.commit().await?;
        }
        Ok(())
    }

    /// Begins a write transaction. Waits while another one is open.
    pub(crate) async fn write(&self) -> Result<Write> {
        let mut connection = self.pool.acquire().await?;
        let begun = sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut *connection).await;
        let write = Write { connection, done: false };
        begun?;
        Ok(write)
    }

    pub(crate) fn pool(&self) -> &SqlitePool {
        &self.pool
    }

    /// Returns a setting; `None` if it was never set.
    pub(crate) async fn setting<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        let row = sqlx::query("SELECT value FROM settings WHERE name = ?").bind(name);
        row.fetch_optional(&self.pool).await?.map(|row| json(&row, "value")).transpose()
    }

    /// Stores a setting. Writes nothing if the value has not changed.
    pub(crate) async fn keep_setting<T: DeserializeOwned + Serialize + PartialEq>(
        &self,
        name: &str,
        value: Option<&T>,
    ) -> Result<()> {
        if self.setting::<Option<T>>(name).await?.flatten().as_ref() == value {
            return Ok(());
        }
        let query = sqlx::query(
            "INSERT INTO settings (name, value) VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value",
        );
        query.bind(name).bind(text(&value)).execute(&self.pool).await?;
        Ok(())
    }

    pub(crate) async fn close(&self) {
        self.pool.close().await;
    }
}

fn damaged(path: &Path, how: &str) -> ControlError {
    ControlError::invalid(format!("the database {} is {how}", path.display())).hint(backup::hint(path))
}

/// Returns how a database file is lost: `empty`, `gone` or `cut off`; `None` if it is not. SQLite would create a new
/// database if the file is empty or missing, and existing models would be forgotten. (A control plane that was killed
/// while it created the file leaves an empty file, but no models.)
pub(crate) fn missing(path: &Path) -> Option<&'static str> {
    let models = path.with_file_name("store").join("blobs/sha256");
    let has_models = std::fs::read_dir(models).is_ok_and(|mut blobs| blobs.next().is_some());
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.len() == 0 && has_models => Some("empty"),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && has_models => Some("gone"),
        _ => is_cut_off(path).then_some("cut off"),
    }
}

/// Returns whether a database file is shorter than its header says (<https://www.sqlite.org/fileformat.html>, section
/// 1.3). SQLite reports this only when it reads a missing page. A write-ahead log may contain the missing pages; a
/// journal may undo a change of the file's size.
fn is_cut_off(path: &Path) -> bool {
    let has = |end| std::fs::metadata(backup::beside(path, end)).is_ok_and(|file| file.len() > 0);
    if has("-wal") || has("-journal") {
        return false;
    }
    let read = || -> std::io::Result<_> {
        let mut file = std::fs::File::open(path)?;
        let mut header = [0; 32];
        std::io::Read::read_exact(&mut file, &mut header)?;
        Ok((header, file.metadata()?.len()))
    };
    let Ok((header, length)) = read() else { return false };
    let page = match u16::from_be_bytes([header[16], header[17]]) {
        1 => 1 << 16,
        size => u64::from(size),
    };
    let pages = u32::from_be_bytes([header[28], header[29], header[30], header[31]]);
    header.starts_with(b"SQLite format 3") && length < page * u64::from(pages)
}

/// A transaction. If it is dropped before it is committed, or if the commit fails (because the disk is full), it closes
/// its connection, which rolls it back, so that no connection is reused within a transaction. (sqlx's transactions
/// count their depth, and the count is wrong after a failed commit.)
pub(crate) struct Write {
    connection: PoolConnection<Sqlite>,
    done: bool,
}

impl Write {
    pub(crate) async fn commit(mut self) -> Result<(), sqlx::Error> {
        crash_point("the database is about to change");
        sqlx::raw_sql("COMMIT").execute(&mut *self.connection).await?;
        self.done = true;
        crash_point("the database has changed");
        Ok(())
    }
}

impl Drop for Write {
    fn drop(&mut self) {
        if !self.done {
            self.connection.close_on_drop();
        }
    }
}

/// Returns a value as JSON text for a column.
pub(crate) fn text(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("maps with string keys and plain values can be serialized")
}

/// Reads a value from a column with JSON text.
pub(crate) fn json<T: DeserializeOwned>(row: &SqliteRow, column: &str) -> Result<T> {
    let text: String = row.try_get(column)?;
    serde_json::from_str(&text).map_err(|error| {
        ControlError::internal(format!("cannot read column `{column}` of the database")).because(&error)
    })
}

/// Returns the time in milliseconds since 1970.
pub(crate) fn now() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

/// Formats a time in milliseconds since 1970 for the API (RFC 3339).
pub(crate) fn rfc3339(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).unwrap_or_default().to_string()
}
