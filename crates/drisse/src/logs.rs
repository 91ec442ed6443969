//! Logging of a process: to stderr, or to a file that the process rotates itself.

use crate::error::Result;
use anyhow::Context;
use drisse_net::{LogWriter, is_at};
use std::fs::{File, OpenOptions};
use std::io::IsTerminal;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tracing_subscriber::EnvFilter;

/// The log is rotated at this size, in bytes. One older file is kept, as `*.1`.
const LARGEST: u64 = 10 << 20;

/// How often the size of the log is checked.
const INTERVAL: Duration = Duration::from_secs(1);

/// How long a process that ends waits for its log.
const LAST_LINES: Duration = Duration::from_secs(2);

/// The log of this process; [`Logs::finish`] writes what is still queued.
pub(crate) struct Logs(Option<LogWriter>);

/// Starts logging to stderr: text on a terminal, JSON lines elsewhere. `DRISSE_LOG` sets the level and filter.
/// The lines of a `server` are written by a thread of their own, so that no request waits for the log's disk.
pub(crate) fn start(server: bool) -> Logs {
    let filter = EnvFilter::try_from_env("DRISSE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    // If the thread cannot be started, lines are written by the threads that log.
    let writer = server.then(LogWriter::start).and_then(Result::ok);
    let queue = writer.clone();
    let make_writer = move || -> Box<dyn std::io::Write> {
        match &queue {
            Some(queue) => Box::new(queue.clone()),
            None => Box::new(std::io::stderr()),
        }
    };
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(make_writer);
    // A line that cannot be written (a full disk) is lost. Reporting that on the same stderr would panic while a
    // request is being answered.
    let logs = logs.log_internal_errors(false);
    if std::io::stderr().is_terminal() {
        logs.with_target(false).compact().init();
    } else {
        logs.json().flatten_event(true).init();
    }
    Logs(writer)
}

impl Logs {
    /// Waits for the queued lines to be written, for at most 2 s. To be called before the process ends.
    pub(crate) fn finish(&self) {
        if let Some(writer) = &self.0 {
            writer.flush(LAST_LINES);
        }
    }
}

/// Redirects stderr to a file, so that it also contains the output of libraries and panics. The process rotates the
/// file itself, because no other process may be running.
pub(crate) fn write_to(path: &Path) -> Result<()> {
    take(path).with_context(|| format!("cannot log to {}", path.display()))?;
    let path = path.to_owned();
    let rotate = move || {
        loop {
            std::thread::sleep(INTERVAL);
            let full = std::fs::metadata(&path).is_ok_and(|metadata| metadata.len() > LARGEST);
            let is_away = !is_at(std::io::stderr(), &path);
            // If the disk is full, the old file is continued.
            if is_away || full && std::fs::rename(&path, older(&path)).is_ok() {
                let _ = take(&path);
            }
        }
    };
    std::thread::Builder::new().name("logs".to_owned()).spawn(rotate).context("cannot start a thread")?;
    Ok(())
}

fn take(path: &Path) -> std::io::Result<()> {
    let file: File = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    Ok(rustix::stdio::dup2_stderr(&file)?)
}

fn older(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    name.into()
}
