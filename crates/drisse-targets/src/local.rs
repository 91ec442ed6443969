//! The local place: replicas are processes of this binary on Unix sockets.
//!
//! Nothing about them is written down. A process carries who it is in its arguments (`--replica
//! WORKSPACE/SERVICE/REVISION/ID`), so a control plane that starts again finds exactly those that run, and
//! there is no record that could disagree with them.

mod logs;
mod process;

use crate::changes::Changes;
use async_trait::async_trait;
use drisse_core::{
    BoxStream, Event, EventSink, LogOptions, Place, Replica, ReplicaId, ReplicaState, RevisionSpec,
    ServiceName, Serving, TargetError, Unavailable, step,
};
use drisse_net::{Build, Launch, Process, hex, random_id};
use drisse_registry::Store;
use process::{Entry, Files, Running, Tag};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::ffi::OsString;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What the local place needs to know.
#[derive(Clone, Debug)]
pub struct LocalConfig {
    /// Names the workspace in arguments of processes.
    pub workspace: String,
    /// The binary that serves.
    pub program: PathBuf,
    /// Which build this is; replicas of older ones are replaced.
    pub build: Build,
    /// ONNX Runtime's library.
    pub onnxruntime: Option<PathBuf>,
    /// Short, private, for sockets.
    pub sockets: PathBuf,
    /// Where keys and logs of services are kept.
    pub services: PathBuf,
    /// Where models are.
    pub store: Store,
}

/// Processes of this machine.
#[derive(Debug)]
pub struct Local {
    config: LocalConfig,
    shared: Arc<Shared>,
}

