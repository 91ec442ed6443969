//! Connects to the control plane of a workspace, and starts it if it is not running.

use crate::cli::Up;
use crate::error::{CliError, Result, TAKEN};
use crate::printer;
use crate::wiring::{self, VERSION};
use anyhow::Context;
use drisse_client::{Client, ClientError};
use drisse_control::Workspace;
use drisse_net::http::Address;
use drisse_net::{Build, Exit, Launch, Process, Tls, pinning, trusting};
use drisse_wire::control::{GatewayInfo, Shutdown, Status};
use std::ffi::OsString;
use std::io::{Seek, SeekFrom, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Maximum time for a control plane to answer or to stop.
const PATIENCE: Duration = Duration::from_secs(30);

/// Maximum time for a control plane to start. A busy machine may stall for half a minute.
const START_PATIENCE: Duration = Duration::from_secs(60);

/// After this time, a note says what the command waits for.
const SILENCE: Duration = Duration::from_secs(2);

/// First pause before another start if the workspace was locked; doubles each time.
const RETAKE: Duration = Duration::from_millis(50);

/// Settings for glibc: one heap that returns free memory, because the control plane works in short bursts on many
/// threads.
pub(crate) const FRUGAL: [(&str, &str); 3] =
    [("MALLOC_ARENA_MAX", "1"), ("MALLOC_TRIM_THRESHOLD_", "131072"), ("MALLOC_MMAP_THRESHOLD_", "65536")];

/// Pause between two requests for the status.
const ASK_AGAIN: Duration = Duration::from_millis(2);

/// A workspace, as the user named it.
#[derive(Debug)]
pub(crate) enum WorkspaceRef {
    /// A folder on this machine.
    Folder(Box<Workspace>),
    /// A remote control plane and its URL.
    Remote(Client, String),
}

impl WorkspaceRef {
    /// Opens the workspace of this name. Creates its folder if it does not exist.
    pub(crate) fn new(named: Option<&str>) -> Result<Self> {
        Self::at(named, Workspace::open)
    }

    /// Opens the workspace of this name and creates nothing, for commands that only read or stop.
    pub(crate) fn existing(named: Option<&str>) -> Result<Self> {
        Self::at(named, Workspace::existing)
    }

    fn at(named: Option<&str>, open: fn(&Path) -> std::io::Result<Workspace>) -> Result<Self> {
        if let Some(url) = named.filter(|named| named.contains("://")) {
            return remote(url);
        }
        let root = named.map_or_else(default_folder, |named| Ok(PathBuf::from(named)))?;
        let workspace = open(&root)
            .with_context(|| format!("cannot open the workspace {}", root.display()))
            .map_err(|error| CliError::from(error).hint("name another folder with --workspace DIR"))?;
        Ok(Self::Folder(Box::new(workspace)))
    }

    /// Returns the `--workspace` option of this workspace, with a leading space. A command line to paste has it also
    /// where it repeats the default: another shell may have another `DRISSE_WORKSPACE`.
    pub(crate) fn flag(&self) -> String {
        match self {
            Self::Folder(workspace) => {
                format!(" --workspace {}", printer::quoted(&workspace.root.display().to_string()))
            }
            Self::Remote(_, url) => format!(" --workspace {url}"),
        }
    }

    /// Returns the workspace's folder, or an error if the workspace is remote.
    pub(crate) fn folder(&self) -> Result<&Workspace> {
        match self {
            Self::Folder(workspace) => Ok(workspace),
            Self::Remote(_, url) => Err(CliError::new(format!(
                "cannot use the remote workspace {url}: this command needs its folder"
            ))
            .hint("run it on the control plane's machine, with --workspace DIR")),
        }
    }

    /// Returns a client of the control plane and its status, or `None` if it is not running.
    pub(crate) async fn running(&self) -> Option<(Client, Status)> {
        let client = self.client();
        let status = tokio::time::timeout(PATIENCE, client.status()).await.ok()?.ok()?;
        Some((client, status))
    }

    /// Connects to the control plane. Starts it if it is not running, and replaces one that is older than this binary.
    pub(crate) async fn connect(&self) -> Result<Client> {
        self.connect_with(&Up { onnxruntime: env_onnxruntime(), ..Up::default() })
            .await
            .map(|(client, _)| client)
    }

    /// Connects like [`Self::connect`], with the options of `drisse up`.
    pub(crate) async fn connect_with(&self, up: &Up) -> Result<(Client, Status)> {
        up.check()?;
        let client = self.client();
        let workspace = match self {
            Self::Folder(workspace) => workspace,
            Self::Remote(client, _) => {
                let status = client.status().await?;
                return Ok((client.clone(), status));
            }
        };
        let answer = {
            let mut asking = std::pin::pin!(client.status());
            match tokio::time::timeout(SILENCE, &mut asking).await {
                Err(_) => {
                    printer::note("waiting: the control plane does not answer");
                    tokio::time::timeout(PATIENCE, asking).await
                }
                answered => answered,
            }
        };
        let answer = answer.map_err(|_| {
            CliError::new("the control plane does not answer")
                .code(2)
                .hint("`pgrep -af 'drisse control'` shows its process; kill it and try again")
        })?;
        match answer {
            Ok(status) if !is_older(&status) && !up.changes_something() => return Ok((client, status)),
            Ok(status) => {
                if is_older(&status) {
                    let build = &status.build;
                    printer::note(&format!("replacing the running control plane, which is older ({build})"));
                }
                hand_over(&client, &status).await?;
            }
            // It does not run, or an answer that cannot be parsed comes from another version.
            Err(_) => {}
        }
        let status = start(workspace, up, &client).await?;
        Ok((client, status))
    }

    /// Sends a request that changes nothing, and repeats it once if the control plane was killed meanwhile.
    pub(crate) async fn ask<T>(
        &self,
        client: &Client,
        ask: impl AsyncFn(&Client) -> Result<T, ClientError>,
    ) -> Result<T> {
        match ask(client).await {
            Err(ClientError::Unreachable(_)) => Ok(ask(&self.connect().await?).await?),
            other => Ok(other?),
        }
    }

    /// Returns where this machine reaches the gateway. Over TLS, it trusts the certificate that the gateway was given.
    ///
    /// # Errors
    /// Returns an error if the gateway does not run, or listens only on another machine's loopback address.
    pub(crate) fn gateway(&self, gateway: &GatewayInfo) -> Result<Address> {
        let address = gateway.address.as_ref().filter(|_| gateway.pid.is_some());
        let address = address.and_then(|address| address.parse::<SocketAddr>().ok());
        let address = address.ok_or_else(|| CliError::new("cannot score: the gateway is not running"))?;
        // The gateway of a remote workspace is on the machine of its control plane.
        let machine = match self {
            Self::Folder(_) => "localhost".to_owned(),
            Self::Remote(_, url) => {
                let uri = url.parse::<hyper::Uri>().unwrap_or_default();
                uri.host().unwrap_or_default().to_owned()
            }
        };
        let is_here = ["localhost", "[::1]"].contains(&&*machine) || machine.starts_with("127.");
        let host = match address.ip() {
            ip if ip.is_unspecified() && !is_here => format!("{machine}:{}", address.port()),
            IpAddr::V4(ip) if ip.is_unspecified() => format!("127.0.0.1:{}", address.port()),
            IpAddr::V6(ip) if ip.is_unspecified() => format!("[::1]:{}", address.port()),
            ip if ip.is_loopback() && !is_here => {
                let error = format!("cannot score: the gateway listens on {address} of {machine} only");
                return Err(CliError::new(error).hint("open it there: `drisse up --gateway 0.0.0.0:PORT`"));
            }
            _ => address.to_string(),
        };
        Ok(match &gateway.certificate_sha256 {
            Some(fingerprint) => Address::Https(host, pinning(fingerprint)),
            None => Address::Http(host),
        })
    }

    fn client(&self) -> Client {
        match self {
            Self::Folder(workspace) => Client::new(Address::unix(&workspace.control_socket()), None),
            Self::Remote(client, _) => client.clone(),
        }
    }
}

impl Up {
    /// Whether these options require a restart of the control plane.
    fn changes_something(&self) -> bool {
        let addresses = [self.gateway, self.control, self.metrics, self.registry];
        let none = self.no_control || self.no_metrics || self.no_registry || self.no_public_url;
        let named = self.tls_cert.is_some() || self.public_url.is_some();
        addresses.iter().any(Option::is_some) || named || none
    }

    /// Checks the certificates and keys, before a running control plane is stopped.
    fn check(&self) -> Result<()> {
        for (certificate, key) in [(&self.tls_cert, &self.tls_key), (&self.control_cert, &self.control_key)] {
            if let (Some(certificate), Some(key)) = (certificate, key) {
                Tls::open(certificate, key).context("cannot serve HTTPS")?;
            }
        }
        Ok(())
    }
}

pub(crate) fn env_onnxruntime() -> Option<PathBuf> {
    std::env::var_os("DRISSE_ONNXRUNTIME").map(PathBuf::from)
}

fn default_folder() -> Result<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let data = absolute("XDG_DATA_HOME").or_else(|| Some(absolute("HOME")?.join(".local/share")));
    let data = data.ok_or_else(|| {
        CliError::new("cannot find the user's data folder: HOME is not set")
            .hint("name a workspace folder: --workspace DIR")
    })?;
    Ok(data.join("drisse"))
}

