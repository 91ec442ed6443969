//! Limits, environment and restart policy of a service's replicas.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use utoipa::ToSchema;

/// Limits, environment and restart policy of each replica. In a request, omitted members keep their values; 0 removes a
/// limit.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Resources {
    /// CPU limit of each replica in thousandths of a core, at least 10.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_millis: Option<u32>,
    /// Memory limit of each replica in bytes, at least 16 MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Whether a replica that has exited is replaced; by default `always`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart: Option<RestartPolicy>,
    /// Replaces the environment variables.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub env: Option<BTreeMap<String, String>>,
    /// Replaces the environment variables with secret values; responses show `***` instead of the values.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_env: Option<Secrets>,
}

/// Whether a replica that has exited is replaced by a new one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// Always, whatever the exit code.
    Always,
    /// Unless the exit code is 0.
    OnFailure,
    /// Never.
    Never,
}

/// Environment variables whose values are never printed or returned.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
pub struct Secrets(pub BTreeMap<String, String>);

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Resources {
    /// Returns `before` with the members given here replaced. 0, an empty map and [`RestartPolicy::Always`] unset a
    /// member.
    #[must_use]
    pub fn over(self, before: Self) -> Self {
        Self {
            cpu_millis: self.cpu_millis.or(before.cpu_millis).filter(|&cpu| cpu > 0),
            memory_bytes: self.memory_bytes.or(before.memory_bytes).filter(|&memory| memory > 0),
            restart: self.restart.or(before.restart).filter(|&policy| policy != RestartPolicy::Always),
            env: self.env.or(before.env).filter(|env| !env.is_empty()),
            secret_env: self.secret_env.or(before.secret_env).filter(|env| !env.0.is_empty()),
        }
    }

    /// Replaces the secret values by `***`.
    #[must_use]
    pub fn without_secrets(self) -> Self {
        let names = |Secrets(secrets): Secrets| {
            Secrets(secrets.into_keys().map(|name| (name, "***".to_owned())).collect())
        };
        Self { secret_env: self.secret_env.map(names), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_stays_and_nothing_is_said_of_what_is_usual() {
        let env = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let before = Resources {
            cpu_millis: Some(500),
            memory_bytes: Some(1 << 30),
            restart: Some(RestartPolicy::Never),
            env: Some(env(&[("A", "1")])),
            secret_env: Some(Secrets(env(&[("TOKEN", "secret")]))),
        };
        assert_eq!(Resources::default().over(before.clone()), before);
        let nothing = Resources {
            cpu_millis: Some(0),
            memory_bytes: Some(0),
            restart: Some(RestartPolicy::Always),
            env: Some(BTreeMap::new()),
            secret_env: Some(Secrets::default()),
        };
        assert_eq!(nothing.over(before.clone()), Resources::default());
        assert!(!format!("{before:?}").contains("secret\""));
        let shown = serde_json::to_string(&before.without_secrets()).unwrap();
        assert!(shown.contains("\"TOKEN\":\"***\"") && shown.contains("\"restart\":\"never\""), "{shown}");
    }
}
