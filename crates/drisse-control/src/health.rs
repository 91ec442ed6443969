//! Checks the files of a workspace without changing them. The control plane need not run.

use crate::Workspace;
use crate::db::{self, backup};
use drisse_registry::{BlobState, Store};
use sqlx::Connection;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// A backup that is older than the last change by more than this is outdated. Normally it is written within seconds.
const LATE: Duration = Duration::from_secs(60);

/// The state of a workspace's files.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Health {
    /// What is wrong with the database, and what to do about it.
    pub database: Option<(String, String)>,
    /// When the backup was written, if there is one.
    pub backup: Option<String>,
    /// Whether the backup contains the last change.
    pub current: bool,
    /// The number of registered models.
    pub models: usize,
    /// Files of models that are missing or have the wrong length.
    pub damaged: Vec<String>,
}

/// Checks a workspace; `None` if it is empty. Of the files of models, only the lengths are checked.
pub async fn examine(workspace: &Workspace) -> Option<Health> {
    let path = workspace.database();
    if !path.exists() && db::missing(&path).is_none() {
        return None;
    }
    let changed = |path: &Path| path.metadata().and_then(|file| file.modified()).ok();
    let backup = changed(&backup::path_of(&path));
    let last = [changed(&path), changed(&path.with_extension("db-wal"))].into_iter().flatten().max();
    let current = |backup: SystemTime| last.is_none_or(|last| last < backup + LATE);
    let mut health = Health {
        database: None,
        backup: backup::written(&path),
        current: backup.is_some_and(current),
        models: 0,
        damaged: vec![],
    };
    let looked = match db::missing(&path) {
        Some(how) => Err(format!("the file is {how}")),
        None => look(&path, &Store::existing(&workspace.store()), &mut health).await,
    };
    health.database = looked.err().map(|why| (why, backup::hint(&path)));
    Some(health)
}

async fn look(path: &Path, store: &Store, health: &mut Health) -> Result<(), String> {
    let text = |error: sqlx::Error| error.to_string();
    let mut connection = backup::open_to_read(path).await.map_err(text)?;
    backup::whole(&mut connection).await?;
    let packages = backup::packages(&mut connection).await.map_err(text)?;
    // An error does not matter: everything has been read.
    let _ = connection.close().await;
    health.models = packages.len();
    for (name, package) in packages {
        let manifest = match store.manifest(&package) {
            Ok(manifest) => manifest,
            Err(error) => {
                health.damaged.push(format!("{name}: {error}"));
                continue;
            }
        };
        for (path, blob) in manifest.every_blob() {
            match store.glance(&blob) {
                Ok(BlobState::Good) => {}
                Ok(BlobState::Missing) => health.damaged.push(format!("{name}: {path} is missing")),
                Ok(BlobState::Corrupt) => health.damaged.push(format!("{name}: {path} is damaged")),
                Err(error) => health.damaged.push(format!("{name}: {error}")),
            }
        }
    }
    Ok(())
}
