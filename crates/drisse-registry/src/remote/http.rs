//! HTTP requests to registries: whom the client trusts, retries, and bounded answers.

use super::reference::{host, is_loopback};
use super::{Access, Reference, RemoteError, TRIES, pause};
use reqwest::header::RETRY_AFTER;
use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, RequestBuilder, Response, StatusCode};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Time limit for connecting.
const CONNECT: Duration = Duration::from_secs(10);

/// How long a registry may send nothing (or, for uploads, accept nothing) before the request fails.
pub(super) const SILENCE: Duration = Duration::from_secs(30);

/// Longest pause before a busy registry is asked again, even if its `Retry-After` is longer.
const MAX_PAUSE: Duration = Duration::from_secs(10);

/// Sends a request, and again while the registry is busy: after its `Retry-After`, or a pause that doubles each time.
pub(super) async fn patiently(mut request: RequestBuilder) -> reqwest::Result<Response> {
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

pub(super) fn is_busy(status: StatusCode) -> bool {
    matches!(status.as_u16(), 429 | 502 | 503 | 504)
}

/// Builds an HTTP client that trusts the system's certificate authorities, `access.ca`, and those in `certs.d` of podman
/// and Docker.
pub(super) fn client(
    reference: &Reference,
    access: &Access,
    silence: Option<Duration>,
) -> Result<Client, RemoteError> {
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
pub(super) fn error_message(body: &[u8]) -> String {
    let document: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let first = &document["errors"][0];
    let message = first["message"].as_str().or(first["code"].as_str()).unwrap_or_default();
    let message: String = message.chars().filter(|letter| !letter.is_control()).take(500).collect();
    if message.is_empty() { String::new() } else { format!(": {message}") }
}

/// Returns the target of the `Link` header with the relation `next`: RFC 8288.
pub(super) fn next_page(link: &str) -> Option<&str> {
    let mut links = link;
    while let Some((target, rest)) = links.split_once('<').and_then(|(_, link)| link.split_once('>')) {
        // The parameters of a link end where the next link begins.
        let parameters = rest.split('<').next().unwrap_or_default().split([';', ',']);
        let mut relations = parameters.filter_map(|parameter| {
            let (name, value) = parameter.split_once('=')?;
            name.trim().eq_ignore_ascii_case("rel").then(|| value.trim().trim_matches('"'))
        });
        if relations.any(|named| named.split_whitespace().any(|one| one.eq_ignore_ascii_case("next"))) {
            return Some(target.trim());
        }
        links = rest;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::next_page;

    #[test]
    fn the_next_page_is_found_as_registries_write_it() {
        for (link, next) in [
            (r#"</v2/a/referrers/x?last=1,2&n=1>; rel="next""#, Some("/v2/a/referrers/x?last=1,2&n=1")),
            ("<?last=1>;REL=Next", Some("?last=1")),
            (r#"<a>; rel="prev"; title="x", <b> ; title="y;z"; rel="last next""#, Some("b")),
            (r#"<a>; rel="prev", <b>"#, None),
            ("<a; rel=next", None),
            ("", None),
        ] {
            assert_eq!(next_page(link), next, "{link}");
        }
    }
}