fn remote(url: &str) -> Result<WorkspaceRef> {
    let token = std::env::var("DRISSE_TOKEN").ok().map(|token| token.trim().to_owned());
    let token = token.ok_or_else(|| {
        CliError::new(format!("cannot connect to {url}: DRISSE_TOKEN is not set"))
            .hint("set DRISSE_TOKEN to the content of control.token in the workspace's folder")
    })?;
    let address = match url.trim_end_matches('/').split_once("://") {
        Some(("http", host)) => Address::Http(host.to_owned()),
        Some(("https", host)) => {
            let authority = std::env::var_os("DRISSE_CA").map(PathBuf::from).ok_or_else(|| {
                CliError::new(format!("cannot trust {url}: DRISSE_CA is not set"))
                    .hint("set DRISSE_CA to the file of the CA certificate (PEM)")
            })?;
            Address::Https(host.to_owned(), trusting(&authority)?)
        }
        _ => {
            return Err(CliError::new(format!("`{url}` is not a workspace"))
                .hint("name a folder, or http(s)://HOST:PORT"));
        }
    };
    Ok(WorkspaceRef::Remote(Client::new(address, Some(token)), url.to_owned()))
}

fn is_older(status: &Status) -> bool {
    Build::parse(&status.build).is_none_or(|theirs| theirs < Build::current(VERSION))
}

