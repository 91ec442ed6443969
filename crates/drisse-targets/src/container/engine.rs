//! The client of a container engine: podman or Docker, which both speak Docker's API over a Unix socket.
//!
//! The API: <https://docs.docker.com/reference/api/engine/>. Paths contain no version, so that each engine uses its
//! own: the calls here have not changed for a decade.

use drisse_core::{Bound, Capacity, UnavailableError, printable};
use drisse_net::blocking;
use drisse_net::http::{Address, Ask, HttpError};
use hyper::Method;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long an engine may take for a call. A longer call means that it hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long an engine may take for the first call, or a ping.
const GREETING: Duration = Duration::from_secs(5);

const START: &str = "start it with `systemctl start podman.socket` or `systemctl start docker`";

/// The states of a container that podman waits for.
const ENDED: &str = "condition=stopped&condition=exited";

/// How often podman checks whether a container has ended.
const LOOK_AGAIN: &str = "250ms";

/// The header with the credentials for a registry.
const REGISTRY_AUTH: HeaderName = HeaderName::from_static("x-registry-auth");

/// An engine that answers.
#[derive(Clone, Debug)]
pub(super) struct Engine {
    address: Address,
    /// `podman 4.3.1`.
    pub(super) name: String,
    /// The path prefix of podman's own API, with podman's version, which podman always accepts. `None` for Docker.
    libpod: Option<String>,
    /// The architecture of the machine, as OCI names it.
    pub(super) architecture: String,
    /// Whether the engine runs as a user who is not root: root in its containers is that user.
    pub(super) rootless: bool,
    /// The capacity of the engine's machine, and which limits its kernel can enforce.
    pub(super) capacity: Capacity,
}

/// Why a call to an engine failed.
#[derive(Debug)]
pub(super) enum EngineError {
    /// The engine did not answer.
    Gone(String),
    /// The engine refused the call, with this status and reason.
    Refused(u16, String),
}

/// How engines report a full disk: the text of Go's standard library.
const FULL: &str = "no space left on device";

impl EngineError {
    /// Returns whether the engine's disk is full.
    pub(super) fn is_full(&self) -> bool {
        matches!(self, Self::Refused(_, why) if why.contains(FULL))
    }

    /// Returns whether another way to do the same would fail too.
    pub(super) fn is_final(&self) -> bool {
        matches!(self, Self::Gone(_)) || self.is_full()
    }
}

impl Engine {
    /// Connects to the engine at a socket.
    pub(super) async fn at(socket: &Path) -> Result<Self, UnavailableError> {
        let named = socket.to_owned();
        // Docker's socket may be a link to podman's.
        let address = blocking(move || Address::unix(&named.canonicalize().unwrap_or(named))).await;
        let failed = |reason: String| UnavailableError {
            reason: format!("no container engine answers on {}: {reason}", socket.display()),
            hint: START.to_owned(),
        };
        let mut engine = Self {
            address,
            name: String::new(),
            libpod: None,
            architecture: String::new(),
            rootless: false,
            capacity: Capacity::default(),
        };
        let answers = tokio::time::timeout(GREETING, async {
            Ok::<_, EngineError>((engine.get("/version").await?, engine.get("/info").await?))
        });
        let (version, info) = match answers.await {
            Ok(Ok(answers)) => answers,
            Ok(Err(error)) => return Err(failed(error.to_string())),
            Err(_) => return Err(failed(format!("no response within {} s", GREETING.as_secs()))),
        };
        let (Some(number), Some(architecture)) = (version["Version"].as_str(), version["Arch"].as_str())
        else {
            return Err(failed("the server is not a container engine".to_owned()));
        };
        let component = version["Components"][0]["Name"].as_str();
        let is_podman = component.is_some_and(|name| name.contains("Podman"));
        engine.libpod = is_podman.then(|| format!("/v{number}/libpod"));
        engine.name = format!("{} {number}", if is_podman { "podman" } else { "Docker" });
        engine.architecture = architecture.to_owned();
        let options = info["SecurityOptions"].as_array().into_iter().flatten();
        // Docker reports this in its security options, podman in a field.
        engine.rootless = info["Rootless"] == true
            || options.filter_map(Value::as_str).any(|option| option.contains("rootless"));
        engine.capacity = capacity(&info, &engine.name);
        engine.keep_what_is_delegated().await;
        Ok(engine)
    }

