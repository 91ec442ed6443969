//! The gateway's process: started with its listening socket, found again, replaced when it dies or is
//! older than this binary; and what it is told.

use crate::db::{Db, Result};
use crate::problem::Problem;
use crate::workspace::Workspace;
use drisse_net::http::{Address, Ask};
use drisse_net::{Build, Launch, Process, Tls, bind_tcp, blocking, excuse, hang, random_id, take_descriptor};
use drisse_wire::control::{Failure, FailureBody, GatewayInfo};
use drisse_wire::routes::{RouteAcknowledgement, RouteDocument};
use hyper::Method;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Where requests are taken unless told otherwise.
const USUAL: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 4790);

/// A gateway that is not up by then is told as missing.
const PATIENCE: Duration = Duration::from_secs(10);

/// A gateway that was found and says nothing for this long is replaced.
const STARTING: Duration = Duration::from_secs(5);

/// Between looks whether a gateway that starts is ready.
const ASK_AGAIN: Duration = Duration::from_millis(3);

/// Pause after a gateway that died soon after its start, doubled with each.
const BACKOFF: Duration = Duration::from_millis(200);

/// One that ran for this long did not die of its start.
const STEADY: Duration = Duration::from_secs(5);

/// Where the gateway listens, as last chosen: the next one listens there too.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
struct Settings {
    /// The address; none before the first start.
    address: Option<SocketAddr>,
    /// Whether the user chose it: then no other will do.
    chosen: bool,
    /// Certificate and key, for HTTPS.
    tls: Option<(PathBuf, PathBuf)>,
}

/// What is to change about the gateway; what is not given stays.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct GatewayChange {
    /// Where it is to listen.
    pub address: Option<SocketAddr>,
    /// Certificate and key, for HTTPS.
    pub tls: Option<(PathBuf, PathBuf)>,
}

/// The gateway of this workspace.
#[derive(Clone, Debug)]
pub(crate) struct Gateway {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    workspace: Workspace,
    program: PathBuf,
    build: Build,
    settings: Settings,
    listener: OwnedFd,
    note: Option<String>,
    current: watch::Sender<Option<Current>>,
    /// Whether it is to end.
    stop: watch::Sender<bool>,
}

/// The process that runs now.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Current {
    pid: u32,
    admin: PathBuf,
}

/// A gateway that runs.
struct Found {
    process: Process,
    id: String,
    outdated: bool,
}

