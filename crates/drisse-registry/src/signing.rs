//! Signatures of models: signing a package, verifying the signature, and comparing files with the signed manifest.
//!
//! A signature is a DSSE envelope (<https://github.com/secure-systems-lab/dsse/blob/v1.0.2/protocol.md>) around an in-toto
//! statement (<https://github.com/in-toto/attestation/blob/v1.1.0/spec/v1/statement.md>), in a Sigstore bundle
//! (<https://github.com/sigstore/protobuf-specs/blob/v0.4.1/protos/sigstore_bundle.proto>), made with ECDSA on P-256 and
//! SHA-256. The statement names the digests of a model's manifest and of its image without a runtime.

mod bundle;
mod evidence;
mod key;

pub(crate) use bundle::{BUNDLE, MAX_BUNDLE, SIGNED};
pub use bundle::{Bundle, Statement};
pub use evidence::{Evidence, Signed, verify_files};
pub use key::{PublicKey, SigningKey};

use std::path::PathBuf;

/// An error of keys, signatures or signed files.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SignatureError {
    /// A key cannot be read, generated or used.
    #[error("{what} is not a valid key: {why}")]
    Key {
        /// The file the key was read from, or `this`.
        what: String,
        /// What is wrong with the key.
        why: String,
    },
    /// A bundle cannot be parsed, or is not the signature of a model.
    #[error("the signature is not a valid model signature: {why}")]
    Bundle {
        /// What is wrong with the bundle.
        why: String,
    },
    /// The model has no signature.
    #[error("the model is not signed")]
    Unsigned,
    /// The signature was not made with any of the trusted keys.
    #[error(
        "no trusted key has signed the model: the signature is by {by}, and the trusted keys are {trusted}"
    )]
    Untrusted {
        /// The id of the key that the bundle names.
        by: String,
        /// The ids of the trusted keys, separated by commas.
        trusted: String,
    },
    /// The bundle names a trusted key, but that key did not make the signature.
    #[error("the signature was forged or altered: key {by} did not make it")]
    Forged {
        /// The id of the key that the bundle names.
        by: String,
    },
    /// The signature is valid and names another model.
    #[error("the signature is of another model: it names {names}, and this is {digest}")]
    Other {
        /// The digests that the statement names, separated by commas.
        names: String,
        /// The digest of the model's manifest.
        digest: String,
    },
    /// A file does not match the signed manifest.
    #[error("{} is not the file that was signed: {why}", path.display())]
    Altered {
        /// The file.
        path: PathBuf,
        /// How the file differs, or why it cannot be read.
        why: String,
    },
    /// A file is not listed in the signed manifest.
    #[error("{} is not part of what was signed", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
}

impl SignatureError {
    /// Returns what the user can do next.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Key { .. } => {
                "`drisse models keygen` makes a key pair; `openssl pkcs8 -topk8 -nocrypt` converts another private key"
            }
            Self::Unsigned => {
                "sign it with `drisse models sign MODEL --key FILE`, or pull a signed copy from a registry"
            }
            Self::Untrusted { .. } | Self::Forged { .. } => {
                "`drisse models trust` lists the trusted keys; `drisse models trust FILE` adds one"
            }
            _ => "get the signed model again, or sign this one",
        }
    }
}

/// Verifies that one of the `bundles` is a signature of `package` (the manifest's digest) by one of `keys`. Returns
/// the id of that key.
///
/// # Errors
///
/// Returns [`SignatureError::Unsigned`] if there are no bundles. If all fail, returns the error of the bundle that got
/// furthest: parsed, made with a trusted key, of this package.
///
/// ```
/// use drisse_registry::{Bundle, SigningKey, verify};
///
/// let key = SigningKey::from_pem(&SigningKey::generate()?)?;
/// let digest = format!("sha256:{}", "0".repeat(64));
/// let bundle = Bundle::sign(&key, &[("digits", &digest)])?;
/// assert_eq!(verify(&digest, [bundle.as_bytes()], &[key.public()])?, key.public().id());
/// # Ok::<(), drisse_registry::SignatureError>(())
/// ```
pub fn verify<'a>(
    package: &str,
    bundles: impl IntoIterator<Item = &'a [u8]>,
    keys: &[PublicKey],
) -> Result<String, SignatureError> {
    let mut nearest = SignatureError::Unsigned;
    for bundle in bundles {
        let attempt = Bundle::parse(bundle).and_then(|bundle| {
            let (statement, by) = bundle.verify(keys)?;
            statement.names(package)?;
            Ok(by)
        });
        match attempt {
            Ok(by) => return Ok(by),
            Err(error) if rank(&error) > rank(&nearest) => nearest = error,
            Err(_) => {}
        }
    }
    Err(nearest)
}

fn rank(error: &SignatureError) -> u8 {
    match error {
        SignatureError::Unsigned => 0,
        SignatureError::Bundle { .. } => 1,
        SignatureError::Untrusted { .. } => 2,
        SignatureError::Forged { .. } => 3,
        _ => 4,
    }
}
