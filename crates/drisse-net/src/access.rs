//! Access logs: a JSON line for each request, written where no request waits for the disk.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

/// Lines that wait for the disk, at most; a disk that is slower loses some, and says how many.
const WAITING: usize = 8192;

/// A file of this size makes room for a new one; one older is kept beside it.
const LARGEST: u64 = 64 << 20;

/// A request, as its line tells it.
#[derive(Clone, Copy, Debug)]
pub struct Access<'a> {
    /// The method.
    pub method: &'a str,
    /// The path, without what is behind `?`.
    pub path: &'a str,
    /// The status of its answer.
    pub status: u16,
    /// From its head to its answer's.
    pub took: Duration,
    /// Its id.
    pub request_id: &'a str,
    /// The model or the service, where the path names one there is.
    pub name: &'a str,
}

/// A file that requests are written to. Ends, when dropped, once all are.
#[derive(Debug)]
pub struct AccessLog {
    path: PathBuf,
    lines: Option<SyncSender<Line>>,
    lost: AtomicU64,
    writer: Option<JoinHandle<()>>,
}

/// When it was answered, and the rest.
type Line = (SystemTime, String);

impl AccessLog {
    /// Appends to the file at `path`, made for this user alone.
    pub fn open(path: &Path) -> std::io::Result<Self> {
        let file = open(path)?;
        let (lines, written) = sync_channel(WAITING);
        let to = path.to_owned();
        let writer = std::thread::Builder::new().name("access".to_owned());
        let writer = writer.spawn(move || write(&to, file, &written))?;
        Ok(Self { path: path.to_owned(), lines: Some(lines), lost: AtomicU64::new(0), writer: Some(writer) })
    }

    /// Where it writes.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a request down, soon.
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
        let lost = self.lost.swap(0, Relaxed);
        if lost > 0 {
            let _ = write!(line, ",\"lost_before\":{lost}");
        }
        line.push_str("}\n");
        let sent = self.lines.as_ref().map(|lines| lines.try_send((SystemTime::now(), line)));
        if !matches!(sent, Some(Ok(()))) {
            self.lost.fetch_add(lost + 1, Relaxed);
        }
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.lines = None;
        if let Some(writer) = self.writer.take() {
            // One that panicked has ended too.
            let _ = writer.join();
        }
    }
}

fn open(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

fn write(path: &Path, file: File, lines: &Receiver<Line>) {
    let mut size = file.metadata().map_or(0, |metadata| metadata.len());
    let mut file = BufWriter::new(file);
    let mut failed = false;
    loop {
        let next = match lines.try_recv() {
            Ok(line) => Ok(line),
            Err(TryRecvError::Empty) => {
                // Whoever follows the file sees what there is.
                let flushed = file.flush();
                if flushed.is_err() && !failed {
                    tracing::warn!("cannot write the access log {}", path.display());
                }
                failed = flushed.is_err();
                lines.recv().map_err(|_| ())
            }
            Err(TryRecvError::Disconnected) => Err(()),
        };
        let Ok((at, rest)) = next else { return drop(file.flush()) };
        let time = jiff::Timestamp::try_from(at).unwrap_or_default();
        // What a full disk refuses is told when it is flushed.
        let _ = write!(file, "{{\"time\":\"{time:.3}\"{rest}");
        size += rest.len() as u64 + 34;
        if size > LARGEST {
            let mut older = path.as_os_str().to_owned();
            older.push(".1");
            // On a disk that takes no new file the old one goes on.
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

/// Text as JSON has it.
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
    fn a_request_is_a_line_of_json_whatever_its_path_holds() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let log = AccessLog::open(&path).unwrap();
        let took = Duration::from_micros(1500);
        let access =
            Access { method: "POST", path: "/a\"\\\n", status: 200, took, request_id: "7", name: "digits" };
        (0..3).for_each(|_| log.write(&access));
        drop(log);
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
