//! Packages and images to registries: what is there already is not sent again.

use super::partial::blocks;
use super::registry::{Registry, SILENCE};
use super::{RemoteError, TRIES, Transfer, pause};
use crate::StoreError;
use crate::blobs::{Blob, Store, is_digest};
use crate::durable::{make_folder, replace_file};
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Blobs at once.
const AT_ONCE: usize = 4;

/// How often bytes that go by are told.
const TELL: Duration = Duration::from_millis(100);

/// A registry that has all of a blob may take this long to keep it.
const KEEPING: Duration = Duration::from_secs(300);

/// Blobs whose repositories are remembered.
const REMEMBERED: usize = 4096;

/// What was pushed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pushed {
    /// The manifest's digest.
    pub digest: String,
    /// Bytes that were sent.
    pub sent: u64,
    /// Bytes that were there, or were mounted from another repository.
    pub there: u64,
}

/// What a manifest is made of, whatever it is of.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Parts {
    media_type: String,
    config: Part,
    layers: Vec<Part>,
}

#[derive(Deserialize)]
struct Part {
    digest: String,
    size: u64,
}

/// In which repository of a registry blobs are that were pushed before: registries can take them from there.
#[derive(Default, Serialize, Deserialize)]
struct Places(BTreeMap<String, BTreeMap<String, String>>);

impl Registry {
    /// Pushes what a manifest in a store names, and the manifest under the reference's tag, or its digest. `cache` is
    /// where it is remembered which repositories have which blobs.
    pub async fn push(
        &self,
        digest: &str,
        store: &Store,
        cache: &Path,
        told: &dyn Transfer,
    ) -> Result<Pushed, RemoteError> {
        let name = self.reference().tag.as_deref().unwrap_or(digest);
        self.push_parts(digest, name, store, cache, told).await.map(|(pushed, _)| pushed)
    }

    /// The same under a name; and whether the registry lists it where it refers to another manifest.
    pub(super) async fn push_parts(
        &self,
        digest: &str,
        name: &str,
        store: &Store,
        cache: &Path,
        told: &dyn Transfer,
    ) -> Result<(Pushed, bool), RemoteError> {
        let bytes = store.read(digest)?;
        let wrong = |why: String| StoreError::Manifest { digest: digest.to_owned(), why };
        let parts: Parts = serde_json::from_slice(&bytes).map_err(|error| wrong(error.to_string()))?;
        let all = std::iter::once(&parts.config).chain(&parts.layers);
        let blobs: BTreeMap<_, _> =
            all.map(|part| (&*part.digest, Blob { digest: part.digest.clone(), size: part.size })).collect();
        told.total(blobs.values().map(|blob| blob.size).sum());
        let memory = cache.join("pushed.json");
        let places = Mutex::new(Places::read(&memory));
        let sent = AtomicU64::new(0);
        let pushes = stream::iter(blobs.values()).map(|blob| async {
            let registry = &self.reference().registry;
            let from =
                lock(&places).of(registry, &blob.digest).filter(|from| *from != self.reference().repository);
            sent.fetch_add(self.push_blob(blob, store, from.as_deref(), told).await?, Relaxed);
            lock(&places).put(registry, &blob.digest, &self.reference().repository);
            Ok::<_, RemoteError>(())
        });
        pushes.buffer_unordered(AT_ONCE).try_collect::<()>().await?;
        let listed = self.put_manifest(name, &parts.media_type, &bytes).await?;
        // Sending all again would be the worst of not knowing.
        let _ = make_folder(cache).and_then(|()| replace_file(&memory, &lock(&places).text()));
        let sent = sent.into_inner();
        let there = blobs.values().map(|blob| blob.size).sum::<u64>() - sent;
        Ok((Pushed { digest: digest.to_owned(), sent, there }, listed))
    }

    /// Tells of bytes as they go by, and gives up when none does any more.
    async fn watched(
        &self,
        work: impl Future<Output = Result<u64, RemoteError>>,
        size: u64,
        moved: &AtomicU64,
        told: &dyn Transfer,
    ) -> Result<u64, RemoteError> {
        let (mut seen, mut since) = (0, Instant::now());
        let mut work = std::pin::pin!(work);
        loop {
            let done = tokio::time::timeout(TELL, &mut work).await;
            let now = moved.load(Relaxed);
            if now != seen {
                told.moved((now - seen).cast_signed());
                (seen, since) = (now, Instant::now());
            }
            if let Ok(done) = done {
                return done;
            }
            let patience = if now < size { SILENCE } else { KEEPING };
            if since.elapsed() > patience {
                return Err(self.cut(format!("it takes nothing for {} s", patience.as_secs())));
            }
        }
    }

    /// Pushes one blob; the bytes that were sent.
    async fn push_blob(
        &self,
        blob: &Blob,
        store: &Store,
        from: Option<&str>,
        told: &dyn Transfer,
    ) -> Result<u64, RemoteError> {
        if self.has(blob).await? {
            told.moved(blob.size.cast_signed());
            return Ok(0);
        }
        let path = existing(store, blob)?;
        let mut from = from;
        let mut tries = 0;
        loop {
            let moved = Arc::new(AtomicU64::new(0));
            let attempt = async {
                let Some(place) = self.begin_upload(blob, from).await? else { return Ok(0) };
                let body = || {
                    let moved = Arc::clone(&moved);
                    blocks(path.clone(), move |bytes| _ = moved.fetch_add(bytes, Relaxed))
                };
                self.upload(&place, blob, body).await.map(|()| blob.size)
            };
            match self.watched(attempt, blob.size, &moved, told).await {
                Ok(sent) => {
                    // Bytes that need not be sent went by too.
                    told.moved(blob.size.cast_signed() - moved.load(Relaxed).cast_signed());
                    return Ok(sent);
                }
                Err(error) => {
                    told.moved(-moved.load(Relaxed).cast_signed());
                    tries += 1;
                    // A registry that cannot mount it gets it.
                    let mounting = from.take().is_some();
                    if !mounting && (!error.may_pass() || tries == TRIES) {
                        return Err(error);
                    }
                    told.note(&format!("{error}: sending it again"));
                    tokio::time::sleep(pause(tries)).await;
                }
            }
        }
    }
}

/// Where a blob's bytes lie, if they do.
fn existing(store: &Store, blob: &Blob) -> Result<PathBuf, RemoteError> {
    let path = store.path(&blob.digest)?;
    match std::fs::metadata(&path) {
        Ok(metadata) if metadata.len() == blob.size => Ok(path),
        Ok(_) => Err(StoreError::Corrupt { digest: blob.digest.clone() }.into()),
        Err(_) => Err(StoreError::Missing { digest: blob.digest.clone() }.into()),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Places {
    fn read(path: &Path) -> Self {
        let text = std::fs::read(path).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    fn of(&self, registry: &str, digest: &str) -> Option<String> {
        self.0.get(registry)?.get(digest).cloned()
    }

    fn put(&mut self, registry: &str, digest: &str, repository: &str) {
        let places = self.0.entry(registry.to_owned()).or_default();
        if is_digest(digest) {
            places.insert(digest.to_owned(), repository.to_owned());
        }
        while places.len() > REMEMBERED {
            places.pop_first();
        }
    }

    fn text(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}