impl Gateway {
    /// Finds the gateway that runs, or the socket to start one with.
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
        };
        // Looked at before anything that works is ended.
        if let Some((certificate, key)) = &settings.tls {
            Tls::open(certificate, key).map_err(|error| {
                Problem::invalid("the gateway cannot serve HTTPS")
                    .because(&error)
                    .hint("name files that are there: `drisse up --tls-cert FILE --tls-key FILE`")
            })?;
        }
        let found = find(workspace, &build).await;
        sweep(workspace, found.as_ref());
        let same_address = settings.address.is_none_or(|address| kept.address == Some(address));
        let mut note = None;
        let passed = found
            .as_ref()
            .filter(|_| same_address)
            .and_then(|found| take_descriptor(&workspace.sockets.join(format!("{}.f", found.id))).ok());
        let reuse = passed.is_some()
            && settings.tls == kept.tls
            && found.as_ref().is_some_and(|found| !found.outdated);
        // One that is not reused serves until the next one is ready.
        let listener = match passed {
            Some(listener) => TcpListener::from(listener),
            None => bind(&settings, &mut note)?,
        };
        let address = listener.local_addr().ok();
        let settings = Settings { address, ..settings };
        db.keep_setting("gateway", Some(&settings)).await?;
        let inner = Arc::new(Inner {
            workspace: workspace.clone(),
            program,
            build,
            settings,
            listener: listener.into(),
            note,
            current: watch::Sender::new(found.as_ref().filter(|_| reuse).map(|found| Current {
                pid: found.process.pid(),
                admin: workspace.sockets.join(format!("{}.a", found.id)),
            })),
            stop: watch::Sender::new(false),
        });
        let supervised = Arc::clone(&inner).supervise(found, reuse);
        Ok((Self { inner }, supervised))
    }

    /// `http://HOST:PORT`, as clients on this machine reach it.
    pub(crate) fn url(&self) -> String {
        let scheme = self.info().scheme;
        let address = self.inner.settings.address.unwrap_or(USUAL);
        let host = if address.ip().is_unspecified() {
            SocketAddr::new(Ipv4Addr::LOCALHOST.into(), address.port())
        } else {
            address
        };
        format!("{scheme}://{host}")
    }

    pub(crate) fn info(&self) -> GatewayInfo {
        GatewayInfo {
            pid: self.inner.current.borrow().as_ref().map(|current| current.pid),
            address: self.inner.settings.address.map(|address| address.to_string()),
            scheme: if self.inner.settings.tls.is_some() { "https" } else { "http" }.to_owned(),
            certificate: self.inner.settings.tls.as_ref().map(|(path, _)| path.display().to_string()),
            note: self.inner.note.clone(),
        }
    }

    /// Tells the gateway where a service's requests go; returns once it has kept that.
    pub(crate) async fn put(&self, document: &RouteDocument) -> Result<RouteAcknowledgement> {
        let body = serde_json::to_vec(document).unwrap_or_default();
        let answer = self.ask(Method::PUT, &document.service, body).await?;
        serde_json::from_slice(&answer)
            .map_err(|error| Problem::failed("the gateway's answer cannot be read").because(&error))
    }

    /// What the gateway was last told.
    pub(crate) async fn get(&self, service: &str) -> Result<Option<RouteDocument>> {
        match self.ask(Method::GET, service, vec![]).await {
            Ok(body) => Ok(serde_json::from_slice(&body).ok()),
            Err(problem) if problem.status == 404 => Ok(None),
            Err(problem) => Err(problem),
        }
    }

    /// Takes a service off the gateway.
    pub(crate) async fn remove(&self, service: &str) -> Result<()> {
        self.ask(Method::DELETE, service, vec![]).await.map(drop)
    }

    /// Services the gateway has routes for.
    pub(crate) async fn routed(&self) -> Result<Vec<String>> {
        let body = self.ask_path(Method::GET, "/routes", vec![]).await?;
        let all: serde_json::Map<_, _> = serde_json::from_slice(&body).unwrap_or_default();
        Ok(all.keys().cloned().collect())
    }

    /// Ends the gateway: it answers what it has.
    pub(crate) fn stop(&self) {
        self.inner.stop.send_replace(true);
    }

    async fn ask(&self, method: Method, service: &str, body: Vec<u8>) -> Result<Vec<u8>> {
        self.ask_path(method, &format!("/routes/{service}"), body).await
    }

    /// Asks until the gateway answers; one that was killed meanwhile is replaced by then.
    async fn ask_path(&self, method: Method, path: &str, body: Vec<u8>) -> Result<Vec<u8>> {
        let until = Instant::now() + PATIENCE;
        loop {
            let admin = self.admin().await?;
            let asked = admin.ask(Ask::send(method.clone(), path, body.clone()));
            let Ok(asked) = tokio::time::timeout(PATIENCE, asked).await else {
                let live = tokio::time::timeout(PATIENCE, admin.ask(Ask::get("/live"))).await;
                let seconds = PATIENCE.as_secs();
                return Err(Problem::failed(match live {
                    Ok(Ok(_)) => {
                        format!("the gateway's disk is slow: it has not kept a change within {seconds} s")
                    }
                    _ => format!("the gateway has not answered within {seconds} s"),
                }));
            };
            match asked {
                Ok((status, body)) if status < 400 => return Ok(body.to_vec()),
                Ok((status, body)) => {
                    let failure = serde_json::from_slice::<FailureBody>(&body).map(|body| body.error);
                    let failure = failure.unwrap_or_else(|_| Failure::new("the gateway refused"));
                    return Err(Problem { status, failure });
                }
                Err(error) if Instant::now() > until => {
                    return Err(Problem::failed("cannot tell the gateway its routes").because(&error));
                }
                Err(_) => tokio::time::sleep(ASK_AGAIN).await,
            }
        }
    }

    /// Where the gateway that runs now tells of itself, if one does.
    pub(crate) fn admin_now(&self) -> Option<Address> {
        self.inner.current.borrow().as_ref().map(|current| Address::unix(&current.admin))
    }

    async fn admin(&self) -> Result<Address> {
        let mut current = self.inner.current.subscribe();
        let up = tokio::time::timeout(PATIENCE, current.wait_for(Option::is_some)).await;
        match up {
            Ok(Ok(current)) => {
                Ok(Address::Unix(current.as_ref().map(|current| current.admin.clone()).unwrap_or_default()))
            }
            _ => {
                let log = self.inner.workspace.logs().join("gateway.log");
                Err(Problem::failed("the gateway does not start")
                    .hint(format!("its log is {}", log.display())))
            }
        }
    }
}

