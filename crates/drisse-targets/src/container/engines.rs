//! Finds the container engine of this machine, and finds it again after it was restarted.

use super::engine::{Engine, sockets};
use drisse_core::UnavailableError;
use drisse_net::{Launch, Process, Tasks, blocking};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// How long podman's API may take to start.
const PATIENCE: Duration = Duration::from_secs(15);
const ASK_AGAIN: Duration = Duration::from_millis(20);

/// After how many idle seconds a podman API service that was started here ends.
const IDLE: &str = "--time=60";

/// The engine of this machine. If no engine answers and podman is installed, podman's API is started.
#[derive(Debug)]
pub(super) struct Engines {
    /// The socket that the user named; no other is tried.
    named: Option<PathBuf>,
    /// The socket and the log of a podman API service that is started here.
    own: (PathBuf, PathBuf),
    found: Mutex<Option<Engine>>,
    /// Calls that are not waited for.
    pub(super) tasks: Tasks,
}

impl Engines {
    pub(super) fn new(named: Option<PathBuf>, sockets: &Path, log: PathBuf) -> Self {
        let named = named.or_else(docker_host);
        Self {
            named,
            own: (sockets.join("podman.sock"), log),
            found: Mutex::default(),
            tasks: Tasks::default(),
        }
    }

    /// Returns the engine. Looks for it if it is not known.
    pub(super) async fn get(&self) -> Result<Engine, UnavailableError> {
        let mut found = self.found.lock().await;
        if let Some(engine) = &*found {
            return Ok(engine.clone());
        }
        let engine = self.find().await?;
        tracing::info!(engine = engine.name, rootless = engine.rootless, "found");
        *found = Some(engine.clone());
        Ok(engine)
    }

    /// Forgets the engine, because it did not answer. The next [`get`](Self::get) looks for it again.
    pub(super) async fn lost(&self) {
        *self.found.lock().await = None;
    }

    async fn find(&self) -> Result<Engine, UnavailableError> {
        match (self.look().await, &self.named, blocking(podman).await) {
            (Some(Ok(engine)), ..) => Ok(engine),
            (None, Some(named), _) => Engine::at(named).await,
            (_, None, Some(podman)) => self.start(&podman).await,
            (Some(refused), ..) => refused,
            (None, None, None) => Err(none()),
        }
    }

    /// Returns the first engine that answers, or why the first one does not; `None` if no socket exists.
    async fn look(&self) -> Option<Result<Engine, UnavailableError>> {
        let mut refused = None;
        let own = self.named.is_none().then(|| self.own.0.clone());
        let all = sockets(self.named.as_deref()).into_iter().chain(own);
        let there = blocking(move || all.filter(|socket| socket.exists()).collect::<Vec<_>>()).await;
        for socket in there {
            match Engine::at(&socket).await {
                Ok(engine) => return Some(Ok(engine)),
                Err(why) => drop(refused.get_or_insert(why)),
            }
        }
        refused.map(Err)
    }

    /// Starts podman's API service. Podman works without a daemon, so the service often does not run.
    async fn start(&self, podman: &Path) -> Result<Engine, UnavailableError> {
        let (socket, log) = &self.own;
        let failed = |reason: String| UnavailableError {
            reason: format!("cannot start podman's API: {reason}"),
            hint: format!("see {}; or start it with `systemctl start podman.socket`", log.display()),
        };
        let arguments = ["system", "service", IDLE].map(Into::into).into_iter();
        let arguments = arguments.chain([format!("unix://{}", socket.display()).into()]).collect();
        let (program, file) = (podman.to_owned(), log.clone());
        let start = move || {
            Process::start(Launch { program: &program, arguments, settings: &[], log: &file, stdin: None })
        };
        let mut process = blocking(start).await.map_err(|error| failed(error.to_string()))?;
        let until = Instant::now() + PATIENCE;
        loop {
            if let Ok(engine) = Engine::at(socket).await {
                // Reaps the process. Its end is noticed when a call fails.
                self.tasks.spawn(async move {
                    process.ended().await;
                });
                return Ok(engine);
            }
            tokio::select! {
                exit = process.ended() => return Err(failed(exit.to_string())),
                () = tokio::time::sleep(ASK_AGAIN) => {}
            }
            if Instant::now() > until {
                process.kill();
                return Err(failed(format!("it does not answer within {} s", PATIENCE.as_secs())));
            }
        }
    }
}

/// Returns a description of this machine's container engine. Starts nothing. Requires a tokio runtime.
///
/// # Errors
/// Returns an [`UnavailableError`] with a hint if no engine answers and podman is not installed.
pub async fn container_engine() -> Result<String, UnavailableError> {
    let engines = Engines::new(None, Path::new("/nonexistent"), PathBuf::new());
    match (engines.look().await, blocking(podman).await) {
        (Some(Ok(engine)), _) => Ok(engine.name),
        (_, Some(podman)) => Ok(format!("{}, whose API is started when it is needed", podman.display())),
        (Some(Err(why)), None) => Err(why),
        (None, None) => Err(none()),
    }
}

fn none() -> UnavailableError {
    UnavailableError {
        reason: "this machine has no container engine".to_owned(),
        hint: "install podman (`apt-get install podman`) or Docker, or deploy to `--target local`".to_owned(),
    }
}

/// Returns the socket that the variable `DOCKER_HOST` names.
fn docker_host() -> Option<PathBuf> {
    let host = std::env::var("DOCKER_HOST").ok()?;
    host.strip_prefix("unix://").map(PathBuf::from)
}

/// Returns the path of podman; `None` if it is not installed.
fn podman() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join("podman")).find(|program| program.is_file())
}
