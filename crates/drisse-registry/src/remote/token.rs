//! Authentication challenges of registries, and requests to their token servers.

use super::credentials::Credentials;
use super::http::{bounded, why};
use super::reference::is_loopback;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};
use reqwest::{Client, Url};
use serde::Deserialize;
use std::collections::BTreeMap;

/// Longest answer of a token server, in bytes (1 MiB).
const MAX_TOKEN: usize = 1 << 20;

/// A challenge of a `WWW-Authenticate` header: RFC 9110, section 11.6.1.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Challenge {
    /// A user name and password with each request.
    Basic,
    /// A token from the token server at `realm`.
    Bearer { realm: Url, service: Option<String> },
}

#[derive(Deserialize)]
struct Granted {
    token: Option<String>,
    access_token: Option<String>,
}

impl Challenge {
    /// Returns the challenges in the headers of a response that have a supported scheme, in their order. `from` is the
    /// URL of the request, to which the address of a token server may be relative.
    pub(super) fn all_in(headers: &HeaderMap, from: &Url) -> Vec<Self> {
        // A header may have bytes that are not ASCII, in a realm for people.
        let texts = headers.get_all(WWW_AUTHENTICATE).iter();
        let texts = texts.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        texts.flat_map(|text| challenges(&text)).filter_map(|found| Self::of(found, from)).collect()
    }

    fn of((scheme, mut parameters): (String, BTreeMap<String, String>), from: &Url) -> Option<Self> {
        match &*scheme {
            "basic" => Some(Self::Basic),
            "bearer" => {
                let realm = from.join(&parameters.remove("realm")?).ok()?;
                Some(Self::Bearer { realm, service: parameters.remove("service") })
            }
            _ => None,
        }
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
                let on_loopback = plain && is_loopback(realm.host_str().unwrap_or_default());
                // Credentials must not be readable on the network.
                if realm.scheme() != "https" && !on_loopback {
                    return Err(format!("its token server {realm} does not use TLS"));
                }
                token(http, realm.clone(), service.as_deref(), credentials, scopes).await.map(Some)
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
    let response = request.send().await.map_err(|error| failed(&why(&error)))?;
    if !response.status().is_success() {
        return Err(failed(&format!("status {}", response.status().as_u16())));
    }
    let body = bounded(response, MAX_TOKEN).await.map_err(|why| failed(&why))?;
    let granted: Granted = serde_json::from_slice(&body).map_err(|_| failed(&"its answer is not valid"))?;
    let token = granted.token.or(granted.access_token).filter(|token| !token.is_empty());
    token.map(|token| format!("Bearer {token}")).ok_or_else(|| failed(&"its answer has no token"))
}

/// Parses a list of challenges: for each its scheme and parameters, with names in lower case.
fn challenges(header: &str) -> Vec<(String, BTreeMap<String, String>)> {
    let mut found: Vec<(String, BTreeMap<String, String>)> = Vec::new();
    for part in split(header) {
        let word =
            part.split(|letter: char| letter == '=' || letter.is_whitespace()).next().unwrap_or_default();
        let rest = part[word.len()..].trim_start();
        // `name=value` belongs to the challenge before it. A scheme is followed by its first parameter, or by nothing.
        let parameter = match rest.strip_prefix('=') {
            Some(value) => Some((word, value)),
            None => {
                found.push((word.to_ascii_lowercase(), BTreeMap::new()));
                rest.split_once('=')
            }
        };
        if let (Some((name, value)), Some((_, parameters))) = (parameter, found.last_mut()) {
            parameters.entry(name.trim().to_ascii_lowercase()).or_insert_with(|| unquoted(value.trim()));
        }
    }
    found
}

/// Splits a list at its commas, except those in quotes.
fn split(list: &str) -> impl Iterator<Item = &str> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    let at_comma = move |letter: char| {
        match letter {
            _ if is_escaped => is_escaped = false,
            '\\' if is_quoted => is_escaped = true,
            '"' => is_quoted = !is_quoted,
            _ => return letter == ',' && !is_quoted,
        }
        false
    };
    list.split(at_comma).map(str::trim).filter(|part| !part.is_empty())
}

