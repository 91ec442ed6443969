//! `drisse doctor`: checks what this machine has and lacks.

use crate::cli::Output;
use crate::connect::{Presence, STATUS_PATIENCE, WorkspaceRef};
use crate::error::Result;
use crate::{printer, wiring};
use drisse_control::Health;
use drisse_engines::onnx;
use serde_json::json;
use std::io::ErrorKind;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

/// Bytes. With less free space than this, a model of usual size does not fit.
const LOW_BYTES: u64 = 1 << 30;

/// Percent. With a smaller part of the disk free, most file systems get slow.
const LOW_PERCENT: u64 = 5;

/// Maximum number of damaged models to show.
const SHOWN: usize = 3;

/// The result of one check.
struct Finding {
    what: &'static str,
    /// Whether Drisse needs it to work on this machine.
    needed: bool,
    good: bool,
    /// The state to report if the check failed.
    bad: &'static str,
    detail: String,
    remedy: String,
}

impl Finding {
    /// A check for something that is present or not.
    fn new(what: &'static str, needed: bool, good: bool, detail: String, remedy: &str) -> Self {
        let bad = if needed { "missing" } else { "not there" };
        Self { what, needed, good, bad, detail, remedy: remedy.to_owned() }
    }
}

pub(crate) async fn run(workspace: &WorkspaceRef, output: Output) -> Result<ExitCode> {
    let mut findings = vec![onnx_runtime(), pip(), locale()];
    if let WorkspaceRef::Folder(folder, _) = workspace {
        // If the workspace does not exist yet, its nearest existing parent is checked.
        let existing = folder.root.ancestors().find(|parent| parent.exists()).unwrap_or(Path::new("/"));
        findings.push(writable(existing, &folder.root));
        findings.push(disk_space(existing));
        if let Some(health) = drisse_control::examine(folder).await {
            findings.extend(stored(health));
        }
        findings.push(sockets(&folder.sockets));
        findings.push(daemons(workspace).await);
    }
    findings.push(containers().await);
    findings.push(systemd());
    let broken = findings.iter().any(|finding| finding.needed && !finding.good);
    let state = |finding: &Finding| if finding.good { "ok" } else { finding.bad };
    let row = |finding: &Finding| {
        let remedy = if finding.good { String::new() } else { finding.remedy.clone() };
        vec![finding.what.to_owned(), state(finding).to_owned(), finding.detail.clone(), remedy]
    };
    let document = || {
        let finding = |finding: &Finding| {
            json!({ "what": finding.what, "state": state(finding), "needed": finding.needed,
                    "detail": finding.detail, "remedy": (!finding.good).then_some(&finding.remedy) })
        };
        json!({ "checks": findings.iter().map(finding).collect::<Vec<_>>(), "works": !broken })
    };
    let heading = ["WHAT", "STATE", "", "REMEDY"];
    printer::result(output, document, || printer::table(&heading, findings.iter().map(row)));
    Ok(if broken { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn onnx_runtime() -> Finding {
    let found = onnx::find(crate::connect::env_onnxruntime().as_deref(), &onnx::cache_folder());
    let (good, detail) = match found {
        Ok(Some(path)) => (true, path.display().to_string()),
        Ok(None) => (false, format!("version {} is downloaded when needed", onnx::PINNED)),
        Err(error) => (false, error.to_string()),
    };
    // It is fetched, if there is something to fetch it with.
    let remedy = "run any deployment to fetch it, or name a library with DRISSE_ONNXRUNTIME";
    Finding::new("ONNX Runtime", !(good || has_pip()), good, detail, remedy)
}

fn has_pip() -> bool {
    let quiet = |program: &str, arguments: &[&str]| {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    quiet("python3", &["-m", "pip", "--version"])
        || quiet("pip3", &["--version"])
        || quiet("uv", &["--version"])
}

fn pip() -> Finding {
    let good = has_pip();
    let detail = if good { "downloads ONNX Runtime, once" } else { "" }.to_owned();
    Finding::new("pip", false, good, detail, "`apt-get install python3-pip`")
}

fn locale() -> Finding {
    let (good, detail) = match onnx::locale() {
        onnx::LocaleState::Installed => (true, "en_US.UTF-8, for models of text"),
        onnx::LocaleState::Replaced => (true, "C.UTF-8 takes the place of en_US.UTF-8, for models of text"),
        onnx::LocaleState::Missing => (false, "models that change the case of text cannot be loaded"),
    };
    let remedy = "`apt-get install libc-bin`, which has C.UTF-8, or `locales` and generate en_US.UTF-8";
    Finding::new("locale", false, good, detail.to_owned(), remedy)
}

fn writable(folder: &Path, root: &Path) -> Finding {
    let written = tempfile::tempfile_in(folder);
    let remedy = match written.as_ref().err().map(std::io::Error::kind) {
        Some(ErrorKind::ReadOnlyFilesystem) => {
            "the disk is read-only, after an error or because it was mounted so: see `dmesg` and `findmnt`"
        }
        Some(ErrorKind::StorageFull) => "free some space on that disk",
        _ => "name a folder you may write to with --workspace",
    };
    let detail = match &written {
        Ok(_) => root.display().to_string(),
        Err(error) => format!("cannot write in {}: {error}", folder.display()),
    };
    Finding::new("workspace", true, written.is_ok(), detail, remedy)
}

fn disk_space(root: &Path) -> Finding {
    let disk = rustix::fs::statvfs(root).map(|disk| {
        let bytes = |blocks: u64| blocks.saturating_mul(disk.f_frsize);
        (bytes(disk.f_bavail), bytes(disk.f_blocks))
    });
    let (free, of) = disk.unwrap_or_default();
    let detail = format!("{} of {} free", crate::units::shown(free), crate::units::shown(of));
    let remedy =
        "free some space (`drisse models prune`), or put the workspace on another disk with --workspace";
    let enough = free >= LOW_BYTES;
    let good = enough && free / LOW_PERCENT >= of / 100;
    Finding { bad: "low", ..Finding::new("disk", !enough, good, detail, remedy) }
}

/// Checks whether the database, its backup and the models of the workspace are intact.
fn stored(health: Health) -> [Finding; 3] {
    let (detail, remedy) = health.database.clone().unwrap_or_default();
    let whole = health.database.is_none();
    let database = Finding { bad: "damaged", ..Finding::new("database", true, whole, detail, &remedy) };
    let remedy = "the control plane writes it soon after each change; logs/control.log says why if it cannot";
    let written = health.backup.as_ref().map(|at| format!("written {at}")).unwrap_or_default();
    let backup = Finding::new("backup", false, health.current, written, remedy);
    let backup = if health.backup.is_some() { Finding { bad: "old", ..backup } } else { backup };
    let damaged = &health.damaged;
    let mut detail = match damaged.is_empty() {
        true => format!("{} have the right size; `drisse models verify` checks every byte", health.models),
        false => damaged.iter().take(SHOWN).cloned().collect::<Vec<_>>().join("; "),
    };
    if damaged.len() > SHOWN {
        detail += &format!("; and {} more", damaged.len() - SHOWN);
    }
    let remedy = "`drisse models verify --repair`";
    let models = Finding::new("models", true, whole && damaged.is_empty(), detail, remedy);
    let models = match whole {
        true => Finding { bad: "damaged", ..models },
        false => {
            Finding { needed: false, bad: "unknown", detail: String::new(), remedy: String::new(), ..models }
        }
    };
    [database, backup, models]
}

fn sockets(folder: &Path) -> Finding {
    let remedy = "choose a workspace whose sockets have a shorter path";
    let detail = folder.display().to_string();
    // The path of a socket has at most 107 bytes, and its file name at most 18.
    Finding::new("sockets", true, detail.len() < 88, detail, remedy)
}

async fn containers() -> Finding {
    let engine = wiring::container_engine().await;
    let remedy = engine.as_ref().err().map_or_else(String::new, |why| why.hint.clone());
    let good = engine.is_ok();
    Finding::new("containers", false, good, engine.unwrap_or_else(|why| why.reason), &remedy)
}

async fn daemons(workspace: &WorkspaceRef) -> Finding {
    let (good, detail, remedy) = match workspace.presence(STATUS_PATIENCE).await {
        Presence::Answers(_, status) => {
            let gateway = status.gateway.address.clone().unwrap_or_default();
            let detail =
                format!("control plane and gateway are running, {}://{gateway}", status.gateway.scheme);
            (true, detail, "")
        }
        Presence::Silent => (false, "the control plane does not answer".to_owned(), "`drisse down` ends it"),
        Presence::Absent if workspace.is_down() => (false, "the workspace is down".to_owned(), "`drisse up`"),
        Presence::Absent => {
            (false, "not running; any command that needs them starts them".to_owned(), "`drisse up`")
        }
    };
    Finding::new("daemons", false, good, detail, remedy)
}

fn systemd() -> Finding {
    let good = Path::new("/run/systemd/system").is_dir();
    let detail = if good { "can start Drisse at boot: `drisse up --boot`" } else { "" }.to_owned();
    Finding::new("systemd", false, good, detail, "start `drisse up` from your init system")
}
