//! A bounded queue in front of a writing thread, for logs: threads that log never wait for a disk.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

/// Entries that wait for the disk, at most. A slower disk loses some, and the log says how many.
const CAPACITY: usize = 8192;

/// An entry of the queue.
#[derive(Debug)]
pub(crate) enum Entry<T> {
    /// Something to write.
    Item(T),
    /// Everything before it has been written once this sender is dropped.
    Flush(SyncSender<()>),
}

/// The sending half of the queue. The thread ends by itself once this is dropped and everything is written.
#[derive(Debug)]
pub(crate) struct Background<T> {
    entries: SyncSender<Entry<T>>,
    lost: AtomicU64,
}

impl<T: Send + 'static> Background<T> {
    /// Starts the thread `name`, which runs `write` until the queue is closed.
    pub(crate) fn start(
        name: &str,
        write: impl FnOnce(Receiver<Entry<T>>) + Send + 'static,
    ) -> std::io::Result<Self> {
        let (entries, queue) = sync_channel(CAPACITY);
        std::thread::Builder::new().name(name.to_owned()).spawn(move || write(queue))?;
        Ok(Self { entries, lost: AtomicU64::new(0) })
    }

    /// Queues the item that `make` returns, given how many items were lost since the last one that was queued.
    /// Loses it if the queue is full; never waits.
    pub(crate) fn send(&self, make: impl FnOnce(u64) -> T) {
        let lost = self.lost.swap(0, Relaxed);
        if self.entries.try_send(Entry::Item(make(lost))).is_err() {
            self.lost.fetch_add(lost + 1, Relaxed);
        }
    }

    /// Waits until everything queued so far is written, for at most `timeout`.
    pub(crate) fn flush(&self, timeout: Duration) {
        let (done, written) = sync_channel(1);
        // If the queue is full, the disk hangs, and waiting for it would not help.
        if self.entries.try_send(Entry::Flush(done)).is_ok() {
            // Either everything was written, or it took too long: the process ends in both cases.
            let _ = written.recv_timeout(timeout);
        }
    }
}
