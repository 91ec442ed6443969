//! What surrounds a service's scoring servers: what each may use, what it finds in its environment, and whether
//! another one takes its place when it has ended.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use utoipa::ToSchema;

/// In a request, what is not given keeps its value, and 0 is no limit.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Resources {
    /// What each replica may use of the cpu, in thousandths of a core, from 10.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_millis: Option<u32>,
    /// The memory each replica may use, in bytes, from 16 MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Whether another one takes a replica's place when it has ended; `always` without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart: Option<RestartPolicy>,
    /// Replaces the variables of the environment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub env: Option<BTreeMap<String, String>>,
    /// Replaces those whose values are secret; answers have `***` in their place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_env: Option<Secrets>,
}

/// Whether another replica takes the place of one that has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// Whatever it ended with.
    Always,
    /// Unless it ended with exit code 0.
    OnFailure,
    /// Not.
    Never,
}

/// Values that nobody is shown.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
pub struct Secrets(pub BTreeMap<String, String>);

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Resources {
    /// These, where they say something; otherwise those that were.
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

    /// The same without the values that are secret.
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
