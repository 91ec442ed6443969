//! The HTTP client for one repository of a registry.

use super::credentials::{self, Credentials};
use super::reference::{host, is_loopback};
use super::token::Challenge;
use super::{Reference, RemoteError, TRIES, pause};
use crate::blobs::Blob;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, LOCATION, RANGE, RETRY_AFTER, WWW_AUTHENTICATE};
use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, RequestBuilder, Response, StatusCode, Url};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Time limit for connecting.
const CONNECT: Duration = Duration::from_secs(10);

/// How long a registry may send nothing (or, for uploads, accept nothing) before the request fails.
pub(super) const SILENCE: Duration = Duration::from_secs(30);

/// Longest pause before a busy registry is asked again, even if its `Retry-After` is longer.
const MAX_PAUSE: Duration = Duration::from_secs(10);

/// Longest manifest in bytes (4 MiB), as the distribution specification recommends.
const MAX_MANIFEST: usize = 4 << 20;

/// How many bytes of an error response are read.
const MAX_ERROR_BODY: usize = 64 << 10;

/// Most redirects of a blob: registries keep blobs in other services.
const MAX_REDIRECTS: usize = 5;

/// Media types of all manifests, for `Accept`.
const MANIFESTS: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
                         application/vnd.docker.distribution.manifest.v2+json, \
                         application/vnd.docker.distribution.manifest.list.v2+json";

/// How to connect to registries.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Access {
    /// A PEM file with certificate authorities to trust in addition to the system's.
    pub ca: Option<PathBuf>,
    /// Whether plain HTTP is allowed for registries on other machines. On loopback it always is.
    pub plain_http: bool,
}

/// The access that is requested from a token server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Action {
    Pull,
    Push,
}

/// A client for one repository of a registry.
#[derive(Debug)]
pub struct RemoteRepository {
    http: Client,
    /// A client without a read timeout for uploads, which are answered after the last byte. `push` watches progress.
    uploads: Client,
    base: Url,
    reference: Reference,
    action: Action,
    credentials: Credentials,
    /// The `Authorization` header that was last accepted.
    authorization: Mutex<Option<String>>,
}

impl RemoteRepository {
    /// Connects to a repository to pull from it.
    ///
    /// # Errors
    ///
    /// Returns [`RemoteError::Unreachable`] if no registry answers, [`RemoteError::Plain`] if it does not use TLS, or
    /// [`RemoteError::Credentials`] if a credentials file cannot be read.
    pub async fn to_pull(reference: &Reference, access: &Access) -> Result<Self, RemoteError> {
        Self::open(reference, access, Action::Pull).await
    }

    /// Connects to a repository to push to it.
    ///
    /// # Errors
    ///
    /// The same as for [`Self::to_pull`].
    pub async fn to_push(reference: &Reference, access: &Access) -> Result<Self, RemoteError> {
        Self::open(reference, access, Action::Push).await
    }

    async fn open(reference: &Reference, access: &Access, action: Action) -> Result<Self, RemoteError> {
        let (name, repository) = (&reference.registry, &reference.repository);
        let credentials = credentials::find(name, repository)?;
        let http = client(reference, access, Some(SILENCE))?;
        let uploads = match action {
            Action::Pull => http.clone(),
            Action::Push => client(reference, access, None)?,
        };
        let mut schemes = vec!["https"];
        if reference.is_loopback() || access.plain_http {
            schemes.push("http");
        }
        let unreachable = |why: String| RemoteError::Unreachable { registry: name.clone(), why };
        let mut first = None;
        for scheme in schemes {
            let base = format!("{scheme}://{name}/v2/");
            let base: Url = base.parse().map_err(|error| unreachable(format!("{error}")))?;
            match patiently(http.get(base.clone())).await {
                // A TLS server answers plain HTTP with 400.
                Ok(response) if scheme == "http" && response.status() == StatusCode::BAD_REQUEST => {}
                Ok(response) if !matches!(response.status().as_u16(), 200 | 401) => {
                    let status = response.status();
                    let what = if is_busy(status) { "it is busy" } else { "the server is not a registry" };
                    return Err(unreachable(format!("{what} (status {} at /v2/)", status.as_u16())));
                }
                Ok(_) => {
                    let reference = reference.clone();
                    let authorization = Mutex::default();
                    return Ok(Self { http, uploads, base, reference, action, credentials, authorization });
                }
                Err(error) => drop(first.get_or_insert(error)),
            }
        }
        let why = first.map_or_else(|| "it does not answer".to_owned(), |error| why(&error));
        // What rustls says if the server answers the TLS handshake with plain HTTP.
        let plain =
            ["wrong version", "corrupt message", "InvalidContentType"].iter().any(|sign| why.contains(sign));
        Err(if plain { RemoteError::Plain { registry: name.clone() } } else { unreachable(why) })
    }

