//! Finds, starts, watches and replaces the gateway's process.

use super::{ASK_AGAIN, Current, Inner, PATIENCE};
use crate::workspace::Workspace;
use drisse_net::http::{Address, Ask};
use drisse_net::{Build, Launch, Process, blocking, excuse, hang, random_id, send_descriptors};
use std::ffi::OsString;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a gateway that was found may take to answer. Then it is replaced.
const STARTING: Duration = Duration::from_secs(5);

/// The pause after a gateway that died soon after its start. It doubles with each such death.
const BACKOFF: Duration = Duration::from_millis(200);

/// A gateway that ran for this long has started well. Also the longest pause.
const STEADY: Duration = Duration::from_secs(5);

/// A running gateway.
pub(super) struct Found {
    pub(super) process: Process,
    pub(super) id: String,
    pub(super) outdated: bool,
}

impl Inner {
    /// Keeps one gateway running until [`Gateway::stop`](super::Gateway::stop) is called.
    pub(super) async fn supervise(self: Arc<Self>, found: Option<Found>, reuse: bool) {
        let mut old = found;
        let mut running = old.take_if(|_| reuse).map(|found| (found.process, found.id));
        let mut pause = BACKOFF;
        while !self.stop.is_cancelled() {
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
                () = self.stop.cancelled() => {
                    process.terminate();
                    process.ended().await;
                    false
                }
            };
            if is_up {
                self.current.send_replace(Some(Current { pid: process.pid(), admin: admin.clone() }));
                // Both have the socket. The old gateway answers what it has accepted, the new one everything else.
                if let Some(old) = old.take() {
                    old.process.terminate();
                    self.remove_sockets(&old.id).await;
                }
                let exit = tokio::select! {
                    exit = process.ended() => Some(exit),
                    () = hang(&address, Some(pid)) => {
                        tracing::error!("the gateway hangs: it is killed and restarted");
                        process.kill();
                        Some(process.ended().await)
                    }
                    () = self.stop.cancelled() => None,
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
            if began.elapsed() < STEADY && !self.stop.is_cancelled() {
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
        // The hyphen distinguishes the id from that of a replica.
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
        if let Some(time) = self.settings.idle_timeout_ms {
            add("--idle-timeout", format!("{time}ms").into());
        }
        let (ours, theirs) = UnixStream::pair()?;
        send_descriptors(ours, &self.listeners.iter().map(AsFd::as_fd).collect::<Vec<_>>())?;
        let stdin = Some(theirs.into());
        let program = self.program.clone();
        let start =
            move || Process::start(Launch { program: &program, arguments, settings: &[], log: &log, stdin });
        let process = blocking(start).await?;
        tracing::info!(pid = process.pid(), build = %self.build, "started the gateway");
        Ok((process, id))
    }
}

/// Returns the running gateway of this workspace, if any. Ends further ones.
pub(super) async fn find(workspace: &Workspace, build: &Build) -> Option<Found> {
    let prefix = format!("{}/", workspace.id);
    let mut found: Option<Found> = None;
    for (process, value) in Process::find("--gateway", &prefix).ok()? {
        let Some(id) = value.strip_prefix(&prefix).map(str::to_owned) else { continue };
        let admin = Address::Unix(workspace.sockets.join(format!("{id}.a")));
        // It may have been started just before its control plane was killed.
        let identity = tokio::select! {
            identity = identity(&admin) => identity,
            () = is_stuck(process.pid(), STARTING) => {
                // It hangs, and would not end on request.
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

/// Removes the sockets of gateways that have ended.
pub(super) fn sweep(workspace: &Workspace, found: Option<&Found>) {
    for entry in std::fs::read_dir(&workspace.sockets).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let id = name.split('.').next().filter(|id| id.starts_with("g-"));
        if id.is_some_and(|id| found.is_none_or(|found| found.id != id)) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Waits until the process hangs: `patience` is over, and it does not wait for a disk.
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
