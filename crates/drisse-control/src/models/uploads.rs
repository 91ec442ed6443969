//! Receives files from clients on other machines, to register models from them.

use super::Models;
use crate::blocking::blocking;
use crate::error::{ControlError, Result};
use bytes::Bytes;
use drisse_core::{ErrorKind, lock};
use drisse_registry::{Blob, Outcome, Partial};
use drisse_wire::control::Upload;
use futures_util::{Stream, StreamExt};
use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How long a client may send nothing. Then its connection is taken to be broken, and the file can be sent by another.
const SILENCE: Duration = Duration::from_secs(30);

/// How often abandoned files are looked for.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Files of which nothing was received for this time are removed: 7 days.
const FORGOTTEN: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// The digests of the files that clients are sending. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Sending(Arc<Mutex<HashSet<String>>>);

/// The right to add to a file, until it is dropped.
struct Turn(Sending, String);

impl Drop for Turn {
    fn drop(&mut self) {
        lock(&self.0.0).remove(&self.1);
    }
}

impl Sending {
    fn turn(&self, digest: &str) -> Result<Turn> {
        match lock(&self.0).insert(digest.to_owned()) {
            true => Ok(Turn(self.clone(), digest.to_owned())),
            false => Err(ControlError::conflict(format!("another client is sending the file {digest}"))
                .hint("try again when it has ended")),
        }
    }
}

impl Models {
    /// Returns how much of a file has been received.
    pub(crate) async fn uploaded(&self, digest: &str) -> Result<Upload> {
        let (uploads, digest) = (self.uploads.clone(), digest.to_owned());
        blocking(move || {
            let received = uploads.received(&digest)?;
            Ok(Upload { digest, received: received.unwrap_or(0), complete: received.is_none() })
        })
        .await
    }

    /// Appends a body to what has been received of a file, `offset` bytes of `blob`. What has been received stays when the
    /// client disconnects.
    pub(crate) async fn receive<E: std::error::Error + 'static>(
        &self,
        blob: Blob,
        offset: u64,
        body: impl Stream<Item = Result<Bytes, E>> + Unpin,
    ) -> Result<Upload> {
        let turn = self.sending.turn(&blob.digest)?;
        let Blob { digest, size } = blob.clone();
        let whole = || Upload { digest: digest.clone(), received: size, complete: true };
        let uploads = self.uploads.clone();
        let opened = blocking(move || Ok(uploads.receive(&blob)?.map(|partial| Receiving { partial, turn })));
        let Some(receiving) = opened.await? else { return Ok(whole()) };
        if receiving.partial.size() != offset {
            let there = receiving.partial.size();
            return Err(ControlError::conflict(format!(
                "{there} bytes of the file {digest} are here, not {offset}"
            ))
            .hint(format!("continue with offset={there}")));
        }
        let receiving = receiving.fill(size, body).await?;
        let received = receiving.partial.size();
        if received < size {
            return Ok(Upload { digest, received, complete: false });
        }
        match blocking(move || receiving.finish()).await? {
            Outcome::Kept => Ok(whole()),
            Outcome::Other(other) => Err(ControlError::invalid(format!(
                "the bytes of the file {digest} have the digest {other}: they are removed"
            ))
            .hint("send the file again; it may have changed while it was sent")),
        }
    }

    /// Removes the uploaded files of registered models.
    pub(crate) async fn forget_registered_uploads(&self) {
        let uploads = self.uploads.clone();
        drisse_net::blocking(move || uploads.forget_kept()).await;
    }

    /// Removes the files of uploads that were abandoned, each day, without end.
    pub(crate) async fn forget_old_uploads(self: Arc<Self>) {
        loop {
            let uploads = self.uploads.clone();
            drisse_net::blocking(move || uploads.forget_old(FORGOTTEN)).await;
            tokio::time::sleep(DAY).await;
        }
    }
}

/// A file that is being received. Its turn ends with its last work on the disk, also if the client disconnects meanwhile.
struct Receiving {
    partial: Partial,
    turn: Turn,
}

impl Receiving {
    /// Writes a body to the end of the file of `size` bytes.
    async fn fill<E: std::error::Error + 'static>(
        mut self,
        size: u64,
        mut body: impl Stream<Item = Result<Bytes, E>> + Unpin,
    ) -> Result<Self> {
        let broken = |why: &str| ControlError::new(ErrorKind::RequestTimeout, why);
        loop {
            let part = tokio::time::timeout(SILENCE, body.next()).await;
            let part = part.map_err(|_| broken("the rest of the file did not arrive"))?;
            let part = part.transpose().map_err(|error| broken("the file was cut off").because(&error))?;
            let Some(bytes) = part else { return Ok(self) };
            if self.partial.size() + bytes.len() as u64 > size {
                return Err(ControlError::invalid(format!(
                    "the file has more than the {size} bytes of `size`"
                )));
            }
            self = blocking(move || {
                self.partial.write(&bytes)?;
                Ok(self)
            })
            .await?;
        }
    }

    /// Compares the whole file with its digest.
    fn finish(self) -> Result<Outcome> {
        let Self { partial, turn } = self;
        let outcome = partial.finish()?;
        drop(turn);
        Ok(outcome)
    }
}
