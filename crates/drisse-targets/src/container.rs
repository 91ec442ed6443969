//! The container place: replicas are containers of podman or Docker on this machine.
//!
//! A container has no network and no capabilities, and can write only to its mounted folders for sockets, logs and the
//! cache. Requests reach it over Unix sockets, like a process. No record of containers is kept: their labels identify
//! them.

mod engine;
mod engines;
mod handle;
mod images;
mod offer;

use crate::servers::{Files, GRACE, Servers, Since, Tag, arguments};
use async_trait::async_trait;
use drisse_core::{
    BoxStream, Capacity, Event, EventSink, LogOptions, Place, Replica, ReplicaId, RevisionSpec, ServiceName,
    TargetError, UnavailableError, crash_point,
};
use drisse_net::http::escaped;
use drisse_net::{Build, ResourceLimit, blocking, random_id};
use drisse_registry::{KEYS, PROGRAM, Store, USER};
use engine::{Engine, EngineError};
use engines::Engines;
pub use engines::container_engine;
use handle::ContainerHandle;
use images::Images;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::OnceCell;

/// The labels of a container: its workspace, its build, and its identity (a [`Tag`]).
const WORKSPACE: &str = "drisse.workspace";
const BUILD: &str = "drisse.build";
const REPLICA: &str = "drisse.replica";

/// The hint if the engine's disk is full.
const ROOM: &str = "free some room where the engine keeps its images (`podman info` and `docker info` name the folder; \
                    `podman image prune` and `docker image prune` remove unused images), then try again";

/// The paths in a container at which the folders are mounted.
const SOCKETS: &str = "/run/drisse";
const LOGS: &str = "/var/log/drisse";
const CACHE: &str = "/var/cache/drisse";
const CACHE_HOME: &str = "XDG_CACHE_HOME=/var/cache";

/// The maximum number of threads of a container. A scoring server has a few for each core.
const MAX_THREADS: u64 = 4096;

/// The maximum number of threads of all containers of one user: Linux's default limit of process ids.
const MAX_PROCESSES: u64 = 32_768;

/// The maximum number of open files of a container, if the host allows it.
const MAX_FILES: u64 = 1 << 20;

/// The configuration of the container place.
#[derive(Clone, Debug)]
pub struct ContainerConfig {
    /// The name of the workspace, for labels and names of images.
    pub workspace: String,
    /// The path of the binary to put into images.
    pub program: PathBuf,
    /// The version of `program`.
    pub version: String,
    /// The build of this binary. Replicas of older builds are replaced.
    pub build: Build,
    /// The path of ONNX Runtime's library to put into images.
    pub onnxruntime: PathBuf,
    /// Returns the version of the library at a path. Called when an image is built.
    pub onnxruntime_version: fn(&Path) -> String,
    /// The folder of the sockets. Its path must be short; only this user can access it.
    pub sockets: PathBuf,
    /// The folder of the services' keys and logs.
    pub services: PathBuf,
    /// The log file of a podman API service that the place starts.
    pub log: PathBuf,
    /// The store of the models.
    pub store: Store,
    /// The folder of runtime layers.
    pub cache: PathBuf,
    /// The engine's socket; `None` looks for an engine.
    pub socket: Option<PathBuf>,
    /// The maximum number of services. Azure Container Instances allowed 20 per region.
    pub max_services: u32,
}

/// The place that runs replicas as containers of this machine.
#[derive(Debug)]
pub struct Container {
    config: Arc<ContainerConfig>,
    engines: Arc<Engines>,
    images: Images,
    servers: Servers,
    /// Set once the containers that already ran are adopted.
    adopted: OnceCell<()>,
}

impl Container {
    /// Returns the place. An engine is looked for only when one is needed.
    pub fn new(config: ContainerConfig) -> Self {
        let engines = Engines::new(config.socket.clone(), &config.sockets, config.log.clone());
        let servers = Servers::of_others(config.services.clone());
        let config = Arc::new(config);
        let images = Images::new(Arc::clone(&config));
        Self { config, engines: Arc::new(engines), images, servers, adopted: OnceCell::new() }
    }

