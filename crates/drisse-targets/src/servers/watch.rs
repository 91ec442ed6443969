//! Watches one scoring server from its start, or from its adoption, to its end.

use super::ServerTable;
use async_trait::async_trait;
use drisse_core::{Death, Replica, ReplicaId, ReplicaState, ServiceName, lock, size};
use drisse_net::http::{Address, Ask};
use drisse_net::{Build, SILENCE, blocking, hang};
use hyper::Method;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::Notify;

/// How often a starting replica is asked whether it is ready: in the first second, and afterwards.
const ASK_SOON: Duration = Duration::from_millis(3);
const ASK_LATER: Duration = Duration::from_millis(50);

/// How long an admin listener may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a server may take to end. Servers answer the requests that they have for at most 25 s; this is longer.
pub(crate) const GRACE: Duration = Duration::from_secs(30);

/// The number of lines of a dead replica's log that a [`Death`] carries.
const SHOWN_LINES: usize = 20;

/// The identity of a replica, as in its arguments: `WORKSPACE/SERVICE/REVISION/ID`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Tag {
    pub(crate) workspace: String,
    pub(crate) service: ServiceName,
    pub(crate) revision: u64,
    pub(crate) id: ReplicaId,
}

/// The paths of a replica's sockets and log.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    pub(crate) scoring: PathBuf,
    pub(crate) admin: PathBuf,
    /// The file with environment variables. Written only if the revision has some.
    pub(crate) environment: PathBuf,
    pub(crate) log: PathBuf,
    /// The folder of the sockets, if it belongs to this replica only.
    folder: Option<PathBuf>,
}

/// The process or container that a scoring server runs in.
#[async_trait]
pub(crate) trait ServerHandle: Send + Sync {
    /// Waits until the server has ended. May be called again. Cancel-safe.
    async fn ended(&mut self) -> ServerExit;

    /// Asks the server to answer the requests that it has and to end.
    fn terminate(&self);

    /// Ends the server at once.
    fn kill(&self);

    /// Returns the process id of the server on this machine, if known.
    fn pid(&self) -> Option<u32> {
        None
    }
}

/// How a scoring server ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ServerExit {
    /// The end of a sentence about the server: `exited with code 1`.
    pub(crate) reason: String,
    /// Whether only the user can fix the cause (exit code 1, or too little memory): a restart would fail again.
    pub(crate) mendable: bool,
    /// Whether the server exited without an error: exit code 0.
    pub(crate) clean: bool,
    /// Output that is not in the server's log.
    pub(crate) output: String,
}

/// Returns why a server was killed that reached its memory limit, in bytes, or that of the machine.
pub(crate) fn out_of_memory(limit: Option<u64>) -> String {
    match limit {
        Some(limit @ 1..) => {
            format!(
                "ran out of memory and was killed: {} were not enough, --memory gives it more",
                size(limit)
            )
        }
        _ => "ran out of memory and was killed: the machine had no more".to_owned(),
    }
}

/// A replica that the place watches.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) tag: Tag,
    pub(crate) files: Files,
    pub(crate) state: ReplicaState,
    pub(crate) outdated: bool,
    /// The digest of the keys file that the replica has confirmed.
    pub(crate) keys: Option<String>,
    /// Has the watching task end the server.
    pub(crate) stop: Arc<Notify>,
}

/// The state of a watching task.
pub(crate) struct Running {
    pub(crate) tag: Tag,
    pub(crate) files: Files,
    pub(crate) build: Option<Build>,
    pub(crate) shared: Arc<ServerTable>,
    pub(crate) since: Since,
}

/// Since when a replica is watched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Since {
    /// From its start.
    Start,
    /// From its adoption.
    Found {
        /// Whether its build is known to be older.
        outdated: bool,
    },
}

/// What a replica reports about itself.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) keys: Option<String>,
    concurrency: u32,
    outdated: bool,
}

impl Tag {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('/');
        let tag = Self {
            workspace: parts.next()?.to_owned(),
            service: parts.next()?.parse().ok()?,
            revision: parts.next()?.parse().ok()?,
            id: ReplicaId::new(parts.next()?)?,
        };
        parts.next().is_none().then_some(tag)
    }
}

impl Files {
    /// Returns the files of a replica whose sockets are at this path plus an extension.
    pub(crate) fn new(sockets: &Path, log: PathBuf) -> Self {
        let named = |ending| sockets.with_extension(ending);
        Self { scoring: named("s"), admin: named("a"), environment: named("e"), log, folder: None }
    }

    /// Returns the files of a replica whose sockets are in a folder of their own.
    pub(crate) fn in_folder(folder: PathBuf, log: PathBuf) -> Self {
        Self { folder: Some(folder.clone()), ..Self::new(&folder.join("x"), log) }
    }

    /// Removes the replica's files, except for its log.
    pub(crate) fn remove(&self) {
        // Most replicas have none.
        let _ = std::fs::remove_file(&self.environment);
        if let (Some(folder), Some(name)) = (self.scoring.parent(), self.scoring.file_stem()) {
            drisse_net::remove_sockets(folder, &name.to_string_lossy());
        }
        if let Some(folder) = &self.folder {
            // The folder may be gone already.
            let _ = std::fs::remove_dir(folder);
        }
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}/{}", self.workspace, self.service, self.revision, self.id)
    }
}

