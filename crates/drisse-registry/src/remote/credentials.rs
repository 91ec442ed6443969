//! Credentials for registries, from the files and helpers of podman, skopeo and Docker.
//!
//! Sources: containers-auth.json(5); <https://docs.docker.com/reference/cli/docker/login/#credential-stores>.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::Value;
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

/// What is known for logging in to a repository.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Login {
    pub(super) credentials: Credentials,
    /// What was wrong with the files and helpers that were asked. It matters only if the registry requires a login.
    pub(super) troubles: Vec<String>,
}

/// The output of a credential helper.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Helped {
    #[serde(default)]
    username: String,
    #[serde(default)]
    secret: String,
}

/// Finds the credentials for a repository, in the first file that has some. A file or a helper that cannot be read is
/// passed over: the registry may not require a login, or another file may have one.
pub(super) fn find(registry: &str, repository: &str) -> Login {
    first(&files(), registry, repository)
}

fn first(files: &[PathBuf], registry: &str, repository: &str) -> Login {
    let mut troubles = Vec::new();
    for file in files {
        match in_file(file, registry, repository) {
            Ok(Some(credentials)) => return Login { credentials, troubles },
            Ok(None) => {}
            Err(trouble) => troubles.push(trouble),
        }
    }
    Login { credentials: Credentials::Anonymous, troubles }
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

/// Returns the credentials that a file or its helpers have for a repository, or what is wrong with them.
fn in_file(path: &Path, registry: &str, repository: &str) -> Result<Option<Credentials>, String> {
    let wrong = |why: String| format!("cannot read credentials from {}: {why}", path.display());
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(wrong(error.to_string())),
    };
    // Editors on Windows put a byte order mark first.
    let text = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(&bytes).trim_ascii();
    if text.is_empty() {
        return Ok(None);
    }
    // The parser's message is left out: it may quote a secret.
    let file: Value = serde_json::from_slice(text)
        .map_err(|error| wrong(format!("the file has invalid JSON at line {}", error.line())))?;
    let mut trouble = None;
    let mut help = |helper: &str| {
        let found = helped(helper, registry);
        found.unwrap_or_else(|why| {
            trouble.get_or_insert(why);
            None
        })
    };
    let entry = entry(&file["auths"], registry, repository);
    let found = match file["credHelpers"][registry].as_str().and_then(&mut help) {
        Some(found) => Some(found),
        None => match entry.map(of_entry) {
            Some(Err(why)) => return Err(wrong(format!("its entry for {registry} {why}"))),
            Some(Ok(Some(found))) => Some(found),
            _ => file["credsStore"].as_str().filter(|store| !store.is_empty()).and_then(&mut help),
        },
    };
    match (found, trouble) {
        (None, Some(trouble)) => Err(trouble),
        (found, _) => Ok(found),
    }
}

/// Returns the entry of `auths` that is nearest to a repository.
fn entry<'a>(auths: &'a Value, registry: &str, repository: &str) -> Option<&'a Value> {
    // Docker writes URLs; podman, names without a scheme.
    let plain = |key: &str| {
        let key = key.trim_start_matches("https://").trim_start_matches("http://");
        key.trim_end_matches('/').trim_end_matches("/v1").trim_end_matches("/v2").to_owned()
    };
    let auths = auths.as_object()?;
    let keys = scopes(registry, repository);
    keys.iter().find_map(|wanted| auths.iter().find(|(key, _)| plain(key) == *wanted)).map(|(_, entry)| entry)
}

