//! Signatures of models: who vouches for a package, and whether its files are the ones that were vouched for.
//!
//! A signature is a DSSE envelope (<https://github.com/secure-systems-lab/dsse/blob/v1.0.2/protocol.md>) around an in-toto
//! statement (<https://github.com/in-toto/attestation/blob/v1.1.0/spec/v1/statement.md>), in a Sigstore bundle
//! (<https://github.com/sigstore/protobuf-specs/blob/v0.4.1/protos/sigstore_bundle.proto>), by an ECDSA key on P-256 with
//! SHA-256. It names the digests of a model's manifest and of its image without a runtime.

mod bundle;
mod evidence;
mod key;

pub(crate) use bundle::{BUNDLE, MAX_BUNDLE, SIGNED};
pub use bundle::{Bundle, Statement};
pub use evidence::{Evidence, Signed, verify_files};
pub use key::{PublicKey, SigningKey};

use std::path::PathBuf;

/// Why a model does not count as signed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SignatureError {
    /// What should be a key is none.
    #[error("{what} is no key: {why}")]
    Key {
        /// Where it was read from, or `it`.
        what: String,
        /// What is wrong.
        why: String,
    },
    /// What should be a signature is none.
    #[error("it is no signature of a model: {why}")]
    Bundle {
        /// What is wrong.
        why: String,
    },
    /// There is none.
    #[error("the model is not signed")]
    Unsigned,
    /// None of the keys that count has made it.
    #[error("no key that counts has signed it: the signature is by {by}, and {trusted} count")]
    Untrusted {
        /// The id of the key that it says it is by.
        by: String,
        /// Ids of those that count.
        trusted: String,
    },
    /// The envelope names a key that counts, whose signature it is not: forged, or altered.
    #[error("the signature was forged or altered: it is not by key {by}, as it says")]
    Forged {
        /// The key's id.
        by: String,
    },
    /// It is of something else.
    #[error("the signature is of another model: it names {names}, and this is {digest}")]
    Other {
        /// What it names.
        names: String,
        /// The manifest's digest.
        digest: String,
    },
    /// A file is not what the signed manifest says.
    #[error("{} is not the file that was signed: {why}", path.display())]
    Altered {
        /// Which.
        path: PathBuf,
        /// How it differs.
        why: String,
    },
    /// A file that is needed is nowhere in the signed manifest.
    #[error("{} is not part of what was signed", path.display())]
    Foreign {
        /// Which.
        path: PathBuf,
    },
}

impl SignatureError {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Key { .. } => {
                "`drisse models keygen` makes one; `openssl pkcs8 -topk8 -nocrypt` brings others into form"
            }
            Self::Unsigned => {
                "sign it with `drisse models sign MODEL --key FILE`, or pull it from where it is signed"
            }
            Self::Untrusted { .. } | Self::Forged { .. } => {
                "`drisse models trust` shows the keys that count, and adds some"
            }
            _ => "take the model from where it was signed, or sign this one",
        }
    }
}

/// Whether one of several signatures makes a package count; the id of the key. Of several reasons why not, that
/// of the signature that came nearest.
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