    /// Returns the reference for which the client was opened.
    pub fn reference(&self) -> &Reference {
        &self.reference
    }

    /// Gets a manifest by tag or digest. Returns its bytes and blob; a manifest requested by digest is verified.
    pub(crate) async fn manifest(&self, name: &str) -> Result<(Vec<u8>, Blob), RemoteError> {
        let url = self.url(&format!("manifests/{name}"));
        let response = self.ask(|| self.http.get(url.clone()).header(ACCEPT, MANIFESTS)).await?;
        if response.status() == StatusCode::NOT_FOUND {
            let what = format!("manifest `{name}`");
            return Err(RemoteError::Absent { what, reference: self.reference.clone() });
        }
        let what = format!("send the manifest `{name}`");
        let response = self.accepted(response, &what).await?;
        let bytes = bounded(response, MAX_MANIFEST).await.map_err(|why| self.deceived(why))?;
        let blob = Blob::of(&bytes);
        if name.starts_with("sha256:") && name != blob.digest {
            return Err(
                self.deceived(format!("the manifest it sent for {name} has the digest {}", blob.digest))
            );
        }
        Ok((bytes, blob))
    }

    /// Lists the referrers of a manifest; `None` if the registry does not have the referrers API.
    pub(super) async fn referrers(&self, digest: &str) -> Result<Option<Value>, RemoteError> {
        let url = self.url(&format!("referrers/{digest}"));
        let response = self.ask(|| self.http.get(url.clone()).header(ACCEPT, MANIFESTS)).await?;
        if !response.status().is_success() {
            return Ok(None);
        }
        let bytes = bounded(response, MAX_MANIFEST).await.map_err(|why| self.deceived(why))?;
        // A registry without the API may answer with an HTML page.
        Ok(serde_json::from_slice(&bytes).ok())
    }

    /// Returns whether the repository has a blob.
    pub(super) async fn has(&self, blob: &Blob) -> Result<bool, RemoteError> {
        let url = self.url(&format!("blobs/{}", blob.digest));
        let response = self.ask(|| self.http.head(url.clone())).await?;
        match response.status() {
            StatusCode::NOT_FOUND => Ok(false),
            _ => self.accepted(response, "say whether it has a blob").await.map(|_| true),
        }
    }

    /// Requests a blob's bytes from `offset` on. A registry without range requests answers from the start.
    pub(super) async fn blob(&self, blob: &Blob, offset: u64) -> Result<Response, RemoteError> {
        let url = self.url(&format!("blobs/{}", blob.digest));
        let range = |request: RequestBuilder| match offset {
            0 => request,
            _ => request.header(RANGE, format!("bytes={offset}-")),
        };
        let mut response = self.ask(|| range(self.http.get(url.clone()))).await?;
        for _ in 0..MAX_REDIRECTS {
            if !response.status().is_redirection() {
                break;
            }
            let next = self.redirect(&response)?;
            // Without our credentials. The bytes are verified in any case.
            response =
                patiently(range(self.http.get(next))).await.map_err(|error| self.unreachable(&error))?;
        }
        match response.status() {
            StatusCode::NOT_FOUND => {
                let what = format!("blob {}", blob.digest);
                Err(RemoteError::Absent { what, reference: self.reference.clone() })
            }
            StatusCode::RANGE_NOT_SATISFIABLE => Ok(response),
            _ => self.accepted(response, "send a blob").await,
        }
    }

    /// Starts an upload and returns the URL for the bytes; `None` if the registry mounted the blob from the repository
    /// `from` instead.
    pub(super) async fn begin_upload(
        &self,
        blob: &Blob,
        from: Option<&str>,
    ) -> Result<Option<Url>, RemoteError> {
        let mut url = self.url("blobs/uploads/");
        if let Some(from) = from {
            url.query_pairs_mut().append_pair("mount", &blob.digest).append_pair("from", from);
        }
        let response = self.ask(|| self.http.post(url.clone()).body("")).await?;
        let response = self.accepted(response, "accept a blob").await?;
        if response.status() == StatusCode::CREATED {
            return Ok(None);
        }
        let location = response.headers().get(LOCATION).and_then(|location| location.to_str().ok());
        let location =
            location.ok_or_else(|| self.deceived("it does not say where to upload a blob".to_owned()))?;
        let mut url = self.base.join(location).map_err(|error| self.deceived(error.to_string()))?;
        if url.host_str() != self.base.host_str() {
            return Err(self.deceived(format!("it redirects an upload to another host: {url}")));
        }
        // A registry behind a proxy may not know the scheme and port by which it is reached.
        let _ = url.set_scheme(self.base.scheme());
        let _ = url.set_port(self.base.port());
        url.query_pairs_mut().append_pair("digest", &blob.digest);
        Ok(Some(url))
    }

