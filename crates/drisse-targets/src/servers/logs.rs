//! Logs of a service's replicas: one file per replica (and its rotated predecessor), read in the order
//! they were written.

use drisse_core::{BoxStream, LogOptions};
use drisse_net::blocking;
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{Read as _, Seek, SeekFrom};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// How much of a file's end is looked at for its last lines.
const TAIL: u64 = 4 << 20;

/// Files of replicas that are gone are kept, this many.
const KEPT: usize = 20;

/// How soon a new line is seen.
const INTERVAL: Duration = Duration::from_millis(200);

/// A line that is longer is cut into several.
const LONGEST: usize = 1 << 20;

/// The last `count` lines of a file; none where it cannot be read.
pub(super) fn tail(path: &Path, count: usize) -> Vec<String> {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(path)?;
        let size = file.metadata()?.len();
        file.seek(SeekFrom::Start(size.saturating_sub(TAIL)))?;
        let mut bytes = Vec::new();
        file.take(TAIL).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].iter().map(|&line| line.to_owned()).collect()
}

/// Adds to a replica's log how its process ended, which it could not say itself.
pub(super) fn note(path: &Path, reason: &str) {
    let time = jiff::Timestamp::now();
    let line = serde_json::json!({ "timestamp": time.to_string(), "level": "ERROR",
                                   "message": format!("the scoring server {reason}") });
    add(path, &format!("{line}\n"));
}

/// Adds lines to a replica's log that it has not written itself.
pub(super) fn add(path: &Path, lines: &str) {
    if lines.is_empty() {
        return;
    }
    // Who died before its first line has no log yet.
    let file = fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path);
    // Without its log there is nobody to tell.
    let _ = file.and_then(|mut file| std::io::Write::write_all(&mut file, lines.as_bytes()));
}

/// Removes the oldest files of a folder that has many, but none of those in `written`.
pub(super) fn prune(folder: &Path, written: &[PathBuf]) {
    let files = files(folder);
    for (path, _) in files.iter().rev().skip(KEPT) {
        if !written.contains(path) {
            let _ = fs::remove_file(path);
        }
    }
}

/// Files of a folder, the one written to last at the end.
fn files(folder: &Path) -> Vec<(PathBuf, SystemTime)> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<_> = entries
        .filter_map(|entry| {
            let metadata = entry.metadata().ok().filter(fs::Metadata::is_file)?;
            Some((entry.path(), metadata.modified().ok()?))
        })
        .collect();
    files.sort_by_key(|(_, modified)| *modified);
    files
}

pub(super) fn stream(folder: PathBuf, options: LogOptions) -> BoxStream<String> {
    let (lines, received) = mpsc::channel(256);
    tokio::spawn(async move {
        // Ends when nobody reads any more.
        let _ = send(&folder, options, &lines).await;
    });
    Box::pin(ReceiverStream::new(received))
}

/// How far each file was read, by inode: a file that was rotated has another name and is the same file.
type Read = HashMap<u64, u64>;

type Sent = Result<(), mpsc::error::SendError<String>>;

async fn send(folder: &Path, options: LogOptions, lines: &mpsc::Sender<String>) -> Sent {
    let (of, count) = (folder.to_owned(), options.lines);
    let (mut read, last) = blocking(move || last_lines(&of, count)).await;
    for line in last {
        lines.send(line).await?;
    }
    if !options.follow {
        return Ok(());
    }
    loop {
        tokio::select! {
            () = lines.closed() => return Ok(()),
            () = tokio::time::sleep(INTERVAL) => {}
        }
        let of = folder.to_owned();
        let added;
        (read, added) = blocking(move || added_lines(&of, read)).await;
        for line in added {
            lines.send(line).await?;
        }
    }
}

/// The last `count` lines of all files of a folder in order of their time, and how far each file was read.
fn last_lines(folder: &Path, count: usize) -> (Read, Vec<String>) {
    let mut read = Read::new();
    let mut last: Vec<(String, String)> = Vec::new();
    for (path, _) in files(folder) {
        // Where following begins; what is written meanwhile is read then.
        if let Ok(metadata) = fs::metadata(&path) {
            read.insert(metadata.ino(), metadata.len());
        }
        // A line without a time belongs to the one before it.
        let mut time = String::new();
        for line in tail(&path, count) {
            if let Some(at) = timestamp(&line) {
                at.clone_into(&mut time);
            }
            last.push((time.clone(), line));
        }
    }
    last.sort_by(|(one, _), (other, _)| one.cmp(other));
    let last = last.split_off(last.len().saturating_sub(count));
    (read, last.into_iter().map(|(_, line)| line).collect())
}

/// The whole lines that were added to the files of a folder, and how far each file is read now.
fn added_lines(folder: &Path, mut read: Read) -> (Read, Vec<String>) {
    let mut added = Vec::new();
    for (path, _) in files(folder) {
        let Ok(metadata) = fs::metadata(&path) else { continue };
        added.extend(grown(&path, read.entry(metadata.ino()).or_insert(0)));
    }
    (read, added)
}

/// The time a line of ours was written at, which sorts as text.
fn timestamp(line: &str) -> Option<&str> {
    line.strip_prefix("{\"timestamp\":\"")?.split('"').next()
}

/// Whole lines that were added to a file after `from`, which moves on; from the beginning where the
/// file was replaced by a shorter one.
fn grown(path: &Path, from: &mut u64) -> Vec<String> {
    let mut added = Vec::new();
    let mut read = || -> std::io::Result<()> {
        let mut file = File::open(path)?;
        let size = file.metadata()?.len();
        if size < *from {
            *from = 0;
        }
        file.seek(SeekFrom::Start(*from))?;
        let mut bytes = Vec::new();
        file.take(TAIL).read_to_end(&mut bytes)?;
        let whole = match bytes.iter().rposition(|&byte| byte == b'\n') {
            Some(end) => end + 1,
            None if bytes.len() >= LONGEST => bytes.len(),
            None => 0,
        };
        *from += whole as u64;
        added.extend(String::from_utf8_lossy(&bytes[..whole]).lines().map(str::to_owned));
        Ok(())
    };
    // A file that went is read no further.
    let _ = read();
    added
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::StreamExt;

    #[tokio::test]
    async fn the_last_lines_come_first_then_those_to_come_from_new_files_too() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("r1-a.log"), "one\ntwo\nthree\n").unwrap();
        let options = LogOptions { lines: 2, follow: true };
        let mut stream = stream(folder.path().to_owned(), options);
        assert_eq!(stream.next().await.as_deref(), Some("two"));
        assert_eq!(stream.next().await.as_deref(), Some("three"));
        fs::write(path("r2-b.log"), "four\nfi").unwrap();
        assert_eq!(stream.next().await.as_deref(), Some("four"));
        fs::write(path("r2-b.log"), "four\nfive\n").unwrap();
        assert_eq!(stream.next().await.as_deref(), Some("five"));
        let all = LogOptions { lines: 3, follow: false };
        let all: Vec<_> = super::stream(folder.path().to_owned(), all).collect().await;
        assert_eq!(all, ["three", "four", "five"]);
    }
}