/// Returns the value of a token or a quoted string.
fn unquoted(value: &str) -> String {
    let Some(quoted) = value.strip_prefix('"') else { return value.to_owned() };
    let mut plain = String::new();
    let mut letters = quoted.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => plain.extend(letters.next()),
            '"' => break,
            letter => plain.push(letter),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Returns the challenges in these headers of a response from `https://r.example/v2/a/manifests/1?x=y`.
    fn read(headers: &[&str]) -> Vec<Challenge> {
        let from = "https://r.example/v2/a/manifests/1?x=y".parse().unwrap();
        let named = headers.iter().map(|text| (WWW_AUTHENTICATE, text.parse().unwrap()));
        Challenge::all_in(&named.collect(), &from)
    }

    fn bearer(realm: &str, service: Option<&str>) -> Challenge {
        Challenge::Bearer { realm: realm.parse().unwrap(), service: service.map(str::to_owned) }
    }

    #[test]
    fn a_challenge_is_read_as_registries_write_it() {
        let realm = "https://auth.example/token";
        let whole =
            r#"Bearer realm="https://auth.example/token",service="r.example",scope="repository:a:pull,push""#;
        assert_eq!(read(&[whole]), [bearer(realm, Some("r.example"))]);
        assert_eq!(read(&[r#"bearer  Realm = https://auth.example/token , x=y"#]), [bearer(realm, None)]);
        assert_eq!(
            read(&[r#"BEARER error="a \" realm=, b",realm="https://auth.example/t\oken""#]),
            [bearer(realm, None)]
        );
        assert_eq!(read(&[r#"Basic realm="RemoteRepository""#]), [Challenge::Basic]);
        assert_eq!(read(&["basic"]), [Challenge::Basic]);
        assert_eq!(read(&["Negotiate abc==", "Bearer", "", ",,", r#"Bearer realm="http://[""#]), []);
    }

    #[test]
    fn several_challenges_are_read_in_their_order() {
        let (basic, token) = (Challenge::Basic, bearer("https://auth.example/t?a=b,c", Some("s")));
        for headers in [
            &[
                r#"Negotiate, Basic realm="a, Digest x=y", Bearer realm="https://auth.example/t?a=b,c",service=s"#,
            ][..],
            &[
                r#"Negotiate YII="#,
                r#"Basic realm=x, charset="UTF-8",Bearer service=s,realm="https://auth.example/t?a=b,c""#,
            ],
            &[
                r#"Digest qop="auth,auth-int", nonce=1"#,
                "Basic",
                r#"Bearer realm="https://auth.example/t?a=b,c", service="s""#,
            ],
        ] {
            assert_eq!(read(headers), [basic.clone(), token.clone()], "{headers:?}");
        }
    }

    #[test]
    fn the_address_of_a_token_server_is_relative_to_the_request() {
        for (realm, whole) in [
            ("/token", "https://r.example/token"),
            ("//auth.example/token?a=b", "https://auth.example/token?a=b"),
            ("../../token", "https://r.example/v2/token"),
            ("?token", "https://r.example/v2/a/manifests/1?token"),
        ] {
            assert_eq!(read(&[&format!("Bearer realm=\"{realm}\"")]), [bearer(whole, None)]);
        }
    }

    #[tokio::test]
    async fn credentials_go_to_no_token_server_without_tls() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let who = Credentials::Basic { user: "u".to_owned(), password: "p".to_owned() };
        for (realm, plain) in [("http://auth.example/token", true), ("http://127.0.0.1:1/token", false)] {
            let error = bearer(realm, None).answer(&Client::new(), &who, &[], plain).await.unwrap_err();
            assert!(error.contains("does not use TLS"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_header_is_read_without_a_panic(text in "(Bearer )?[ -~\"\\\\,=é]{0,60}") {
            let _ = challenges(&text);
        }
    }
}
