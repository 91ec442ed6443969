//! The local place: replicas are processes of this binary that listen on Unix sockets.
//!
//! No record of the processes is kept. Each process is identified by its arguments (`--replica
//! WORKSPACE/SERVICE/REVISION/ID`), so that a restarted control plane finds exactly those that run.

use crate::cgroup::{self, Cgroups, Group};
use crate::servers::{
    Files, ServerExit, ServerHandle, Servers, Since, Tag, arguments, failed, out_of_memory,
};
use async_trait::async_trait;
use drisse_core::{
    Bound, BoxStream, Capacity, Event, EventSink, LogOptions, Place, Replica, ReplicaId, RevisionSpec,
    ServiceName, TargetError, UnavailableError,
};
use drisse_net::{Build, Exit, Launch, Process, blocking, random_id};
use drisse_registry::Store;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

/// The configuration of the local place.
#[derive(Clone, Debug)]
pub struct LocalConfig {
    /// The name of the workspace, for the arguments of processes.
    pub workspace: String,
    /// The path of this binary, which the replicas run.
    pub program: PathBuf,
    /// The build of this binary. Replicas of older builds are replaced.
    pub build: Build,
    /// The path of ONNX Runtime's library.
    pub onnxruntime: Option<PathBuf>,
    /// The folder of the sockets. Its path must be short; only this user can access it.
    pub sockets: PathBuf,
    /// The folder of the services' keys and logs.
    pub services: PathBuf,
    /// The store of the models.
    pub store: Store,
}

/// The place that runs replicas as processes of this machine.
#[derive(Clone, Debug)]
pub struct Local {
    config: Arc<LocalConfig>,
    servers: Servers,
}

impl Local {
    /// Opens the place and adopts the replicas that already run. Requires a tokio runtime.
    ///
    /// # Errors
    /// Returns the system's error if the processes of this machine cannot be listed.
    pub fn open(config: LocalConfig) -> std::io::Result<Self> {
        let servers = Servers::ours(config.build.clone(), config.services.clone());
        let local = Self { config: Arc::new(config), servers };
        for (process, value) in Process::find("--replica", &format!("{}/", local.config.workspace))? {
            if let Some(tag) = Tag::parse(&value) {
                tracing::info!(service = %tag.service, revision = tag.revision, pid = process.pid(), "adopted");
                let files = local.files(&tag);
                let group = Group::of(process.pid(), &local.group(&tag));
                local.servers.watch(Limited { process, group }, tag, files, Since::Found { outdated: false });
            }
        }
        local.sweep();
        Ok(local)
    }

    /// Returns the name of a replica's control groups.
    fn group(&self, tag: &Tag) -> String {
        format!("drisse.{}.{}", self.config.workspace, tag.id)
    }

    /// Removes the sockets and control groups of processes that have ended.
    fn sweep(&self) {
        for entry in std::fs::read_dir(&self.config.sockets).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let mut parts = name.split('.');
            let id = parts.next().and_then(ReplicaId::new);
            let is_ours = matches!(parts.next(), Some("s" | "a" | "e"));
            if is_ours && id.is_some_and(|id| !self.servers.knows(&id)) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
        // A control group that still has processes cannot be removed.
        Cgroups::find().sweep(&format!("drisse.{}.", self.config.workspace));
    }

    fn files(&self, tag: &Tag) -> Files {
        let log = self.servers.logs_of(&tag.service).join(format!("r{}-{}.log", tag.revision, tag.id));
        Files::new(&self.config.sockets.join(tag.id.as_str()), log)
    }

    /// Returns the path of the model file, for an engine to open.
    fn model(&self, revision: &RevisionSpec) -> Result<PathBuf, TargetError> {
        let store = &self.config.store;
        let view = store.manifest(&revision.package).and_then(|manifest| {
            let view = store.view_of(&revision.digest, &manifest)?;
            Ok(manifest.model_file().map(|file| view.join(file)))
        });
        let view = view.map_err(|error| {
            let message = format!("cannot prepare the model of `{}`: {error}", revision.service);
            TargetError { hint: error.hint(), ..TargetError::permanent(message) }
        })?;
        view.ok_or_else(|| TargetError::permanent("the package has no model file"))
    }

