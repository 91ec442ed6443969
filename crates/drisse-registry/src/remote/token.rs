//! Authentication challenges of registries, and requests to their token servers.

use super::credentials::Credentials;
use super::reference::is_loopback;
use super::registry::bounded;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::{Client, Url};
use serde::Deserialize;
use std::collections::BTreeMap;

/// Longest answer of a token server, in bytes (1 MiB).
const MAX_TOKEN: usize = 1 << 20;

/// A `WWW-Authenticate` header: RFC 9110, section 11.6.1.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Challenge {
    /// A user name and password with each request.
    Basic,
    /// A token from the token server at `realm`.
    Bearer { realm: String, service: Option<String> },
}

#[derive(Deserialize)]
struct Granted {
    token: Option<String>,
    access_token: Option<String>,
}

impl Challenge {
    /// Parses the header; `None` if the scheme is not supported.
    pub(super) fn parse(header: &str) -> Option<Self> {
        let (scheme, rest) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let mut parameters = parameters(rest);
        let realm = parameters.remove("realm")?;
        Some(Self::Bearer { realm, service: parameters.remove("service") })
    }

    /// Returns the `Authorization` header for the challenge; `None` if there are no credentials for it. `plain`: whether
    /// the registry itself is reached without TLS.
    pub(super) async fn answer(
        &self,
        http: &Client,
        credentials: &Credentials,
        scopes: &[String],
        plain: bool,
    ) -> Result<Option<String>, String> {
        match (self, credentials) {
            (Self::Basic, Credentials::Basic { user, password }) => Ok(Some(basic(user, password))),
            (Self::Basic, _) => Ok(None),
            (Self::Bearer { realm, service }, _) => {
                let url: Url =
                    realm.parse().map_err(|_| format!("`{realm}`, its token server, is not a URL"))?;
                let on_loopback = plain && is_loopback(url.host_str().unwrap_or_default());
                // Credentials must not be readable on the network.
                if url.scheme() != "https" && !on_loopback {
                    return Err(format!("its token server {realm} does not use TLS"));
                }
                token(http, url, service.as_deref(), credentials, scopes).await.map(Some)
            }
        }
    }
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

async fn token(
    http: &Client,
    mut url: Url,
    service: Option<&str>,
    credentials: &Credentials,
    scopes: &[String],
) -> Result<String, String> {
    let host = url.host_str().unwrap_or_default().to_owned();
    let failed = |why: &dyn std::fmt::Display| format!("its token server {host} sent no token: {why}");
    let request = if let Credentials::Identity(refresh) = credentials {
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "refresh_token").append_pair("refresh_token", refresh);
        form.append_pair("client_id", "drisse").append_pair("scope", &scopes.join(" "));
        form.append_pair("service", service.unwrap_or_default());
        http.post(url).header("content-type", "application/x-www-form-urlencoded").body(form.finish())
    } else {
        {
            let mut query = url.query_pairs_mut();
            if let Some(service) = service {
                query.append_pair("service", service);
            }
            for scope in scopes {
                query.append_pair("scope", scope);
            }
        }
        let request = http.get(url);
        match credentials {
            Credentials::Basic { user, password } => request.header("authorization", basic(user, password)),
            _ => request,
        }
    };
    let response = request.send().await.map_err(|error| failed(&super::registry::why(&error)))?;
    if !response.status().is_success() {
        return Err(failed(&format!("status {}", response.status().as_u16())));
    }
    let body = bounded(response, MAX_TOKEN).await.map_err(|why| failed(&why))?;
    let granted: Granted = serde_json::from_slice(&body).map_err(|_| failed(&"its answer is not valid"))?;
    let token = granted.token.or(granted.access_token).filter(|token| !token.is_empty());
    token.map(|token| format!("Bearer {token}")).ok_or_else(|| failed(&"its answer has no token"))
}

/// Parses `name="value", name=value`.
fn parameters(mut text: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    while let Some((name, rest)) = text.split_once('=') {
        let name = name.trim().trim_start_matches(',').trim().to_ascii_lowercase();
        let value;
        if let Some(quoted) = rest.strip_prefix('"') {
            let mut plain = String::new();
            let mut letters = quoted.char_indices();
            let mut end = quoted.len();
            while let Some((at, letter)) = letters.next() {
                match letter {
                    '\\' => plain.extend(letters.next().map(|(_, letter)| letter)),
                    '"' => {
                        end = at + 1;
                        break;
                    }
                    letter => plain.push(letter),
                }
            }
            value = plain;
            text = &quoted[end..];
        } else {
            let (plain, left) = rest.split_once(',').unwrap_or((rest, ""));
            value = plain.trim().to_owned();
            text = left;
        }
        found.insert(name, value);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_challenge_is_read_as_registries_write_it() {
        let bearer = |realm: &str, service: Option<&str>| {
            Some(Challenge::Bearer { realm: realm.to_owned(), service: service.map(str::to_owned) })
        };
        let header =
            r#"Bearer realm="https://auth.example/token",service="r.example",scope="repository:a:pull""#;
        assert_eq!(Challenge::parse(header), bearer("https://auth.example/token", Some("r.example")));
        assert_eq!(Challenge::parse(r#"bearer Realm="a\"b", x=y"#), bearer("a\"b", None));
        assert_eq!(Challenge::parse(r#"Basic realm="RemoteRepository""#), Some(Challenge::Basic));
        assert_eq!(Challenge::parse("Negotiate abc"), None);
        assert_eq!(Challenge::parse("Bearer"), None);
    }

    #[tokio::test]
    async fn credentials_go_to_no_token_server_without_tls() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let who = Credentials::Basic { user: "u".to_owned(), password: "p".to_owned() };
        for (realm, plain) in [("http://auth.example/token", true), ("http://127.0.0.1:1/token", false)] {
            let challenge = Challenge::Bearer { realm: realm.to_owned(), service: None };
            let error = challenge.answer(&Client::new(), &who, &[], plain).await.unwrap_err();
            assert!(error.contains("does not use TLS"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_header_is_read_without_a_panic(text in "(Bearer )?[ -~\"\\\\é]{0,60}") {
            let _ = Challenge::parse(&text);
        }
    }
}
