//! `drisse doctor`: what this machine has and lacks.

use crate::cli::Output;
use crate::connect::Place;
use crate::failure::Failure;
use crate::printer;
use drisse_engines::onnx;
use serde_json::json;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

/// Less room than this and a model of usual size does not fit.
const LITTLE_ROOM: u64 = 1 << 30;

struct Finding {
    what: &'static str,
    /// Whether Drisse works without it on this machine.
    needed: bool,
    good: bool,
    detail: String,
    remedy: &'static str,
}

pub(crate) async fn run(place: &Place, output: Output) -> Result<ExitCode, Failure> {
    let mut findings = vec![onnx_runtime(), pip()];
    if let Place::Folder(workspace) = place {
        // Where it is not there yet, what counts is where it would be.
        let there = workspace.root.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/"));
        findings.push(writable(there, &workspace.root));
        findings.push(room(there));
        findings.push(sockets(&workspace.sockets));
        findings.push(daemons(place).await);
    }
    findings.push(systemd());
    let broken = findings.iter().any(|finding| finding.needed && !finding.good);
    let state = |finding: &Finding| match (finding.good, finding.needed) {
        (true, _) => "ok",
        (false, true) => "missing",
        (false, false) => "not there",
    };
    let row = |finding: &Finding| {
        let remedy = if finding.good { "" } else { finding.remedy };
        vec![finding.what.to_owned(), state(finding).to_owned(), finding.detail.clone(), remedy.to_owned()]
    };
    let document = || {
        let finding = |finding: &Finding| {
            json!({ "what": finding.what, "state": state(finding), "needed": finding.needed,
                    "detail": finding.detail, "remedy": (!finding.good).then_some(finding.remedy) })
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
        Ok(None) => (false, format!("version {} is fetched when it is needed", onnx::PINNED)),
        Err(error) => (false, error.to_string()),
    };
    // It is fetched, if there is something to fetch it with.
    let remedy = "run any deployment to fetch it, or name a library with DRISSE_ONNXRUNTIME";
    Finding { what: "ONNX Runtime", needed: !(good || has_pip()), good, detail, remedy }
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
    let detail = if good { "fetches ONNX Runtime, once" } else { "" }.to_owned();
    Finding { what: "pip", needed: false, good, detail, remedy: "`apt-get install python3-pip`" }
}

fn writable(there: &Path, root: &Path) -> Finding {
    let tried = tempfile::tempfile_in(there);
    let detail = tried.as_ref().map_or_else(ToString::to_string, |_| root.display().to_string());
    let remedy = "name a folder you may write to with --workspace";
    Finding { what: "workspace", needed: true, good: tried.is_ok(), detail, remedy }
}

fn room(root: &Path) -> Finding {
    let free = rustix::fs::statvfs(root).map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize)).unwrap_or(0);
    let detail = format!("{} free", crate::units::shown(free));
    let remedy = "free some room, or put the workspace on another disk with --workspace";
    Finding { what: "disk", needed: true, good: free >= LITTLE_ROOM, detail, remedy }
}

fn sockets(folder: &Path) -> Finding {
    let remedy = "name a workspace whose sockets have a shorter path";
    let detail = folder.display().to_string();
    // A socket's name is at most 16 characters, its path at most 107 bytes.
    Finding { what: "sockets", needed: true, good: detail.len() < 90, detail, remedy }
}

async fn daemons(place: &Place) -> Finding {
    let running = place.running().await;
    let detail = match &running {
        Some((_, status)) => {
            let gateway = status.gateway.address.clone().unwrap_or_default();
            format!("control plane and gateway run, {}://{gateway}", status.gateway.scheme)
        }
        None => "started by any command that needs them".to_owned(),
    };
    Finding { what: "daemons", needed: false, good: running.is_some(), detail, remedy: "`drisse up`" }
}

fn systemd() -> Finding {
    let good = Path::new("/run/systemd/system").is_dir();
    let detail = if good { "can start Drisse at boot: `drisse up --boot`" } else { "" }.to_owned();
    Finding {
        what: "systemd",
        needed: false,
        good,
        detail,
        remedy: "start `drisse up` from your init system",
    }
}
