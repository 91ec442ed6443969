//! References to models and images in registries: `oci://HOST[:PORT]/REPOSITORY[:TAG][@DIGEST]`.

use super::RemoteError;
use crate::blobs::is_digest;
use std::fmt;
use std::str::FromStr;

/// Longest repository name in bytes, as the distribution specification recommends.
const MAX_REPOSITORY: usize = 255;

/// A reference to a manifest in a registry.
///
/// ```
/// let reference: drisse_registry::Reference = "oci://registry.example/team/digits:3".parse()?;
/// assert_eq!((reference.name(), reference.manifest()), ("digits", "3"));
/// # Ok::<(), drisse_registry::RemoteError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reference {
    /// `HOST[:PORT]`.
    pub registry: String,
    /// The repository's path.
    pub repository: String,
    /// The tag, if there is one.
    pub tag: Option<String>,
    /// The manifest's digest (`sha256:HEX`), if there is one.
    pub digest: Option<String>,
}

impl Reference {
    /// Returns the name by which the manifest is requested: the digest, else the tag, else `latest`.
    pub fn manifest(&self) -> &str {
        self.digest.as_deref().or(self.tag.as_deref()).unwrap_or("latest")
    }

    /// Returns the reference with the tag `latest` if it has neither tag nor digest.
    #[must_use]
    pub fn or_latest(self) -> Self {
        let tag = self.tag.or_else(|| self.digest.is_none().then(|| "latest".to_owned()));
        Self { tag, ..self }
    }

    /// Returns the last part of the repository's path.
    pub fn name(&self) -> &str {
        self.repository.rsplit('/').next().unwrap_or(&self.repository)
    }

    /// Returns whether the registry's host is `localhost` or a loopback address.
    pub fn is_loopback(&self) -> bool {
        is_loopback(host(&self.registry))
    }
}

/// Returns a registry's host without its port.
pub(super) fn host(registry: &str) -> &str {
    match registry.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => registry.rsplit_once(':').map_or(registry, |(host, _)| host),
    }
}

pub(super) fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback())
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "oci://{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        self.digest.as_ref().map_or(Ok(()), |digest| write!(f, "@{digest}"))
    }
}

impl FromStr for Reference {
    type Err = RemoteError;

    fn from_str(text: &str) -> Result<Self, RemoteError> {
        let wrong = |why: &str| RemoteError::Reference { text: text.to_owned(), why: why.to_owned() };
        let name = text.strip_prefix("oci://").or_else(|| text.strip_prefix("docker://"));
        let name = name.ok_or_else(|| wrong("it does not start with oci://"))?;
        let (name, digest) = match name.split_once('@') {
            Some((name, digest)) => (name, Some(digest)),
            None => (name, None),
        };
        let (registry, path) = name.split_once('/').ok_or_else(|| wrong("it does not name a repository"))?;
        let (repository, tag) = match path.rsplit_once(':') {
            Some((repository, tag)) => (repository, Some(tag)),
            None => (path, None),
        };
        if !is_registry(registry) {
            return Err(wrong("it does not name a registry: HOST, or HOST:PORT"));
        }
        if repository.len() > MAX_REPOSITORY || !repository.split('/').all(is_component) {
            return Err(wrong(
                "a repository has lowercase letters and digits, with single `.`, `_`, `-` or `/` between them",
            ));
        }
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(wrong("a tag has at most 128 letters, digits, `_`, `.` and `-`"));
        }
        if digest.is_some_and(|digest| !is_digest(digest)) {
            return Err(wrong("a digest is sha256: and 64 hexadecimal digits"));
        }
        let owned = |text: Option<&str>| text.map(str::to_owned);
        Ok(Self {
            registry: registry.to_owned(),
            repository: repository.to_owned(),
            tag: owned(tag),
            digest: owned(digest),
        })
    }
}

fn is_registry(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) if address.parse::<std::net::Ipv6Addr>().is_ok() => {
            ("ip", if port.is_empty() { None } else { Some(port.strip_prefix(':').unwrap_or("no")) })
        }
        Some(_) => return false,
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    let plain = |c: u8| c.is_ascii_alphanumeric() || c == b'-' || c == b'.';
    let is_host = !host.is_empty() && host.bytes().all(plain) && !host.starts_with(['-', '.']);
    is_host && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_component(text: &str) -> bool {
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let mut between = text.split(word).filter(|gap| !gap.is_empty());
    let joins = |gap: &str| matches!(gap, "." | "_" | "__") || gap.bytes().all(|c| c == b'-');
    text.starts_with(word) && text.ends_with(word) && between.all(joins)
}

fn is_tag(text: &str) -> bool {
    let word = |c: u8| c.is_ascii_alphanumeric() || c == b'_';
    (1..=128).contains(&text.len())
        && text.bytes().all(|c| word(c) || c == b'.' || c == b'-')
        && text.bytes().next().is_some_and(word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_reference_is_read_as_it_is_written() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        for text in [
            "oci://registry.example/team/digits:3".to_owned(),
            "oci://localhost:5000/digits".to_owned(),
            "oci://[::1]:5000/a/b_c/d--e".to_owned(),
            format!("oci://127.0.0.1:5000/x:y@{digest}"),
            format!("oci://r.example/x@{digest}"),
        ] {
            assert_eq!(text.parse::<Reference>().unwrap().to_string(), text);
        }
        let docker: Reference = "docker://r.example:5000/team/digits:v1".parse().unwrap();
        assert_eq!((&*docker.registry, docker.name(), docker.manifest()), ("r.example:5000", "digits", "v1"));
        assert!("oci://localhost:1/x".parse::<Reference>().unwrap().is_loopback());
        assert!("oci://[::1]/x".parse::<Reference>().unwrap().is_loopback());
        assert!(!"oci://localhost.example/x".parse::<Reference>().unwrap().is_loopback());
    }

    #[test]
    fn an_invalid_reference_is_refused_with_the_reason() {
        for (text, why) in [
            ("digits", "does not start with oci://"),
            ("oci://digits", "does not name a repository"),
            ("oci:///digits", "does not name a registry"),
            ("oci://host:x/digits", "does not name a registry"),
            ("oci://user@host/digits", "does not name a repository"),
            ("oci://host/../digits", "a repository has"),
            ("oci://host/a//b", "a repository has"),
            ("oci://host/Digits", "a repository has"),
            ("oci://host/a..b", "a repository has"),
            ("oci://host/digits:a b", "a tag has"),
            ("oci://host/digits@sha256:12", "a digest is"),
            ("oci://host/digits?x=y", "a repository has"),
            ("oci://[::x]/digits", "does not name a registry"),
        ] {
            let error = text.parse::<Reference>().unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_and_what_is_read_is_plain(text in "(oci://)?[ -~]{0,40}") {
            if let Ok(reference) = text.parse::<Reference>() {
                let path = format!("{}/{}", reference.repository, reference.manifest());
                prop_assert!(!path.contains(['?', '#', '%', ' ', '\\']) && !path.split('/').any(|part| part == ".."));
                prop_assert_eq!(reference.to_string().parse::<Reference>().unwrap(), reference);
            }
        }
    }
}
