//! The two keys of a service: creates and checks them. Servers get only their digests.

use crate::db::services::ServiceRow;
use crate::error::{ControlError, Result};
use drisse_net::hex;
use sha2::{Digest, Sha256};

/// Returns a new key of 32 random bytes, as hexadecimal digits.
pub(crate) fn make() -> Result<String> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)
        .map_err(|error| ControlError::internal("cannot get random bytes from the system").because(&error))?;
    Ok(hex(&bytes))
}

/// Checks a key that the user chose. It must fit into a header and a line of a file, and be hard to guess.
pub(crate) fn check(key: &str) -> Result<()> {
    let plain = key.bytes().all(|byte| byte.is_ascii_graphic());
    if plain && (16..=256).contains(&key.len()) && !key.starts_with("sha256:") && !key.starts_with('#') {
        return Ok(());
    }
    Err(ControlError::invalid(
        "the key cannot be used: it must have 16 to 256 visible ASCII characters, without spaces",
    ))
}

/// Returns the digests of a service's keys, which servers get instead of the keys.
pub(crate) fn digests(service: &ServiceRow) -> Vec<String> {
    let digest = |key: &String| format!("sha256:{}", hex(&Sha256::digest(key)));
    [&service.primary_key, &service.secondary_key].map(digest).to_vec()
}

/// Returns whether two texts are equal, in a time that does not depend on where they differ.
pub(crate) fn same(one: &[u8], other: &[u8]) -> bool {
    use subtle::ConstantTimeEq;
    Sha256::digest(one).ct_eq(&Sha256::digest(other)).into()
}
