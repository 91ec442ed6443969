//! The HTTP client for one repository of a registry.

use super::credentials::{self, Credentials, Login};
use super::http::{SILENCE, bounded, client, error_message, is_busy, next_page, patiently, why};
use super::reference::is_loopback;
use super::token::Challenge;
use super::{Reference, RemoteError};
use crate::blobs::Blob;
use reqwest::header::{
    ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderName, LINK, LOCATION, RANGE, WWW_AUTHENTICATE,
};
use reqwest::{Client, RequestBuilder, Response, StatusCode, Url};
use serde_json::Value;
use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock, PoisonError};

/// Longest manifest in bytes (4 MiB), as the distribution specification recommends.
const MAX_MANIFEST: usize = 4 << 20;

/// How many bytes of an error response are read.
const MAX_ERROR_BODY: usize = 64 << 10;

/// Most redirects of a request: registries keep blobs in other services, and manifests on other hosts.
const MAX_REDIRECTS: usize = 5;

/// Most pages of a list of referrers that are read.
const MAX_PAGES: usize = 100;

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
    /// Looked up when the registry first requires a login, so that nothing that is wrong with it matters before.
    login: OnceLock<Login>,
    /// The `Authorization` header that was last accepted.
    authorization: Mutex<Option<String>>,
}