    /// Returns the engine, after its containers have been adopted.
    async fn engine(&self) -> Result<Engine, TargetError> {
        let unavailable = |why: UnavailableError| TargetError::new(why.reason).hint(why.hint);
        let engine = self.engines.get().await.map_err(unavailable)?;
        self.adopted.get_or_try_init(|| self.adopt(&engine)).await?;
        Ok(engine)
    }

    /// Adopts the workspace's containers, and removes those that were never started.
    async fn adopt(&self, engine: &Engine) -> Result<(), TargetError> {
        let filters = json!({"label": [format!("{WORKSPACE}={}", self.config.workspace)]});
        let path = format!("/containers/json?all=true&filters={}", escaped(&filters.to_string()));
        let there = self.checked(engine, "list containers", engine.get(&path).await).await?;
        for container in there.as_array().into_iter().flatten() {
            let id = container["Id"].as_str().unwrap_or_default();
            let tag = container["Labels"][REPLICA].as_str().and_then(Tag::parse);
            // A container whose folder was removed from outside cannot be reached.
            let folder = tag.as_ref().map(|tag| self.folder(tag));
            let is_there = blocking(move || folder.is_some_and(|folder| folder.is_dir())).await;
            match (tag.filter(|_| is_there), container["State"].as_str()) {
                (Some(tag), Some("running" | "exited" | "stopped" | "paused" | "dead")) => {
                    tracing::info!(service = %tag.service, revision = tag.revision, container = id, "adopted");
                    let build = container["Labels"][BUILD].as_str().and_then(Build::parse);
                    let outdated = build.is_none_or(|build| build < self.config.build);
                    self.watch(&tag, Since::Found { outdated });
                }
                (_, state) => {
                    tracing::info!(
                        container = id,
                        state,
                        "removed the container: it was never started, or cannot be reached"
                    );
                    let removed = engine.kill_container(id).await;
                    self.checked(engine, "remove a container", removed).await?;
                }
            }
        }
        let (sockets, servers) = (self.config.sockets.clone(), self.servers.clone());
        blocking(move || sweep(&sockets, &servers)).await;
        Ok(())
    }

    fn watch(&self, tag: &Tag, since: Since) {
        let handle = ContainerHandle { engines: Arc::clone(&self.engines), name: name(tag) };
        self.servers.watch(handle, tag.clone(), self.files(tag), since);
    }

    /// Returns the id of a revision's image, which is brought into the engine if it is not there.
    async fn image(
        &self,
        engine: &Engine,
        revision: &RevisionSpec,
        events: &dyn EventSink,
    ) -> Result<String, TargetError> {
        let brought = self.images.bring(engine, revision, events).await;
        // The engine may be a podman that the place started and that has ended: it is started again.
        if brought.as_ref().is_err_and(|error| !error.permanent) {
            self.engines.lost().await;
        }
        brought
    }

    /// Converts the result of an engine call. If the engine did not answer, the next call looks for it again.
    async fn checked<T>(
        &self,
        engine: &Engine,
        what: &str,
        answer: Result<T, EngineError>,
    ) -> Result<T, TargetError> {
        if let Err(EngineError::Gone(_)) = &answer {
            self.engines.lost().await;
        }
        answer.map_err(|error| refused(&format!("{what} with {}", engine.name), &error))
    }

    /// Returns the folder of a replica's sockets.
    fn folder(&self, tag: &Tag) -> PathBuf {
        self.config.sockets.join(format!("{}.d", tag.id))
    }

    fn files(&self, tag: &Tag) -> Files {
        let log = self.servers.logs_of(&tag.service).join(log_name(tag));
        Files::in_folder(self.folder(tag), log)
    }

