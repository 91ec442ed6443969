//! One repository of a registry, asked by HTTP.

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

/// A registry that does not take a connection for this long is not there.
const CONNECT: Duration = Duration::from_secs(10);

/// One that says nothing for this long hangs.
pub(super) const SILENCE: Duration = Duration::from_secs(30);

/// One that is busy is not waited for longer than this at once, whatever it asks for.
const LONGEST: Duration = Duration::from_secs(10);

/// A manifest is at most this long, as the distribution specification advises.
const MAX_MANIFEST: usize = 4 << 20;

/// What it says when it fails is read so far.
const MAX_WORDS: usize = 64 << 10;

/// Registries keep blobs elsewhere, and send us there; not on and on.
const MAX_REDIRECTS: usize = 5;

/// Manifests of everything that is in registries.
const MANIFESTS: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
                         application/vnd.docker.distribution.manifest.v2+json, \
                         application/vnd.docker.distribution.manifest.list.v2+json";

/// How registries are reached.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Access {
    /// Certificates of authorities that are trusted beside the system's, in PEM.
    pub ca: Option<PathBuf>,
    /// Whether a registry beyond this machine may be asked without TLS.
    pub plain_http: bool,
}

/// What is done with a repository.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Action {
    Pull,
    Push,
}

/// A repository that answers.
#[derive(Debug)]
pub struct Registry {
    http: Client,
    /// The same for uploads, whose answers come after the last byte: who sends sees to it that they go on.
    uploads: Client,
    base: Url,
    reference: Reference,
    action: Action,
    credentials: Credentials,
    /// The `Authorization` header that was last accepted.
    authorization: Mutex<Option<String>>,
}

impl Registry {
    /// A repository to pull from.
    pub async fn to_pull(reference: &Reference, access: &Access) -> Result<Self, RemoteError> {
        Self::open(reference, access, Action::Pull).await
    }

    /// A repository to push to.
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
                // A server of TLS answers to plain words too, that it does not understand them.
                Ok(response) if scheme == "http" && response.status() == StatusCode::BAD_REQUEST => {}
                Ok(response) if !matches!(response.status().as_u16(), 200 | 401) => {
                    let status = response.status();
                    let what = if is_busy(status) { "it is busy" } else { "what answers is no registry" };
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
        // Whoever speaks plain HTTP where TLS is wanted is told apart.
        let plain =
            ["wrong version", "corrupt message", "InvalidContentType"].iter().any(|sign| why.contains(sign));
        Err(if plain { RemoteError::Plain { registry: name.clone() } } else { unreachable(why) })
    }

    /// What it was opened for.
    pub fn reference(&self) -> &Reference {
        &self.reference
    }

    /// A manifest by its tag or digest, and what it is called. What is asked for by digest has it.
    pub(crate) async fn manifest(&self, name: &str) -> Result<(Vec<u8>, Blob), RemoteError> {
        let url = self.url(&format!("manifests/{name}"));
        let response = self.ask(|| self.http.get(url.clone()).header(ACCEPT, MANIFESTS)).await?;
        if response.status() == StatusCode::NOT_FOUND {
            let what = format!("manifest `{name}`");
            return Err(RemoteError::Absent { what, reference: self.reference.clone() });
        }
        let what = format!("give the manifest `{name}`");
        let response = self.accepted(response, &what).await?;
        let bytes = bounded(response, MAX_MANIFEST).await.map_err(|why| self.deceived(why))?;
        let blob = Blob::of(&bytes);
        if name.starts_with("sha256:") && name != blob.digest {
            return Err(self.deceived(format!("the manifest it gives as {name} is {}", blob.digest)));
        }
        Ok((bytes, blob))
    }

    /// What refers to a manifest; nothing where the registry has no such list.
    pub(super) async fn referrers(&self, digest: &str) -> Result<Option<Value>, RemoteError> {
        let url = self.url(&format!("referrers/{digest}"));
        let response = self.ask(|| self.http.get(url.clone()).header(ACCEPT, MANIFESTS)).await?;
        if !response.status().is_success() {
            return Ok(None);
        }
        let bytes = bounded(response, MAX_MANIFEST).await.map_err(|why| self.deceived(why))?;
        // A page for people, from who has no such list.
        Ok(serde_json::from_slice(&bytes).ok())
    }

