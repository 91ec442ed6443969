//! Signatures of models, and whose count.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `GET` and `PUT /v1/trust`: who has to have signed a model for it to run.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TrustDocument {
    /// Public keys, as PEM; one of them is enough. None: models need no signature.
    pub keys: Vec<String>,
}

/// `POST /v1/models/{name}/versions/{version}/signatures`: a signature of a model.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Signature {
    /// The digest of the manifest that refers to the model's; not in a request.
    #[serde(default)]
    pub manifest: Option<String>,
    /// The Sigstore bundle's text.
    pub bundle: String,
}