    /// Marks limits as unenforceable that a rootless podman would accept and ignore: it enforces only those whose
    /// control group controllers are delegated to the user.
    async fn keep_what_is_delegated(&mut self) {
        let Some(libpod) = self.libpod.as_ref().filter(|_| self.rootless) else { return };
        let Ok(info) = self.get(&format!("{libpod}/info")).await else { return };
        let controllers = &info["host"]["cgroupControllers"];
        let delegated =
            |name: &str| controllers.as_array().is_some_and(|all| all.iter().any(|it| it == name));
        for (bound, name) in [(&mut self.capacity.cpu, "cpu"), (&mut self.capacity.memory, "memory")] {
            if !delegated(name) {
                let why = format!("{} runs as a user who has no control group for {name}", self.name);
                bound.unenforceable = Some(why);
            }
        }
    }

    /// Returns whether the engine still answers.
    pub(super) async fn answers(&self) -> bool {
        let asked = tokio::time::timeout(GREETING, self.get("/_ping")).await;
        asked.is_ok_and(|answer| answer.is_ok())
    }

    pub(super) async fn get(&self, path: &str) -> Result<Value, EngineError> {
        self.ask(Ask::get(path)).await
    }

    pub(super) async fn post(&self, path: &str, body: Option<&Value>) -> Result<Value, EngineError> {
        let body = body.map_or_else(String::new, Value::to_string);
        self.ask(Ask::send(Method::POST, path, body)).await
    }

