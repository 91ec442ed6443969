//! The scoring servers of a place, in processes or containers: watches them from their start or their adoption, has
//! them reload keys, stops and removes them.

mod files;
mod logs;
mod watch;

use crate::changes::Changes;
use drisse_core::{
    BoxStream, LogOptions, MaxWait, Replica, ReplicaId, ReplicaState, RevisionSpec, ServiceName, Serving,
    TargetError, crash_point, lock,
};
use drisse_net::{Build, Tasks, blocking};
use drisse_registry::Store;
use futures_util::StreamExt;
use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};
use tokio::sync::Notify;
use watch::{Entry, Running};
pub(crate) use watch::{Files, GRACE, ServerExit, ServerHandle, Since, Tag, out_of_memory};

/// The file with the trusted public keys, in a folder of evidence.
const TRUSTED: &str = "trusted.pem";

/// The scoring servers of one place. Clones share their state.
#[derive(Clone, Debug)]
pub(crate) struct Servers {
    /// The build of this binary, with which the build that a replica reports is compared; `None` if it is not.
    build: Option<Build>,
    /// The folder of the services' keys and logs.
    services: PathBuf,
    /// The path of a service's keys in its folder.
    keys: &'static str,
    /// Whether replicas may run as other users. Their files are then readable by all users, but lie in folders that
    /// only this user can enter.
    others: bool,
    shared: Arc<ServerTable>,
}

/// The state that the watching tasks share with the place.
#[derive(Debug, Default)]
struct ServerTable {
    replicas: Mutex<HashMap<ReplicaId, Entry>>,
    /// The digest of each service's keys file, as last written.
    keys: Mutex<HashMap<ServiceName, Option<String>>>,
    changes: Changes,
    /// Watch the servers.
    tasks: Tasks,
}

/// Returns the arguments of a scoring server: its model, its files and its settings. Paths are as the server sees them.
pub(crate) fn arguments(
    revision: &RevisionSpec,
    tag: &Tag,
    model: &Path,
    files: &Files,
    keys: &Path,
) -> Vec<OsString> {
    let mut named = OsString::from(format!("{}:{}=", revision.service, revision.model_version));
    named.push(model);
    let mut admin = OsString::from("unix:");
    admin.push(&files.admin);
    let time = |time: Duration| OsString::from(format!("{}ms", time.as_millis().max(1)));
    let mut arguments: Vec<OsString> = vec!["serve".into(), named];
    let mut add = |flag: &str, value: OsString| arguments.extend([flag.into(), value]);
    add("--unix", files.scoring.clone().into());
    add("--admin", admin);
    add("--replica", tag.to_string().into());
    // Servers of earlier builds, in images, do not know `auto`.
    if let MaxWait::Fixed(wait) = revision.max_wait {
        add("--max-wait", time(wait));
    }
    add("--scoring-timeout", time(revision.scoring_timeout));
    add("--log-file", files.log.clone().into());
    add("--digest", revision.digest.clone().into());
    revision.aliases.iter().for_each(|alias| add("--alias", alias.into()));
    let Serving { threads, workers, max_batch, triton_metrics } = revision.serving;
    for (flag, number) in [("--threads", threads), ("--workers", workers), ("--max-batch", max_batch)] {
        if let Some(number) = number {
            add(flag, number.to_string().into());
        }
    }
    if !revision.keys.is_empty() {
        add("--keys", keys.into());
    }
    if !revision.trust.keys.is_empty() {
        let evidence = evidence_beside(keys, revision);
        add("--trusted-keys", evidence.join(TRUSTED).into());
        add("--evidence", evidence.into());
    }
    if !revision.environment.0.is_empty() {
        add("--env-file", files.environment.clone().into());
    }
    arguments.extend(triton_metrics.then(|| "--triton-metrics".into()));
    arguments
}

/// Returns the folder of the evidence that a revision's model is signed, beside the keys.
fn evidence_beside(keys: &Path, revision: &RevisionSpec) -> PathBuf {
    let package = revision.package.trim_start_matches("sha256:");
    keys.with_file_name(format!("evidence-{}", package.get(..12).unwrap_or(package)))
}

impl Servers {
    /// Returns an empty set of servers that run as this user.
    pub(crate) fn ours(build: Build, services: PathBuf) -> Self {
        Self { build: Some(build), services, keys: "keys", others: false, shared: Arc::default() }
    }

    /// Returns an empty set of servers that may run as other users. The keys of a service are in a separate folder,
    /// which can be mounted. Builds are not compared: in an image, the time of the binary is not when it was built.
    pub(crate) fn of_others(services: PathBuf) -> Self {
        Self { build: None, services, keys: "secrets/drisse-keys", others: true, shared: Arc::default() }
    }

    fn folder(&self, service: &ServiceName) -> PathBuf {
        self.services.join(&*service.label())
    }

    /// Returns the folder to which a service's replicas write their logs.
    pub(crate) fn logs_of(&self, service: &ServiceName) -> PathBuf {
        self.folder(service).join("logs")
    }

    /// Returns the folder for tuning results of a service's replicas, for replicas without a cache folder of their own.
    pub(crate) fn cache_of(&self, service: &ServiceName) -> PathBuf {
        self.folder(service).join("cache")
    }

    /// Returns the path of a service's keys.
    pub(crate) fn keys_of(&self, service: &ServiceName) -> PathBuf {
        self.folder(service).join(self.keys)
    }

