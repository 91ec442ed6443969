//! The progress events of a running operation, for clients that follow it.

use crate::db::{now, rfc3339};
use drisse_core::lock;
use drisse_wire::control::Progress as Document;
use std::sync::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The events of an operation, and whether a client has asked to cancel it.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// The time in milliseconds since 1970, and the message.
    events: Mutex<Vec<(i64, String)>>,
    /// The number of events. The sender is dropped when the operation has ended.
    count: watch::Sender<usize>,
    cancel: CancellationToken,
}

impl Progress {
    /// Adds an event, unless the last one says the same.
    pub(crate) fn add(&self, message: impl Into<String>) {
        let message = message.into();
        let mut events = lock(&self.events);
        if events.last().is_none_or(|(_, last)| *last != message) {
            events.push((now(), message));
        }
        let count = events.len();
        drop(events);
        self.count.send_replace(count);
    }

    /// Returns a receiver that changes with each new event, and returns an error once the operation has ended.
    pub(crate) fn news(&self) -> watch::Receiver<usize> {
        self.count.subscribe()
    }

    /// Returns all events.
    pub(crate) fn events(&self) -> Vec<(i64, String)> {
        lock(&self.events).clone()
    }

    /// Returns the events after number `after`. Events are numbered from 1.
    pub(crate) fn events_after(&self, after: i64) -> Vec<Document> {
        let event = |(number, (at, message)): (i64, &(i64, String))| Document {
            number,
            at: rfc3339(*at),
            message: message.clone(),
        };
        (1_i64..)
            .zip(lock(&self.events).iter())
            .skip_while(|(number, _)| *number <= after)
            .map(event)
            .collect()
    }

    /// Asks the operation to end early.
    pub(crate) fn cancel(&self) {
        self.cancel.cancel();
    }

    /// Waits until a client cancels the operation.
    pub(crate) async fn canceled(&self) {
        self.cancel.cancelled().await;
    }
}
