//! The names of models and services.
//!
//! Both match `[a-z]([a-z0-9-]{0,46}[a-z0-9])?`, so that a name is valid as a DNS label, as a folder and as the name of
//! a Kubernetes object.

use std::fmt;
use std::str::FromStr;

/// The name of a model in a workspace.
///
/// Only `drisse serve` accepts the names that files have (`digits_mlp`); see [`ModelName::served`].
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ModelName(String);

/// The name of a service in a workspace.
///
/// ```
/// use drisse_core::ServiceName;
///
/// let name: ServiceName = "digits-mlp".parse()?;
/// assert_eq!(ServiceName::slug("Digits_MLP"), Some(name));
/// assert!("Digits_MLP".parse::<ServiceName>().is_err());
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
        let why = if name.is_empty() || name.len() > 128 {
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
const MAX_NAME: usize = 48;

fn checked(name: &str) -> Result<String, InvalidNameError> {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let ok = match name.as_bytes() {
        [first, rest @ ..] if first.is_ascii_lowercase() && rest.len() < MAX_NAME => {
            rest.iter().all(|&c| inner(c) || c == b'-') && rest.last().is_none_or(|&c| inner(c))
        }
        _ => false,
    };
    let why = "a name has at most 48 lowercase letters, digits and hyphens, starts with a letter and does not end \
               with a hyphen";
    if ok { Ok(name.to_owned()) } else { Err(InvalidNameError { name: name.to_owned(), why }) }
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

    /// Converts a file's stem to a name: `Digits_MLP.v2` becomes `digits-mlp-v2`. `None` if the stem has no letter.
    pub fn slug(stem: &str) -> Option<Self> {
        let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
        let mut slug = String::new();
        for c in stem.chars().map(plain).skip_while(|c| !c.is_ascii_lowercase()) {
            if slug.len() < MAX_NAME && !(c == '-' && slug.ends_with('-')) {
                slug.push(c);
            }
        }
        slug.trim_end_matches('-').parse().ok()
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
    fn names_fit_a_dns_label() {
        for good in ["a", "digits", "a-1", &"a".repeat(48)] {
            assert!(good.parse::<ModelName>().is_ok(), "{good}");
        }
        for bad in ["", "1a", "a-", "A", "a_b", "a.b", &"a".repeat(49)] {
            assert!(bad.parse::<ModelName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_files_stem_becomes_a_name() {
        let slug = |stem: &str| ServiceName::slug(stem).map(|name| name.to_string());
        assert_eq!(slug("Digits_MLP.v2").as_deref(), Some("digits-mlp-v2"));
        assert_eq!(slug("2024-fraud__model-").as_deref(), Some("fraud-model"));
        assert_eq!(slug(&"x".repeat(60)).map(|name| name.len()), Some(48));
        assert_eq!(slug("2024"), None);
    }

    #[test]
    fn served_names_may_look_like_files_but_not_like_paths() {
        assert!(ModelName::served("digits_mlp.v2").is_ok());
        for bad in ["", "..", ".hidden", "a/b", "a b", "ü", &"a".repeat(129)] {
            assert!(ModelName::served(bad).is_err(), "{bad}");
        }
    }
}
