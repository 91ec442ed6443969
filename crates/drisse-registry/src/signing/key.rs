//! Keys: ECDSA on P-256 in the PEM forms that OpenSSL and Cosign read and write.

use super::SignatureError;
use crate::blobs::hex;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer};
use sha2::{Digest, Sha256};
use std::fmt;

/// The bytes before the point in the DER of a P-256 public key: RFC 5480, section 2.
const PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// Length in bytes of an uncompressed point: a 4, and two coordinates of 32 bytes.
const POINT: usize = 65;

/// A private key, which signs packages. Its `Debug` form shows only the id.
pub struct SigningKey(EcdsaKeyPair);

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.public().id())
    }
}

/// A public key, which verifies signatures.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey([u8; POINT]);

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.id())
    }
}

fn wrong(why: impl Into<String>) -> SignatureError {
    SignatureError::Key { what: "this".to_owned(), why: why.into() }
}

impl SigningKey {
    /// Generates a private key and returns it as PEM: PKCS #8, not encrypted.
    ///
    /// # Errors
    ///
    /// Returns [`SignatureError::Key`] if the system has no random bytes.
    pub fn generate() -> Result<String, SignatureError> {
        let made = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new());
        let made = made.map_err(|_| wrong("the system has no random bytes"))?;
        Ok(pem("PRIVATE KEY", made.as_ref()))
    }

    /// Parses a private key from PEM: PKCS #8, not encrypted.
    ///
    /// # Errors
    ///
    /// Returns [`SignatureError::Key`] if the text has no such key, or the key is not for ECDSA on P-256.
    pub fn from_pem(text: &str) -> Result<Self, SignatureError> {
        if text.contains("ENCRYPTED") {
            return Err(wrong("it is encrypted"));
        }
        if text.contains("BEGIN EC PRIVATE KEY") {
            return Err(wrong("it has the SEC 1 form, and PKCS #8 is required"));
        }
        let der = PrivatePkcs8KeyDer::from_pem_slice(text.as_bytes())
            .map_err(|_| wrong("it contains no private key in PEM form"))?;
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, der.secret_pkcs8_der(), &random);
        pair.map(Self).map_err(|error| wrong(format!("an ECDSA key on P-256 is required: {error}")))
    }

    /// Returns the public key that verifies this key's signatures.
    pub fn public(&self) -> PublicKey {
        let mut point = [0; POINT];
        point.copy_from_slice(self.0.public_key().as_ref());
        PublicKey(point)
    }

    /// Signs `bytes` and returns the signature in DER.
    pub(super) fn sign(&self, bytes: &[u8]) -> Result<Vec<u8>, SignatureError> {
        let signed = self.0.sign(&SystemRandom::new(), bytes);
        signed
            .map(|signature| signature.as_ref().to_vec())
            .map_err(|_| wrong("the system has no random bytes"))
    }
}

impl PublicKey {
    /// Parses all public keys in a PEM text.
    ///
    /// # Errors
    ///
    /// Returns [`SignatureError::Key`] if the text has no public key, or one that is not for ECDSA on P-256.
    pub fn all_in(text: &str) -> Result<Vec<Self>, SignatureError> {
        let ders = SubjectPublicKeyInfoDer::pem_slice_iter(text.as_bytes());
        let keys = ders.map(|der| Self::from_der(&der.map_err(|error| wrong(error.to_string()))?));
        let keys = keys.collect::<Result<Vec<_>, _>>()?;
        if keys.is_empty() { Err(wrong("it contains no public key in PEM form")) } else { Ok(keys) }
    }

    fn from_der(der: &[u8]) -> Result<Self, SignatureError> {
        let point = der.strip_prefix(&PREFIX).and_then(|point| <[u8; POINT]>::try_from(point).ok());
        point
            .filter(|point| point[0] == 4)
            .map(Self)
            .ok_or_else(|| wrong("an ECDSA key on P-256 is required"))
    }

    /// Returns the key as PEM (SubjectPublicKeyInfo).
    pub fn to_pem(&self) -> String {
        pem("PUBLIC KEY", &self.der())
    }

    fn der(&self) -> Vec<u8> {
        [&PREFIX[..], &self.0].concat()
    }

    /// Returns the key's id: the SHA-256 of its DER, in hexadecimal digits.
    pub fn id(&self) -> String {
        hex(&Sha256::digest(self.der()))
    }

    /// Returns whether the private key has made this signature (in DER) of `bytes`.
    pub(super) fn has_signed(&self, bytes: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &self.0).verify(bytes, signature).is_ok()
    }
}

/// Encodes DER as PEM: RFC 7468.
fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: String = text.as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line) + "\n").collect();
    format!("-----BEGIN {label}-----\n{lines}-----END {label}-----\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_as_they_are_written_and_what_is_none_says_why() {
        let text = SigningKey::generate().unwrap();
        let key = SigningKey::from_pem(&text).unwrap();
        let public = key.public();
        let two = public.to_pem()
            + &SigningKey::from_pem(&SigningKey::generate().unwrap()).unwrap().public().to_pem();
        assert_eq!(PublicKey::all_in(&two).unwrap()[0], public);
        assert_eq!((PublicKey::all_in(&two).unwrap().len(), public.id().len()), (2, 64));
        let signature = key.sign(b"x").unwrap();
        assert!(public.has_signed(b"x", &signature) && !public.has_signed(b"y", &signature));
        let refusal = |result: Result<Vec<PublicKey>, SignatureError>| result.unwrap_err().to_string();
        assert!(refusal(PublicKey::all_in("x")).contains("no public key"));
        assert!(
            refusal(PublicKey::all_in(&text)).contains("no public key"),
            "a private key is not a public key"
        );
        assert!(refusal(PublicKey::all_in(&pem("PUBLIC KEY", b"x"))).contains("P-256"));
        assert!(SigningKey::from_pem(&public.to_pem()).unwrap_err().to_string().contains("no private key"));
        assert!(SigningKey::from_pem("ENCRYPTED").unwrap_err().to_string().contains("encrypted"));
        assert!(!format!("{key:?}").contains("PRIVATE"));
    }
}
