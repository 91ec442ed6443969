//! Serves the store as a read-only OCI registry, so that any client of registries can pull the registered models.
//!
//! Source: <https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md>, pull and content discovery.
//! A model is a repository, its versions are tags.

use crate::control::Control;
use crate::db::Db;
use crate::db::models::{ModelFilter, ModelRow};
use crate::error::{ControlError, Result};
use crate::models::Models;
use bytes::Bytes;
use drisse_core::{ErrorKind, ServiceName};
use drisse_net::{Handler, blocking};
use drisse_registry::{INDEX, MANIFEST, Store};
use futures_util::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderName, LINK, RANGE};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::sync::Arc;

const DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// The size of the parts in which a blob is read, in bytes.
const BLOCK: usize = 256 << 10;

/// The maximum number of tags of a page.
const PAGE: u32 = 1000;

type Body = UnsyncBoxBody<Bytes, io::Error>;

type Answer = Result<Response<Body>, DistributionError>;

/// The handler of the registry's requests.
#[derive(Clone, Debug)]
pub(crate) struct Distribution {
    db: Db,
    models: Arc<Models>,
}

impl Handler for Distribution {
    type Body = Body;

    async fn handle(self, request: Request<Incoming>) -> Response<Body> {
        let head = request.method() == Method::HEAD;
        let answer = match request.method() {
            &Method::GET | &Method::HEAD => self.answer(&request).await,
            _ => Err(READ_ONLY),
        };
        let mut response = answer.unwrap_or_else(|refusal| refusal.response());
        if head {
            *response.body_mut() = full(Vec::new());
        }
        response
    }
}

/// An error response: a status, the error code of the protocol, and a message.
#[derive(Debug)]
struct DistributionError(StatusCode, &'static str, &'static str);