    /// Sends a blob to the URL of [`Self::begin_upload`].
    pub(super) async fn upload(
        &self,
        url: &Url,
        blob: &Blob,
        body: impl Fn() -> reqwest::Body,
    ) -> Result<(), RemoteError> {
        let request = || {
            let request = self.uploads.put(url.clone()).header(CONTENT_TYPE, "application/octet-stream");
            request.header("content-length", blob.size).body(body())
        };
        let response = self.ask(request).await?;
        self.accepted(response, "accept a blob").await.map(drop)
    }

    /// Puts a manifest under a tag or its digest. Returns whether the registry lists it as a referrer of its subject.
    pub(super) async fn put_manifest(
        &self,
        name: &str,
        kind: &str,
        bytes: &[u8],
    ) -> Result<bool, RemoteError> {
        let url = self.url(&format!("manifests/{name}"));
        let request = || self.http.put(url.clone()).header(CONTENT_TYPE, kind).body(bytes.to_vec());
        let response = self.ask(request).await?;
        let response = self.accepted(response, "accept a manifest").await?;
        // A login page can have the status 200.
        if response.status() != StatusCode::CREATED {
            let status = response.status().as_u16();
            return Err(self.deceived(format!("it did not confirm a manifest (status {status})")));
        }
        Ok(response.headers().contains_key("oci-subject"))
    }

    fn url(&self, path: &str) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("/v2/{}/{path}", self.reference.repository));
        url
    }

    /// Sends a request, and again with credentials if the registry requires them.
    async fn ask(&self, request: impl Fn() -> RequestBuilder) -> Result<Response, RemoteError> {
        let known = self.authorization().clone();
        let with = |authorization: Option<String>| match authorization {
            Some(value) => request().header(AUTHORIZATION, value),
            None => request(),
        };
        let response = patiently(with(known.clone())).await.map_err(|error| self.unreachable(&error))?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        let challenge = response.headers().get(WWW_AUTHENTICATE).and_then(|value| value.to_str().ok());
        let challenge = challenge.and_then(Challenge::parse);
        let challenge = challenge.ok_or_else(|| self.denied("it does not say how to log in".to_owned()))?;
        let what = if self.action == Action::Push { "pull,push" } else { "pull" };
        let scopes = [format!("repository:{}:{what}", self.reference.repository)];
        let plain = self.base.scheme() == "http";
        let answer = challenge.answer(&self.http, &self.credentials, &scopes, plain).await;
        let answer = answer.map_err(|why| self.denied(why))?;
        let Some(answer) = answer.filter(|answer| known.as_ref() != Some(answer)) else {
            let why = match self.credentials {
                Credentials::Anonymous => "it requires a login, and there are no credentials for it",
                _ => "it does not accept the credentials",
            };
            return Err(self.denied(why.to_owned()));
        };
        *self.authorization() = Some(answer.clone());
        let response = patiently(with(Some(answer))).await.map_err(|error| self.unreachable(&error))?;
        if response.status() == StatusCode::UNAUTHORIZED {
            return Err(self.denied("it does not accept the credentials".to_owned()));
        }
        Ok(response)
    }

    fn authorization(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.authorization.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the URL a response redirects to. Refuses plain HTTP, except on loopback for a registry without TLS.
    fn redirect(&self, response: &Response) -> Result<Url, RemoteError> {
        let location = response.headers().get(LOCATION).and_then(|location| location.to_str().ok());
        let next = location.and_then(|location| response.url().join(location).ok());
        let next =
            next.ok_or_else(|| self.deceived("it sent a redirect without a valid location".to_owned()))?;
        let host = next.host_str().unwrap_or_default();
        let on_loopback = self.base.scheme() == "http" && is_loopback(host);
        if next.scheme() != "https" && !on_loopback {
            return Err(self.deceived(format!("it redirects to {host} without TLS")));
        }
        Ok(next)
    }

    /// Returns a successful response, or the error that its status means. `what` completes "refused to …".
    async fn accepted(&self, response: Response, what: &str) -> Result<Response, RemoteError> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        if status.is_redirection() {
            return Err(self.deceived(format!("asked to {what}, it sent a redirect")));
        }
        let body = bounded(response, MAX_ERROR_BODY).await.unwrap_or_default();
        let why = format!("status {}{}", status.as_u16(), error_message(&body));
        if status == StatusCode::FORBIDDEN {
            return Err(self.denied(why));
        }
        if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
            return Err(self.cut(why));
        }
        Err(RemoteError::Refused { registry: self.reference.registry.clone(), what: what.to_owned(), why })
    }

    pub(super) fn unreachable(&self, error: &reqwest::Error) -> RemoteError {
        self.cut(why(error))
    }

    /// Returns an error after which another attempt may succeed.
    pub(super) fn cut(&self, why: String) -> RemoteError {
        RemoteError::Unreachable { registry: self.reference.registry.clone(), why }
    }

    pub(super) fn deceived(&self, why: String) -> RemoteError {
        RemoteError::Deceived { registry: self.reference.registry.clone(), why }
    }

    fn denied(&self, why: String) -> RemoteError {
        let what = if self.action == Action::Push { "push to" } else { "pull from" };
        let Reference { registry, repository, .. } = self.reference.clone();
        RemoteError::Denied { registry, what, repository, why }
    }
}