    /// Returns the capacity of this machine, or why no replica can run. Blocks on the disk.
    fn capacity(&self) -> Result<Capacity, UnavailableError> {
        match &self.config.onnxruntime {
            Some(library) if !library.is_file() => Err(UnavailableError {
                reason: format!("ONNX Runtime not found at {}", library.display()),
                hint: "run `drisse down`, then `drisse up`, which finds or downloads it again".to_owned(),
            }),
            _ => {
                let groups = Cgroups::find();
                let cores = std::thread::available_parallelism().map_or(1, usize::from) as u64;
                Ok(Capacity {
                    cpu: Bound { most: Some(cores * 1000), unenforceable: groups.cpu.err() },
                    memory: Bound { most: cgroup::memory_of_machine(), unenforceable: groups.memory.err() },
                    services: None,
                })
            }
        }
    }

    /// Starts the process of a replica and watches it. Blocks on the disk.
    fn launch(&self, revision: &RevisionSpec, id: ReplicaId) -> Result<u32, TargetError> {
        let tag = Tag {
            workspace: self.config.workspace.clone(),
            service: revision.service.clone(),
            revision: revision.revision,
            id,
        };
        let files = self.files(&tag);
        let keys = self.servers.keys_of(&revision.service);
        let mut arguments = arguments(revision, &tag, &self.model(revision)?, &files, &keys);
        if let Some(library) = &self.config.onnxruntime {
            arguments.extend([OsString::from("--onnxruntime"), library.into()]);
        }
        self.servers.write_environment(&files, revision)?;
        let group = Cgroups::find().make(&self.group(&tag), revision.limits);
        let group = group.map_err(|why| {
            TargetError::permanent(format!("cannot limit a replica of `{}`: {why}", revision.service))
        })?;
        for folder in group.iter().flat_map(Group::folders) {
            arguments.extend([OsString::from("--cgroup"), folder.into()]);
        }
        let launch =
            Launch { program: &self.config.program, arguments, settings: &[], log: &files.log, stdin: None };
        let process = Process::start(launch).map_err(|error| {
            // No process uses what was made for the replica.
            group.iter().for_each(Group::remove);
            files.remove();
            failed("start", &self.config.program, &error)
        })?;
        let pid = process.pid();
        self.servers.watch(Limited { process, group }, tag, files, Since::Start);
        self.servers.prune_logs(&revision.service);
        Ok(pid)
    }
}

/// A process and what limits it.
struct Limited {
    process: Process,
    group: Option<Group>,
}

#[async_trait]
impl ServerHandle for Limited {
    async fn ended(&mut self) -> ServerExit {
        let exit = self.process.ended().await;
        let exhausted = self.group.as_ref().filter(|group| group.ran_out_of_memory());
        let reason = exhausted.map_or_else(|| exit.to_string(), |group| out_of_memory(group.memory()));
        // `drisse serve` exits with 1 for errors that the user can fix.
        let mendable = exit == Exit::Code(1) || exhausted.is_some();
        self.group.iter().for_each(Group::remove);
        ServerExit { reason, mendable, clean: exit == Exit::Code(0), output: String::new() }
    }

    fn terminate(&self) {
        self.process.terminate();
    }

    fn kill(&self) {
        self.process.kill();
    }

    fn pid(&self) -> Option<u32> {
        Some(self.process.pid())
    }
}

#[async_trait]
impl Place for Local {
    fn kind(&self) -> &'static str {
        "local"
    }

    async fn check(&self) -> Result<Capacity, UnavailableError> {
        let local = self.clone();
        blocking(move || local.capacity()).await
    }

    async fn prepare(&self, revision: &RevisionSpec, _: &dyn EventSink) -> Result<(), TargetError> {
        self.servers.prepare(revision, &self.config.store).await
    }

    async fn start(&self, revision: &RevisionSpec, events: &dyn EventSink) -> Result<ReplicaId, TargetError> {
        let id = ReplicaId::new(&random_id()).expect("hexadecimal digits");
        let (local, revision, named) = (self.clone(), revision.clone(), id.clone());
        let pid = blocking(move || local.launch(&revision, named)).await?;
        events.event(Event(format!("replica {id} started, process {pid}")));
        Ok(id)
    }

    async fn stop(&self, replica: &ReplicaId) -> Result<(), TargetError> {
        self.servers.stop(replica);
        Ok(())
    }

    async fn list(&self, of: Option<&ServiceName>) -> Result<Vec<Replica>, TargetError> {
        Ok(self.servers.list(of))
    }

    fn changes(&self) -> BoxStream<ServiceName> {
        self.servers.changes()
    }

    async fn logs(
        &self,
        service: &ServiceName,
        options: LogOptions,
    ) -> Result<BoxStream<String>, TargetError> {
        Ok(self.servers.logs(service, options))
    }

    async fn remove(&self, service: &ServiceName) -> Result<(), TargetError> {
        self.servers.remove(service).await
    }
}