    /// Returns the body of the engine call that creates a container.
    fn document(
        &self,
        engine: &Engine,
        revision: &RevisionSpec,
        tag: &Tag,
        image: &str,
        model: &Path,
    ) -> Value {
        let inside = Files::new(&Path::new(SOCKETS).join("x"), Path::new(LOGS).join(log_name(tag)));
        let keys = Path::new(KEYS);
        let arguments = arguments(revision, tag, model, &inside, keys);
        let plain = |path: PathBuf| path.display().to_string();
        let mut mounts = vec![
            format!("{}:{SOCKETS}:rw,z", plain(self.folder(tag))),
            format!("{}:{LOGS}:rw,z", plain(self.servers.logs_of(&revision.service))),
            format!("{}:{CACHE}:rw,z", plain(self.servers.cache_of(&revision.service))),
        ];
        if let (Some(folder), Some(there)) = (self.servers.keys_of(&revision.service).parent(), keys.parent())
        {
            mounts.push(format!("{}:{}:ro,z", plain(folder.to_owned()), there.display()));
        }
        let command: Vec<_> = arguments.iter().map(|word| word.to_string_lossy()).collect();
        let memory = revision.limits.memory.unwrap_or(0);
        let limit = |name: &str, of: &str, most: u64| {
            let highest = ResourceLimit::of(of).hard.min(most);
            json!({"Name": name, "Soft": highest, "Hard": highest})
        };
        json!({
            "Image": image,
            "Entrypoint": [PROGRAM],
            "Cmd": command,
            "User": user(engine),
            "Env": [CACHE_HOME],
            // `podman stop` and `docker stop` too let the server answer the requests that it has.
            "StopTimeout": GRACE.as_secs(),
            "Labels": {
                WORKSPACE: self.config.workspace,
                REPLICA: tag.to_string(),
                BUILD: self.config.build.to_string(),
            },
            "HostConfig": {
                // 0 means no limit.
                "NanoCpus": u64::from(revision.limits.cpu.unwrap_or(0)) * 1_000_000,
                "Memory": memory,
                // Memory and swap together, so that nothing is swapped: a server that swaps is too slow.
                "MemorySwap": memory,
                "NetworkMode": "none",
                "ReadonlyRootfs": true,
                "CapDrop": ["ALL"],
                "SecurityOpt": ["no-new-privileges"],
                "PidsLimit": MAX_THREADS,
                "Tmpfs": {"/tmp": "rw,noexec,nosuid,nodev,size=16m"},
                "Binds": mounts,
                "RestartPolicy": {"Name": "no"},
                // Not higher than the host's limits: an engine that may not raise them would start no container.
                "Ulimits": [
                    limit("nofile", "Max open files", MAX_FILES),
                    limit("nproc", "Max processes", MAX_PROCESSES),
                ],
            },
        })
    }

    /// Creates a container and starts it.
    async fn launch(
        &self,
        engine: &Engine,
        revision: &RevisionSpec,
        tag: &Tag,
        image: &str,
    ) -> Result<(), TargetError> {
        let (servers, of) = (self.servers.clone(), revision.clone());
        let (folder, cache, files) = (self.folder(tag), servers.cache_of(&tag.service), self.files(tag));
        let write = move || {
            servers.make_folder(&folder, 0o777)?;
            servers.make_folder(&cache, 0o777)?;
            servers.write_environment(&files, &of)
        };
        blocking(write).await?;
        let model = self.images.model(revision).await?;
        let (name, document) = (name(tag), self.document(engine, revision, tag, image, &model));
        let made = engine.post(&format!("/containers/create?name={name}"), Some(&document)).await;
        if let Err(EngineError::Refused(404, why)) = &made {
            // The image was removed from outside: the next attempt brings it into the engine again.
            self.images.forget(revision);
            return Err(TargetError::new(format!("cannot create a container with {}: {why}", engine.name)));
        }
        self.checked(engine, "create a container", made).await?;
        crash_point("a container is made");
        let started = engine.post(&format!("/containers/{name}/start"), None).await;
        self.checked(engine, "start a container", started).await?;
        crash_point("a container is started");
        Ok(())
    }

    /// Returns whether a service has ever been prepared at this place.
    async fn is_used(&self) -> bool {
        let services = self.config.services.clone();
        blocking(move || {
            let services = std::fs::read_dir(services).into_iter().flatten().flatten();
            services.map(|entry| entry.path().join("secrets")).any(|folder| folder.is_dir())
        })
        .await
    }
}