/// Sends a request, and again while the registry is busy: after its `Retry-After`, or a pause that doubles each time.
async fn patiently(mut request: RequestBuilder) -> reqwest::Result<Response> {
    for tries in 1..TRIES {
        // A streamed body cannot be sent twice; `push_blob` retries uploads itself.
        let Some(again) = request.try_clone() else { break };
        let response = request.send().await?;
        if !is_busy(response.status()) {
            return Ok(response);
        }
        let seconds = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        tokio::time::sleep(seconds.map_or(pause(tries), Duration::from_secs).min(MAX_PAUSE)).await;
        request = again;
    }
    request.send().await
}

fn is_busy(status: StatusCode) -> bool {
    matches!(status.as_u16(), 429 | 502 | 503 | 504)
}

/// Builds an HTTP client that trusts the system's certificate authorities, `access.ca`, and those in `certs.d` of podman
/// and Docker.
fn client(reference: &Reference, access: &Access, silence: Option<Duration>) -> Result<Client, RemoteError> {
    // Fails if a provider is installed already: the whole program uses this one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let failed = |why: String| RemoteError::Unreachable { registry: reference.registry.clone(), why };
    let mut authorities = Vec::new();
    for file in access.ca.iter().cloned().chain(usual_authorities(&reference.registry)) {
        let shown = file.display();
        let unreadable =
            |why: &dyn std::fmt::Display| failed(format!("cannot read certificates from {shown}: {why}"));
        let bytes = std::fs::read(&file).map_err(|error| unreadable(&error))?;
        let found = Certificate::from_pem_bundle(&bytes).map_err(|error| unreadable(&error))?;
        if found.is_empty() {
            return Err(unreadable(&"the file contains none"));
        }
        authorities.extend(found);
    }
    let mut client = Client::builder()
        .user_agent(concat!("drisse/", env!("CARGO_PKG_VERSION")))
        .redirect(Policy::none())
        .connect_timeout(CONNECT)
        .tls_certs_merge(authorities);
    if let Some(silence) = silence {
        client = client.read_timeout(silence);
    }
    if is_loopback(host(&reference.registry)) {
        client = client.no_proxy();
    }
    client.build().map_err(|error| failed(why(&error)))
}

/// Returns the certificate authorities configured for a registry: containers-certs.d(5), and the same for Docker.
fn usual_authorities(registry: &str) -> Vec<PathBuf> {
    let folders =
        ["/etc/containers/certs.d", "/etc/docker/certs.d"].map(|folder| Path::new(folder).join(registry));
    let files = folders.iter().filter_map(|folder| std::fs::read_dir(folder).ok()).flatten().flatten();
    files.map(|file| file.path()).filter(|path| path.extension().is_some_and(|end| end == "crt")).collect()
}

/// Reads a response's body of at most `max` bytes; a longer one is an error.
pub(super) async fn bounded(mut response: Response, max: usize) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| why(&error))? {
        if bytes.len() + chunk.len() > max {
            return Err(format!("its answer is longer than {max} bytes"));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// Returns the root cause of a failed request.
pub(super) fn why(error: &reqwest::Error) -> String {
    if error.is_timeout() && !error.is_connect() {
        return format!("it has sent nothing for {} s", SILENCE.as_secs());
    }
    let mut last: &dyn std::error::Error = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

/// Returns the message in an error response, `{"errors": [{"code", "message"}]}`, after a colon; empty if there is none.
fn error_message(body: &[u8]) -> String {
    let document: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let first = &document["errors"][0];
    let message = first["message"].as_str().or(first["code"].as_str()).unwrap_or_default();
    let message: String = message.chars().filter(|letter| !letter.is_control()).take(500).collect();
    if message.is_empty() { String::new() } else { format!(": {message}") }
}
