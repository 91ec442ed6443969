//! Cryptographic signatures of models, and the keys that are trusted.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The body of `PUT /v1/trust` and the response to `GET /v1/trust`: the keys that models must be signed with.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TrustDocument {
    /// Public keys as PEM; a signature by one of them is enough. Empty: models need no signature.
    pub keys: Vec<String>,
}

/// A signature of a model; the body of `POST /v1/models/{name}/versions/{version}/signatures`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Signature {
    /// The digest of the signature's manifest, which refers to the model's manifest; omitted in a request.
    #[serde(default)]
    pub manifest: Option<String>,
    /// The Sigstore bundle as text.
    pub bundle: String,
}
