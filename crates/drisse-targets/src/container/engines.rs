//! Finding the engine, and finding it again when it was restarted.

use super::engine::{Engine, sockets};
use drisse_core::Unavailable;
use drisse_net::{Launch, Process};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// How long podman may take until it answers.
const PATIENCE: Duration = Duration::from_secs(15);
const ASK_AGAIN: Duration = Duration::from_millis(20);

/// A podman that we started ends by itself when nobody has asked it anything for so many seconds.
const IDLE: &str = "--time=60";

/// The engine of this machine; started where podman is there and no engine answers.
#[derive(Debug)]
pub(super) struct Engines {
    /// The socket that the user named; no other is tried.
    named: Option<PathBuf>,
    /// Where the socket of a podman that we start is, and its log.
    own: (PathBuf, PathBuf),
    found: Mutex<Option<Engine>>,
}

impl Engines {
    pub(super) fn new(named: Option<PathBuf>, sockets: &Path, log: PathBuf) -> Self {
        let named = named.or_else(docker_host);
        Self { named, own: (sockets.join("podman.sock"), log), found: Mutex::default() }
    }

    /// The engine.
    pub(super) async fn get(&self) -> Result<Engine, Unavailable> {
        let mut found = self.found.lock().await;
        if let Some(engine) = &*found {
            return Ok(engine.clone());
        }
        let engine = self.find().await?;
        tracing::info!(engine = engine.name, rootless = engine.rootless, "found");
        *found = Some(engine.clone());
        Ok(engine)
    }

    /// Says that the engine did not answer: the next one to ask looks for it again.
    pub(super) async fn lost(&self) {
        *self.found.lock().await = None;
    }

    async fn find(&self) -> Result<Engine, Unavailable> {
        match (self.look().await, &self.named, podman()) {
            (Some(Ok(engine)), ..) => Ok(engine),
            (None, Some(named), _) => Engine::at(named).await,
            (_, None, Some(podman)) => self.start(&podman).await,
            (Some(refused), ..) => refused,
            (None, None, None) => Err(none()),
        }
    }

    /// The first engine that answers, or why the first socket's does not; nothing where there is no socket.
    async fn look(&self) -> Option<Result<Engine, Unavailable>> {
        let mut refused = None;
        let own = self.named.is_none().then(|| self.own.0.clone());
        for socket in sockets(self.named.as_deref()).into_iter().chain(own).filter(|socket| socket.exists()) {
            match Engine::at(&socket).await {
                Ok(engine) => return Some(Ok(engine)),
                Err(why) => drop(refused.get_or_insert(why)),
            }
        }
        refused.map(Err)
    }

    /// Starts podman's API; podman needs no daemon, and so seldom has one.
    async fn start(&self, podman: &Path) -> Result<Engine, Unavailable> {
        let (socket, log) = &self.own;
        let failed = |reason: String| Unavailable {
            reason: format!("cannot start podman's API: {reason}"),
            hint: format!("{} says more; or start it with `systemctl start podman.socket`", log.display()),
        };
        let arguments = ["system", "service", IDLE].map(Into::into).into_iter();
        let arguments = arguments.chain([format!("unix://{}", socket.display()).into()]).collect();
        let launch = Launch { program: podman, arguments, settings: &[], log, stdin: None };
        let mut process = Process::start(launch).map_err(|error| failed(error.to_string()))?;
        let until = Instant::now() + PATIENCE;
        loop {
            if socket.exists()
                && let Ok(engine) = Engine::at(socket).await
            {
                // Its end is noticed when it does not answer.
                tokio::spawn(async move { process.ended().await });
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

/// Which container engine this machine has, for people; nothing is started to find out.
pub async fn container_engine() -> Result<String, Unavailable> {
    let engines = Engines::new(None, Path::new("/nonexistent"), PathBuf::new());
    match (engines.look().await, podman()) {
        (Some(Ok(engine)), _) => Ok(engine.name),
        (_, Some(podman)) => Ok(format!("{}, whose API is started when it is needed", podman.display())),
        (Some(Err(why)), None) => Err(why),
        (None, None) => Err(none()),
    }
}

fn none() -> Unavailable {
    Unavailable {
        reason: "no container engine is on this machine".to_owned(),
        hint: "install podman (`apt-get install podman`) or Docker, or deploy to `--target local`".to_owned(),
    }
}

/// The socket that Docker's own variable names.
fn docker_host() -> Option<PathBuf> {
    let host = std::env::var("DOCKER_HOST").ok()?;
    host.strip_prefix("unix://").map(PathBuf::from)
}

/// Podman's program, where it is installed.
fn podman() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join("podman")).find(|program| program.is_file())
}
