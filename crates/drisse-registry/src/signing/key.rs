//! Keys: ECDSA on P-256, as PEM, as OpenSSL and cosign write and read them.

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

/// What stands before a point of P-256 in a public key's DER: RFC 5480, section 2.
const PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// A point that is not compressed: 4, and two coordinates of 32 bytes.
const POINT: usize = 65;

/// A key that signs.
pub struct SigningKey(EcdsaKeyPair);

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.public().id())
    }
}

/// A key that tells whether another one has signed.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey([u8; POINT]);

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.id())
    }
}

fn wrong(why: impl Into<String>) -> SignatureError {
    SignatureError::Key { what: "it".to_owned(), why: why.into() }
}

impl SigningKey {
    /// A new key, as PEM: PKCS #8, not encrypted.
    pub fn generate() -> Result<String, SignatureError> {
        let made = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new());
        let made = made.map_err(|_| wrong("the system gives no random bytes"))?;
        Ok(pem("PRIVATE KEY", made.as_ref()))
    }

    /// From PEM.
    pub fn from_pem(text: &str) -> Result<Self, SignatureError> {
        if text.contains("ENCRYPTED") {
            return Err(wrong("it is encrypted"));
        }
        if text.contains("BEGIN EC PRIVATE KEY") {
            return Err(wrong("it is in the form of SEC 1, and PKCS #8 is wanted"));
        }
        let der = PrivatePkcs8KeyDer::from_pem_slice(text.as_bytes())
            .map_err(|_| wrong("there is no private key in it, as PEM"))?;
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, der.secret_pkcs8_der(), &random);
        pair.map(Self).map_err(|error| wrong(format!("ECDSA on P-256 is wanted: {error}")))
    }

    /// The key that tells whether this one has signed.
    pub fn public(&self) -> PublicKey {
        let mut point = [0; POINT];
        point.copy_from_slice(self.0.public_key().as_ref());
        PublicKey(point)
    }

    /// A signature, in DER.
    pub(super) fn sign(&self, bytes: &[u8]) -> Result<Vec<u8>, SignatureError> {
        let signed = self.0.sign(&SystemRandom::new(), bytes);
        signed
            .map(|signature| signature.as_ref().to_vec())
            .map_err(|_| wrong("the system gives no random bytes"))
    }
}

impl PublicKey {
    /// The keys in a PEM text; at least one.
    pub fn all_in(text: &str) -> Result<Vec<Self>, SignatureError> {
        let ders = SubjectPublicKeyInfoDer::pem_slice_iter(text.as_bytes());
        let keys = ders.map(|der| Self::from_der(&der.map_err(|error| wrong(error.to_string()))?));
        let keys = keys.collect::<Result<Vec<_>, _>>()?;
        if keys.is_empty() { Err(wrong("there is no public key in it, as PEM")) } else { Ok(keys) }
    }

    fn from_der(der: &[u8]) -> Result<Self, SignatureError> {
        let point = der.strip_prefix(&PREFIX).and_then(|point| <[u8; POINT]>::try_from(point).ok());
        point.filter(|point| point[0] == 4).map(Self).ok_or_else(|| wrong("ECDSA on P-256 is wanted"))
    }

    /// As PEM.
    pub fn to_pem(&self) -> String {
        pem("PUBLIC KEY", &self.der())
    }

    fn der(&self) -> Vec<u8> {
        [&PREFIX[..], &self.0].concat()
    }

    /// What it is called: the SHA-256 of its DER, in hexadecimal digits.
    pub fn id(&self) -> String {
        hex(&Sha256::digest(self.der()))
    }

    /// Whether its other half has signed these bytes.
    pub(super) fn has_signed(&self, bytes: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &self.0).verify(bytes, signature).is_ok()
    }
}

/// RFC 7468.
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
        let told = |result: Result<Vec<PublicKey>, SignatureError>| result.unwrap_err().to_string();
        assert!(told(PublicKey::all_in("x")).contains("no public key"));
        assert!(told(PublicKey::all_in(&text)).contains("no public key"), "a private key is none");
        assert!(told(PublicKey::all_in(&pem("PUBLIC KEY", b"x"))).contains("P-256"));
        assert!(SigningKey::from_pem(&public.to_pem()).unwrap_err().to_string().contains("no private key"));
        assert!(SigningKey::from_pem("ENCRYPTED").unwrap_err().to_string().contains("encrypted"));
        assert!(!format!("{key:?}").contains("PRIVATE"));
    }
}
