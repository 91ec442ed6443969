//! A server's log on stderr, written by a separate thread.

use crate::background::{Background, Entry};
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

/// Writes log lines to stderr without waiting for the disk or the pipe behind it. Clones share one queue.
#[derive(Clone, Debug)]
pub struct LogWriter(Arc<Background<Vec<u8>>>);

impl LogWriter {
    /// Starts the thread that writes.
    ///
    /// # Errors
    /// Returns the system's error if the thread cannot be started.
    pub fn start() -> io::Result<Self> {
        Background::start("logs", |lines| write(&lines)).map(Arc::new).map(Self)
    }

    /// Waits until every line so far is written, for at most `timeout`. Blocks the thread.
    pub fn flush(&self, timeout: Duration) {
        self.0.flush(timeout);
    }
}

impl Write for LogWriter {
    /// Queues `line`, which must be a whole line.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.send(|lost| {
            let mut text = Vec::with_capacity(line.len());
            if lost > 0 {
                text.extend_from_slice(
                    format!("{lost} lines of this log were lost: the disk is too slow\n").as_bytes(),
                );
            }
            text.extend_from_slice(line);
            text
        });
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write(lines: &Receiver<Entry<Vec<u8>>>) {
    for entry in lines {
        if let Entry::Item(line) = entry {
            // A line that cannot be written, because the disk is full, is lost: there is nowhere to report it.
            let _ = io::stderr().write_all(&line);
        }
    }
}