/// What the tasks that watch processes share with the place.
#[derive(Debug)]
struct Shared {
    replicas: Mutex<HashMap<ReplicaId, Entry>>,
    /// The digest of each service's keys file, as last written.
    keys: Mutex<HashMap<ServiceName, Option<String>>>,
    changes: Changes,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, HashMap<ReplicaId, Entry>> {
        self.replicas.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keys(&self) -> MutexGuard<'_, HashMap<ServiceName, Option<String>>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Local {
    /// Opens the place and takes over what already runs here. Needs a tokio runtime.
    pub fn open(config: LocalConfig) -> std::io::Result<Self> {
        let shared =
            Arc::new(Shared { replicas: Mutex::default(), keys: Mutex::default(), changes: Changes::new() });
        let local = Self { config, shared };
        for (process, value) in Process::find("--replica", &format!("{}/", local.config.workspace))? {
            if let Some(tag) = Tag::parse(&value) {
                tracing::info!(service = %tag.service, revision = tag.revision, pid = process.pid(), "adopted");
                local.watch(process, tag, true);
            }
        }
        local.sweep();
        Ok(local)
    }

    /// Removes sockets of processes that are gone.
    fn sweep(&self) {
        let known = self.shared.lock();
        for entry in std::fs::read_dir(&self.config.sockets).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let id = name.split('.').next().and_then(ReplicaId::new);
            if id.is_some_and(|id| !known.contains_key(&id)) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }

    fn files(&self, tag: &Tag) -> Files {
        let socket = |end: &str| self.config.sockets.join(format!("{}.{end}", tag.id));
        Files {
            scoring: socket("s"),
            admin: socket("a"),
            log: self.logs(&tag.service).join(format!("r{}-{}.log", tag.revision, tag.id)),
        }
    }

    fn folder(&self, service: &ServiceName) -> PathBuf {
        self.config.services.join(service.as_str())
    }

    fn logs(&self, service: &ServiceName) -> PathBuf {
        self.folder(service).join("logs")
    }

    fn keys_file(&self, service: &ServiceName) -> PathBuf {
        self.folder(service).join("keys")
    }

    fn watch(&self, process: Process, tag: Tag, adopted: bool) {
        let running = Running {
            files: self.files(&tag),
            build: self.config.build.clone(),
            sockets: self.config.sockets.clone(),
            shared: Arc::clone(&self.shared),
            tag,
            adopted,
        };
        running.watch(process);
    }

    /// Writes the service's keys file where it has changed; its digest.
    fn write_keys(&self, revision: &RevisionSpec) -> Result<Option<String>, TargetError> {
        if revision.keys.is_empty() {
            return Ok(None);
        }
        let text: String = revision.keys.iter().map(|key| format!("{key}\n")).collect();
        let path = self.keys_file(&revision.service);
        let digest = Some(hex(&Sha256::digest(&text)));
        if std::fs::read_to_string(&path).is_ok_and(|there| there == text) {
            return Ok(digest);
        }
        let write = || -> std::io::Result<()> {
            // Of one name, so that the next one takes the place of what was left half written.
            let fresh = path.with_extension("new");
            let mut file = std::fs::OpenOptions::new();
            let mut file = file.create(true).truncate(true).write(true).mode(0o600).open(&fresh)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            step("keys are written");
            std::fs::rename(&fresh, &path)?;
            step("keys are in place");
            Ok(())
        };
        write().map_err(|error| failed("write the keys", &path, &error))?;
        Ok(digest)
    }

    fn arguments(
        &self,
        revision: &RevisionSpec,
        tag: &Tag,
        files: &Files,
    ) -> Result<Vec<OsString>, TargetError> {
        let store = &self.config.store;
        let view = store.manifest(&revision.package).and_then(|manifest| {
            let view = store.view_of(&revision.digest, &manifest)?;
            Ok(manifest.model_file().map(|file| view.join(file)))
        });
        let view = view.map_err(|error| {
            let message = format!("cannot lay out the model of `{}`: {error}", revision.service);
            TargetError { hint: error.hint(), ..TargetError::permanent(message) }
        })?;
        let view = view.ok_or_else(|| TargetError::permanent("the package has no model file"))?;
        let mut model = OsString::from(format!("{}:{}=", revision.service, revision.model_version));
        model.push(view);
        let mut admin = OsString::from("unix:");
        admin.push(&files.admin);
        let time = |time: Duration| OsString::from(format!("{}ms", time.as_millis().max(1)));
        let mut arguments: Vec<OsString> = vec!["serve".into(), model];
        let mut add = |flag: &str, value: OsString| arguments.extend([flag.into(), value]);
        add("--unix", files.scoring.clone().into());
        add("--admin", admin);
        add("--replica", tag.to_string().into());
        add("--max-wait", time(revision.max_wait));
        add("--scoring-timeout", time(revision.scoring_timeout));
        add("--log-file", files.log.clone().into());
        add("--digest", revision.digest.clone().into());
        let Serving { threads, workers, max_batch, triton_metrics } = revision.serving;
        for (flag, number) in [("--threads", threads), ("--workers", workers), ("--max-batch", max_batch)] {
            if let Some(number) = number {
                add(flag, number.to_string().into());
            }
        }
        if !revision.keys.is_empty() {
            add("--keys", self.keys_file(&revision.service).into());
        }
        if let Some(library) = &self.config.onnxruntime {
            add("--onnxruntime", library.clone().into());
        }
        arguments.extend(triton_metrics.then(|| "--triton-metrics".into()));
        Ok(arguments)
    }
}

#[async_trait]
impl Place for Local {
    fn kind(&self) -> &'static str {
        "local"
    }

    async fn check(&self) -> Result<(), Unavailable> {
        match &self.config.onnxruntime {
            Some(library) if !library.is_file() => Err(Unavailable {
                reason: format!("ONNX Runtime is no longer at {}", library.display()),
                hint: "`drisse down`, then `drisse up`, finds or fetches it again".to_owned(),
            }),
            _ => Ok(()),
        }
    }

