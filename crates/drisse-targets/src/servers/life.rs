//! One scoring server: watched from its start, or from when it was found, to its end.

use super::Shared;
use async_trait::async_trait;
use drisse_core::{Death, Replica, ReplicaId, ReplicaState, ServiceName, size};
use drisse_net::http::{Address, Ask};
use drisse_net::{Build, SILENCE, blocking, hang};
use hyper::Method;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::Notify;

/// How often a replica that starts is asked whether it is ready: at first, and after a second.
const ASK_SOON: Duration = Duration::from_millis(3);
const ASK_LATER: Duration = Duration::from_millis(50);

/// An admin listener that says nothing for this long is no answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// A process that was told to end answers what it has for at most 25 s; this much later it is killed.
pub(crate) const GRACE: Duration = Duration::from_secs(30);

/// Lines of a dead replica's log that are told.
const TOLD: usize = 20;

/// Who a process is, as it stands in its arguments: `WORKSPACE/SERVICE/REVISION/ID`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Tag {
    pub(crate) workspace: String,
    pub(crate) service: ServiceName,
    pub(crate) revision: u64,
    pub(crate) id: ReplicaId,
}

/// Where a replica's sockets and log are.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    pub(crate) scoring: PathBuf,
    pub(crate) admin: PathBuf,
    /// What it finds in its environment, where that was said.
    pub(crate) environment: PathBuf,
    pub(crate) log: PathBuf,
    /// The folder of the sockets, where it is theirs alone.
    folder: Option<PathBuf>,
}

/// What a scoring server runs in: a process, a container.
#[async_trait]
pub(crate) trait Vessel: Send + Sync {
    /// Completes once it has ended, whoever ended it. May be asked again.
    async fn ended(&mut self) -> Ended;

    /// Asks it to answer what it has and end.
    fn terminate(&self);

    /// Ends it at once.
    fn kill(&self);

    /// Its process on this machine, if known.
    fn pid(&self) -> Option<u32> {
        None
    }
}

/// How a scoring server ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Ended {
    /// As a sentence goes on: `exited with code 1`.
    pub(crate) reason: String,
    /// Whether it said that its user can mend it, and starting it again cannot: exit code 1.
    pub(crate) mendable: bool,
    /// Whether it ended as if it had been told to: exit code 0.
    pub(crate) clean: bool,
    /// What it wrote that is not in its log.
    pub(crate) output: String,
}

/// Why a server was killed that used more memory than it may.
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

/// A replica the place knows.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) tag: Tag,
    pub(crate) files: Files,
    pub(crate) state: ReplicaState,
    pub(crate) outdated: bool,
    /// The digest of the keys file it has confirmed.
    pub(crate) keys: Option<String>,
    /// Tells the watching task to end the process.
    pub(crate) stop: Arc<Notify>,
}

/// What the watching task needs.
pub(crate) struct Running {
    pub(crate) tag: Tag,
    pub(crate) files: Files,
    pub(crate) build: Option<Build>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) since: Since,
}

/// Since when a replica is watched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Since {
    /// From its start.
    Start,
    /// It was found.
    Found {
        /// Known to be of an older build.
        outdated: bool,
    },
}

