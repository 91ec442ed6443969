//! Watching a server from outside: a server that hangs is told apart from one that waits for a disk.

use crate::blocking::blocking;
use crate::http::{Address, Ask};
use std::fs;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// How often a server is asked whether it is alive.
const PROBE: Duration = Duration::from_secs(5);

/// A server that has not answered for this long is silent. Its admin listener has a thread that waits for no disk:
/// only a machine that stands still should keep it silent.
pub const SILENCE: Duration = Duration::from_secs(10);

/// Between two looks at a silent server's main thread, which has to be in the same state at each.
const LOOK: Duration = Duration::from_millis(20);
const LOOKS: usize = 5;

/// Completes once the server behind `admin` hangs: it has not answered `GET /live` for [`SILENCE`], and killing it is
/// the only remedy left. `pid` is its process, if known.
///
/// A silent server whose main thread waits for a disk, or is held by a debugger, does not hang: it goes on when the
/// disk does, still serves the connections it has, and a kill would take those too. This is logged, and watching goes
/// on. Any answer counts as alive, and so does a refused connection: the end of a process is seen elsewhere.
///
/// Cancel-safe: nothing is lost when the future is dropped.
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

/// What the main thread of a process waits for; `None` if it runs, sleeps, or was stopped by a signal.
///
/// Source: the states in `/proc/PID/stat`, <https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html>.
fn wait_of(pid: u32) -> Option<&'static str> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything, parentheses too.
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
        // Its child has its program in the same memory, and ends with it by the same signal.
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
