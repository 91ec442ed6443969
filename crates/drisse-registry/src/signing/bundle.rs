//! The form in which signatures are stored and sent: a Sigstore bundle with a DSSE envelope with an in-toto statement.

use super::{PublicKey, SignatureError, SigningKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// A bundle's media type, in its own `mediaType` and in the manifests of registries.
pub(crate) const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";

const PAYLOAD: &str = "application/vnd.in-toto+json";
const STATEMENT: &str = "https://in-toto.io/Statement/v1";

/// The predicate type for "signed", without further claims, as Cosign defines it.
pub(crate) const SIGNED: &str = "https://sigstore.dev/cosign/sign/v1";

/// Longest bundle that is read, in bytes (1 MiB).
pub(crate) const MAX_BUNDLE: usize = 1 << 20;

/// A parsed bundle whose signature has not been verified yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bundle {
    payload_type: String,
    payload: Vec<u8>,
    signatures: Vec<Vec<u8>>,
    /// The id of the key that the bundle names. Not authenticated.
    hint: String,
}

/// The in-toto statement in a bundle: the digests that are signed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Statement {
    #[serde(rename = "_type")]
    kind: String,
    subject: Vec<Subject>,
    #[serde(rename = "predicateType")]
    predicate_type: String,
    #[serde(default)]
    predicate: Value,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Subject {
    #[serde(default)]
    name: String,
    digest: Digests,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Digests {
    #[serde(default)]
    sha256: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    media_type: String,
    verification_material: Material,
    dsse_envelope: Envelope,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Material {
    #[serde(default)]
    public_key: Hint,
}

#[derive(Default, Deserialize)]
struct Hint {
    #[serde(default)]
    hint: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    payload: String,
    payload_type: String,
    signatures: Vec<Signed>,
}

#[derive(Deserialize)]
struct Signed {
    sig: String,
}

impl Bundle {
    /// Signs the `subjects`, pairs of name and digest (`sha256:HEX`), and returns the text of the bundle.
    ///
    /// # Errors
    ///
    /// Returns [`SignatureError::Key`] if the system has no random bytes.
    pub fn sign(key: &SigningKey, subjects: &[(&str, &str)]) -> Result<String, SignatureError> {
        let subject = |(name, digest): &(&str, &str)| Subject {
            name: (*name).to_owned(),
            digest: Digests { sha256: digest.trim_start_matches("sha256:").to_owned() },
        };
        let statement = Statement {
            kind: STATEMENT.to_owned(),
            subject: subjects.iter().map(subject).collect(),
            predicate_type: SIGNED.to_owned(),
            predicate: json!({}),
        };
        let payload = json!(statement).to_string();
        let signature = key.sign(&encoded(PAYLOAD, payload.as_bytes()))?;
        let id = key.public().id();
        let document = json!({
            "mediaType": BUNDLE,
            "verificationMaterial": { "publicKey": { "hint": id }, "tlogEntries": [] },
            "dsseEnvelope": {
                "payload": STANDARD.encode(&payload),
                "payloadType": PAYLOAD,
                "signatures": [{ "sig": STANDARD.encode(signature), "keyid": id }],
            },
        });
        Ok(format!("{document}\n"))
    }

    /// Parses the text of a bundle. Does not verify the signature.
    ///
    /// # Errors
    ///
    /// Returns [`SignatureError::Bundle`] if the text is longer than 1 MiB or is not a Sigstore bundle.
    pub fn parse(text: &[u8]) -> Result<Self, SignatureError> {
        let wrong = |why: String| SignatureError::Bundle { why };
        if text.len() > MAX_BUNDLE {
            return Err(wrong(format!("the bundle is longer than {MAX_BUNDLE} bytes")));
        }
        let document: Document = serde_json::from_slice(text).map_err(|error| wrong(error.to_string()))?;
        if document.media_type != BUNDLE {
            return Err(wrong(format!("the bundle has the media type {}", document.media_type)));
        }
        let bytes = |text: &str| STANDARD.decode(text).map_err(|error| wrong(error.to_string()));
        let envelope = document.dsse_envelope;
        let signatures = envelope.signatures.iter().map(|signed| bytes(&signed.sig));
        Ok(Self {
            payload: bytes(&envelope.payload)?,
            signatures: signatures.collect::<Result<_, _>>()?,
            payload_type: envelope.payload_type,
            hint: document.verification_material.public_key.hint,
        })
    }

    /// Checks that the statement names `digest` (`sha256:HEX`). Does not verify the signature.
    ///
    /// # Errors
    ///
    /// Returns [`SignatureError::Other`] if the statement names other digests, or [`SignatureError::Bundle`] if the
    /// bundle has no such statement.
    pub fn claims(&self, digest: &str) -> Result<(), SignatureError> {
        self.statement()?.names(digest)
    }

    /// Verifies the signature with `keys`. Returns the statement and the id of the key that made the signature.
    ///
    /// # Errors
    ///
    /// Returns [`SignatureError::Forged`] if the bundle names one of `keys` and none of them made the signature,
    /// [`SignatureError::Untrusted`] if it names another key, or [`SignatureError::Bundle`] if what is signed is not a
    /// statement about a model.
    pub fn verify(&self, keys: &[PublicKey]) -> Result<(Statement, String), SignatureError> {
        let signed = encoded(&self.payload_type, &self.payload);
        let by = keys.iter().find(|key| self.signatures.iter().any(|sig| key.has_signed(&signed, sig)));
        let Some(by) = by else {
            let by = if self.hint.is_empty() { "an unnamed key".to_owned() } else { self.hint.clone() };
            let ids: Vec<_> = keys.iter().map(PublicKey::id).collect();
            return Err(match ids.contains(&by) {
                true => SignatureError::Forged { by },
                false => SignatureError::Untrusted { by, trusted: ids.join(", ") },
            });
        };
        Ok((self.statement()?, by.id()))
    }

    fn statement(&self) -> Result<Statement, SignatureError> {
        let wrong = |why: String| SignatureError::Bundle { why };
        if self.payload_type != PAYLOAD {
            return Err(wrong(format!("the payload has the type {}", self.payload_type)));
        }
        let statement: Statement =
            serde_json::from_slice(&self.payload).map_err(|error| wrong(error.to_string()))?;
        if statement.kind != STATEMENT || statement.predicate_type != SIGNED {
            let (kind, predicate) = (&statement.kind, &statement.predicate_type);
            return Err(wrong(format!("the payload is a {kind} with the predicate {predicate}")));
        }
        Ok(statement)
    }
}

impl Statement {
    /// Checks that one of the subjects has this digest, `sha256:HEX`.
    pub(super) fn names(&self, digest: &str) -> Result<(), SignatureError> {
        let hex = digest.trim_start_matches("sha256:");
        if !hex.is_empty() && self.subject.iter().any(|subject| subject.digest.sha256 == hex) {
            return Ok(());
        }
        let names = self.subject.iter().map(|subject| format!("sha256:{}", subject.digest.sha256));
        let names = names.collect::<Vec<_>>().join(", ");
        Err(SignatureError::Other { names, digest: digest.to_owned() })
    }
}

/// Returns the bytes that are signed for a payload: DSSE's pre-authentication encoding.
fn encoded(kind: &str, payload: &[u8]) -> Vec<u8> {
    [format!("DSSEv1 {} {kind} {} ", kind.len(), payload.len()).as_bytes(), payload].concat()
}

#[cfg(test)]
mod tests {
    use super::super::verify;
    use super::*;
    use proptest::prelude::*;

    fn key() -> SigningKey {
        SigningKey::from_pem(&SigningKey::generate().unwrap()).unwrap()
    }

    #[test]
    fn a_signature_counts_for_what_it_names_by_whom_it_is_and_for_nothing_else() {
        let (ours, other) = (key(), key());
        let [a, b, c] = [1, 2, 3].map(|digit| format!("sha256:{}", digit.to_string().repeat(64)));
        let text = Bundle::sign(&ours, &[("model", &a), ("image", &b)]).unwrap();
        let bundle = text.as_bytes();
        let keys = [other.public(), ours.public()];
        assert_eq!(verify(&a, [bundle], &keys).unwrap(), ours.public().id());
        assert!(verify(&b, [bundle], &keys).is_ok());
        let refusal = |digest: &str, bundles: &[&[u8]], keys: &[PublicKey]| {
            verify(digest, bundles.iter().copied(), keys).unwrap_err().to_string()
        };
        assert!(refusal(&a, &[], &keys).contains("not signed"));
        assert!(refusal(&c, &[bundle], &keys).contains("is of another model"));
        assert!(refusal(&a, &[bundle], &[other.public()]).contains("no trusted key has signed"));
        assert!(refusal(&a, &[b"{}"], &keys).contains("not a valid model signature"));
        // A bundle by another key that names ours.
        let forged = Bundle::sign(&other, &[("model", &a)]).unwrap();
        let forged = forged.replace(&other.public().id(), &ours.public().id());
        assert!(refusal(&a, &[forged.as_bytes()], &[ours.public()]).contains("forged or altered"));
        let mut altered: Value = serde_json::from_str(&text).unwrap();
        let payload = STANDARD.decode(altered["dsseEnvelope"]["payload"].as_str().unwrap()).unwrap();
        let payload = String::from_utf8(payload).unwrap().replace(&a[7..], &c[7..]);
        altered["dsseEnvelope"]["payload"] = STANDARD.encode(payload).into();
        assert!(refusal(&c, &[altered.to_string().as_bytes()], &keys).contains("forged or altered"));
        // Invalid bundles do not invalidate a valid one.
        assert!(verify(&a, [b"x", forged.as_bytes(), bundle], &keys).is_ok());
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_bundle_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(Bundle::parse(&bytes).is_err());
        }
    }
}