/// What a replica says of itself.
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
    /// Those of a replica whose sockets have this path in front of their endings.
    pub(crate) fn new(sockets: &Path, log: PathBuf) -> Self {
        let named = |ending| sockets.with_extension(ending);
        Self { scoring: named("s"), admin: named("a"), environment: named("e"), log, folder: None }
    }

    /// Those of a replica whose sockets are in a folder of their own.
    pub(crate) fn in_folder(folder: PathBuf, log: PathBuf) -> Self {
        Self { folder: Some(folder.clone()), ..Self::new(&folder.join("x"), log) }
    }

    /// Removes what is a replica's alone, but for its log.
    pub(crate) fn remove(&self) {
        // Most have none.
        let _ = std::fs::remove_file(&self.environment);
        if let (Some(folder), Some(name)) = (self.scoring.parent(), self.scoring.file_stem()) {
            drisse_net::remove_sockets(folder, &name.to_string_lossy());
        }
        if let Some(folder) = &self.folder {
            // Gone already is what was wanted.
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
    /// As the plan sees it; `wanted` is the digest of the keys file in force.
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

    /// Takes the replica in and watches it until it has ended.
    pub(crate) fn watch(self, vessel: Box<dyn Vessel>) {
        let stop = Arc::new(Notify::new());
        let entry = Entry {
            tag: self.tag.clone(),
            files: self.files.clone(),
            state: ReplicaState::Starting { since: SystemTime::now() },
            outdated: self.since == (Since::Found { outdated: true }),
            keys: None,
            stop: Arc::clone(&stop),
        };
        self.shared.lock().insert(self.tag.id.clone(), entry);
        tokio::spawn(self.life(vessel, stop));
    }

    async fn life(self, mut vessel: Box<dyn Vessel>, stop: Arc<Notify>) {
        let mut was_ready = false;
        let mut stopped = false;
        let mut silent = false;
        let admin = Address::unix(&self.files.admin);
        let pid = vessel.pid();
        let mut ended = loop {
            tokio::select! {
                ended = vessel.ended() => break ended,
                () = stop.notified(), if !stopped => {
                    stopped = true;
                    // One that was never ready has nothing to answer, and cannot end while it loads. One
                    // that was found may have been.
                    if was_ready || self.was_found() { vessel.terminate() } else { vessel.kill() }
                }
                identity = self.until_ready(), if !was_ready && !stopped => {
                    was_ready = true;
                    self.ready(identity);
                }
                // One that was found is asked from the start: it may hang already.
                () = hang(&admin, pid), if (was_ready || self.was_found()) && !stopped && !silent => {
                    silent = true;
                    vessel.kill();
                }
                () = tokio::time::sleep(GRACE), if stopped => vessel.kill(),
            }
        };
        if silent {
            ended.reason = format!("did not answer for {} s and was killed", SILENCE.as_secs());
        }
        let (tag, shared) = (self.tag.clone(), Arc::clone(&self.shared));
        // A replica that was told to stop leaves nothing behind; a death is reported with its log.
        let death = blocking(move || {
            // A killed process leaves its sockets.
            self.files.remove();
            (!stopped).then(|| self.death(&ended, was_ready))
        })
        .await;
        match death {
            None => drop(shared.lock().remove(&tag.id)),
            Some(death) => {
                tracing::warn!(service = %tag.service, replica = %tag.id, "died: {}", death.reason);
                if let Some(entry) = shared.lock().get_mut(&tag.id) {
                    entry.state = ReplicaState::Dead(death);
                }
            }
        }
        shared.changes.tell(&tag.service);
    }

    fn ready(&self, identity: Identity) {
        if let Some(entry) = self.shared.lock().get_mut(&self.tag.id) {
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

    /// Asks again and again; completes once the replica is ready and is who it should be.
    async fn until_ready(&self) -> Identity {
        let began = tokio::time::Instant::now();
        let admin = Address::unix(&self.files.admin);
        // One that was adopted is likely ready already.
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

    /// Completes the replica's log and reads its end. Blocks on the disk.
    fn death(&self, ended: &Ended, was_ready: bool) -> Death {
        super::logs::add(&self.files.log, &ended.output);
        let log = super::logs::tail(&self.files.log, TOLD);
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

/// Tells a replica to read its keys again; what it then says of itself.
pub(super) async fn reload(admin: &Path) -> Result<Identity, String> {
    let asked = ask(&Address::unix(admin), Ask::send(Method::POST, "/reload", "")).await;
    let document = asked.ok_or_else(|| format!("no answer on {}", admin.display()))?;
    Ok(Identity::of(&document, None))
}

async fn ask(admin: &Address, ask: Ask<'_>) -> Option<serde_json::Value> {
    let answer = tokio::time::timeout(PATIENCE, admin.ask(ask)).await.ok()?.ok()?;
    (answer.0 == 200).then(|| serde_json::from_slice(&answer.1).ok())?
}

/// Ends all replicas of a service and waits until they are gone.
pub(super) async fn remove_all(shared: &Arc<Shared>, service: &ServiceName) {
    use futures_util::StreamExt;
    let mut changes = shared.changes.stream();
    loop {
        let left = {
            let mut replicas = shared.lock();
            replicas.retain(|_, entry| {
                entry.tag.service != *service || !matches!(entry.state, ReplicaState::Dead(_))
            });
            let ours = replicas.values_mut().filter(|entry| entry.tag.service == *service);
            ours.map(|entry| {
                entry.state = ReplicaState::Stopping;
                entry.stop.notify_one();
            })
            .count()
        };
        if left == 0 {
            return;
        }
        let _ = changes.next().await;
    }
}
