//! Pushing packages and images. Blobs that the registry already has are not sent again.

use super::http::SILENCE;
use super::registry::RemoteRepository;
use super::{RemoteError, TRIES, Transfer, pause};
use crate::StoreError;
use crate::blobs::{Blob, Store, is_digest};
use crate::durable::{make_folder, replace_file};
use drisse_core::lock;
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How many blobs are pushed at once.
const AT_ONCE: usize = 4;

/// How many bytes are read at once.
const BLOCK: usize = 256 << 10;

/// How often progress is reported.
const REPORT: Duration = Duration::from_millis(100);

/// How long a registry may take to store a blob after it has received all bytes.
const STORING: Duration = Duration::from_secs(300);

/// For how many blobs of a registry the repository is remembered.
const REMEMBERED: usize = 4096;

/// The result of a push.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pushed {
    /// The manifest's digest.
    pub digest: String,
    /// Number of bytes sent.
    pub sent: u64,
    /// Number of bytes that the registry already had, in this repository or another one.
    pub there: u64,
}

/// The fields that manifests of packages, images and signatures have in common.
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

/// For each registry, the repository to which each blob was pushed: a registry can mount the blob from there.
#[derive(Default, Serialize, Deserialize)]
struct PushedBlobs(BTreeMap<String, BTreeMap<String, String>>);

impl RemoteRepository {
    /// Pushes the blobs of a manifest in `store`, then the manifest itself under the reference's tag, or under its
    /// digest. `cache` is a folder in which the repositories of pushed blobs are remembered.
    ///
    /// # Errors
    ///
    /// Returns an error if the registry denies access or fails repeatedly, or if a blob is missing or damaged.
    pub async fn push(
        &self,
        digest: &str,
        store: &Store,
        cache: &Path,
        progress: &dyn Transfer,
    ) -> Result<Pushed, RemoteError> {
        let name = self.reference().tag.as_deref().unwrap_or(digest);
        self.push_parts(digest, name, store, cache, progress).await.map(|(pushed, _)| pushed)
    }

    /// Pushes like [`Self::push`], under `name`. Also returns whether the registry lists the manifest as a referrer of
    /// its subject.
    pub(super) async fn push_parts(
        &self,
        digest: &str,
        name: &str,
        store: &Store,
        cache: &Path,
        progress: &dyn Transfer,
    ) -> Result<(Pushed, bool), RemoteError> {
        let bytes = store.read(digest)?;
        let wrong = |why: String| StoreError::Manifest { digest: digest.to_owned(), why };
        let parts: Parts = serde_json::from_slice(&bytes).map_err(|error| wrong(error.to_string()))?;
        let all = std::iter::once(&parts.config).chain(&parts.layers);
        let blobs: BTreeMap<_, _> =
            all.map(|part| (&*part.digest, Blob { digest: part.digest.clone(), size: part.size })).collect();
        progress.total(blobs.values().map(|blob| blob.size).sum());
        let memory = cache.join("pushed.json");
        let pushed = Mutex::new(PushedBlobs::read(&memory));
        let sent = AtomicU64::new(0);
        let pushes = stream::iter(blobs.values()).map(|blob| async {
            let registry = &self.reference().registry;
            let from =
                lock(&pushed).of(registry, &blob.digest).filter(|from| *from != self.reference().repository);
            sent.fetch_add(self.push_blob(blob, store, from.as_deref(), progress).await?, Relaxed);
            lock(&pushed).put(registry, &blob.digest, &self.reference().repository);
            Ok::<_, RemoteError>(())
        });
        pushes.buffer_unordered(AT_ONCE).try_collect::<()>().await?;
        let listed = self.put_manifest(name, &parts.media_type, &bytes).await?;
        // Best effort: without this file, blobs of other repositories are sent again.
        let _ = make_folder(cache).and_then(|()| replace_file(&memory, &lock(&pushed).text()));
        let sent = sent.into_inner();
        let there = blobs.values().map(|blob| blob.size).sum::<u64>() - sent;
        Ok((Pushed { digest: digest.to_owned(), sent, there }, listed))
    }

