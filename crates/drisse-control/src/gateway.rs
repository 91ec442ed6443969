//! The gateway of a workspace: a process that the control plane starts with a listening socket, finds again after a
//! restart, replaces when it dies or is older than this binary, and sends routes to.

mod client;
mod public_url;
mod sockets;
mod supervise;

use crate::change::Change;
use crate::db::Db;
use crate::error::{ControlError, Result};
use crate::workspace::Workspace;
use drisse_net::{Build, Tls, blocking};
use drisse_wire::control::GatewayInfo;
use serde::{Deserialize, Serialize};
use sockets::Sockets;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The default address of the gateway.
const USUAL: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 4790);

/// How long the gateway may take to start or to answer. Then a call fails.
const PATIENCE: Duration = Duration::from_secs(10);

/// The pause between calls to a starting gateway.
const ASK_AGAIN: Duration = Duration::from_millis(3);

/// The gateway's address and certificate, which the next gateway uses too.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
struct Settings {
    /// The address; `None` before the first start.
    address: Option<SocketAddr>,
    /// Whether the user chose the address. Then no other address is used instead.
    chosen: bool,
    /// The files of the certificate and the key for HTTPS.
    tls: Option<(PathBuf, PathBuf)>,
    /// The URL that clients connect to, if the user has set it.
    #[serde(default)]
    public_url: Option<String>,
    /// How long its connections may be idle, in milliseconds, if the user has set it.
    #[serde(default)]
    idle_timeout_ms: Option<u64>,
}

/// A change of the gateway's settings. `None` keeps a setting.
#[derive(Clone, Debug, Default)]
pub struct GatewayChange {
    /// The address to listen on.
    pub address: Option<SocketAddr>,
    /// The files of the certificate and the key for HTTPS.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// How long connections may be idle.
    pub idle_timeout: Option<Duration>,
    /// The URL that clients connect to: `http(s)://HOST:PORT`, without a slash at the end.
    pub public_url: Change<String>,
}

/// The gateway of this workspace.
#[derive(Clone, Debug)]
pub(crate) struct Gateway(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    workspace: Workspace,
    program: PathBuf,
    build: Build,
    settings: Settings,
    tls: Option<Arc<Tls>>,
    /// What clients connect to.
    url: String,
    /// That at the gateway's address is first. Empty if no gateway is to be started.
    listeners: Vec<TcpListener>,
    note: Option<String>,
    current: watch::Sender<Option<Current>>,
    /// Whether the gateway must stop.
    stop: CancellationToken,
}

/// The running process.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Current {
    pid: u32,
    admin: PathBuf,
}

impl Gateway {
    /// Finds the running gateway, or binds the socket to start one with. Also returns the future that supervises it.
    pub(crate) async fn open(
        workspace: &Workspace,
        program: PathBuf,
        build: Build,
        db: &Db,
        change: GatewayChange,
    ) -> Result<(Self, impl Future<Output = ()> + use<>)> {
        let kept: Settings = db.setting("gateway").await?.unwrap_or_default();
        let settings = Settings {
            address: change.address.or(kept.address),
            chosen: change.address.is_some() || kept.chosen,
            tls: change.tls.or_else(|| kept.tls.clone()),
            public_url: change.public_url.of(kept.public_url.clone()),
            idle_timeout_ms: change.idle_timeout.map(milliseconds).or(kept.idle_timeout_ms),
        };
        // Checked before a working gateway is replaced.
        let tls = settings.tls.as_ref().map(|(certificate, key)| Tls::open(certificate, key));
        let tls = tls.transpose().map_err(|error| {
            ControlError::invalid("the gateway cannot serve HTTPS")
                .because(&error)
                .hint("choose other files: `drisse up --tls-cert FILE --tls-key FILE`")
        })?;
        let found = supervise::find(workspace, &build).await;
        supervise::sweep(workspace, found.as_ref());
        let pass = found.as_ref().map(|found| workspace.sockets.join(format!("{}.f", found.id)));
        // A gateway that is not reused serves until the next one is ready.
        let Sockets { listeners, unchanged, note } = Sockets::open(&settings, pass.as_deref())?;
        let reuse = unchanged
            && settings.tls == kept.tls
            && settings.idle_timeout_ms == kept.idle_timeout_ms
            && found.as_ref().is_some_and(|found| !found.outdated);
        let address = listeners[0].local_addr().ok();
        let settings = Settings { address, ..settings };
        db.keep_setting("gateway", Some(&settings)).await?;
        let named = settings.public_url.clone();
        let url = named.unwrap_or_else(|| public_url::of(settings.address.unwrap_or(USUAL), tls.as_ref()));
        let inner = Arc::new(Inner {
            tls: tls.map(Arc::new),
            url,
            workspace: workspace.clone(),
            program,
            build,
            settings,
            listeners,
            note,
            current: watch::Sender::new(found.as_ref().filter(|_| reuse).map(|found| Current {
                pid: found.process.pid(),
                admin: workspace.sockets.join(format!("{}.a", found.id)),
            })),
            stop: CancellationToken::new(),
        });
        let supervised = Arc::clone(&inner).supervise(found, reuse);
        Ok((Self(inner), supervised))
    }

    /// Returns the gateway of a workspace that is down: its settings, with nothing that could start it.
    pub(crate) async fn at_rest(workspace: &Workspace, build: Build, db: &Db) -> Result<Self> {
        let settings: Settings = db.setting("gateway").await?.unwrap_or_default();
        let files = settings.tls.as_ref();
        let tls = files.and_then(|(certificate, key)| Tls::open(certificate, key).ok());
        let named = settings.public_url.clone();
        let url = named.unwrap_or_else(|| public_url::of(settings.address.unwrap_or(USUAL), tls.as_ref()));
        Ok(Self(Arc::new(Inner {
            workspace: workspace.clone(),
            program: PathBuf::new(),
            build,
            settings,
            tls: tls.map(Arc::new),
            url,
            listeners: vec![],
            note: None,
            current: watch::Sender::new(None),
            stop: CancellationToken::new(),
        })))
    }

    /// Returns what clients connect to, `http://HOST:PORT` or `https://HOST:PORT`.
    pub(crate) fn url(&self) -> &str {
        &self.0.url
    }

    pub(crate) async fn info(&self) -> GatewayInfo {
        let inner = &self.0;
        let certificate_sha256 = match inner.tls.clone() {
            Some(tls) => Some(blocking(move || current_fingerprint(&tls)).await),
            None => None,
        };
        GatewayInfo {
            pid: inner.current.borrow().as_ref().map(|current| current.pid),
            address: inner.settings.address.map(|address| address.to_string()),
            scheme: if inner.tls.is_some() { "https" } else { "http" }.to_owned(),
            url: inner.url.clone(),
            certificate: inner.settings.tls.as_ref().map(|(path, _)| path.display().to_string()),
            certificate_sha256,
            note: inner.note.clone(),
        }
    }

    /// Stops the gateway, which answers the requests that it has.
    pub(crate) fn stop(&self) {
        self.0.stop.cancel();
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Returns the fingerprint of the certificate in force: the gateway too keeps the one before if it cannot load another.
fn current_fingerprint(tls: &Tls) -> String {
    if let Err(error) = tls.reload() {
        tracing::warn!("the gateway's new certificate cannot be used: {error}");
    }
    tls.fingerprint()
}
