//! Watches a server from outside, and distinguishes a server that hangs from one that waits for a disk.

use crate::blocking::blocking;
use crate::http::{Address, Ask};
use std::fs;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// How often a server is probed.
const PROBE: Duration = Duration::from_secs(5);

/// A server that has not answered for this long is silent. Its admin listener has a thread that never waits for a
/// disk, so that only a machine that makes no progress should keep it silent.
pub const SILENCE: Duration = Duration::from_secs(10);

/// The pause between two looks at a silent server's main thread, which must be waiting at each look.
const LOOK: Duration = Duration::from_millis(20);
const LOOKS: usize = 5;

/// Completes once the server with this `admin` listener hangs: it has not answered `GET /live` for [`SILENCE`], and
/// killing it is the only remedy left. `pid` is its process, if known.
///
/// A silent server whose main thread waits for a disk, or is held by a debugger, does not hang: it continues when the
/// disk does, still serves its open connections, and killing it would end them. This is logged, and watching
/// continues. Any answer counts as alive. So does a refused connection, because the caller sees the end of a process.
///
/// Cancel-safe: the future may be dropped at any time.
pub async fn hang(admin: &Address, pid: Option<u32>) {
    let mut delayed = false;
    loop {
        sleep(PROBE).await;
        if timeout(SILENCE, admin.ask(Ask::get("/live"))).await.is_ok() {
            if std::mem::take(&mut delayed) {
                tracing::info!(%admin, "the server answers again");
            }
            continue;
        }
        let wait = match pid {
            Some(pid) => excuse(pid).await,
            None => None,
        };
        let Some(wait) = wait else { return };
        if !delayed {
            tracing::warn!(%admin, pid, "the server does not answer: it {wait}; it is left running");
        }
        delayed = true;
    }
}

/// Returns what the main thread of a silent process waits for, as the rest of a sentence: a disk, or a debugger.
/// `None` if it waits for neither: then the process hangs.
pub async fn excuse(pid: u32) -> Option<&'static str> {
    let mut excuse = None;
    for _ in 0..LOOKS {
        excuse = Some(blocking(move || wait_of(pid)).await?);
        sleep(LOOK).await;
    }
    excuse
}

/// Returns what the main thread of a process waits for; `None` if it runs, sleeps, or was stopped by a signal.
///
/// Source: the states in `/proc/PID/stat`, <https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html>.
fn wait_of(pid: u32) -> Option<&'static str> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The program's name in parentheses may contain any character, including parentheses.
    match stat.rsplit_once(") ")?.1.chars().next()? {
        'D' => Some("waits for a disk"),
        't' => Some("is held by a debugger"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    /// The parent of a `vfork` is in the state of a process that waits for a disk until the child ends.
    #[cfg(target_arch = "x86_64")]
    #[tokio::test]
    async fn a_process_that_waits_for_a_disk_is_excused_and_one_that_sleeps_or_is_stopped_is_not() {
        let script = "syscall(58) == 0 and sleep 600";
        let mut waits = Command::new("perl").args(["-e", script]).stdin(Stdio::null()).spawn().unwrap();
        let children = format!("/proc/{0}/task/{0}/children", waits.id());
        let children = || fs::read_to_string(&children).unwrap_or_default();
        // Not only the state: while perl is loaded, it waits for a real disk now and then.
        drisse_testkit::wait("the parent waits", || !children().is_empty() && wait_of(waits.id()).is_some());
        assert_eq!(excuse(waits.id()).await, Some("waits for a disk"));
        // The child of the `vfork` shares the parent's memory, and must be killed too.
        let children = children();
        Command::new("kill").arg("-9").args(children.split_whitespace()).status().unwrap();
        waits.kill().unwrap();
        waits.wait().unwrap();

        let mut sleeps = Command::new("sleep").arg("600").spawn().unwrap();
        assert_eq!(excuse(sleeps.id()).await, None);
        Command::new("kill").args(["-STOP", &sleeps.id().to_string()]).status().unwrap();
        let stopped = || fs::read_to_string(format!("/proc/{}/stat", sleeps.id())).unwrap().contains(") T ");
        drisse_testkit::wait("the process is stopped", stopped);
        assert_eq!(excuse(sleeps.id()).await, None);
        sleeps.kill().unwrap();
        sleeps.wait().unwrap();
    }
}
