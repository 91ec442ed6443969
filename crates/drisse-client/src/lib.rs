//! The client of the control API: one method per path. Failures are those that the control plane reports.

use bytes::Bytes;
use drisse_net::http::{Address, Ask, HttpError, escaped};
use drisse_wire::control::{
    API, DeployRequest, Failure, FailureBody, KeyRequest, Keys, Model, ModelChange, Operation, Page,
    Progress, RegisterRequest, RepairRequest, RollbackRequest, Service, Shutdown, Signature, Status,
    TargetInfo, TargetSpec, TrustDocument, Upload,
};
use http_body_util::BodyExt;
use hyper::Method;
use hyper::body::Incoming;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::Write;

/// A client of one control plane. Each call opens a connection of its own, and sets no time limit.
///
/// ```no_run
/// use drisse_client::{Client, ClientError};
/// use drisse_net::http::Address;
///
/// # async fn example() -> Result<(), ClientError> {
/// let client = Client::new(Address::parse("unix:/run/drisse/0123456789/control").expect("an address"), None);
/// let operation = client.verify(None).await?;
/// let ended = client.wait(operation.id, &mut |progress| println!("{}", progress.message)).await?;
/// println!("{:?}: {}", ended.state, ended.result);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Client {
    address: Address,
    token: Option<String>,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The control plane cannot be reached, or the connection broke.
    #[error("cannot reach the control plane")]
    Unreachable(#[from] HttpError),
    /// The control plane answered with an error: the failure, and its HTTP status.
    #[error("{}", .0.message)]
    Refused(Failure, u16),
    /// The response is not what this version expects.
    #[error("the control plane sent an unexpected response: {0}")]
    Unreadable(String),
}

type Result<T> = std::result::Result<T, ClientError>;

/// A response body that is read line by line, as it arrives.
#[derive(Debug)]
pub struct Lines {
    body: Incoming,
    buffer: Vec<u8>,
    ended: bool,
}

impl Client {
    /// Returns a client of the control plane at `address`. TCP addresses require a `token`; Unix sockets do not.
    pub fn new(address: Address, token: Option<String>) -> Self {
        Self { address, token }
    }

    /// Returns the status of the control plane.
    ///
    /// # Errors
    /// Returns a [`ClientError`] if the call fails.
    pub async fn status(&self) -> Result<Status> {
        self.get("/status").await
    }

    /// Stops the control plane alone, or everything.
    ///
    /// # Errors
    /// Returns a [`ClientError`] if the call fails.
    pub async fn shutdown(&self, how: Shutdown) -> Result<()> {
        self.send(Method::POST, "/shutdown", &how).await.map(|_: serde_json::Value| ())
    }

    /// Returns how much of a file has been uploaded.
    ///
    /// # Errors
    /// Returns a [`ClientError`] if the call fails.
    pub async fn uploaded(&self, digest: &str) -> Result<Upload> {
        self.get(&format!("/uploads/{}", segment(digest)?)).await
    }

