//! Keys files and `Authorization` headers: no panic, every key of a file is accepted, and no error message shows a key.

use crate::scratch;
use drisse_net::KeyDigests;
use drisse_scoring::Keys;
use std::path::PathBuf;
use std::sync::LazyLock;

static FILE: LazyLock<PathBuf> = LazyLock::new(|| scratch::scratch("keys"));

pub fn fuzz(content: &[u8]) {
    std::fs::write(&*FILE, content).expect("/dev/shm is writable");
    let text = std::str::from_utf8(content).unwrap_or_default();
    let lines = || text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    match Keys::open(&FILE) {
        Ok(_) => assert!(lines().next().is_some()),
        Err(error) => {
            // The message may depend on the number of a line, but not on its text.
            let shown = error.to_string();
            let why = shown
                .split_once(": ")
                .map_or(&*shown, |(_, why)| why)
                .replace(|c: char| c.is_ascii_digit(), "");
            let known = ["it has no key", "line  is not a SHA- digest in hex"];
            assert!(known.contains(&&*why) || shown.starts_with("cannot read"), "{shown}");
        }
    }
    let mut digests = KeyDigests::default();
    for line in lines().take(16) {
        if digests.add(line).is_some() && !line.starts_with("sha256:") {
            assert!(digests.accept(Some(format!("bearer  {line} ").as_bytes())));
        }
        digests.accept(Some(line.as_bytes()));
    }
}