impl Inner {
    /// Keeps one gateway running until told to stop.
    async fn supervise(self: Arc<Self>, found: Option<Found>, reuse: bool) {
        let mut old = found;
        let mut running = old.take_if(|_| reuse).map(|found| (found.process, found.id));
        let mut pause = BACKOFF;
        let mut stop = self.stop.subscribe();
        while !*stop.borrow_and_update() {
            let began = Instant::now();
            let (mut process, id) = match running.take() {
                Some(running) => running,
                None => match self.start().await {
                    Ok(started) => started,
                    Err(error) => {
                        tracing::error!("cannot start the gateway: {error}");
                        tokio::time::sleep(pause).await;
                        continue;
                    }
                },
            };
            let admin = self.workspace.sockets.join(format!("{id}.a"));
            let address = Address::unix(&admin);
            let pid = process.pid();
            let is_up = tokio::select! {
                () = ready(&address) => true,
                _ = process.ended() => false,
                () = is_stuck(pid, PATIENCE) => {
                    process.kill();
                    process.ended().await;
                    false
                }
                () = async { drop(stop.wait_for(|stop| *stop).await) } => {
                    process.terminate();
                    process.ended().await;
                    false
                }
            };
            if is_up {
                self.current.send_replace(Some(Current { pid: process.pid(), admin: admin.clone() }));
                // Both have the socket: what the old one accepted it answers, everything else is the new one's.
                if let Some(old) = old.take() {
                    old.process.terminate();
                    self.remove_sockets(&old.id).await;
                }
                let exit = tokio::select! {
                    exit = process.ended() => Some(exit),
                    () = hang(&address, Some(pid)) => {
                        tracing::error!("the gateway hangs: it is killed and started again");
                        process.kill();
                        Some(process.ended().await)
                    }
                    () = async { drop(stop.wait_for(|stop| *stop).await) } => None,
                };
                match exit {
                    Some(exit) => tracing::warn!("the gateway ended: {exit}"),
                    None => {
                        process.terminate();
                        process.ended().await;
                    }
                }
            }
            self.current.send_replace(None);
            self.remove_sockets(&id).await;
            if began.elapsed() < STEADY && !*stop.borrow() {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(STEADY);
            } else {
                pause = BACKOFF;
            }
        }
    }

    async fn remove_sockets(&self, id: &str) {
        let (folder, id) = (self.workspace.sockets.clone(), id.to_owned());
        blocking(move || drisse_net::remove_sockets(&folder, &id)).await;
    }