const READ_ONLY: DistributionError =
    DistributionError(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", "this registry is read-only");
const NO_NAME: DistributionError =
    DistributionError(StatusCode::NOT_FOUND, "NAME_UNKNOWN", "model not found");
const NO_MANIFEST: DistributionError =
    DistributionError(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN", "version not found");
const NO_BLOB: DistributionError = DistributionError(StatusCode::NOT_FOUND, "BLOB_UNKNOWN", "blob not found");

impl From<ControlError> for DistributionError {
    fn from(error: ControlError) -> Self {
        tracing::warn!("a request to the registry failed: {:?}", error.failure);
        Self(StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN", "the store cannot be read")
    }
}

impl DistributionError {
    fn response(self) -> Response<Body> {
        let Self(status, code, message) = self;
        let text = json!({ "errors": [{ "code": code, "message": message }] }).to_string();
        let mut response = document("application/json", text.into_bytes());
        *response.status_mut() = status;
        response
    }
}

impl Distribution {
    pub(crate) fn new(control: &Control) -> Self {
        Self { db: control.db.clone(), models: Arc::clone(&control.services.models) }
    }

    async fn answer(&self, request: &Request<Incoming>) -> Answer {
        let path = request.uri().path();
        if path == "/v2" {
            return Ok(document("application/json", b"{}".to_vec()));
        }
        let path = path.strip_prefix("/v2/").ok_or(NO_NAME)?;
        let mut parts: Vec<_> = path.split('/').collect();
        let name = self.model_of(parts[0]).await?;
        parts[0] = &name;
        match *parts {
            [name, "manifests", reference] => self.manifest(name, reference).await,
            [_, "blobs", digest] => {
                let range = request.headers().get(RANGE).and_then(|range| range.to_str().ok());
                let (digest, range) = (digest.to_owned(), range.map(str::to_owned));
                self.models.with_store(move |store| blob(store, &digest, range.as_deref())).await
            }
            [name, "tags", "list"] => self.tags(name, request.uri().query().unwrap_or_default()).await,
            [_, "referrers", digest] => {
                self.referrers(digest, request.uri().query().unwrap_or_default()).await
            }
            _ => Err(NO_NAME),
        }
    }

    /// Returns the name of the model whose repository has this name: the model's own or, because names of repositories
    /// have no upper case, its label.
    async fn model_of(&self, repository: &str) -> Result<String, DistributionError> {
        if !self.versions(repository, None, 1).await?.is_empty() {
            return Ok(repository.to_owned());
        }
        let has_label =
            |name: &String| name.parse::<ServiceName>().is_ok_and(|name| name.label() == repository);
        self.db.model_names().await?.into_iter().find(has_label).ok_or(NO_NAME)
    }

    async fn manifest(&self, name: &str, reference: &str) -> Answer {
        let digest = match reference.strip_prefix("sha256:") {
            Some(_) => {
                let of = reference.to_owned();
                let subject =
                    move |store: &Store| store.referrer(&of).map(|found| found.subject().to_owned());
                let package = self.models.with_store(subject).await.unwrap_or_else(|_| reference.to_owned());
                self.db.model_by_package(name, &package).await?.ok_or(NO_MANIFEST)?;
                reference.to_owned()
            }
            None => {
                let version = match reference {
                    "latest" => None,
                    number => Some(number.parse().map_err(|_| NO_MANIFEST)?),
                };
                match self.db.model(name, version).await {
                    Err(error) if error.kind == ErrorKind::NotFound => return Err(NO_MANIFEST),
                    found => found?.package,
                }
            }
        };
        let of = digest.clone();
        let bytes = self.models.with_store(move |store| store.read(&of)).await;
        let mut response = document(MANIFEST, bytes.map_err(|_| NO_MANIFEST)?);
        set(&mut response, DIGEST, &digest);
        Ok(response)
    }

    async fn versions(&self, name: &str, after: Option<u64>, limit: u32) -> Result<Vec<ModelRow>> {
        let after = after.map(|version| (name.to_owned(), version));
        let filter = ModelFilter { name: Some(name.to_owned()), after, limit, ..ModelFilter::default() };
        Ok(self.db.models(&filter).await?.items.into_iter().map(|(row, _)| row).collect())
    }

    async fn tags(&self, name: &str, query: &str) -> Answer {
        let wanted = parameter(query, "n").and_then(|n| n.parse().ok()).unwrap_or(PAGE).min(PAGE);
        let last = parameter(query, "last");
        let after = last
            .as_deref()
            .and_then(|last| if last == "latest" { Some(u64::MAX >> 1) } else { last.parse().ok() });
        let rows = self.versions(name, after, wanted + 1).await?;
        let mut tags: Vec<_> = rows.iter().map(|row| row.version.to_string()).collect();
        // For `n=0` there is no last tag, and so no link.
        let more = tags.len() > wanted as usize;
        tags.truncate(wanted as usize);
        if !more && tags.len() < wanted as usize {
            // The tag of the newest version.
            tags.push("latest".to_owned());
        }
        let mut response =
            document("application/json", json!({ "name": name, "tags": tags }).to_string().into_bytes());
        if let (true, Some(last)) = (more, tags.last()) {
            set(&mut response, LINK, &format!("</v2/{name}/tags/list?n={wanted}&last={last}>; rel=\"next\""));
        }
        Ok(response)
    }

    /// Lists the signatures of a manifest. The list of an unknown manifest is empty.
    async fn referrers(&self, digest: &str, query: &str) -> Answer {
        let kind = parameter(query, "artifactType");
        let mut entries = Vec::new();
        for signature in self.models.signatures(digest).await? {
            let Some(manifest) = signature.manifest else { continue };
            let of = manifest.clone();
            let bytes =
                self.models.with_store(move |store| store.read(&of)).await.map_err(ControlError::from)?;
            let document: Value = serde_json::from_slice(&bytes).unwrap_or_default();
            if kind.as_deref().is_none_or(|kind| document["artifactType"] == kind) {
                entries.push(json!({
                    "mediaType": MANIFEST, "digest": manifest, "size": bytes.len(),
                    "artifactType": document["artifactType"], "annotations": document["annotations"],
                }));
            }
        }
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": entries });
        let mut response = document(INDEX, index.to_string().into_bytes());
        if kind.is_some() {
            set(&mut response, HeaderName::from_static("oci-filters-applied"), "artifactType");
        }
        Ok(response)
    }
}

/// Returns a blob, or the requested range of it.
fn blob(store: &Store, digest: &str, range: Option<&str>) -> Answer {
    let path = store.path(digest).map_err(|_| NO_BLOB)?;
    let mut file = File::open(path).map_err(|_| NO_BLOB)?;
    let size = file.metadata().map_err(|_| NO_BLOB)?.len();
    let Ok(part) = range.and_then(|range| parse(range, size)).transpose() else {
        let mut response = full_response(StatusCode::RANGE_NOT_SATISFIABLE, Vec::new());
        set(&mut response, CONTENT_RANGE, &format!("bytes */{size}"));
        return Ok(response);
    };
    let sent = part.clone().unwrap_or(0..size);
    file.seek(SeekFrom::Start(sent.start)).map_err(|_| NO_BLOB)?;
    let mut response = Response::new(StreamBody::new(blocks(file, sent.end - sent.start)).boxed_unsync());
    if part.is_some() {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        set(&mut response, CONTENT_RANGE, &format!("bytes {}-{}/{size}", sent.start, sent.end - 1));
    }
    set(&mut response, CONTENT_TYPE, "application/octet-stream");
    set(&mut response, CONTENT_LENGTH, &(sent.end - sent.start).to_string());
    set(&mut response, ACCEPT_RANGES, "bytes");
    set(&mut response, DIGEST, digest);
    Ok(response)
}

/// Streams the next `left` bytes of a file, which are read on a blocking thread.
fn blocks(file: File, left: u64) -> impl stream::Stream<Item = io::Result<Frame<Bytes>>> + Send {
    stream::try_unfold((file, left), |(mut file, left)| async move {
        if left == 0 {
            return Ok(None);
        }
        let (block, file) = blocking(move || {
            let mut block = vec![0; BLOCK.min(usize::try_from(left).unwrap_or(BLOCK))];
            file.read_exact(&mut block)?;
            Ok::<_, io::Error>((block, file))
        })
        .await?;
        let left = left - block.len() as u64;
        Ok(Some((Frame::data(Bytes::from(block)), (file, left))))
    })
}

/// Parses `bytes=FIRST-LAST`, `bytes=FIRST-` or `bytes=-COUNT` (RFC 9110, section 14.1.2). Returns `Err` if the range
/// is not in the blob, and `None` for any other text, or several ranges: the whole blob is sent then.
fn parse(range: &str, size: u64) -> Option<Result<Range<u64>, ()>> {
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    let part = match (first, last) {
        ("", count) => size.saturating_sub(count.parse().ok()?)..size,
        (first, "") => first.parse().ok()?..size,
        (first, last) => first.parse().ok()?..last.parse::<u64>().ok()?.saturating_add(1).min(size),
    };
    Some(if part.start < part.end && part.end <= size { Ok(part) } else { Err(()) })
}

fn parameter(query: &str, name: &str) -> Option<String> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let value = pairs.into_iter().find(|(key, _)| *key == name)?.1;
    Some(value.replace("%2F", "/").replace("%2f", "/").replace("%2B", "+").replace("%2b", "+"))
}

fn document(kind: &str, bytes: Vec<u8>) -> Response<Body> {
    let mut response = full_response(StatusCode::OK, bytes);
    set(&mut response, CONTENT_TYPE, kind);
    response
}

fn full_response(status: StatusCode, bytes: Vec<u8>) -> Response<Body> {
    let length = bytes.len();
    let mut response = Response::new(full(bytes));
    *response.status_mut() = status;
    set(&mut response, CONTENT_LENGTH, &length.to_string());
    response
}

fn full(bytes: Vec<u8>) -> Body {
    Full::new(Bytes::from(bytes)).map_err(|never| match never {}).boxed_unsync()
}

fn set(response: &mut Response<Body>, name: HeaderName, value: &str) {
    // Digests, numbers and names of models are valid header values.
    if let Ok(value) = value.parse() {
        response.headers_mut().insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_a_part_of_what_there_is_or_none() {
        for (range, part) in [
            ("bytes=0-4", Some(Ok(0..5))),
            ("bytes=5-", Some(Ok(5..10))),
            ("bytes=-3", Some(Ok(7..10))),
            ("bytes=-30", Some(Ok(0..10))),
            ("bytes=5-99", Some(Ok(5..10))),
            ("bytes=10-", Some(Err(()))),
            ("bytes=5-4", Some(Err(()))),
            ("bytes=-0", Some(Err(()))),
            ("bytes=0-18446744073709551615", Some(Ok(0..10))),
            ("bytes=0-1,3-4", None),
            ("lines=0-1", None),
            ("bytes=x-", None),
        ] {
            assert_eq!(parse(range, 10), part, "{range}");
        }
    }
}