    /// Returns whether a replica is known.
    pub(crate) fn knows(&self, id: &ReplicaId) -> bool {
        lock(&self.shared.replicas).contains_key(id)
    }

    /// Adds a replica and watches it until it ends.
    pub(crate) fn watch(&self, handle: impl ServerHandle + 'static, tag: Tag, files: Files, since: Since) {
        let stop = Arc::new(Notify::new());
        let entry = Entry {
            tag: tag.clone(),
            files: files.clone(),
            state: ReplicaState::Starting { since: SystemTime::now() },
            outdated: since == (Since::Found { outdated: true }),
            keys: None,
            stop: Arc::clone(&stop),
        };
        lock(&self.shared.replicas).insert(tag.id.clone(), entry);
        let (build, shared) = (self.build.clone(), Arc::clone(&self.shared));
        let running = Running { tag, files, build, shared, since };
        self.shared.tasks.spawn(running.life(Box::new(handle), stop));
    }

    /// Makes a service's folders and keys file, and has its replicas reload and confirm the keys.
    pub(crate) async fn prepare(&self, revision: &RevisionSpec, store: &Store) -> Result<(), TargetError> {
        let service = &revision.service;
        let (servers, of, store) = (self.clone(), revision.clone(), store.clone());
        let write = move || {
            servers.make_folder(&servers.logs_of(&of.service), 0o777)?;
            if let Some(folder) = servers.keys_of(&of.service).parent() {
                servers.make_folder(folder, if servers.others { 0o755 } else { 0o700 })?;
            }
            servers.write_evidence(&of, &store)?;
            servers.write_keys(&of)
        };
        let digest = blocking(write).await?;
        lock(&self.shared.keys).insert(service.clone(), digest.clone());
        let Some(digest) = digest else { return Ok(()) };
        // Replicas with other keys reload them and confirm.
        let behind: Vec<_> = {
            let replicas = lock(&self.shared.replicas);
            let behind = replicas.values().filter(|entry| {
                entry.tag.service == *service
                    && matches!(entry.state, ReplicaState::Ready { .. })
                    && entry.keys.as_ref() != Some(&digest)
            });
            behind.map(|entry| (entry.tag.id.clone(), entry.files.admin.clone())).collect()
        };
        for (id, admin) in behind {
            match watch::reload(&admin).await {
                Ok(identity) => {
                    if let Some(entry) = lock(&self.shared.replicas).get_mut(&id) {
                        entry.keys = identity.keys;
                    }
                }
                // The replica may have ended. If it has not, the next round calls `prepare` again.
                Err(error) => tracing::warn!(%service, replica = %id, "the keys are not confirmed: {error}"),
            }
        }
        Ok(())
    }

    /// Removes old logs of ended replicas. Blocks on the disk.
    pub(crate) fn prune_logs(&self, service: &ServiceName) {
        let written: Vec<_> =
            lock(&self.shared.replicas).values().map(|entry| entry.files.log.clone()).collect();
        logs::prune(&self.logs_of(service), &written);
    }

    pub(crate) fn stop(&self, replica: &ReplicaId) {
        let mut replicas = lock(&self.shared.replicas);
        let Some(entry) = replicas.get_mut(replica) else { return };
        let service = entry.tag.service.clone();
        if matches!(entry.state, ReplicaState::Dead(_)) {
            replicas.remove(replica);
        } else {
            entry.state = ReplicaState::Stopping;
            entry.stop.notify_one();
            crash_point("a replica is asked to end");
        }
        drop(replicas);
        self.shared.changes.tell(&service);
    }

    pub(crate) fn list(&self, of: Option<&ServiceName>) -> Vec<Replica> {
        let keys = lock(&self.shared.keys);
        let replicas = lock(&self.shared.replicas);
        let wanted = replicas.values().filter(|entry| of.is_none_or(|of| entry.tag.service == *of));
        wanted.map(|entry| entry.replica(keys.get(&entry.tag.service))).collect()
    }

    pub(crate) fn changes(&self) -> BoxStream<ServiceName> {
        self.shared.changes.stream()
    }

    pub(crate) fn logs(&self, service: &ServiceName, options: LogOptions) -> BoxStream<String> {
        logs::stream(self.logs_of(service), options)
    }

    /// Ends a service's replicas and waits until they are gone.
    pub(crate) async fn remove_replicas(&self, service: &ServiceName) {
        let mut changes = self.changes();
        loop {
            let left = {
                let mut replicas = lock(&self.shared.replicas);
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
                break;
            }
            let _ = changes.next().await;
        }
        crash_point("replicas are gone");
    }

    /// Ends a service's replicas, waits until they are gone, and removes the service's folder.
    pub(crate) async fn remove(&self, service: &ServiceName) -> Result<(), TargetError> {
        self.remove_replicas(service).await;
        lock(&self.shared.keys).remove(service);
        let folder = self.folder(service);
        blocking(move || match std::fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(failed("remove", &folder, &error))
            }
            _ => Ok(()),
        })
        .await
    }
}

pub(crate) fn failed(what: &str, path: &Path, error: &std::io::Error) -> TargetError {
    use std::io::ErrorKind::{NotFound, PermissionDenied, ReadOnlyFilesystem, StorageFull};
    TargetError {
        message: format!("cannot {what} {}: {error}", path.display()),
        hint: drisse_registry::disk_hint(error).map(str::to_owned),
        permanent: matches!(error.kind(), NotFound | PermissionDenied | ReadOnlyFilesystem | StorageFull),
    }
}
