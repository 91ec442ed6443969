//! Access logs: a JSON line for each request, written by a separate thread, so that no request waits for the disk.

use crate::background::{Background, Entry};
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, SystemTime};

/// The log is rotated at this size, in bytes. One older file is kept, as `*.1`.
const LARGEST: u64 = 64 << 20;

/// What the log says of one request.
#[derive(Clone, Copy, Debug)]
pub struct Access<'a> {
    /// The method.
    pub method: &'a str,
    /// The path, without the query.
    pub path: &'a str,
    /// The status of the response.
    pub status: u16,
    /// The time from the request's head to the response's head.
    pub took: Duration,
    /// The id of the request.
    pub request_id: &'a str,
    /// The model or service that the path names; empty if there is none.
    pub name: &'a str,
}

/// An access log file, written by a thread of its own. Dropping the log never waits; the thread ends once it has
/// written every line.
#[derive(Debug)]
pub struct AccessLog {
    path: PathBuf,
    lines: Background<Line>,
}

/// When the request was answered, and the rest of the line.
type Line = (SystemTime, String);

impl AccessLog {
    /// Opens the file at `path` for appending; a new file is readable by this user alone.
    ///
    /// # Errors
    /// Returns the system's error if the file cannot be opened or the thread cannot be started.
    pub fn open(path: &Path) -> std::io::Result<Self> {
        let file = open(path)?;
        let to = path.to_owned();
        let lines = Background::start("access", move |lines| write(&to, file, &lines))?;
        Ok(Self { path: path.to_owned(), lines })
    }

    /// The path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Queues the line of one request. Never waits: if the disk is too slow, lines are lost, and the next
    /// one counts them.
    pub fn write(&self, access: &Access<'_>) {
        let mut line = String::with_capacity(192);
        let mut text = |name: &str, value: &str| {
            line.push_str(name);
            quote(&mut line, value);
        };
        text(",\"method\":", access.method);
        text(",\"path\":", access.path);
        text(",\"name\":", access.name);
        text(",\"request_id\":", access.request_id);
        let ms = access.took.as_secs_f64() * 1e3;
        // Writing to a string cannot fail.
        let _ = write!(line, ",\"status\":{},\"ms\":{ms:.3}", access.status);
        self.lines.send(|lost| {
            if lost > 0 {
                let _ = write!(line, ",\"lost_before\":{lost}");
            }
            line.push_str("}\n");
            (SystemTime::now(), line)
        });
    }

    /// Waits until every line so far is in the file, for at most `timeout`. To be called once before the process
    /// ends; blocks the thread.
    pub fn flush(&self, timeout: Duration) {
        self.lines.flush(timeout);
    }
}

/// Whether an open file is still the one at `path`. It is not if another program has moved it away, as `logrotate` does.
pub fn is_at(file: impl AsFd, path: &Path) -> bool {
    let identity = |found: rustix::fs::Stat| (found.st_dev, found.st_ino);
    let (opened, named) = (rustix::fs::fstat(file).map(identity), rustix::fs::stat(path).map(identity));
    opened.is_ok() && opened == named
}

fn open(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

fn write(path: &Path, file: File, lines: &Receiver<Entry<Line>>) {
    let mut size = file.metadata().map_or(0, |metadata| metadata.len());
    let mut file = BufWriter::new(file);
    let mut failed = false;
    loop {
        let next = match lines.try_recv() {
            Ok(line) => Ok(line),
            Err(TryRecvError::Empty) => {
                // A reader that follows the file sees all lines so far.
                let flushed = file.flush();
                if flushed.is_err() && !failed {
                    tracing::warn!("cannot write the access log {}", path.display());
                }
                failed = flushed.is_err();
                let next = lines.recv().map_err(|_| ());
                if !is_at(file.get_ref(), path)
                    && let Ok(new) = open(path)
                {
                    file = BufWriter::new(new);
                    size = 0;
                }
                next
            }
            Err(TryRecvError::Disconnected) => Err(()),
        };
        let (at, rest) = match next {
            Ok(Entry::Item(line)) => line,
            Ok(Entry::Flush(_done)) => {
                let _ = file.flush();
                continue;
            }
            Err(()) => return drop(file.flush()),
        };
        let time = jiff::Timestamp::try_from(at).unwrap_or_default();
        // A full disk is reported when the buffer is flushed.
        let _ = write!(file, "{{\"time\":\"{time:.3}\"{rest}");
        size += rest.len() as u64 + 34;
        if size > LARGEST {
            let mut older = path.as_os_str().to_owned();
            older.push(".1");
            // If no new file can be made, the old one is continued.
            if file.flush().is_ok()
                && std::fs::rename(path, &older).is_ok()
                && let Ok(new) = open(path)
            {
                file = BufWriter::new(new);
            }
            size = 0;
        }
    }
}

/// Appends text as a JSON string.
fn quote(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_is_moved_away_is_begun_again() {
        let folder = tempfile::tempdir().unwrap();
        let (path, moved) = (folder.path().join("access.log"), folder.path().join("access.log-20261130"));
        let log = AccessLog::open(&path).unwrap();
        let took = Duration::ZERO;
        let access = |path| Access { method: "POST", path, status: 200, took, request_id: "7", name: "" };
        let write = |path| {
            log.write(&access(path));
            log.flush(Duration::from_secs(60));
        };
        write("/before");
        std::fs::rename(&path, &moved).unwrap();
        // The thread looks at the file when the first line after an idle moment comes.
        let seen = || {
            write("/after");
            path.exists().then(|| std::fs::read_to_string(&path).unwrap())
        };
        let text = (0..1000).find_map(|_| seen()).unwrap();
        assert!(text.contains("/after") && !text.contains("/before"), "{text}");
        assert!(std::fs::read_to_string(&moved).unwrap().contains("/before"));
    }

    #[test]
    fn a_request_is_a_line_of_json_whatever_its_path_holds() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let log = AccessLog::open(&path).unwrap();
        let took = Duration::from_micros(1500);
        let access =
            Access { method: "POST", path: "/a\"\\\n", status: 200, took, request_id: "7", name: "digits" };
        (0..3).for_each(|_| log.write(&access));
        log.flush(Duration::from_secs(60));
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<_> = text.lines().collect();
        let rest = "\",\"method\":\"POST\",\"path\":\"/a\\\"\\\\\\u000a\",\"name\":\"digits\",\"request_id\":\"7\",\
                    \"status\":200,\"ms\":1.500}";
        assert!(
            lines.len() == 3
                && lines.iter().all(|line| line.starts_with("{\"time\":\"20") && line.ends_with(rest)),
            "{text}"
        );
    }
}
