//! The kinds of operations, with their requests.

use crate::error::{ControlError, Result};
use drisse_wire::control::{
    DeployRequest, KeyRequest, ModelChoice, RegisterRequest, RepairRequest, RollbackRequest,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// An operation to execute. Its name and request are stored in the database. Their formats must not change, so that an
/// operation of an older Drisse can be continued.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum OperationKind {
    Register(RegisterRequest),
    Deploy(DeployRequest),
    Update(DeployRequest),
    Rollback(RollbackRequest),
    Keys(KeyRequest),
    Delete {
        /// Whether to delete the service even if its target does not answer.
        force: bool,
    },
    DeleteModel {
        name: String,
        version: u64,
    },
    Verify {
        /// `NAME` or `NAME:VERSION`; `None` for all models.
        model: Option<String>,
    },
    Repair {
        model: Option<String>,
        request: RepairRequest,
    },
    Collect,
}

impl OperationKind {
    /// Returns the name, as users see it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Register(_) => "register",
            Self::Deploy(_) => "deploy",
            Self::Update(_) => "update",
            Self::Rollback(_) => "rollback",
            Self::Keys(_) => "keys",
            Self::Delete { .. } => "delete",
            Self::DeleteModel { .. } => "delete-model",
            Self::Verify { .. } => "verify",
            Self::Repair { .. } => "repair",
            Self::Collect => "collect",
        }
    }

    /// Returns whether the operation changes a service. Only one such operation per service may run at a time.
    pub(crate) fn changes_service(&self) -> bool {
        use OperationKind::{Delete, Deploy, Keys, Rollback, Update};
        matches!(self, Deploy(_) | Update(_) | Rollback(_) | Keys(_) | Delete { .. })
    }

    /// Returns whether the operation may leave blobs in the store that no model refers to.
    pub(crate) fn registers(&self) -> bool {
        matches!(self, Self::Register(_) | Self::Deploy(_) | Self::Update(_))
    }

    /// Returns whether the operation registers a model from uploaded files.
    pub(crate) fn uses_uploads(&self) -> bool {
        match self {
            Self::Register(request) => request.path.is_empty(),
            Self::Deploy(request) | Self::Update(request) => {
                matches!(request.model, Some(ModelChoice::Uploaded(_)))
            }
            _ => false,
        }
    }

    /// Returns the request to store.
    pub(crate) fn request(&self) -> Result<Value> {
        match self {
            Self::Register(request) => to_value(request),
            Self::Deploy(request) | Self::Update(request) => to_value(request),
            Self::Rollback(request) => to_value(request),
            Self::Keys(request) => to_value(request),
            Self::Delete { force } => to_value(force),
            Self::DeleteModel { name, version } => to_value(&(name, version)),
            Self::Verify { model } => to_value(model),
            Self::Repair { model, request } => to_value(&(model, request)),
            Self::Collect => Ok(Value::Null),
        }
    }

    /// Parses a stored operation.
    pub(crate) fn read(name: &str, request: &Value) -> Result<Self> {
        Ok(match name {
            "register" => Self::Register(from_value(request)?),
            "deploy" => Self::Deploy(from_value(request)?),
            "update" => Self::Update(from_value(request)?),
            "rollback" => Self::Rollback(from_value(request)?),
            "keys" => Self::Keys(from_value(request)?),
            "delete" => Self::Delete { force: from_value::<Option<bool>>(request)?.unwrap_or_default() },
            "delete-model" => {
                let (name, version) = from_value(request)?;
                Self::DeleteModel { name, version }
            }
            "verify" => Self::Verify { model: from_value(request)? },
            "repair" => {
                let (model, request) = from_value(request)?;
                Self::Repair { model, request }
            }
            "collect" => Self::Collect,
            other => return Err(ControlError::internal(format!("unknown operation kind `{other}`"))),
        })
    }
}

fn to_value(request: &impl Serialize) -> Result<Value> {
    serde_json::to_value(request)
        .map_err(|error| ControlError::internal("the operation's request cannot be written").because(&error))
}

fn from_value<T: DeserializeOwned>(request: &Value) -> Result<T> {
    T::deserialize(request)
        .map_err(|error| ControlError::internal("the operation's request cannot be read").because(&error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_an_older_drisse_has_written_down_is_read_and_written_the_same() {
        for (name, request) in [
            ("delete", json!(true)),
            ("delete-model", json!(["digits", 2])),
            ("verify", json!(null)),
            ("verify", json!("digits:2")),
            ("repair", json!([null, { "from": ["/copies"] }])),
            ("collect", json!(null)),
            ("rollback", json!({ "revision": 2, "timeout_ms": null })),
        ] {
            let kind = OperationKind::read(name, &request).unwrap();
            assert_eq!(kind.name(), name);
            assert_eq!(OperationKind::read(name, &kind.request().unwrap()).unwrap(), kind);
            if !request.is_object() {
                assert_eq!(kind.request().unwrap(), request);
            }
        }
        assert_eq!(
            OperationKind::read("delete", &json!(null)).unwrap(),
            OperationKind::Delete { force: false }
        );
        assert!(OperationKind::read("deploi", &json!({})).is_err());
    }
}