    /// Uploads the part of a file of `size` bytes that begins at `offset`, as `write` writes it. What has arrived stays if
    /// the connection breaks. Also returns the error of `write`, if any.
    ///
    /// # Errors
    /// Returns a [`ClientError`] if the call fails or the part is refused.
    pub async fn upload<E: Send + 'static>(
        &self,
        digest: &str,
        size: u64,
        offset: u64,
        write: impl FnOnce(&mut dyn Write) -> std::result::Result<(), E> + Send + 'static,
    ) -> (Result<Upload>, Option<E>) {
        let path = match segment(digest) {
            Ok(digest) => format!("{API}/uploads/{digest}?size={size}&offset={offset}"),
            Err(error) => return (Err(error), None),
        };
        let ask = Ask { bearer: self.token.as_deref(), ..Ask::send(Method::PATCH, &path, "") };
        let (answer, failed) = self.address.upload(ask, write).await;
        let answer = match answer {
            Ok((status, body)) if status >= 400 => Err(refused(status, &body)),
            Ok((_, body)) => read(&body),
            Err(error) => Err(error.into()),
        };
        (answer, failed)
    }

    /// Starts to register a model; [`Client::wait`] follows the operation to its end.
    ///
    /// # Errors
    /// Returns a [`ClientError`] if the operation is not accepted.
    pub async fn register(&self, request: &RegisterRequest) -> Result<Operation> {
        self.send(Method::POST, "/models", request).await
    }

    /// Returns a page of models; `query` is a query string without the `?`.
    ///
    /// # Errors
    /// Returns a [`ClientError`] if the call fails.
    pub async fn models(&self, query: &str) -> Result<Page<Model>> {
        self.get(&format!("/models?{query}")).await
    }

    /// Returns one version of a model; `None` is the newest.
    ///
    /// # Errors
    /// Returns a [`ClientError`] if the call fails or the model does not exist.
    pub async fn model(&self, name: &str, version: Option<u64>) -> Result<Model> {
        self.get(&model_path(name, version)?).await
    }

    /// Sets and removes tags of a version, and adds properties.
    ///
    /// # Errors
    /// Returns a [`ClientError`] if the call fails or the change is refused.
    pub async fn change_model(
        &self,
        name: &str,
        version: Option<u64>,
        change: &ModelChange,
    ) -> Result<Model> {
        self.send(Method::PATCH, &model_path(name, version)?, change).await
    }

    /// Returns the cryptographic signatures of a version.
    ///
    /// # Errors
    /// Returns a [`ClientError`] if the call fails or the model does not exist.
    pub async fn signatures(&self, name: &str, version: Option<u64>) -> Result<Vec<Signature>> {
        self.get(&format!("{}/signatures", model_path(name, version)?)).await
    }

    /// Adds a signature (a Sigstore bundle) to a version and returns all of its signatures.
    ///
    /// # Errors
    /// Returns a [`ClientError`] if the call fails or the signature is refused.
    pub async fn sign(&self, name: &str, version: Option<u64>, bundle: String) -> Result<Vec<Signature>> {
        let signature = Signature { manifest: None, bundle };
        self.send(Method::POST, &format!("{}/signatures", model_path(name, version)?), &signature).await
    }

    /// Returns the public keys that models must be signed with.
    ///
    /// # Errors
    /// Returns a [`ClientError`] if the call fails.
    pub async fn trusted(&self) -> Result<TrustDocument> {
        self.get("/trust").await
    }

    /// Replaces the public keys that models must be signed with.
    ///
    /// # Errors
    /// Returns a [`ClientError`] if the call fails or a key is refused.
    pub async fn trust(&self, document: &TrustDocument) -> Result<TrustDocument> {
        self.send(Method::PUT, "/trust", document).await
    }

    /// Starts to delete a version that no service uses.
    ///
    /// # Errors
    /// Returns a [`ClientError`] if the operation is not accepted.
    pub async fn delete_model(&self, name: &str, version: Option<u64>) -> Result<Operation> {
        self.send(Method::DELETE, &model_path(name, version)?, &()).await
    }

    /// Starts to check every blob of a model, or of all models, against its digest.
    ///
    /// # Errors
    /// Returns a [`ClientError`] if the operation is not accepted.
    pub async fn verify(&self, model: Option<&str>) -> Result<Operation> {
        let query = model.map(|model| format!("?model={}", escaped(model))).unwrap_or_default();
        self.send(Method::POST, &format!("/verify{query}"), &()).await
    }

    /// Starts to check blobs as [`Client::verify`] does and to restore damaged ones.
    ///
    /// # Errors
    /// Returns a [`ClientError`] if the operation is not accepted.
    pub async fn repair(&self, model: Option<&str>, request: &RepairRequest) -> Result<Operation> {
        let query = model.map(|model| format!("?model={}", escaped(model))).unwrap_or_default();
        self.send(Method::POST, &format!("/repair{query}"), request).await
    }

    /// Starts to remove blobs that no model refers to.
    ///
    /// # Errors
    /// Returns a [`ClientError`] if the operation is not accepted.
    pub async fn collect(&self) -> Result<Operation> {
        self.send(Method::POST, "/collect", &()).await
    }

    /// Starts to create or update a service.
    ///
    /// # Errors
    /// Returns a [`ClientError`] if the operation is not accepted.
    pub async fn deploy(&self, request: &DeployRequest) -> Result<Operation> {
        self.send(Method::POST, "/services", request).await
    }

    /// Starts to update an existing service.
    ///
    /// # Errors
    /// Returns a [`ClientError`] if the operation is not accepted.
    pub async fn update(&self, service: &str, request: &DeployRequest) -> Result<Operation> {
        self.send(Method::PATCH, &format!("/services/{}", segment(service)?), request).await
    }

    /// Starts to roll a service back to an earlier revision.
    ///
    /// # Errors
    /// Returns a [`ClientError`] if the operation is not accepted.
    pub async fn rollback(&self, service: &str, request: RollbackRequest) -> Result<Operation> {
        self.send(Method::POST, &format!("/services/{}/rollback", segment(service)?), &request).await
    }

    /// Starts to remove a service. With `force` it is forgotten even if its target does not answer.
    ///
    /// # Errors
    /// Returns a [`ClientError`] if the operation is not accepted.
    pub async fn delete(&self, service: &str, force: bool) -> Result<Operation> {
        let query = if force { "?force=true" } else { "" };
        self.send(Method::DELETE, &format!("/services/{}{query}", segment(service)?), &()).await
    }

    /// Returns a page of services; `query` is a query string without the `?`.
    ///
    /// # Errors
    /// Returns a [`ClientError`] if the call fails.
    pub async fn services(&self, query: &str) -> Result<Page<Service>> {
        self.get(&format!("/services?{query}")).await
    }

    /// Returns one service with its revisions and replicas.
    ///
    /// # Errors
    /// Returns a [`ClientError`] if the call fails or the service does not exist.
    pub async fn service(&self, name: &str) -> Result<Service> {
        self.get(&format!("/services/{}", segment(name)?)).await
    }

    /// Returns the keys of a service.
    ///
    /// # Errors
    /// Returns a [`ClientError`] if the call fails or the service does not exist.
    pub async fn keys(&self, service: &str) -> Result<Keys> {
        self.get(&format!("/services/{}/keys", segment(service)?)).await
    }

    /// Starts to replace one key of a service.
    ///
    /// # Errors
    /// Returns a [`ClientError`] if the operation is not accepted.
    pub async fn change_key(&self, service: &str, request: &KeyRequest) -> Result<Operation> {
        self.send(Method::POST, &format!("/services/{}/keys", segment(service)?), request).await
    }

    /// Returns a sample `/score` body for a service's model.
    ///
    /// # Errors
    /// Returns a [`ClientError`] if the call fails or no sample is known.
    pub async fn sample(&self, service: &str) -> Result<Bytes> {
        self.raw(Method::GET, &format!("/services/{}/sample", segment(service)?), Bytes::new()).await
    }

    /// Returns the last `lines` log lines of a service's replicas and, with `follow`, new ones as they are written.
    ///
    /// # Errors
    /// Returns a [`ClientError`] if the call fails or the service does not exist.
    pub async fn logs(&self, service: &str, lines: usize, follow: bool) -> Result<Lines> {
        self.stream(&format!("/services/{}/logs?lines={lines}&follow={follow}", segment(service)?)).await
    }

    /// Returns a page of operations, newest first; `query` is a query string without the `?`.
    ///
    /// # Errors
    /// Returns a [`ClientError`] if the call fails.
    pub async fn operations(&self, query: &str) -> Result<Page<Operation>> {
        self.get(&format!("/operations?{query}")).await
    }

    /// Returns one operation.
    ///
    /// # Errors
    /// Returns a [`ClientError`] if the call fails or the operation does not exist.
    pub async fn operation(&self, id: i64) -> Result<Operation> {
        self.get(&format!("/operations/{id}")).await
    }

    /// Cancels an operation.
    ///
    /// # Errors
    /// Returns a [`ClientError`] if the call fails or the operation does not exist.
    pub async fn cancel(&self, id: i64) -> Result<Operation> {
        self.send(Method::POST, &format!("/operations/{id}/cancel"), &()).await
    }

    /// Waits until an operation ends, and calls `each` with every progress event on the way. Reconnects if the event
    /// stream breaks; dropping the future leaves the operation running.
    ///
    /// # Errors
    /// Returns a [`ClientError`] if a call fails. A failed operation is not an error here: see [`Operation::error`].
    pub async fn wait(&self, id: i64, each: &mut dyn FnMut(&Progress)) -> Result<Operation> {
        let mut seen = 0;
        loop {
            let mut lines = self.stream(&format!("/operations/{id}/events?after={seen}")).await?;
            while let Some(line) = lines.next().await? {
                let Some(data) = line.strip_prefix("data:") else { continue };
                if let Ok(progress) = serde_json::from_str::<Progress>(data) {
                    seen = progress.number;
                    each(&progress);
                }
            }
            let operation = self.operation(id).await?;
            if operation.finished_at.is_some() {
                return Ok(operation);
            }
        }
    }

    /// Returns all targets.
    ///
    /// # Errors
    /// Returns a [`ClientError`] if the call fails.
    pub async fn targets(&self) -> Result<Vec<TargetInfo>> {
        self.get("/targets").await
    }

    /// Attaches a target, or changes how it is attached.
    ///
    /// # Errors
    /// Returns a [`ClientError`] if the call fails or the target is refused.
    pub async fn attach(&self, target: &str, spec: &TargetSpec) -> Result<()> {
        let path = format!("/targets/{}", segment(target)?);
        self.send(Method::PUT, &path, spec).await.map(|_: serde_json::Value| ())
    }

    /// Detaches a target that no service runs on.
    ///
    /// # Errors
    /// Returns a [`ClientError`] if the call fails or the target is in use.
    pub async fn detach(&self, target: &str) -> Result<()> {
        let path = format!("/targets/{}", segment(target)?);
        self.send(Method::DELETE, &path, &()).await.map(|_: serde_json::Value| ())
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        read(&self.raw(Method::GET, path, Bytes::new()).await?)
    }

    async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T> {
        let body = serde_json::to_vec(body).map_err(|error| ClientError::Unreadable(error.to_string()))?;
        read(&self.raw(method, path, body.into()).await?)
    }

    async fn raw(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes> {
        let path = format!("{API}{path}");
        let ask = Ask { bearer: self.token.as_deref(), ..Ask::send(method, &path, body) };
        let (status, body) = self.address.ask(ask).await?;
        if status < 400 { Ok(body) } else { Err(refused(status, &body)) }
    }

    async fn stream(&self, path: &str) -> Result<Lines> {
        let path = format!("{API}{path}");
        let answer = self.address.open(Ask { bearer: self.token.as_deref(), ..Ask::get(&path) }).await?;
        let status = answer.status().as_u16();
        if status >= 400 {
            let body = answer.into_body().collect().await;
            return Err(refused(status, &body.map(|body| body.to_bytes()).unwrap_or_default()));
        }
        Ok(Lines { body: answer.into_body(), buffer: Vec::new(), ended: false })
    }
}