/// Returns the credentials in an entry of `auths`; `None` if it has none, as where a helper has them.
fn of_entry(entry: &Value) -> Result<Option<Credentials>, &'static str> {
    let text = |name: &str| entry[name].as_str().filter(|text| !text.is_empty());
    let basic = |user: &str, password: &str| {
        let password = password.trim_end_matches('\0').to_owned();
        Ok(Some(Credentials::Basic { user: user.to_owned(), password }))
    };
    if let Some(token) = text("identitytoken") {
        return Ok(Some(Credentials::Identity(token.to_owned())));
    }
    if let Some(auth) = text("auth") {
        let bytes = STANDARD.decode(auth.trim()).ok();
        let auth = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
        let (user, password) =
            auth.as_deref().and_then(|auth| auth.split_once(':')).ok_or("is not a user and password")?;
        return basic(user, password);
    }
    match (text("username"), text("password")) {
        (Some(user), Some(password)) => basic(user, password),
        (Some(_), None) => Err("has a user without a password"),
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

/// Runs a credential helper: `docker-credential-NAME get`, with the registry on its standard input. Returns `None` if it
/// has no credentials for the registry.
fn helped(name: &str, registry: &str) -> Result<Option<Credentials>, String> {
    let program = format!("docker-credential-{name}");
    let wrong = |why: &dyn fmt::Display| format!("cannot read credentials from {program}: {why}");
    if name.is_empty() || !name.bytes().all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(&c)) {
        return Err(wrong(&"this is not a valid helper name"));
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
    let output = run().map_err(|error| wrong(&error))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).trim().to_owned();
        // Docker's word for it, which helpers print on their standard output.
        if said.contains("credentials not found") {
            return Ok(None);
        }
        // What it says may have a secret in it if it looks like an answer.
        if said.is_empty() || said.contains('{') {
            return Err(wrong(&output.status));
        }
        return Err(wrong(&said.chars().filter(|letter| !letter.is_control()).take(300).collect::<String>()));
    }
    let helped: Helped =
        serde_json::from_slice(&output.stdout).map_err(|_| wrong(&"its output is not valid"))?;
    Ok(match (&*helped.username, helped.secret) {
        (_, secret) if secret.is_empty() => None,
        ("<token>", secret) => Some(Credentials::Identity(secret)),
        (user, password) => Some(Credentials::Basic { user: user.to_owned(), password }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str, registry: &str, repository: &str) -> Result<Option<Credentials>, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, text).unwrap();
        in_file(file.path(), registry, repository)
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
            "half.example": { "username": "u" },
            "plain.example": { "username": "user", "password": "5", "email": null, "auth": null },
            "empty.example": {},
            "null.example": null,
        }})
        .to_string();
        assert_eq!(found(&file, "r.example", "x"), basic("all", "1"));
        assert_eq!(found(&file, "r.example", "team/x"), basic("team", "2:3"));
        assert_eq!(found(&file, "r.example", "teams"), basic("all", "1"));
        assert_eq!(found(&file, "old.example", "x"), basic("old", "4"));
        assert_eq!(found(&file, "token.example", "x"), Ok(Some(Credentials::Identity("t".to_owned()))));
        assert_eq!(found(&file, "other.example", "x"), Ok(None));
        assert_eq!(found(&file, "empty.example", "x"), Ok(None));
        assert_eq!(found(&file, "null.example", "x"), Ok(None));
        assert_eq!(found(&file, "plain.example", "x"), basic("user", "5"));
        assert!(found(&file, "half.example", "x").unwrap_err().contains("a user without a password"));
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

    #[test]
    fn null_and_an_empty_file_are_the_same_as_no_entry() {
        for text in [
            "",
            " \n",
            "{}",
            "null",
            "\u{feff}{}",
            r#"{"auths": null}"#,
            r#"{"auths": {}, "credHelpers": null, "credsStore": null}"#,
            r#"{"auths": {"a": null}, "credHelpers": {"a": null}, "credsStore": ""}"#,
        ] {
            assert_eq!(found(text, "a", "x"), Ok(None), "{text}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_is_passed_over_and_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let (broken, good) = (folder.path().join("broken"), folder.path().join("good"));
        std::fs::write(&broken, r#"{"credHelpers": {"a": "that-is-nowhere"}}"#).unwrap();
        std::fs::write(&good, r#"{"auths": {"a": {"username": "u", "password": "p"}}}"#).unwrap();
        let login = first(&[folder.path().to_owned(), broken, good], "a", "x");
        assert_eq!(Ok(Some(login.credentials)), basic("u", "p"));
        let [is_folder, no_helper] = &*login.troubles else { panic!("{:?}", login.troubles) };
        assert!(is_folder.contains("Is a directory"), "{is_folder}");
        assert!(no_helper.contains("docker-credential-that-is-nowhere: No such file"), "{no_helper}");
    }

    #[test]
    fn a_helper_without_an_entry_leaves_it_to_the_file() {
        let file = r#"{"credHelpers": {"a": "that-is-nowhere"}, "auths": {"a": {"username": "u", "password": "p"}}}"#;
        assert_eq!(found(file, "a", "x"), basic("u", "p"));
    }
}
