//! The terminal from which a server was started.

use crate::error::Result;
use std::fs::File;
use tokio::signal::unix::SignalKind;

/// Returns a future that completes when the terminal is closed from which the server was started. A server without a
/// terminal, or under `nohup`, goes on at SIGHUP: others then read their files again, which this one does every second.
pub(super) fn closed() -> Result<impl Future<Output = ()>> {
    let has_terminal = File::open("/dev/tty").is_ok();
    let is_ignored = is_hangup_ignored();
    let hangup = if is_ignored { None } else { Some(super::on(SignalKind::hangup())?) };
    Ok(async move {
        let Some(mut hangup) = hangup else { return std::future::pending().await };
        loop {
            hangup.recv().await;
            if has_terminal {
                return;
            }
            tracing::info!("SIGHUP: keys, certificates and moved logs are looked at every second");
        }
    })
}

/// Whether the program that started this one has made it ignore SIGHUP: proc_pid_status(5).
fn is_hangup_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}
