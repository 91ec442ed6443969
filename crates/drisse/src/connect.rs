//! Connects to the control plane of a workspace, and starts it if it is not running.

mod at_rest;
mod start;

use crate::cli::Up;
use crate::error::{CliError, Result};
use crate::printer;
use anyhow::Context;
use at_rest::{AtRest, Reached};
use drisse_client::{Client, ClientError};
use drisse_control::{Holder, Workspace};
use drisse_net::http::Address;
use drisse_net::{Tls, pinning, trusting};
use drisse_wire::control::{GatewayInfo, Status};
use start::{hand_over, is_older, start};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

/// Maximum time for a control plane to answer a command that only asks for its state.
pub(crate) const STATUS_PATIENCE: Duration = Duration::from_secs(10);

/// Maximum time for a control plane to answer or to stop.
const PATIENCE: Duration = Duration::from_secs(30);

/// After this time, a note says what the command waits for.
const SILENCE: Duration = Duration::from_secs(2);

/// Settings for glibc: one heap that returns free memory, because the control plane works in short bursts on many
/// threads.
pub(crate) const FRUGAL: [(&str, &str); 3] =
    [("MALLOC_ARENA_MAX", "1"), ("MALLOC_TRIM_THRESHOLD_", "131072"), ("MALLOC_MMAP_THRESHOLD_", "65536")];

/// Pause between two requests for the status.
const ASK_AGAIN: Duration = Duration::from_millis(2);

/// Whether a control plane answers.
#[derive(Debug)]
pub(crate) enum Presence {
    /// A client of it, and its status.
    Answers(Client, Box<Status>),
    /// It accepts connections but does not answer.
    Silent,
    /// There is none.
    Absent,
}

/// A workspace, as the user named it.
#[derive(Debug)]
pub(crate) enum WorkspaceRef {
    /// A folder on this machine, and what it keeps, if that is read while the workspace is down.
    Folder(Box<Workspace>, OnceLock<AtRest>),
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
        Ok(Self::Folder(Box::new(workspace), OnceLock::new()))
    }

    /// Returns the `--workspace` option of this workspace, with a leading space. A command line to paste has it also
    /// where it repeats the default: another shell may have another `DRISSE_WORKSPACE`.
    pub(crate) fn flag(&self) -> String {
        match self {
            Self::Folder(workspace, _) => {
                format!(" --workspace {}", printer::quoted(&workspace.root.display().to_string()))
            }
            Self::Remote(_, url) => format!(" --workspace {url}"),
        }
    }

    /// Returns the workspace's folder, or an error if the workspace is remote.
    pub(crate) fn folder(&self) -> Result<&Workspace> {
        match self {
            Self::Folder(workspace, _) => Ok(workspace),
            Self::Remote(_, url) => Err(CliError::new(format!(
                "cannot use the remote workspace {url}: this command needs its folder"
            ))
            .hint("run it on the control plane's machine, with --workspace DIR")),
        }
    }

    /// Asks the control plane for its status, for at most `patience`. Says so if it waits for long.
    pub(crate) async fn presence(&self, patience: Duration) -> Presence {
        let client = self.client();
        let answer = {
            let mut asking = std::pin::pin!(client.status());
            match tokio::time::timeout(SILENCE, &mut asking).await {
                Err(_) => {
                    printer::note("waiting: the control plane does not answer");
                    tokio::time::timeout(patience.saturating_sub(SILENCE), asking).await
                }
                answered => answered,
            }
        };
        match answer {
            Ok(Ok(status)) => Presence::Answers(client, Box::new(status)),
            // An answer that cannot be parsed comes from another version.
            Ok(Err(_)) => Presence::Absent,
            Err(_) => Presence::Silent,
        }
    }

    /// Whether the user has stopped the workspace (`drisse down`) and not started it again.
    pub(crate) fn is_down(&self) -> bool {
        matches!(self, Self::Folder(workspace, _) if workspace.stopped_mark().exists())
    }

    /// Connects to the control plane like [`Self::connect`], for commands that do not start a workspace that is down:
    /// then the client can only read what the workspace keeps.
    pub(crate) async fn reach(&self) -> Result<Client> {
        match self {
            Self::Folder(workspace, at_rest) if self.is_down() => match at_rest.get() {
                Some(at_rest) => Ok(at_rest.client()),
                None => match at_rest::reach(self, workspace).await? {
                    Reached::Running(client) => Ok(client),
                    Reached::AtRest(reached) => Ok(at_rest.get_or_init(|| reached).client()),
                },
            },
            _ => self.connect().await,
        }
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
        let workspace = match self {
            Self::Folder(workspace, _) => workspace,
            Self::Remote(client, _) => {
                let status = client.status().await?;
                return Ok((client.clone(), status));
            }
        };
        match self.presence(PATIENCE).await {
            Presence::Answers(client, status) => {
                let is_older = is_older(&status);
                if !is_older && !up.changes_something() {
                    return Ok((client, *status));
                }
                if is_older {
                    let build = &status.build;
                    printer::note(&format!("replacing the running control plane, which is older ({build})"));
                }
                hand_over(&client, &status).await?;
            }
            Presence::Silent => {
                return Err(CliError::new("the control plane does not answer")
                    .code(2)
                    .hint("`drisse down` ends it, and `drisse up` starts it again"));
            }
            Presence::Absent => refuse_other(workspace)?,
        }
        let client = self.client();
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
            Err(ClientError::Unreachable(_)) => Ok(ask(&self.reach().await?).await?),
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
        let address = address.ok_or_else(|| match self.is_down() {
            true => CliError::new("cannot score: the workspace is down").hint("`drisse up` starts it"),
            false => CliError::new("cannot score: the gateway is not running"),
        })?;
        // The gateway of a remote workspace is on the machine of its control plane.
        let machine = match self {
            Self::Folder(..) => "localhost".to_owned(),
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
            Self::Folder(workspace, _) => Client::new(Address::unix(&workspace.control_socket()), None),
            Self::Remote(client, _) => client.clone(),
        }
    }
}

/// Refuses to start a control plane if the one that has the workspace cannot be reached under the workspace's name.
fn refuse_other(workspace: &Workspace) -> Result<()> {
    let Some(holder) = workspace.holder() else { return Ok(()) };
    refuse_other_user(workspace, &holder)?;
    match &holder.started_at {
        Some(path) if *path != workspace.root => Err(CliError::new(format!(
            "the workspace runs under its earlier name {} (process {})",
            path.display(),
            holder.pid
        ))
        .hint("`drisse down` stops it, and `drisse up` starts it under its new name")),
        _ => Ok(()),
    }
}

/// Refuses a workspace whose control plane runs as another user.
pub(crate) fn refuse_other_user(workspace: &Workspace, holder: &Holder) -> Result<()> {
    if holder.user != rustix::process::geteuid().as_raw() {
        let message = format!(
            "the control plane of the workspace {} runs as another user (process {}, user {})",
            workspace.root.display(),
            holder.pid,
            holder.user
        );
        return Err(CliError::new(message).hint("run the command as that user"));
    }
    Ok(())
}

impl Up {
    /// Whether these options require a restart of the control plane.
    fn changes_something(&self) -> bool {
        let addresses = [self.gateway, self.control, self.metrics, self.registry];
        let none = self.no_control || self.no_metrics || self.no_registry || self.no_public_url;
        let named = self.tls_cert.is_some() || self.public_url.is_some();
        addresses.iter().any(Option::is_some) || named || none || self.idle_timeout.is_some()
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