impl Entry {
    /// Returns the replica as the plan sees it. `wanted` is the digest of the keys file in force.
    pub(crate) fn replica(&self, wanted: Option<&Option<String>>) -> Replica {
        let mut state = self.state.clone();
        if let ReplicaState::Ready { keys_confirmed, .. } = &mut state {
            *keys_confirmed = wanted.is_none_or(|wanted| *wanted == self.keys);
        }
        Replica {
            id: self.tag.id.clone(),
            service: self.tag.service.clone(),
            revision: self.tag.revision,
            outdated: self.outdated,
            state,
        }
    }
}

impl Running {
    fn was_found(&self) -> bool {
        self.since != Since::Start
    }

    /// Watches the server until it has ended.
    pub(super) async fn life(self, mut handle: Box<dyn ServerHandle>, stop: Arc<Notify>) {
        let mut was_ready = false;
        let mut stopped = false;
        let mut silent = false;
        let admin = Address::unix(&self.files.admin);
        let pid = handle.pid();
        let mut ended = loop {
            tokio::select! {
                ended = handle.ended() => break ended,
                () = stop.notified(), if !stopped => {
                    stopped = true;
                    // A server that was never ready has no requests, and cannot end while it loads. An adopted
                    // server may have been ready.
                    if was_ready || self.was_found() { handle.terminate() } else { handle.kill() }
                }
                identity = self.until_ready(), if !was_ready && !stopped => {
                    was_ready = true;
                    self.ready(identity);
                }
                // An adopted server is probed at once: it may hang already.
                () = hang(&admin, pid), if (was_ready || self.was_found()) && !stopped && !silent => {
                    silent = true;
                    handle.kill();
                }
                () = tokio::time::sleep(GRACE), if stopped => handle.kill(),
            }
        };
        if silent {
            ended.reason = format!("did not answer for {} s and was killed", SILENCE.as_secs());
        }
        let (tag, shared) = (self.tag.clone(), Arc::clone(&self.shared));
        // A replica that was stopped on purpose is forgotten; any other end is a death, reported with the log.
        let death = blocking(move || {
            // A killed process does not remove its sockets.
            self.files.remove();
            (!stopped).then(|| self.death(&ended, was_ready))
        })
        .await;
        match death {
            None => drop(lock(&shared.replicas).remove(&tag.id)),
            Some(death) => {
                tracing::warn!(service = %tag.service, replica = %tag.id, "died: {}", death.reason);
                if let Some(entry) = lock(&shared.replicas).get_mut(&tag.id) {
                    entry.state = ReplicaState::Dead(death);
                }
            }
        }
        shared.changes.tell(&tag.service);
    }

    fn ready(&self, identity: Identity) {
        if let Some(entry) = lock(&self.shared.replicas).get_mut(&self.tag.id) {
            entry.outdated |= identity.outdated;
            entry.keys = identity.keys;
            entry.state = ReplicaState::Ready {
                since: SystemTime::now(),
                address: format!("unix:{}", self.files.scoring.display()),
                admin: Some(format!("unix:{}", self.files.admin.display())),
                concurrency: identity.concurrency,
                keys_confirmed: false,
            };
        }
        self.shared.changes.tell(&self.tag.service);
    }

    /// Polls the replica until it is ready and reports the right identity.
    async fn until_ready(&self) -> Identity {
        let began = tokio::time::Instant::now();
        let admin = Address::unix(&self.files.admin);
        // An adopted replica is probably ready already.
        if !self.was_found() {
            tokio::time::sleep(ASK_SOON).await;
        }
        loop {
            if let Some(document) = ask(&admin, Ask::get("/identity")).await
                && document["replica"] == self.tag.to_string()
                && document["ready"] == true
            {
                return Identity::of(&document, self.build.as_ref());
            }
            let soon = began.elapsed() < Duration::from_secs(1);
            tokio::time::sleep(if soon { ASK_SOON } else { ASK_LATER }).await;
        }
    }

    /// Writes the reason to the replica's log, and returns the death with the log's last lines. Blocks on the disk.
    fn death(&self, ended: &ServerExit, was_ready: bool) -> Death {
        super::logs::add(&self.files.log, &ended.output);
        let log = super::logs::tail(&self.files.log, SHOWN_LINES);
        super::logs::note(&self.files.log, &ended.reason);
        Death {
            at: SystemTime::now(),
            reason: ended.reason.clone(),
            failed: !ended.clean,
            before_ready: !was_ready && !self.was_found(),
            permanent: ended.mendable && !was_ready,
            log,
        }
    }
}

impl Identity {
    fn of(document: &serde_json::Value, ours: Option<&Build>) -> Self {
        let concurrency = document["models"][0]["concurrency"].as_u64().unwrap_or(1);
        let build = document["build"].as_str().and_then(Build::parse);
        let keys = document["keys"]["file"].as_str().and_then(|file| file.strip_prefix("sha256:"));
        Self {
            keys: keys.map(str::to_owned),
            concurrency: u32::try_from(concurrency).unwrap_or(u32::MAX),
            outdated: ours.is_some_and(|ours| build.is_none_or(|build| build < *ours)),
        }
    }
}

/// Has a replica reload its keys, and returns what it then reports about itself.
pub(super) async fn reload(admin: &Path) -> Result<Identity, String> {
    let answer = ask(&Address::unix(admin), Ask::send(Method::POST, "/reload", "")).await;
    let document = answer.ok_or_else(|| format!("no answer on {}", admin.display()))?;
    Ok(Identity::of(&document, None))
}

async fn ask(admin: &Address, ask: Ask<'_>) -> Option<serde_json::Value> {
    let answer = tokio::time::timeout(PATIENCE, admin.ask(ask)).await.ok()?.ok()?;
    (answer.0 == 200).then(|| serde_json::from_slice(&answer.1).ok())?
}
