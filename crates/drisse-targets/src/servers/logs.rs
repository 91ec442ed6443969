//! Reads the logs of a service's replicas. Each replica has one file and a rotated predecessor; lines are returned in
//! the order of their time.

use drisse_core::{BoxStream, LogOptions, printable};
use drisse_net::{blocking, channel_stream};
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{Read as _, Seek, SeekFrom};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use tokio::sync::mpsc;

/// How many bytes at the end of a file are searched for its last lines.
const TAIL: u64 = 4 << 20;

/// How many files of a service are kept. Files of running replicas are always kept.
const KEPT: usize = 20;

/// How often files are checked for new lines.
const INTERVAL: Duration = Duration::from_millis(200);

/// A longer line is split, in bytes.
const LONGEST: usize = 1 << 20;

/// Reads at most [`TAIL`] bytes of a file, from the offset that `from` returns for the file's size.
fn read(path: &Path, from: impl FnOnce(u64) -> u64) -> std::io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let from = from(file.metadata()?.len());
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Returns the last `count` lines of a file; no lines if it cannot be read.
pub(super) fn tail(path: &Path, count: usize) -> Vec<String> {
    let bytes = read(path, |size| size.saturating_sub(TAIL)).unwrap_or_default();
    let text = printable(&bytes);
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].iter().map(|&line| line.to_owned()).collect()
}

/// Appends to a replica's log how its server ended, which the server itself cannot log.
pub(super) fn note(path: &Path, reason: &str) {
    let time = jiff::Timestamp::now();
    let line = serde_json::json!({ "timestamp": time.to_string(), "level": "ERROR",
                                   "message": format!("the scoring server {reason}") });
    add(path, &format!("{line}\n"));
}

/// Appends lines to a replica's log.
pub(super) fn add(path: &Path, lines: &str) {
    if lines.is_empty() {
        return;
    }
    // A replica that died before its first line has no log yet.
    let file = fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path);
    // If the log cannot be written, the lines are lost.
    let _ = file.and_then(|mut file| std::io::Write::write_all(&mut file, lines.as_bytes()));
}

/// Removes the oldest files of a folder except for the last [`KEPT`], and none of those in `written`.
pub(super) fn prune(folder: &Path, written: &[PathBuf]) {
    let files = files(folder);
    for (path, _) in files.iter().rev().skip(KEPT) {
        if !written.contains(path) {
            let _ = fs::remove_file(path);
        }
    }
}

/// Returns the files of a folder in the order of their modification times.
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
    Box::pin(channel_stream(async move |lines| {
        // An error says that the stream is not read any more.
        let _ = send(&folder, options, &lines).await;
    }))
}

/// The offset up to which each file was read, by inode: a rotated file has another name but the same inode.
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

/// Returns the last `count` lines of all files of a folder in the order of their time, and how far each file was read.
fn last_lines(folder: &Path, count: usize) -> (Read, Vec<String>) {
    let mut read = Read::new();
    let mut last: Vec<(String, String)> = Vec::new();
    for (path, _) in files(folder) {
        // Following starts at this offset. Lines that are written from now on are read then.
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

/// Returns the whole lines that were added to the files of a folder, and how far each file was read.
fn added_lines(folder: &Path, mut read: Read) -> (Read, Vec<String>) {
    let mut added = Vec::new();
    for (path, _) in files(folder) {
        let Ok(metadata) = fs::metadata(&path) else { continue };
        added.extend(grown(&path, read.entry(metadata.ino()).or_insert(0)));
    }
    (read, added)
}

/// Returns the time of a line of a scoring server, which sorts as text.
fn timestamp(line: &str) -> Option<&str> {
    line.strip_prefix("{\"timestamp\":\"")?.split('"').next()
}

/// Returns the whole lines that were added to a file after the offset `from`, and advances `from`. Starts at the
/// beginning if the file was replaced by a shorter one.
fn grown(path: &Path, from: &mut u64) -> Vec<String> {
    let added = read(path, |size| {
        if size < *from {
            *from = 0;
        }
        *from
    });
    // The file may have been removed.
    let bytes = added.unwrap_or_default();
    let whole = match bytes.iter().rposition(|&byte| byte == b'\n') {
        Some(end) => end + 1,
        None if bytes.len() >= LONGEST => bytes.len(),
        None => 0,
    };
    *from += whole as u64;
    printable(&bytes[..whole]).lines().map(str::to_owned).collect()
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
