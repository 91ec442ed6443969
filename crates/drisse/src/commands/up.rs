//! `drisse up` and `status`: start and show the daemons of a workspace.

use super::curl::this_program;
use crate::cli::{Output, Up};
use crate::connect::{Presence, STATUS_PATIENCE, WorkspaceRef};
use crate::error::{CliError, Result};
use crate::printer;
use anyhow::Context;
use drisse_control::{Holder, Workspace};
use drisse_net::Process;
use drisse_net::http::{Address, Ask};
use drisse_wire::control::{GatewayInfo, ProcessInfo, Status};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// After this time, a note says what the command waits for.
const SILENCE: Duration = Duration::from_secs(2);

/// Maximum time for the gateway to start.
const GATEWAY_PATIENCE: Duration = Duration::from_secs(10);

/// Pause between two requests for the status.
const ASK_AGAIN: Duration = Duration::from_millis(5);

pub(crate) async fn up(workspace: &WorkspaceRef, arguments: &Up, output: Output) -> Result<ExitCode> {
    if arguments.boot {
        return boot(workspace.folder()?, arguments, output);
    }
    if arguments.restore {
        restore(workspace.folder()?).await?;
    }
    let (client, mut status) = workspace.connect_with(arguments).await?;
    // The gateway starts shortly after the control plane.
    let began = Instant::now();
    while status.gateway.pid.is_none() {
        if began.elapsed() > GATEWAY_PATIENCE {
            let seconds = GATEWAY_PATIENCE.as_secs();
            let failure = CliError::new(format!("the gateway did not start within {seconds} s")).code(2);
            let log = workspace.folder()?.logs().join("gateway.log");
            return Err(failure.hint(format!("its log is {}", log.display())));
        }
        tokio::time::sleep(ASK_AGAIN).await;
        status = client.status().await?;
    }
    printer::result(output, || json!(status), || text(&status, "answers"));
    Ok(ExitCode::SUCCESS)
}

/// Replaces the database with its backup, and prints the consequences.
async fn restore(workspace: &Workspace) -> Result<()> {
    let restored = drisse_control::restore(workspace).await.map_err(|error| {
        let failure = CliError::from(error.failure);
        if error.taken { failure.hint("stop it first: `drisse down`") } else { failure }
    })?;
    printer::note(&format!(
        "restored the database's backup of {}: register models again that were registered since then; services \
         deployed since then are removed, and other changes since then are lost",
        restored.written
    ));
    printer::note(&format!("the previous database is kept as {}", restored.kept.display()));
    Ok(())
}

pub(crate) async fn status(workspace: &WorkspaceRef, output: Output) -> Result<ExitCode> {
    let (status, presence) = match workspace {
        WorkspaceRef::Remote(client, _) => (client.status().await?, "answers"),
        WorkspaceRef::Folder(folder, _) => {
            let held = held(folder, folder.holder().as_ref());
            match held.presence(STATUS_PATIENCE).await {
                Presence::Answers(_, status) => (*status, "answers"),
                Presence::Silent => (without_control(folder).await, "silent"),
                Presence::Absent if workspace.is_down() => (without_control(folder).await, "down"),
                Presence::Absent => (without_control(folder).await, "absent"),
            }
        }
    };
    let document = || {
        let mut document = json!(status);
        document["running"] = json!(status.control.pid.is_some());
        document["answers"] = json!(presence == "answers");
        document
    };
    printer::result(output, document, || text(&status, presence));
    Ok(ExitCode::SUCCESS)
}

/// Returns the workspace under the name that its folder had when its control plane was started.
pub(super) fn held(folder: &Workspace, holder: Option<&Holder>) -> WorkspaceRef {
    let named = holder.map_or_else(|| folder.clone(), |holder| folder.as_held_by(holder));
    if named.id != folder.id {
        printer::note(
            "the folder was renamed while the workspace ran: `drisse down`, then `drisse up`, start it under its new name",
        );
    }
    WorkspaceRef::Folder(Box::new(named), OnceLock::new())
}

/// Returns the status of a workspace whose control plane does not answer. Its gateway may run.
async fn without_control(workspace: &Workspace) -> Status {
    let control = ProcessInfo { pid: workspace.holder().map(|holder| holder.pid) };
    let prefix = format!("{}/", workspace.id);
    let found = Process::find("--gateway", &prefix).unwrap_or_default();
    let mut gateway = GatewayInfo { scheme: "http".to_owned(), ..GatewayInfo::default() };
    if let Some((process, value)) = found.first() {
        gateway.pid = Some(process.pid());
        let id = value.strip_prefix(&prefix).unwrap_or_default();
        let admin = Address::Unix(workspace.sockets.join(format!("{id}.a")));
        let identity = tokio::time::timeout(SILENCE, admin.ask(Ask::get("/identity"))).await;
        if let Ok(Ok((200, body))) = identity {
            let identity: Value = serde_json::from_slice(&body).unwrap_or_default();
            gateway.address = identity["address"].as_str().map(str::to_owned);
        }
    }
    Status {
        version: crate::wiring::VERSION.to_owned(),
        build: String::new(),
        workspace: workspace.root.display().to_string(),
        control,
        gateway,
        metrics: None,
        registry: None,
        services: Default::default(),
    }
}

