//! Credentials for registries, from the files and helpers of podman, skopeo and Docker.
//!
//! Sources: containers-auth.json(5); <https://docs.docker.com/reference/cli/docker/login/#credential-stores>.

use super::RemoteError;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Credentials for a repository. Their `Debug` form shows no secrets.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Credentials {
    /// No credentials.
    Anonymous,
    /// A user name and password.
    Basic { user: String, password: String },
    /// A refresh token (identity token) for the registry's token server.
    Identity(String),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Anonymous => "Anonymous",
            Self::Basic { .. } => "Basic(…)",
            Self::Identity(_) => "Identity(…)",
        })
    }
}

/// A credentials file: `auth.json` or Docker's `config.json`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct AuthFile {
    auths: BTreeMap<String, Auth>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(rename_all = "lowercase", default)]
struct Auth {
    auth: String,
    identitytoken: String,
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Auth(…)")
    }
}

/// The output of a credential helper.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Helped {
    username: String,
    secret: String,
}

/// Finds the credentials for a repository, in the first file that has some.
pub(super) fn find(registry: &str, repository: &str) -> Result<Credentials, RemoteError> {
    for file in files() {
        if let Some(found) = in_file(&file, registry, repository)? {
            return Ok(found);
        }
    }
    Ok(Credentials::Anonymous)
}

/// Returns the paths of credentials files, in podman's order.
fn files() -> Vec<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(named) = variable("REGISTRY_AUTH_FILE") {
        return vec![named];
    }
    let user = rustix::process::geteuid().as_raw();
    let home = variable("HOME").unwrap_or_else(|| "/root".into());
    let config = variable("XDG_CONFIG_HOME").unwrap_or_else(|| home.join(".config"));
    let docker = variable("DOCKER_CONFIG").unwrap_or_else(|| home.join(".docker"));
    let mut files = vec![];
    files.extend(variable("XDG_RUNTIME_DIR").map(|folder| folder.join("containers/auth.json")));
    files.push(format!("/run/containers/{user}/auth.json").into());
    files.push(config.join("containers/auth.json"));
    files.push(docker.join("config.json"));
    files
}

fn in_file(path: &Path, registry: &str, repository: &str) -> Result<Option<Credentials>, RemoteError> {
    let wrong = |why: String| RemoteError::Credentials { from: path.display().to_string(), why };
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(wrong(error.to_string())),
    };
    // The parser's message is left out: it may quote a secret.
    let file: AuthFile = serde_json::from_str(&text)
        .map_err(|error| wrong(format!("the file has invalid JSON at line {}", error.line())))?;
    if let Some(helper) = file.cred_helpers.get(registry) {
        return helped(helper, registry).map(Some);
    }
    let keys = scopes(registry, repository);
    // Docker writes URLs; podman, names without a scheme.
    let plain = |key: &str| {
        let key = key.trim_start_matches("https://").trim_start_matches("http://");
        key.trim_end_matches('/').trim_end_matches("/v1").trim_end_matches("/v2").to_owned()
    };
    let found = keys.iter().find_map(|wanted| file.auths.iter().find(|(key, _)| plain(key) == *wanted));
    match (found, &file.creds_store) {
        (Some((_, auth)), _) if !auth.identitytoken.is_empty() => {
            Ok(Some(Credentials::Identity(auth.identitytoken.clone())))
        }
        (Some((_, auth)), _) if !auth.auth.is_empty() => {
            let bytes = STANDARD.decode(auth.auth.trim()).ok();
            let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
            let (user, password) = text
                .as_deref()
                .and_then(|text| text.split_once(':'))
                .ok_or_else(|| wrong(format!("its entry for {registry} is not a user and password")))?;
            let password = password.trim_end_matches('\0').to_owned();
            Ok(Some(Credentials::Basic { user: user.to_owned(), password }))
        }
        (_, Some(store)) => helped(store, registry).map(|found| match found {
            Credentials::Anonymous => None,
            found => Some(found),
        }),
        _ => Ok(None),
    }
}