#[async_trait]
impl Place for Container {
    fn kind(&self) -> &'static str {
        "container"
    }

    async fn check(&self) -> Result<Capacity, UnavailableError> {
        let mut engine = self.engines.get().await?;
        if !engine.answers().await {
            self.engines.lost().await;
            engine = self.engines.get().await?;
        }
        Ok(Capacity { services: Some(self.config.max_services), ..engine.capacity })
    }

    async fn prepare(&self, revision: &RevisionSpec, events: &dyn EventSink) -> Result<(), TargetError> {
        self.servers.prepare(revision, &self.config.store).await?;
        let engine = self.engine().await?;
        self.image(&engine, revision, events).await.map(drop)
    }

    async fn start(&self, revision: &RevisionSpec, events: &dyn EventSink) -> Result<ReplicaId, TargetError> {
        let engine = self.engine().await?;
        let image = self.image(&engine, revision, events).await?;
        let id = ReplicaId::new(&random_id()).expect("hexadecimal digits");
        let tag = Tag {
            // With a suffix: the local place would adopt a process with the plain name of the workspace.
            workspace: format!("{}@container", self.config.workspace),
            service: revision.service.clone(),
            revision: revision.revision,
            id: id.clone(),
        };
        let name = name(&tag);
        match self.launch(&engine, revision, &tag, &image).await {
            Ok(()) => {}
            // The container may exist and run: the watching task finds out once the engine answers again.
            Err(error) if !error.permanent => {
                self.watch(&tag, Since::Start);
                return Err(error);
            }
            Err(error) => {
                // The container is not watched. It may not exist.
                let _ = engine.kill_container(&name).await;
                let folder = self.folder(&tag);
                let _ = blocking(move || std::fs::remove_dir_all(folder)).await;
                return Err(error);
            }
        }
        events.event(Event(format!("replica {id} started, container {name}")));
        self.watch(&tag, Since::Start);
        let (servers, service) = (self.servers.clone(), revision.service.clone());
        blocking(move || servers.prune_logs(&service)).await;
        Ok(id)
    }

    async fn stop(&self, replica: &ReplicaId) -> Result<(), TargetError> {
        self.servers.stop(replica);
        Ok(())
    }

    async fn list(&self, of: Option<&ServiceName>) -> Result<Vec<Replica>, TargetError> {
        // If no service was ever prepared, there are no replicas, and no engine is needed.
        if self.adopted.initialized() || of.is_none() && !self.is_used().await {
            return Ok(self.servers.list(of));
        }
        self.engine().await?;
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
        let engine = self.engine().await?;
        self.servers.remove_replicas(service).await;
        let removed = self.images.remove(&engine, service).await;
        self.checked(&engine, "remove images", removed).await?;
        self.servers.remove(service).await
    }
}

/// Removes folders of sockets whose containers are gone. Blocks on the disk.
fn sweep(sockets: &Path, servers: &Servers) {
    for entry in std::fs::read_dir(sockets).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let id = name.strip_suffix(".d").and_then(ReplicaId::new);
        if id.is_some_and(|id| !servers.knows(&id)) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// Returns the user that a container runs as: one that can use the mounted folders and is not root on the host.
fn user(engine: &Engine) -> String {
    let (user, group) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    match (engine.rootless, user) {
        // Root in the container is this user on the host.
        (true, _) => "0:0".to_owned(),
        (false, 0) => format!("{USER}:{USER}"),
        (false, _) => format!("{user}:{group}"),
    }
}

fn name(tag: &Tag) -> String {
    format!("drisse-{}-{}", tag.service.label(), tag.id)
}

fn log_name(tag: &Tag) -> String {
    format!("r{}-{}.log", tag.revision, tag.id)
}

fn refused(what: &str, error: &EngineError) -> TargetError {
    match error {
        EngineError::Gone(why) => TargetError::new(format!("cannot {what}: {why}")),
        EngineError::Refused(_, why) => {
            let hint = error.is_full().then(|| ROOM.to_owned());
            TargetError { hint, ..TargetError::permanent(format!("cannot {what}: {why}")) }
        }
    }
}