impl Lines {
    /// Returns the next line without its line ending; `None` at the end of the body, also if the connection broke.
    ///
    /// # Errors
    /// Currently returns no error.
    pub async fn next(&mut self) -> Result<Option<String>> {
        loop {
            if let Some(end) = self.buffer.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Ok(Some(String::from_utf8_lossy(&line[..end]).into_owned()));
            }
            if self.ended {
                let rest = std::mem::take(&mut self.buffer);
                return Ok((!rest.is_empty()).then(|| String::from_utf8_lossy(&rest).into_owned()));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => self.buffer.extend(frame.into_data().iter().flatten()),
                Some(Err(_)) | None => self.ended = true,
            }
        }
    }
}

fn model_path(name: &str, version: Option<u64>) -> Result<String> {
    let version = version.map_or("latest".to_owned(), |version| version.to_string());
    Ok(format!("/models/{}/versions/{version}", segment(name)?))
}

/// Returns a name as a segment of a path. A name that cannot be one names nothing, so the control plane is not asked.
fn segment(name: &str) -> Result<String> {
    if ["", ".", ".."].contains(&name) || name.contains(['/', '\0']) {
        let message = format!("`{}` not found: it is not a valid name", name.escape_default());
        return Err(ClientError::Refused(Failure::new(message), 404));
    }
    Ok(escaped(name))
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T> {
    serde_json::from_slice(body).map_err(|error| ClientError::Unreadable(error.to_string()))
}

fn refused(status: u16, body: &[u8]) -> ClientError {
    match serde_json::from_slice::<FailureBody>(body) {
        Ok(body) => ClientError::Refused(body.error, status),
        Err(_) => {
            let text = String::from_utf8_lossy(body);
            ClientError::Unreadable(format!(
                "status {status}: {}",
                text.chars().take(200).collect::<String>()
            ))
        }
    }
}
