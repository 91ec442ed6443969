//! The names of models and services.
//!
//! Both match `[A-Za-z0-9][A-Za-z0-9_.-]{0,127}`, the names that clients of Triton and of the Open Inference Protocol ask
//! for. What allows less (a container, an image, a DNS label) is named by [`ServiceName::label`].

use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

/// The name of a model in a workspace.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ModelName(String);

/// The name of a service in a workspace.
///
/// ```
/// use drisse_core::ServiceName;
///
/// let name: ServiceName = "MuC_EN".parse()?;
/// assert!(name.label().starts_with("muc-en-x"));
/// assert!("MuC EN".parse::<ServiceName>().is_err());
/// # Ok::<(), drisse_core::InvalidNameError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ServiceName(String);

/// The error for a name that is not valid.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("`{name}` is not a valid name: {why}")]
pub struct InvalidNameError {
    name: String,
    why: &'static str,
}

impl ModelName {
    /// Parses a name as `drisse serve` accepts it, for use in URLs and metrics: 1 to 128 letters, digits, `.`, `_` and
    /// `-`, not starting with `.`.
    ///
    /// # Errors
    /// Returns the reason if the name is not valid.
    pub fn served(name: &str) -> Result<Self, InvalidNameError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let why = if name.is_empty() || name.len() > MAX_NAME {
            "a name has 1 to 128 characters"
        } else if !name.chars().all(plain) || name.starts_with('.') {
            "a name has letters, digits, `.`, `_` and `-`, and does not start with `.`"
        } else {
            return Ok(Self(name.to_owned()));
        };
        Err(InvalidNameError { name: name.to_owned(), why })
    }

    /// Returns the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The length of the longest name of a model or a service, in bytes.
const MAX_NAME: usize = 128;

/// The length of the longest label that is the name itself, in bytes.
const MAX_LABEL: usize = 48;

/// The hexadecimal digits of a short hash.
const HASH: usize = 8;

fn checked(name: &str) -> Result<String, InvalidNameError> {
    let inner = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'.' | b'-');
    let first = name.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric());
    let why = if name == "stats" {
        "the Open Inference Protocol has /v2/models/stats for statistics"
    } else if !first || name.len() > MAX_NAME || !name.bytes().all(inner) {
        "a name has 1 to 128 letters, digits, `_`, `.` and `-`, and starts with a letter or a digit"
    } else {
        return Ok(name.to_owned());
    };
    Err(InvalidNameError { name: name.to_owned(), why })
}

fn short_hash(text: &str) -> String {
    Sha256::digest(text).iter().take(HASH / 2).map(|byte| format!("{byte:02x}")).collect()
}

impl FromStr for ModelName {
    type Err = InvalidNameError;

    fn from_str(name: &str) -> Result<Self, InvalidNameError> {
        checked(name).map(Self)
    }
}

impl ServiceName {
    /// Returns the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Makes a name of the stem of a file or the name of a folder: the stem itself where it is a name, else with `-` for
    /// what a name does not have. A name that would be too long ends with a short hash of the stem. `None` if the stem
    /// has no ASCII letter or digit.
    pub fn of_stem(stem: &str) -> Option<Self> {
        if let Ok(name) = stem.parse() {
            return Some(name);
        }
        let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '_' | '.') { c } else { '-' };
        let mut name = String::new();
        for c in stem.chars().map(plain).skip_while(|c| !c.is_ascii_alphanumeric()) {
            if !(c == '-' && name.ends_with('-')) {
                name.push(c);
            }
        }
        name.truncate(name.trim_end_matches('-').len());
        if name.len() > MAX_NAME || name.parse::<Self>().is_err() {
            name.truncate(MAX_NAME - HASH - 1);
            name = format!("{name}-{}", short_hash(stem));
        }
        name.parse().ok()
    }

    /// Returns a name for what allows less than service names: a DNS label of at most 48 characters that starts with a
    /// letter. It is the service's name where that is such a label; otherwise it ends with `-x` and a short hash, so
    /// that two services do not meet in one label.
    pub fn label(&self) -> Cow<'_, str> {
        let name = &*self.0;
        let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
        let is_label = name.len() <= MAX_LABEL
            && name.starts_with(|c: char| c.is_ascii_lowercase())
            && name.bytes().all(inner)
            && !name.ends_with('-');
        let hash = name.rsplit_once("-x").map_or("", |(_, hash)| hash);
        let looks_derived = hash.len() == HASH && hash.bytes().all(|c| c.is_ascii_hexdigit());
        if is_label && !looks_derived {
            return Cow::Borrowed(name);
        }
        let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
        let slug = name.chars().map(plain).skip_while(|c| !c.is_ascii_lowercase());
        let slug: String = slug.take(MAX_LABEL - HASH - 2).collect();
        let slug = if slug.is_empty() { "s" } else { &slug };
        Cow::Owned(format!("{slug}-x{}", short_hash(name)))
    }
}

impl FromStr for ServiceName {
    type Err = InvalidNameError;

    fn from_str(name: &str) -> Result<Self, InvalidNameError> {
        checked(name).map(Self)
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_clients_ask_for() {
        for good in ["a", "digits", "1a", "a-", "A", "densenet_onnx", "MuC_EN_AdV", "a.b", &"a".repeat(128)] {
            assert!(good.parse::<ModelName>().is_ok(), "{good}");
        }
        for bad in ["", "-a", "_a", ".a", "..", "a b", "a/b", "a:b", "é", "stats", &"a".repeat(129)] {
            assert!(bad.parse::<ModelName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_files_stem_becomes_a_name() {
        let made = |stem: &str| ServiceName::of_stem(stem).map(|name| name.to_string());
        assert_eq!(made("Digits_MLP.v2").as_deref(), Some("Digits_MLP.v2"));
        assert_eq!(made("my model (2)").as_deref(), Some("my-model-2"));
        assert_eq!(made("modèle").as_deref(), Some("mod-le"));
        assert_eq!(made("..x").as_deref(), Some("x"));
        assert_eq!(made("stats").unwrap().len(), "stats-12345678".len());
        assert_eq!((made("é"), made("")), (None, None));
        let long = |end: &str| made(&format!("{}{end}", "x".repeat(130))).unwrap();
        assert_eq!(long("a").len(), MAX_NAME);
        assert_ne!(long("a"), long("b"));
    }

    #[test]
    fn two_names_have_two_labels() {
        let label = |name: &str| name.parse::<ServiceName>().unwrap().label().into_owned();
        let names = [
            "digits", "Digits", "digits.", "digits_", "a.b", "a-b", "a_b", "A-B", "7", "7-days", "x-", "2024",
        ];
        let labels: std::collections::BTreeSet<_> = names.into_iter().map(label).collect();
        assert_eq!(labels.len(), names.len());
        assert_eq!(label("digits"), "digits");
        let derived = label("Digits");
        assert_ne!(label(&derived), derived, "a name cannot be made to meet a derived label");
        for label in labels.iter().chain([&label(&"A".repeat(128))]) {
            assert!(label.len() <= 48 && label.starts_with(|c: char| c.is_ascii_lowercase()), "{label}");
            assert!(
                label.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-'),
                "{label}"
            );
        }
    }
}