impl RemoteRepository {
    /// Connects to a repository to pull from it.
    ///
    /// # Errors
    ///
    /// Returns [`RemoteError::Unreachable`] if no registry answers, or [`RemoteError::Plain`] if it does not use TLS.
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
        let name = &reference.registry;
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
                Ok(response) if !matches!(response.status().as_u16(), 200..=299 | 307 | 308 | 401) => {
                    let status = response.status();
                    let what = if is_busy(status) { "it is busy" } else { "the server is not a registry" };
                    return Err(unreachable(format!("{what} (status {} at /v2/)", status.as_u16())));
                }
                Ok(_) => {
                    let reference = reference.clone();
                    let (login, authorization) = (OnceLock::new(), Mutex::default());
                    return Ok(Self { http, uploads, base, reference, action, login, authorization });
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
        let response = self.read(url, |url| self.http.get(url).header(ACCEPT, MANIFESTS)).await?;
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
    pub(super) async fn referrers(&self, digest: &str) -> Result<Option<Vec<Value>>, RemoteError> {
        let mut url = self.url(&format!("referrers/{digest}"));
        let mut found = None;
        for _ in 0..MAX_PAGES {
            let response = self.read(url, |url| self.http.get(url).header(ACCEPT, MANIFESTS)).await?;
            if found.is_none() && !response.status().is_success() {
                return Ok(None);
            }
            let response = self.accepted(response, "list referrers").await?;
            let links: Vec<_> = texts(&response, &LINK).collect();
            let next = links.iter().find_map(|link| next_page(link));
            let next = next.map(|next| self.resolved(&response, next)).transpose()?;
            let bytes = bounded(response, MAX_MANIFEST).await.map_err(|why| self.deceived(why))?;
            // A registry without the API may answer with an HTML page.
            let Ok(mut page) = serde_json::from_slice::<Value>(&bytes) else { break };
            let entries = page["manifests"].as_array_mut().map(std::mem::take).unwrap_or_default();
            found.get_or_insert_with(Vec::new).extend(entries);
            match next {
                Some(next) => url = next,
                None => break,
            }
        }
        Ok(found)
    }

    /// Returns whether the repository has a blob. A registry that refuses to say so may still accept the blob.
    pub(super) async fn has(&self, blob: &Blob) -> Result<bool, RemoteError> {
        let url = self.url(&format!("blobs/{}", blob.digest));
        match self.read(url, |url| self.http.head(url)).await {
            Ok(response) if is_busy(response.status()) => {
                self.accepted(response, "say whether it has a blob").await.map(|_| true)
            }
            Ok(response) => Ok(response.status().is_success()),
            Err(error) if error.may_pass() => Err(error),
            Err(_) => Ok(false),
        }
    }

    /// Requests a blob's bytes from `offset` on. A registry without range requests answers from the start.
    pub(super) async fn blob(&self, blob: &Blob, offset: u64) -> Result<Response, RemoteError> {
        let url = self.url(&format!("blobs/{}", blob.digest));
        let range = |request: RequestBuilder| match offset {
            0 => request,
            _ => request.header(RANGE, format!("bytes={offset}-")),
        };
        // The bytes are verified, whichever host sends them.
        let response = self.read(url, |url| range(self.http.get(url))).await?;
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
        let status = response.status();
        let next = texts(&response, &LOCATION).next();
        let next = next.map(|location| self.joined(&response, &location)).transpose()?;
        // A mount is answered with the address of the blob, and an upload that starts with that of the upload.
        let is_there = next.as_ref().is_none_or(|next| next.path().ends_with(&blob.digest));
        if from.is_some() && (status == StatusCode::CREATED || status != StatusCode::ACCEPTED && is_there) {
            return Ok(None);
        }
        let mut url =
            next.ok_or_else(|| self.deceived("it does not say where to upload a blob".to_owned()))?;
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
        let is_page = texts(&response, &CONTENT_TYPE).any(|kind| kind.starts_with("text/html"));
        if response.status() != StatusCode::CREATED && is_page {
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

    /// Sends a request that changes nothing, and follows redirects.
    async fn read(&self, url: Url, request: impl Fn(Url) -> RequestBuilder) -> Result<Response, RemoteError> {
        let mut response = self.send(url, &request).await?;
        for _ in 0..MAX_REDIRECTS {
            if !response.status().is_redirection() {
                break;
            }
            let location = texts(&response, &LOCATION).next();
            let location = location
                .ok_or_else(|| self.deceived("it sent a redirect without a valid location".to_owned()))?;
            let next = self.resolved(&response, &location)?;
            response = self.send(next, &request).await?;
        }
        Ok(response)
    }

    /// Sends a request to any host. Only the registry itself gets the credentials.
    async fn send(
        &self,
        url: Url,
        request: &impl Fn(Url) -> RequestBuilder,
    ) -> Result<Response, RemoteError> {
        if url.origin() == self.base.origin() {
            return self.ask(|| request(url.clone())).await;
        }
        patiently(request(url)).await.map_err(|error| self.unreachable(&error))
    }

    /// Sends a request to the registry, and again with credentials if it requires them.
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
        let Reference { registry, repository, .. } = &self.reference;
        let credentials = &self.login.get_or_init(|| credentials::find(registry, repository)).credentials;
        let what = if self.action == Action::Push { "pull,push" } else { "pull" };
        let scopes = [format!("repository:{repository}:{what}")];
        let plain = self.base.scheme() == "http";
        let challenges = Challenge::all_in(response.headers(), response.url());
        let mut failed = match (challenges.is_empty(), texts(&response, &WWW_AUTHENTICATE).next()) {
            (true, None) => Some("it does not say how to log in".to_owned()),
            (true, Some(_)) => Some("it asks for a login that is neither Basic nor Bearer".to_owned()),
            _ => None,
        };
        // The first one that can be met: registries offer what only other clients can do, too.
        for challenge in challenges {
            let answer = match challenge.answer(&self.http, credentials, &scopes, plain).await {
                Ok(answer) => answer.filter(|answer| known.as_ref() != Some(answer)),
                Err(why) => {
                    failed.get_or_insert(why);
                    None
                }
            };
            let Some(answer) = answer else { continue };
            let sent = patiently(with(Some(answer.clone()))).await;
            let response = sent.map_err(|error| self.unreachable(&error))?;
            if response.status() != StatusCode::UNAUTHORIZED {
                *self.authorization() = Some(answer);
                return Ok(response);
            }
        }
        Err(self.denied(failed.unwrap_or_else(|| match credentials {
            Credentials::Anonymous => "it requires a login, and there are no credentials for it".to_owned(),
            _ => "it does not accept the credentials".to_owned(),
        })))
    }

    fn authorization(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.authorization.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Resolves a reference in a response against the URL of its request: RFC 3986, section 5.
    fn joined(&self, response: &Response, reference: &str) -> Result<Url, RemoteError> {
        let wrong =
            |error| self.deceived(format!("it refers to `{reference:.200}`, which is not a URL: {error}"));
        response.url().join(reference).map_err(wrong)
    }

    /// Resolves a reference to what is to be read next. Refuses plain HTTP, except to the registry itself, and on loopback
    /// for a registry without TLS.
    fn resolved(&self, response: &Response, reference: &str) -> Result<Url, RemoteError> {
        let next = self.joined(response, reference)?;
        let host = next.host_str().unwrap_or_default();
        let on_loopback = self.base.scheme() == "http" && is_loopback(host);
        if next.scheme() != "https" && !on_loopback && next.origin() != self.base.origin() {
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
            return Err(self.deceived(format!("asked to {what}, it sent a redirect that is not followed")));
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
        let unread = self.login.get().map(|login| login.troubles.clone()).unwrap_or_default();
        RemoteError::Denied { registry, what, repository, why, unread }
    }
}

/// Returns the values of a header.
fn texts<'a>(response: &'a Response, name: &HeaderName) -> impl Iterator<Item = Cow<'a, str>> {
    response.headers().get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()))
}