    async fn prepare(&self, revision: &RevisionSpec, _: &dyn EventSink) -> Result<(), TargetError> {
        let service = &revision.service;
        let folder = self.logs(service);
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)
            .map_err(|error| failed("make the folder", &folder, &error))?;
        let digest = self.write_keys(revision)?;
        self.shared.keys().insert(service.clone(), digest.clone());
        let Some(digest) = digest else { return Ok(()) };
        // Those that have other keys are told to read them again, and confirm.
        let behind: Vec<_> = {
            let replicas = self.shared.lock();
            let behind = replicas.values().filter(|entry| {
                entry.tag.service == *service
                    && matches!(entry.state, ReplicaState::Ready { .. })
                    && entry.keys.as_ref() != Some(&digest)
            });
            behind.map(|entry| (entry.tag.id.clone(), entry.files.admin.clone())).collect()
        };
        for (id, admin) in behind {
            match process::reload(&admin).await {
                Ok(identity) => {
                    if let Some(entry) = self.shared.lock().get_mut(&id) {
                        entry.keys = identity.keys;
                    }
                }
                // It may have ended; if it has not, this is called again.
                Err(error) => tracing::warn!(%service, replica = %id, "the keys are not confirmed: {error}"),
            }
        }
        Ok(())
    }

    async fn start(&self, revision: &RevisionSpec, events: &dyn EventSink) -> Result<ReplicaId, TargetError> {
        let id = ReplicaId::new(&random_id()).expect("hexadecimal digits");
        let tag = Tag {
            workspace: self.config.workspace.clone(),
            service: revision.service.clone(),
            revision: revision.revision,
            id: id.clone(),
        };
        let files = self.files(&tag);
        let arguments = self.arguments(revision, &tag, &files)?;
        let launch =
            Launch { program: &self.config.program, arguments, settings: &[], log: &files.log, stdin: None };
        let process =
            Process::start(launch).map_err(|error| failed("start", &self.config.program, &error))?;
        events.event(Event(format!("replica {id} started, process {}", process.pid())));
        self.watch(process, tag, false);
        let written: Vec<_> = self.shared.lock().values().map(|entry| entry.files.log.clone()).collect();
        logs::prune(&self.logs(&revision.service), &written);
        Ok(id)
    }

    async fn stop(&self, replica: &ReplicaId) -> Result<(), TargetError> {
        let mut replicas = self.shared.lock();
        let Some(entry) = replicas.get_mut(replica) else { return Ok(()) };
        let service = entry.tag.service.clone();
        if matches!(entry.state, ReplicaState::Dead(_)) {
            replicas.remove(replica);
        } else {
            entry.state = ReplicaState::Stopping;
            entry.stop.notify_one();
            step("a replica is told to end");
        }
        drop(replicas);
        self.shared.changes.tell(&service);
        Ok(())
    }

    async fn list(&self, of: Option<&ServiceName>) -> Result<Vec<Replica>, TargetError> {
        let keys = self.shared.keys();
        let replicas = self.shared.lock();
        let wanted = replicas.values().filter(|entry| of.is_none_or(|of| entry.tag.service == *of));
        Ok(wanted.map(|entry| entry.replica(keys.get(&entry.tag.service))).collect())
    }

    fn changes(&self) -> BoxStream<ServiceName> {
        self.shared.changes.stream()
    }

    async fn logs(
        &self,
        service: &ServiceName,
        options: LogOptions,
    ) -> Result<BoxStream<String>, TargetError> {
        Ok(logs::stream(self.logs(service), options))
    }

    async fn remove(&self, service: &ServiceName) -> Result<(), TargetError> {
        process::remove_all(&self.shared, service).await;
        step("replicas are gone");
        self.shared.keys().remove(service);
        let folder = self.folder(service);
        match std::fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(failed("remove", &folder, &error))
            }
            _ => Ok(()),
        }
    }
}

fn failed(what: &str, path: &Path, error: &std::io::Error) -> TargetError {
    let error_text = format!("cannot {what} {}: {error}", path.display());
    let hint = drisse_registry::disk_hint(error);
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::ReadOnlyFilesystem => {
            TargetError::permanent(error_text).hint(hint.unwrap_or_default())
        }
        std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::NotFound => {
            TargetError::permanent(error_text)
        }
        _ => match hint {
            Some(hint) => TargetError::new(error_text).hint(hint),
            None => TargetError::new(error_text),
        },
    }
}
