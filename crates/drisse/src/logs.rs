//! How logs leave a process: on stderr, or in a file that the process rotates itself.

use crate::failure::Failure;
use anyhow::Context;
use std::fs::{File, OpenOptions};
use std::io::IsTerminal;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tracing_subscriber::EnvFilter;

/// A file of this size makes room for a new one; one older is kept beside it.
const LARGEST: u64 = 10 << 20;

const INTERVAL: Duration = Duration::from_secs(1);

/// Logs on stderr: for people on a terminal, JSON lines elsewhere. `DRISSE_LOG` sets what is logged.
pub(crate) fn start() {
    let filter = EnvFilter::try_from_env("DRISSE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A line that cannot be written (a full disk) is lost. Saying so on the same stderr would panic, in the middle of
    // what is being answered.
    let logs = logs.log_internal_errors(false);
    if std::io::stderr().is_terminal() {
        logs.with_target(false).compact().init();
    } else {
        logs.json().flatten_event(true).init();
    }
}

/// Puts a file in the place of stderr, so that what libraries and panics print is there too. Nobody else
/// has to be alive to rotate it.
pub(crate) fn write_to(path: &Path) -> Result<(), Failure> {
    take(path).with_context(|| format!("cannot log to {}", path.display()))?;
    let path = path.to_owned();
    let rotate = move || {
        loop {
            std::thread::sleep(INTERVAL);
            let full = std::fs::metadata(&path).is_ok_and(|metadata| metadata.len() > LARGEST);
            // On a full disk the old file goes on.
            if full && std::fs::rename(&path, older(&path)).is_ok() {
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
