//! Memory: what this process uses, and what the bodies of requests and responses may use together.

use bytes::Bytes;
use drisse_core::{Error, ErrorKind, Result};
use prometheus_client::metrics::gauge::Gauge;

/// Returns the resident memory of this process, in bytes; 0 if the kernel does not report it.
pub(crate) fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|rest| rest.trim().split(' ').next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// The memory for all bodies together.
#[derive(Clone, Debug)]
pub(crate) struct BodyMemory {
    held: Gauge,
    max: i64,
}

/// Bytes that count as used until this is dropped.
pub(crate) struct HeldBytes {
    all: Gauge,
    bytes: usize,
    max: i64,
}

/// A response body that counts as used until its last byte is sent.
struct HeldResponse(Bytes, #[expect(dead_code, reason = "dropping it frees the memory")] HeldBytes);

impl AsRef<[u8]> for HeldResponse {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl BodyMemory {
    /// `held`: the metric of the bytes in use; `max`: the largest sum, in bytes.
    pub(crate) fn new(held: Gauge, max: usize) -> Self {
        Self { held, max: i64::try_from(max).unwrap_or(i64::MAX) }
    }

    /// Returns the bytes in use.
    pub(crate) fn in_use(&self) -> i64 {
        self.held.get()
    }

    /// Counts `bytes` as used, or refuses if the memory does not suffice.
    pub(crate) fn hold(&self, bytes: usize) -> Result<HeldBytes> {
        let mut held = HeldBytes { all: self.held.clone(), bytes: 0, max: self.max };
        held.grow(bytes)?;
        Ok(held)
    }

    /// Counts a response body as used until its client has received it, or refuses. Small bodies are not counted.
    pub(crate) fn hold_response(&self, body: Bytes) -> Result<Bytes> {
        const SMALL: usize = 64 << 10;
        if body.len() <= SMALL {
            return Ok(body);
        }
        let held = self.hold(body.len())?;
        Ok(Bytes::from_owner(HeldResponse(body, held)))
    }
}

impl HeldBytes {
    /// Counts bytes that are announced and have not arrived: a quarter of the memory stays free for bytes that have.
    pub(crate) fn reserve(&mut self, bytes: usize) -> Result<()> {
        let max = self.max;
        self.max = max / 4 * 3;
        let grown = if bytes > 0 { self.grow(bytes) } else { Ok(()) };
        self.max = max;
        grown
    }

    /// Counts more bytes. If no other bytes are in use, any number is accepted, because other limits bound one request;
    /// at most three quarters of the memory are then counted, so that small requests are still accepted.
    pub(crate) fn grow(&mut self, bytes: usize) -> Result<()> {
        let before = self.all.inc_by(bytes as i64);
        let others = before - self.bytes as i64;
        self.bytes += bytes;
        if before.saturating_add(bytes as i64) <= self.max {
            return Ok(());
        }
        if others == 0 {
            let counted = (self.max / 4 * 3) as usize;
            self.all.dec_by((self.bytes - counted) as i64);
            self.bytes = counted;
            return Ok(());
        }
        let message = "the bodies of the current requests and responses fill the memory set aside for them";
        Err(Error::new(ErrorKind::Overloaded, message))
    }
}

impl Drop for HeldBytes {
    fn drop(&mut self) {
        self.all.dec_by(self.bytes as i64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_larger_than_the_memory_set_aside_leaves_a_quarter_of_it_to_others() {
        let memory = BodyMemory::new(Gauge::default(), 1 << 20);
        let large = memory.hold(5 << 20).unwrap();
        let small = memory.hold(1 << 18).unwrap();
        assert!(memory.hold(1).is_err());
        drop(large);
        assert_eq!(memory.in_use(), 1 << 18);
        drop(small);
        assert_eq!(memory.in_use(), 0);
    }
}