    /// Whether a blob is there.
    pub(super) async fn has(&self, blob: &Blob) -> Result<bool, RemoteError> {
        let url = self.url(&format!("blobs/{}", blob.digest));
        let response = self.ask(|| self.http.head(url.clone())).await?;
        match response.status() {
            StatusCode::NOT_FOUND => Ok(false),
            _ => self.accepted(response, "say whether it has a blob").await.map(|_| true),
        }
    }

    /// A blob's bytes, from `offset` on where the registry can; otherwise from the start.
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
            let next = self.elsewhere(&response)?;
            // What is elsewhere is nobody we show who we are to; its bytes are counted and hashed all the same.
            response =
                patiently(range(self.http.get(next))).await.map_err(|error| self.unreachable(&error))?;
        }
        match response.status() {
            StatusCode::NOT_FOUND => {
                let what = format!("blob {}", blob.digest);
                Err(RemoteError::Absent { what, reference: self.reference.clone() })
            }
            StatusCode::RANGE_NOT_SATISFIABLE => Ok(response),
            _ => self.accepted(response, "give a blob").await,
        }
    }

    /// Where an upload goes on; nothing where the blob could be mounted from another repository instead.
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
        let response = self.accepted(response, "take a blob").await?;
        if response.status() == StatusCode::CREATED {
            return Ok(None);
        }
        let location = response.headers().get(LOCATION).and_then(|location| location.to_str().ok());
        let location =
            location.ok_or_else(|| self.deceived("it does not say where a blob goes".to_owned()))?;
        let mut place = self.base.join(location).map_err(|error| self.deceived(error.to_string()))?;
        if place.host_str() != self.base.host_str() {
            return Err(self.deceived(format!("it wants blobs to be sent elsewhere: to {place}")));
        }
        // One behind a proxy may not know how it is reached: by TLS, by another port.
        let _ = place.set_scheme(self.base.scheme());
        let _ = place.set_port(self.base.port());
        place.query_pairs_mut().append_pair("digest", &blob.digest);
        Ok(Some(place))
    }

    /// Sends a blob to where its upload goes on.
    pub(super) async fn upload(
        &self,
        place: &Url,
        blob: &Blob,
        body: impl Fn() -> reqwest::Body,
    ) -> Result<(), RemoteError> {
        let request = || {
            let request = self.uploads.put(place.clone()).header(CONTENT_TYPE, "application/octet-stream");
            request.header("content-length", blob.size).body(body())
        };
        let response = self.ask(request).await?;
        self.accepted(response, "take a blob").await.map(drop)
    }

    /// Writes a manifest under a tag or its digest; whether the registry lists it where it refers to another one.
    pub(super) async fn put_manifest(
        &self,
        name: &str,
        kind: &str,
        bytes: &[u8],
    ) -> Result<bool, RemoteError> {
        let url = self.url(&format!("manifests/{name}"));
        let request = || self.http.put(url.clone()).header(CONTENT_TYPE, kind).body(bytes.to_vec());
        let response = self.ask(request).await?;
        let response = self.accepted(response, "take a manifest").await?;
        // A page that asks for a login is an answer too.
        if response.status() != StatusCode::CREATED {
            let status = response.status().as_u16();
            return Err(
                self.deceived(format!("it does not say that it has kept a manifest (status {status})"))
            );
        }
        Ok(response.headers().contains_key("oci-subject"))
    }

    fn url(&self, path: &str) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("/v2/{}/{path}", self.reference.repository));
        url
    }

    /// Asks, and says who we are where that is wanted.
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
                Credentials::Anonymous => "it asks for a login, and there is none",
                _ => "it does not accept the login there is",
            };
            return Err(self.denied(why.to_owned()));
        };
        *self.authorization() = Some(answer.clone());
        let response = patiently(with(Some(answer))).await.map_err(|error| self.unreachable(&error))?;
        if response.status() == StatusCode::UNAUTHORIZED {
            return Err(self.denied("it does not accept the login there is".to_owned()));
        }
        Ok(response)
    }

    fn authorization(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.authorization.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where a blob is instead: never from TLS to none, but on this machine.
    fn elsewhere(&self, response: &Response) -> Result<Url, RemoteError> {
        let location = response.headers().get(LOCATION).and_then(|location| location.to_str().ok());
        let next = location.and_then(|location| response.url().join(location).ok());
        let next =
            next.ok_or_else(|| self.deceived("it sends us elsewhere, and does not say where".to_owned()))?;
        let beside = self.base.scheme() == "http" && is_loopback(next.host_str().unwrap_or_default());
        if next.scheme() != "https" && !beside {
            let place = next.host_str().unwrap_or_default();
            return Err(self.deceived(format!("it sends us to {place}, which would be asked without TLS")));
        }
        Ok(next)
    }

    /// The answer where it is none of failure.
    async fn accepted(&self, response: Response, what: &str) -> Result<Response, RemoteError> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        if status.is_redirection() {
            return Err(self.deceived(format!("asked to {what}, it sends us elsewhere")));
        }
        let words = bounded(response, MAX_WORDS).await.unwrap_or_default();
        let why = format!("status {}{}", status.as_u16(), said(&words));
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

    /// Something that may be better the next time.
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

/// Sends a request, and again while the registry is busy: after as long as it says, or longer each time.
async fn patiently(mut request: RequestBuilder) -> reqwest::Result<Response> {
    for tries in 1..TRIES {
        // What is streamed is sent anew by who streams it.
        let Some(again) = request.try_clone() else { break };
        let response = request.send().await?;
        if !is_busy(response.status()) {
            return Ok(response);
        }
        let seconds = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        tokio::time::sleep(seconds.map_or(pause(tries), Duration::from_secs).min(LONGEST)).await;
        request = again;
    }
    request.send().await
}

fn is_busy(status: StatusCode) -> bool {
    matches!(status.as_u16(), 429 | 502 | 503 | 504)
}

/// A client that trusts whom the system trusts, who is named, and who podman and Docker are told to trust.
fn client(reference: &Reference, access: &Access, silence: Option<Duration>) -> Result<Client, RemoteError> {
    // Whoever was first has chosen the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let failed = |why: String| RemoteError::Unreachable { registry: reference.registry.clone(), why };
    let mut authorities = Vec::new();
    for file in access.ca.iter().cloned().chain(usual_authorities(&reference.registry)) {
        let shown = file.display();
        let unreadable =
            |why: &dyn std::fmt::Display| failed(format!("no certificate can be read from {shown}: {why}"));
        let bytes = std::fs::read(&file).map_err(|error| unreadable(&error))?;
        let found = Certificate::from_pem_bundle(&bytes).map_err(|error| unreadable(&error))?;
        if found.is_empty() {
            return Err(unreadable(&"there is none in it"));
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

/// containers-certs.d(5); Docker has the same.
fn usual_authorities(registry: &str) -> Vec<PathBuf> {
    let folders =
        ["/etc/containers/certs.d", "/etc/docker/certs.d"].map(|folder| Path::new(folder).join(registry));
    let files = folders.iter().filter_map(|folder| std::fs::read_dir(folder).ok()).flatten().flatten();
    files.map(|file| file.path()).filter(|path| path.extension().is_some_and(|end| end == "crt")).collect()
}

/// A body, where it is not longer than it may be.
pub(super) async fn bounded(mut response: Response, most: usize) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| why(&error))? {
        if bytes.len() + chunk.len() > most {
            return Err(format!("its answer is longer than {most} bytes"));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// What happened to a request: the last word of those that led to it.
pub(super) fn why(error: &reqwest::Error) -> String {
    if error.is_timeout() && !error.is_connect() {
        return format!("it says nothing for {} s", SILENCE.as_secs());
    }
    let mut last: &dyn std::error::Error = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

/// The words of `{"errors": [{"code", "message"}]}`.
fn said(body: &[u8]) -> String {
    let document: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let first = &document["errors"][0];
    let words = first["message"].as_str().or(first["code"].as_str()).unwrap_or_default();
    let words: String = words.chars().filter(|letter| !letter.is_control()).take(500).collect();
    if words.is_empty() { String::new() } else { format!(": {words}") }
}
