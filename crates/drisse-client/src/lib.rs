//! The control API's client: a call per path, failures as the API tells them.

use bytes::Bytes;
use drisse_net::http::{Address, Ask, HttpError, escaped};
use drisse_wire::control::{
    API, DeployRequest, Failure, FailureBody, KeyRequest, Keys, Model, ModelChange, Operation, Page,
    Progress, RegisterRequest, RepairRequest, RollbackRequest, Service, Shutdown, Signature, Status,
    TargetInfo, TargetSpec, TrustDocument,
};
use http_body_util::BodyExt;
use hyper::Method;
use hyper::body::Incoming;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A control plane somewhere.
#[derive(Clone, Debug)]
pub struct Client {
    address: Address,
    token: Option<String>,
}

/// Why a call did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The control plane cannot be asked.
    #[error("cannot ask the control plane")]
    Unreachable(#[from] HttpError),
    /// It refused.
    #[error("{}", .0.message)]
    Refused(Failure, u16),
    /// Its answer is not what this version expects.
    #[error("the control plane's answer cannot be read: {0}")]
    Unreadable(String),
}

type Result<T> = std::result::Result<T, ClientError>;

/// An answer that is read as it comes, split into lines.
#[derive(Debug)]
pub struct Lines {
    body: Incoming,
    buffer: Vec<u8>,
    ended: bool,
}

impl Client {
    /// A client of the control plane at `address`; `token` where it is asked for over TCP.
    pub fn new(address: Address, token: Option<String>) -> Self {
        Self { address, token }
    }

    /// How the control plane is.
    pub async fn status(&self) -> Result<Status> {
        self.get("/status").await
    }

    /// Ends the control plane, or everything.
    pub async fn shutdown(&self, how: Shutdown) -> Result<()> {
        self.send(Method::POST, "/shutdown", &how).await.map(|_: serde_json::Value| ())
    }

    /// Registers a model.
    pub async fn register(&self, request: &RegisterRequest) -> Result<Operation> {
        self.send(Method::POST, "/models", request).await
    }

    /// A page of models; `query` is a query string.
    pub async fn models(&self, query: &str) -> Result<Page<Model>> {
        self.get(&format!("/models?{query}")).await
    }

    /// One version, or the newest.
    pub async fn model(&self, name: &str, version: Option<u64>) -> Result<Model> {
        self.get(&model_path(name, version)).await
    }

    /// Changes tags, adds properties.
    pub async fn change_model(
        &self,
        name: &str,
        version: Option<u64>,
        change: &ModelChange,
    ) -> Result<Model> {
        self.send(Method::PATCH, &model_path(name, version), change).await
    }

    /// The signatures of a version.
    pub async fn signatures(&self, name: &str, version: Option<u64>) -> Result<Vec<Signature>> {
        self.get(&format!("{}/signatures", model_path(name, version))).await
    }

    /// Adds a signature to a version.
    pub async fn sign(&self, name: &str, version: Option<u64>, bundle: String) -> Result<Vec<Signature>> {
        let signature = Signature { manifest: None, bundle };
        self.send(Method::POST, &format!("{}/signatures", model_path(name, version)), &signature).await
    }

    /// Whose signature a model needs to run.
    pub async fn trusted(&self) -> Result<TrustDocument> {
        self.get("/trust").await
    }

    /// Says whose signature a model needs to run.
    pub async fn trust(&self, document: &TrustDocument) -> Result<TrustDocument> {
        self.send(Method::PUT, "/trust", document).await
    }

    /// Deletes a version that no service uses.
    pub async fn delete_model(&self, name: &str, version: Option<u64>) -> Result<Operation> {
        self.send(Method::DELETE, &model_path(name, version), &()).await
    }

    /// Reads every blob of a model, or of all.
    pub async fn verify(&self, model: Option<&str>) -> Result<Operation> {
        let query = model.map(|model| format!("?model={}", escaped(model))).unwrap_or_default();
        self.send(Method::POST, &format!("/verify{query}"), &()).await
    }