    async fn start(&self) -> std::io::Result<(Process, String)> {
        // The hyphen tells it from a replica's.
        let id = format!("g-{}", random_id());
        let socket = |end: &str| self.workspace.sockets.join(format!("{id}.{end}"));
        let mut arguments: Vec<OsString> = vec!["gateway".into()];
        let mut add = |flag: &str, value: OsString| arguments.extend([flag.into(), value]);
        add("--gateway", format!("{}/{id}", self.workspace.id).into());
        add("--admin", socket("a").into());
        add("--pass", socket("f").into());
        add("--routes", self.workspace.routes().into());
        let log = self.workspace.logs().join("gateway.log");
        add("--log-file", log.clone().into());
        if let Some((certificate, key)) = &self.settings.tls {
            add("--tls-cert", certificate.clone().into());
            add("--tls-key", key.clone().into());
        }
        let stdin = Some(self.listener.try_clone()?);
        let program = self.program.clone();
        let start =
            move || Process::start(Launch { program: &program, arguments, settings: &[], log: &log, stdin });
        let process = blocking(start).await?;
        tracing::info!(pid = process.pid(), build = %self.build, "started the gateway");
        Ok((process, id))
    }
}

/// The gateway of this workspace that runs, if one does; further ones are ended.
async fn find(workspace: &Workspace, build: &Build) -> Option<Found> {
    let prefix = format!("{}/", workspace.id);
    let mut found: Option<Found> = None;
    for (process, value) in Process::find("--gateway", &prefix).ok()? {
        let Some(id) = value.strip_prefix(&prefix).map(str::to_owned) else { continue };
        let admin = Address::Unix(workspace.sockets.join(format!("{id}.a")));
        // It may have been started the moment before its control plane was killed.
        let identity = tokio::select! {
            identity = identity(&admin) => identity,
            () = is_stuck(process.pid(), STARTING) => {
                // It hangs: it would not end if it were asked to.
                process.kill();
                continue;
            }
        };
        if identity["draining"] != false {
            process.terminate();
            continue;
        }
        let theirs = identity["build"].as_str().and_then(Build::parse);
        let outdated = theirs.is_none_or(|theirs| theirs < *build);
        match &found {
            Some(_) => process.terminate(),
            None => found = Some(Found { process, id, outdated }),
        }
    }
    found
}

/// Removes sockets of gateways that are gone.
fn sweep(workspace: &Workspace, found: Option<&Found>) {
    for entry in std::fs::read_dir(&workspace.sockets).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let id = name.split('.').next().filter(|id| id.starts_with("g-"));
        if id.is_some_and(|id| found.is_none_or(|found| found.id != id)) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Completes once `patience` is over and the process does not wait for a disk: it hangs.
async fn is_stuck(pid: u32, patience: Duration) {
    loop {
        tokio::time::sleep(patience).await;
        let Some(wait) = excuse(pid).await else { return };
        tracing::warn!(pid, "the gateway is not ready: it {wait}");
    }
}

async fn identity(admin: &Address) -> serde_json::Value {
    loop {
        if let Ok((200, body)) = admin.ask(Ask::get("/identity")).await {
            return serde_json::from_slice(&body).unwrap_or_default();
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

async fn ready(admin: &Address) {
    loop {
        let asked = tokio::time::timeout(PATIENCE, admin.ask(Ask::get("/ready"))).await;
        if matches!(asked, Ok(Ok((200, _)))) {
            return;
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

/// Binds the address that was chosen, or the usual one, or, where that is taken, any.
fn bind(settings: &Settings, note: &mut Option<String>) -> Result<TcpListener> {
    let wanted = settings.address.unwrap_or(USUAL);
    let taken = match bind_tcp(wanted) {
        Ok(listener) => return Ok(listener),
        Err(error) => error,
    };
    if settings.chosen {
        return Err(Problem::invalid("cannot open the gateway's address")
            .because(&taken)
            .hint("choose another one: `drisse up --gateway ADDRESS:PORT`"));
    }
    let any = SocketAddr::new(wanted.ip(), 0);
    let listener = bind_tcp(any)
        .map_err(|error| Problem::failed("cannot open an address for the gateway").because(&error))?;
    let address = listener.local_addr().unwrap_or(any);
    *note = Some(format!("{wanted} is taken: the gateway listens on {address}"));
    Ok(listener)
}