/// Stops only the control plane: the gateway and the replicas keep running.
async fn hand_over(client: &Client, status: &Status) -> Result<()> {
    let process = status.control.pid.and_then(|pid| Process::of(pid).ok());
    client.shutdown(Shutdown::Handover).await?;
    if let Some(mut process) = process {
        let ended = tokio::time::timeout(PATIENCE, process.ended()).await;
        ended.map_err(|_| CliError::new("the older control plane does not stop").code(2))?;
    }
    Ok(())
}

/// Starts a control plane and waits until it answers.
async fn start(workspace: &Workspace, up: &Up, client: &Client) -> Result<Status> {
    let library = wiring::onnx_library(up.onnxruntime.as_deref())?;
    let program = std::env::current_exe().context("cannot find this program's file")?;
    let logs = workspace.logs();
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&logs);
    made.with_context(|| format!("cannot write in the workspace {}", workspace.root.display()))?;
    let log = logs.join("control.log");
    let written = std::fs::metadata(&log).map_or(0, |metadata| metadata.len());
    let launch = || -> Result<Process> {
        let arguments = arguments(workspace, up, &library);
        let launch = Launch { program: &program, arguments, settings: &FRUGAL, log: &log, stdin: None };
        let started = Process::start(launch).context("cannot start the control plane");
        started.map_err(|error| {
            CliError::from(error).hint("`drisse doctor` checks whether the workspace is writable")
        })
    };
    let mut process = launch()?;
    let began = Instant::now();
    let (mut noted, mut taken, mut killed): (_, Option<Instant>, _) = (false, None, false);
    let mut pause = RETAKE;
    loop {
        if let Ok(status) = client.status().await {
            if let Some(note) = &status.gateway.note {
                printer::note(note);
            }
            return Ok(status);
        }
        tokio::select! {
            exit = process.ended(), if taken.is_none() => {
                // Another command was faster: wait until its control plane answers.
                if exit == Exit::Code(i32::from(TAKEN)) {
                    taken = Some(Instant::now());
                    continue;
                }
                // The process was killed, perhaps by the kernel for memory: start it once more.
                if matches!(exit, Exit::Signal(_)) && !killed {
                    killed = true;
                    process = launch()?;
                    continue;
                }
                return Err(logged_failure(&log, written, &format!("the control plane {exit}")));
            }
            () = tokio::time::sleep(ASK_AGAIN) => {}
        }
        // The lock may have belonged to a control plane that was just killed, or to `drisse down`. Neither leaves a
        // control plane running, so start one again.
        if taken.is_some_and(|since| since.elapsed() > pause) {
            process = launch()?;
            taken = None;
            pause = (pause * 2).min(SILENCE);
        }
        if began.elapsed() > SILENCE && !noted {
            printer::note(&format!("waiting for the control plane to start (it logs to {})", log.display()));
            noted = true;
        }
        if began.elapsed() > START_PATIENCE {
            let seconds = START_PATIENCE.as_secs();
            let failure = CliError::new(format!("the control plane did not start within {seconds} s"));
            return Err(failure.code(2).hint(format!("its log is {}", log.display())));
        }
    }
}