    /// Runs `work`, reports the bytes counted in `moved`, and fails if that count does not change for too long.
    async fn watched(
        &self,
        work: impl Future<Output = Result<u64, RemoteError>>,
        size: u64,
        moved: &AtomicU64,
        progress: &dyn Transfer,
    ) -> Result<u64, RemoteError> {
        let (mut seen, mut since) = (0, Instant::now());
        let mut work = std::pin::pin!(work);
        loop {
            let done = tokio::time::timeout(REPORT, &mut work).await;
            let now = moved.load(Relaxed);
            if now != seen {
                progress.moved((now - seen).cast_signed());
                (seen, since) = (now, Instant::now());
            }
            if let Ok(done) = done {
                return done;
            }
            let patience = if now < size { SILENCE } else { STORING };
            if since.elapsed() > patience {
                return Err(self.cut(format!("it has accepted nothing for {} s", patience.as_secs())));
            }
        }
    }

    /// Pushes one blob and returns the number of bytes sent. `from` is a repository that may have the blob.
    async fn push_blob(
        &self,
        blob: &Blob,
        store: &Store,
        from: Option<&str>,
        progress: &dyn Transfer,
    ) -> Result<u64, RemoteError> {
        if self.has(blob).await? {
            progress.moved(blob.size.cast_signed());
            return Ok(0);
        }
        let path = existing(store, blob)?;
        let mut from = from;
        let mut tries = 0;
        loop {
            let moved = Arc::new(AtomicU64::new(0));
            let attempt = async {
                let Some(url) = self.begin_upload(blob, from).await? else { return Ok(0) };
                let body = || {
                    let moved = Arc::clone(&moved);
                    blocks(path.clone(), move |bytes| _ = moved.fetch_add(bytes, Relaxed))
                };
                self.upload(&url, blob, body).await.map(|()| blob.size)
            };
            match self.watched(attempt, blob.size, &moved, progress).await {
                Ok(sent) => {
                    // Bytes that did not have to be sent count as transferred.
                    progress.moved(blob.size.cast_signed() - moved.load(Relaxed).cast_signed());
                    return Ok(sent);
                }
                Err(error) => {
                    progress.moved(-moved.load(Relaxed).cast_signed());
                    tries += 1;
                    // If mounting fails, send the blob.
                    let mounting = from.take().is_some();
                    if !mounting && (!error.may_pass() || tries == TRIES) {
                        return Err(error);
                    }
                    progress.note(&format!("{error}: sending the blob again"));
                    tokio::time::sleep(pause(tries)).await;
                }
            }
        }
    }
}

/// Returns the path of a blob that is in the store with the right size.
fn existing(store: &Store, blob: &Blob) -> Result<PathBuf, RemoteError> {
    let path = store.path(&blob.digest)?;
    match std::fs::metadata(&path) {
        Ok(metadata) if metadata.len() == blob.size => Ok(path),
        Ok(_) => Err(StoreError::Corrupt { digest: blob.digest.clone() }.into()),
        Err(_) => Err(StoreError::Missing { digest: blob.digest.clone() }.into()),
    }
}

impl PushedBlobs {
    fn read(path: &Path) -> Self {
        let text = std::fs::read(path).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    fn of(&self, registry: &str, digest: &str) -> Option<String> {
        self.0.get(registry)?.get(digest).cloned()
    }

    fn put(&mut self, registry: &str, digest: &str, repository: &str) {
        let blobs = self.0.entry(registry.to_owned()).or_default();
        if is_digest(digest) {
            blobs.insert(digest.to_owned(), repository.to_owned());
        }
        while blobs.len() > REMEMBERED {
            blobs.pop_first();
        }
    }

    fn text(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// Returns a file as a request body. Calls `moved` with the number of bytes of each block.
fn blocks(path: PathBuf, moved: impl Fn(u64) + Send + 'static) -> reqwest::Body {
    let next = move |file: Option<File>| {
        let mut file = file.map_or_else(|| File::open(&path), Ok)?;
        let mut block = vec![0; BLOCK];
        let count = file.read(&mut block)?;
        block.truncate(count);
        moved(count as u64);
        Ok::<_, io::Error>((count > 0).then_some((block, Some(file))))
    };
    reqwest::Body::wrap_stream(futures_util::stream::try_unfold(None, move |file| {
        std::future::ready(next(file))
    }))
}