    /// The same, and writes anew what is damaged.
    pub async fn repair(&self, model: Option<&str>, request: &RepairRequest) -> Result<Operation> {
        let query = model.map(|model| format!("?model={}", escaped(model))).unwrap_or_default();
        self.send(Method::POST, &format!("/repair{query}"), request).await
    }

    /// Removes blobs nothing refers to.
    pub async fn collect(&self) -> Result<Operation> {
        self.send(Method::POST, "/collect", &()).await
    }

    /// Deploys: creates or updates a service.
    pub async fn deploy(&self, request: &DeployRequest) -> Result<Operation> {
        self.send(Method::POST, "/services", request).await
    }

    /// Updates a service that is there.
    pub async fn update(&self, service: &str, request: &DeployRequest) -> Result<Operation> {
        self.send(Method::PATCH, &format!("/services/{}", escaped(service)), request).await
    }

    /// Makes an earlier revision wanted again.
    pub async fn rollback(&self, service: &str, request: RollbackRequest) -> Result<Operation> {
        self.send(Method::POST, &format!("/services/{}/rollback", escaped(service)), &request).await
    }

    /// Removes a service; one is forgotten with `force` where its target does not answer.
    pub async fn delete(&self, service: &str, force: bool) -> Result<Operation> {
        let query = if force { "?force=true" } else { "" };
        self.send(Method::DELETE, &format!("/services/{}{query}", escaped(service)), &()).await
    }

    /// A page of services.
    pub async fn services(&self, query: &str) -> Result<Page<Service>> {
        self.get(&format!("/services?{query}")).await
    }

    /// One service, with its revisions and what runs.
    pub async fn service(&self, name: &str) -> Result<Service> {
        self.get(&format!("/services/{}", escaped(name))).await
    }

    /// Its keys.
    pub async fn keys(&self, service: &str) -> Result<Keys> {
        self.get(&format!("/services/{}/keys", escaped(service))).await
    }

    /// Replaces one of its keys.
    pub async fn change_key(&self, service: &str, request: &KeyRequest) -> Result<Operation> {
        self.send(Method::POST, &format!("/services/{}/keys", escaped(service)), request).await
    }

    /// A `/score` body that its model takes.
    pub async fn sample(&self, service: &str) -> Result<Bytes> {
        self.raw(Method::GET, &format!("/services/{}/sample", escaped(service)), Bytes::new()).await
    }

    /// What its replicas write.
    pub async fn logs(&self, service: &str, lines: usize, follow: bool) -> Result<Lines> {
        self.stream(&format!("/services/{}/logs?lines={lines}&follow={follow}", escaped(service))).await
    }

    /// A page of operations, the newest first.
    pub async fn operations(&self, query: &str) -> Result<Page<Operation>> {
        self.get(&format!("/operations?{query}")).await
    }

    /// One operation.
    pub async fn operation(&self, id: i64) -> Result<Operation> {
        self.get(&format!("/operations/{id}")).await
    }

    /// Ends an operation before it is done.
    pub async fn cancel(&self, id: i64) -> Result<Operation> {
        self.send(Method::POST, &format!("/operations/{id}/cancel"), &()).await
    }

    /// Follows an operation to its end, telling `each` of what happens on the way.
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

    /// The targets.
    pub async fn targets(&self) -> Result<Vec<TargetInfo>> {
        self.get("/targets").await
    }

    /// Attaches a target, or changes how it is attached.
    pub async fn attach(&self, target: &str, spec: &TargetSpec) -> Result<()> {
        let path = format!("/targets/{}", escaped(target));
        self.send(Method::PUT, &path, spec).await.map(|_: serde_json::Value| ())
    }

    /// Detaches a target that nothing runs on.
    pub async fn detach(&self, target: &str) -> Result<()> {
        let path = format!("/targets/{}", escaped(target));
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
    /// The next line, without its end; `None` once there are no more, also when the control plane went.
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

fn model_path(name: &str, version: Option<u64>) -> String {
    let version = version.map_or("latest".to_owned(), |version| version.to_string());
    format!("/models/{}/versions/{version}", escaped(name))
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