/// The command line of the control plane.
fn arguments(workspace: &Workspace, up: &Up, library: &Path) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = vec!["control".into()];
    let mut add = |flag: &str, value: OsString| arguments.extend([flag.into(), value]);
    add("--workspace", workspace.root.clone().into());
    add("--onnxruntime", std::path::absolute(library).unwrap_or_else(|_| library.to_owned()).into());
    let addresses = [
        ("--gateway", up.gateway),
        ("--control", up.control),
        ("--metrics", up.metrics),
        ("--registry", up.registry),
    ];
    for (flag, address) in addresses {
        if let Some(address) = address {
            add(flag, address.to_string().into());
        }
    }
    let files = [
        ("--tls-cert", &up.tls_cert),
        ("--tls-key", &up.tls_key),
        ("--control-cert", &up.control_cert),
        ("--control-key", &up.control_key),
    ];
    for (flag, file) in files {
        if let Some(file) = file {
            add(flag, std::path::absolute(file).unwrap_or_else(|_| file.clone()).into());
        }
    }
    if let Some(url) = &up.public_url {
        add("--public-url", url.into());
    }
    arguments.extend(up.no_public_url.then(|| "--no-public-url".into()));
    arguments.extend(up.no_control.then(|| "--no-control".into()));
    arguments.extend(up.no_metrics.then(|| "--no-metrics".into()));
    arguments.extend(up.no_registry.then(|| "--no-registry".into()));
    arguments
}

/// Returns the error that a daemon has written to its log after `from` bytes, or `fallback` if there is none.
fn logged_failure(log: &Path, from: u64, fallback: &str) -> CliError {
    let read = || -> std::io::Result<String> {
        let mut file = std::fs::File::open(log)?;
        file.seek(SeekFrom::Start(from))?;
        std::io::read_to_string(file)
    };
    let text = read().unwrap_or_default();
    let mut lines = text.lines().skip_while(|line| !line.starts_with("error: "));
    let Some(error) = lines.next().and_then(|line| line.strip_prefix("error: ")) else {
        let failure = CliError::new(fallback).hint(format!("its log is {}", log.display()));
        return unwritable(log).unwrap_or(failure.code(2));
    };
    let rest: Vec<_> = lines.collect();
    let causes = rest.iter().filter_map(|line| line.trim_start().strip_prefix("Caused by: "));
    let failure = drisse_wire::control::Failure {
        causes: causes.map(str::to_owned).collect(),
        hint: rest.iter().find_map(|line| line.strip_prefix("hint: ").map(str::to_owned)),
        ..drisse_wire::control::Failure::new(error)
    };
    failure.into()
}

/// Returns the error if the folder of a log cannot be written.
fn unwritable(log: &Path) -> Option<CliError> {
    let folder = log.parent()?;
    let written = tempfile::tempfile_in(folder).and_then(|mut file| file.write_all(&[0; 4096]));
    let error = written.err()?;
    let failure = CliError::new(format!("cannot write in {}: {error}", folder.display()));
    Some(CliError { hint: drisse_registry::disk_hint(&error).map(Into::into), ..failure })
}