    /// Sends a `DELETE` request. Succeeds if the object does not exist.
    pub(super) async fn delete(&self, path: &str) -> Result<(), EngineError> {
        match self.ask(Ask { method: Method::DELETE, ..Ask::get(path) }).await {
            Ok(_) | Err(EngineError::Refused(404, _)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Ends a container at once in any state, and removes it.
    pub(super) async fn kill_container(&self, name: &str) -> Result<(), EngineError> {
        // Without this, podman asks the container to end and waits. The call fails if the container does not run.
        let _ = self.post(&format!("/containers/{name}/kill?signal=SIGKILL"), None).await;
        self.remove_container(name).await
    }

    /// Removes a container and its anonymous volumes. A running container is asked to end first.
    pub(super) async fn remove_container(&self, name: &str) -> Result<(), EngineError> {
        self.delete(&format!("/containers/{name}?force=true&v=true")).await
    }

    async fn ask(&self, ask: Ask<'_>) -> Result<Value, EngineError> {
        let asked = tokio::time::timeout(PATIENCE, self.address.ask(ask)).await;
        let answer =
            asked.map_err(|_| EngineError::Gone(format!("no response within {} s", PATIENCE.as_secs())))?;
        read(answer)
    }

    /// Waits until a container ends, without a time limit.
    pub(super) async fn wait(&self, id: &str) -> Result<Value, EngineError> {
        let path = match &self.libpod {
            // In Docker's API, podman would poll without a pause and use a whole core.
            Some(libpod) => format!("{libpod}/containers/{id}/wait?{ENDED}&interval={LOOK_AGAIN}"),
            None => format!("/containers/{id}/wait"),
        };
        read(self.address.ask(Ask::send(Method::POST, &path, "")).await)
    }

    /// Returns the last `lines` lines that a container wrote to stdout and stderr.
    pub(super) async fn output(&self, id: &str, lines: usize) -> Result<String, EngineError> {
        let path = format!("/containers/{id}/logs?stdout=true&stderr=true&tail={lines}");
        let asked = tokio::time::timeout(PATIENCE, self.address.ask(Ask::get(&path))).await;
        match asked {
            Ok(Ok((200, frames))) => Ok(unframed(&frames)),
            Ok(answer) => read(answer).map(|_| String::new()),
            Err(_) => Err(EngineError::Gone(format!("no container logs within {} s", PATIENCE.as_secs()))),
        }
    }

    /// Returns the first of `names` under which the engine has an image; `None` if it has none.
    pub(super) async fn image(&self, names: &[&str]) -> Result<Option<String>, EngineError> {
        for name in names {
            match self.get(&format!("/images/{name}/json")).await {
                Ok(_) => return Ok(Some((*name).to_owned())),
                Err(EngineError::Refused(404, _)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Has the engine pull an image from a registry on loopback over plain HTTP.
    pub(super) async fn pull(&self, reference: &str, login: &str) -> Result<(), EngineError> {
        // Docker accepts plain HTTP from loopback; podman does so only with an option of its own API.
        let path = match &self.libpod {
            Some(libpod) => format!("{libpod}/images/pull?quiet=true&tlsVerify=false&reference={reference}"),
            None => format!("/images/create?fromImage={reference}"),
        };
        let login = login.parse().expect("base64 is a valid header value");
        let ask = Ask::send(Method::POST, &path, "").with(HeaderMap::from_iter([(REGISTRY_AUTH, login)]));
        let answer = self.address.ask(ask).await;
        // The body has one JSON document per line, and the last one reports a failure.
        let documents = answer.as_ref().map_or(&[][..], |(_, documents)| documents);
        let failed = documents.split(|byte| *byte == b'\n').find_map(|line| {
            let line = serde_json::from_slice::<Value>(line).ok()?;
            line["error"].as_str().map(str::to_owned)
        });
        match failed {
            Some(why) => Err(EngineError::Refused(500, why)),
            None => read(answer).map(drop),
        }
    }

    /// Loads an image into the engine from an archive that `write` produces while it is sent.
    pub(super) async fn load<E: Send + 'static>(
        &self,
        write: impl FnOnce(&mut dyn std::io::Write) -> Result<(), E> + Send + 'static,
    ) -> Result<Result<Value, EngineError>, E> {
        let archive = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/x-tar"))]);
        let ask = Ask::send(Method::POST, "/images/load?quiet=true", "").with(archive);
        match self.address.upload(ask, write).await {
            // The engine refused the archive and stopped reading, which made `write` fail.
            (Ok((status, body)), Some(_)) if status >= 400 => Ok(read(Ok((status, body)))),
            (_, Some(error)) => Err(error),
            (answer, None) => Ok(read(answer)),
        }
    }
}

/// Reads the capacity of the engine's machine from its `/info`.
fn capacity(info: &Value, engine: &str) -> Capacity {
    let bound = |most: Option<u64>, keeps: &str| {
        let broken = info[keeps] == false;
        Bound { most, unenforceable: broken.then(|| format!("{engine} reports no kernel support")) }
    };
    let cores = info["NCPU"].as_u64().map(|cores| cores * 1000);
    Capacity {
        cpu: bound(cores, "CpuCfsQuota"),
        memory: bound(info["MemTotal"].as_u64(), "MemoryLimit"),
        services: None,
    }
}

fn read(answer: Result<(u16, bytes::Bytes), HttpError>) -> Result<Value, EngineError> {
    let (status, body) = answer.map_err(|error| EngineError::Gone(with_source(&error)))?;
    let document = serde_json::from_slice::<Value>(&body).unwrap_or_default();
    if status < 400 {
        return Ok(document);
    }
    let text = || printable(&body).trim().to_owned();
    Err(EngineError::Refused(status, document["message"].as_str().map_or_else(text, str::to_owned)))
}

/// Returns the text of an error and its source.
pub(super) fn with_source(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// Returns the text of a stream of frames. A frame has a head of eight bytes: the stream (1 byte), 3 zero bytes, and
/// the length of the data (4 bytes, big-endian).
fn unframed(mut frames: &[u8]) -> String {
    let mut text = Vec::new();
    while let [0..=2, 0, 0, 0, a, b, c, d, rest @ ..] = frames {
        let size = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        let (frame, left) = rest.split_at(size.min(rest.len()));
        text.extend_from_slice(frame);
        frames = left;
    }
    printable(&text).into_owned()
}

impl fmt::Display for EngineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Gone(why) | Self::Refused(_, why)) = self;
        f.write_str(why)
    }
}

/// Returns the sockets at which to look for engines, the likeliest first. A socket that the user names is the only one.
pub(super) fn sockets(named: Option<&Path>) -> Vec<PathBuf> {
    if let Some(named) = named {
        return vec![named.to_owned()];
    }
    let user = rustix::process::geteuid().as_raw();
    let own = std::env::var("XDG_RUNTIME_DIR").unwrap_or_else(|_| format!("/run/user/{user}"));
    let system = ["/run/podman/podman.sock", "/var/run/docker.sock"].map(PathBuf::from);
    let own = ["podman/podman.sock", "docker.sock"].map(|name| Path::new(&own).join(name));
    if user == 0 { system.into_iter().chain(own).collect() } else { own.into_iter().chain(system).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_streams_of_a_container_are_read_and_a_frame_that_is_cut_short_too() {
        let frames = b"\x01\0\0\0\0\0\0\x04one\n\x02\0\0\0\0\0\0\x04two\n\x01\0\0\0\0\0\0\x09thr";
        assert_eq!(unframed(frames), "one\ntwo\nthr");
        assert_eq!(unframed(b""), "");
        assert_eq!(unframed(b"no frames at all"), "");
    }

    #[test]
    fn the_engine_that_is_named_is_the_only_one() {
        assert_eq!(sockets(Some(Path::new("/x.sock"))), [PathBuf::from("/x.sock")]);
        assert!(sockets(None).iter().all(|socket| socket.is_absolute()));
    }
}
