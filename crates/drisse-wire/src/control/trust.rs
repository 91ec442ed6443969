//! Cryptographic signatures of models, and the keys that are trusted.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `GET` and `PUT /v1/trust`: the keys with which a model must be signed to run.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TrustDocument {
    /// Public keys as PEM; a signature by one of them is enough. Empty: models need no signature.
    pub keys: Vec<String>,
}

/// `POST /v1/models/{name}/versions/{version}/signatures`: a signature of a model.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Signature {
    /// The digest of the signature's manifest, which refers to the model's manifest; omitted in a request.
    #[serde(default)]
    pub manifest: Option<String>,
    /// The Sigstore bundle as text.
    pub bundle: String,
}