fn text(status: &Status, presence: &str) -> String {
    let process = |pid: Option<u32>| pid.map_or("not running".to_owned(), |pid| format!("process {pid}"));
    let address = status.gateway.address.as_ref().filter(|_| status.gateway.pid.is_some());
    let address =
        address.map(|address| format!(", {}://{address}", status.gateway.scheme)).unwrap_or_default();
    let services: Vec<_> = status.services.iter().map(|(state, count)| format!("{count} {state}")).collect();
    let services = if services.is_empty() { "none".to_owned() } else { services.join(", ") };
    let metrics = status.metrics.as_ref().map(|address| format!("metrics    http://{address}/metrics\n"));
    let registry =
        status.registry.as_ref().map(|address| format!("registry   oci://{address}/MODEL:VERSION\n"));
    format!(
        "workspace  {}\ncontrol    {}{}\ngateway    {}{address}\n{}{}services   {}\n",
        status.workspace,
        process(status.control.pid),
        match presence {
            "silent" => ", does not answer: `drisse down` ends it",
            "down" => ": the workspace is down, `drisse up` starts it",
            _ => "",
        },
        process(status.gateway.pid),
        metrics.unwrap_or_default(),
        registry.unwrap_or_default(),
        if presence == "answers" {
            services
        } else {
            "unknown while the control plane is not running".to_owned()
        },
    )
}

/// Installs, or only writes, a systemd unit that starts the workspace at boot.
fn boot(workspace: &Workspace, arguments: &Up, output: Output) -> Result<ExitCode> {
    let root = rustix::process::getuid().is_root();
    let unit = unit(workspace, arguments, root)?;
    if let Some(file) = &arguments.unit {
        std::fs::write(file, unit).with_context(|| format!("cannot write {}", file.display()))?;
        printer::result(output, || json!({ "unit": file }), || format!("{}\n", file.display()));
        return Ok(ExitCode::SUCCESS);
    }
    if !Path::new("/run/systemd/system").is_dir() {
        return Err(CliError::new("cannot start at boot: this machine was not started by systemd").hint(
            "write the unit for another machine with --unit FILE, or run `drisse up` from your init system",
        ));
    }
    let folder = if root {
        PathBuf::from("/etc/systemd/system")
    } else {
        let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
        home.join(".config/systemd/user")
    };
    let file = folder.join(format!("drisse-{}.service", workspace.id));
    std::fs::create_dir_all(&folder)
        .and_then(|()| std::fs::write(&file, unit))
        .with_context(|| format!("cannot write {}", file.display()))?;
    let name = file.file_name().unwrap_or_default();
    for words in [&["daemon-reload"][..], &["enable", "--now"]] {
        let mut command = Command::new("systemctl");
        command.args((!root).then_some("--user")).args(words);
        if words.len() > 1 {
            command.arg(name);
        }
        let done = command.stdout(std::io::stderr()).status().context("cannot run systemctl")?;
        if !done.success() {
            return Err(CliError::new(format!("systemctl {} failed", words.join(" "))));
        }
    }
    if !root {
        printer::note("`loginctl enable-linger` keeps it running while you are not logged in");
    }
    printer::result(output, || json!({ "unit": file }), || format!("{}\n", file.display()));
    Ok(ExitCode::SUCCESS)
}

/// Returns the text of the unit. Its only process is the control plane: with `KillMode=process`, the gateway and
/// the replicas keep running when it restarts, and the next control plane adopts them.
fn unit(workspace: &Workspace, arguments: &Up, root: bool) -> Result<String> {
    let library = crate::wiring::onnx_library(arguments.onnxruntime.as_deref())?;
    let program = std::env::current_exe().context("cannot find this program's file")?;
    // In a command line, systemd expands `%` and `$` and splits at spaces.
    let word = |path: &Path| {
        let text = path.display().to_string().replace('%', "%%").replace('$', "$$").replace('"', "\\\"");
        format!("\"{text}\"")
    };
    let (program, root_folder, library) = (word(&program), word(&workspace.root), word(&library));
    let install = if root { "multi-user.target" } else { "default.target" };
    let home = std::env::var_os("HOME").map(|home| format!("Environment=HOME={}\n", home.display()));
    let mut environment = home.unwrap_or_default();
    for (name, value) in crate::connect::FRUGAL {
        environment += &format!("Environment={name}={value}\n");
    }
    Ok(format!(
        "# Written by `{} up --boot`.\n\
         [Unit]\n\
         Description=Drisse control plane ({})\n\
         After=network.target\n\n\
         [Service]\n\
         Type=exec\n\
         {environment}ExecStart={program} control --workspace {root_folder} --onnxruntime {library}\n\
         KillMode=process\n\
         Restart=on-failure\n\
         RestartSec=1\n\
         UMask=0077\n\
         NoNewPrivileges=yes\n\n\
         [Install]\n\
         WantedBy={install}\n",
        this_program(),
        workspace.id,
    ))
}