/// Returns the keys to look up, most specific first: `HOST/a/b`, `HOST/a`, `HOST`.
fn scopes(registry: &str, repository: &str) -> Vec<String> {
    let whole = format!("{registry}/{repository}");
    let ends = whole.match_indices('/').map(|(at, _)| at).collect::<Vec<_>>();
    let shorter = ends.iter().rev().map(|&at| whole[..at].to_owned());
    std::iter::once(whole.clone()).chain(shorter).collect()
}

/// Runs a credential helper: `docker-credential-NAME get`, with the registry on its standard input.
fn helped(name: &str, registry: &str) -> Result<Credentials, RemoteError> {
    let program = format!("docker-credential-{name}");
    let wrong = |why: String| RemoteError::Credentials { from: program.clone(), why };
    if name.is_empty() || !name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-' || c == b'_') {
        return Err(wrong("this is not a valid helper name".to_owned()));
    }
    let run = || -> std::io::Result<std::process::Output> {
        let mut command = Command::new(&program);
        command.arg("get").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        if let Some(mut input) = child.stdin.take() {
            // A helper that does not read its input is not an error.
            let _ = input.write_all(registry.as_bytes());
        }
        child.wait_with_output()
    };
    let output = run().map_err(|error| wrong(error.to_string()))?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).trim().to_owned();
        let none = message.contains("not found");
        return if none { Ok(Credentials::Anonymous) } else { Err(wrong(message)) };
    }
    let helped: Helped =
        serde_json::from_slice(&output.stdout).map_err(|_| wrong("its output is not valid".to_owned()))?;
    Ok(match &*helped.username {
        "<token>" => Credentials::Identity(helped.secret),
        _ => Credentials::Basic { user: helped.username, password: helped.secret },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str, registry: &str, repository: &str) -> Result<Option<Credentials>, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, text).unwrap();
        in_file(file.path(), registry, repository).map_err(|error| error.to_string())
    }

    fn basic(user: &str, password: &str) -> Result<Option<Credentials>, String> {
        Ok(Some(Credentials::Basic { user: user.to_owned(), password: password.to_owned() }))
    }

    #[test]
    fn the_nearest_entry_counts_and_addresses_are_names() {
        let auth = |text: &str| STANDARD.encode(text);
        let file = serde_json::json!({ "auths": {
            "r.example": { "auth": auth("all:1") },
            "r.example/team": { "auth": auth("team:2:3") },
            "https://old.example/v1/": { "auth": auth("old:4") },
            "token.example": { "identitytoken": "t" },
            "broken.example": { "auth": "!" },
            "empty.example": {},
        }})
        .to_string();
        assert_eq!(found(&file, "r.example", "x"), basic("all", "1"));
        assert_eq!(found(&file, "r.example", "team/x"), basic("team", "2:3"));
        assert_eq!(found(&file, "r.example", "teams"), basic("all", "1"));
        assert_eq!(found(&file, "old.example", "x"), basic("old", "4"));
        assert_eq!(found(&file, "token.example", "x"), Ok(Some(Credentials::Identity("t".to_owned()))));
        assert_eq!(found(&file, "other.example", "x"), Ok(None));
        assert_eq!(found(&file, "empty.example", "x"), Ok(None));
        assert!(found(&file, "broken.example", "x").unwrap_err().contains("not a user and password"));
    }

    #[test]
    fn an_invalid_file_is_an_error_that_does_not_quote_the_file() {
        let error = found("{\"auths\": {\"a\": {\"auth\": secret}}}", "a", "x").unwrap_err();
        assert!(error.contains("at line 1") && !error.contains("secret"), "{error}");
    }

    #[test]
    fn a_helper_is_a_program_of_that_name_and_nothing_else() {
        let error = found(r#"{"credHelpers": {"a": "x; rm -rf /"}}"#, "a", "x").unwrap_err();
        assert!(error.contains("not a valid helper name"), "{error}");
        let error = found(r#"{"credsStore": "that-is-nowhere"}"#, "a", "x").unwrap_err();
        assert!(error.contains("docker-credential-that-is-nowhere"), "{error}");
    }
}
