//! A service's two keys: made, checked, and told to servers only as digests.

use crate::db::services::ServiceRow;
use crate::error::{ControlError, Result};
use drisse_net::hex;
use sha2::{Digest, Sha256};

/// A key of 32 random bytes.
pub(crate) fn make() -> Result<String> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)
        .map_err(|error| ControlError::internal("the system gives no random bytes").because(&error))?;
    Ok(hex(&bytes))
}

/// A key of the user's own: it must stand in a header and on a line, and not be guessable.
pub(crate) fn check(key: &str) -> Result<()> {
    let plain = key.bytes().all(|byte| byte.is_ascii_graphic());
    if plain && (16..=256).contains(&key.len()) && !key.starts_with("sha256:") && !key.starts_with('#') {
        return Ok(());
    }
    Err(ControlError::invalid(
        "the key cannot be used: it needs 16 to 256 visible ASCII characters, without spaces",
    ))
}

/// What servers are told of the keys.
pub(crate) fn digests(service: &ServiceRow) -> Vec<String> {
    let digest = |key: &String| format!("sha256:{}", hex(&Sha256::digest(key)));
    [&service.primary_key, &service.secondary_key].map(digest).to_vec()
}

/// Whether two texts are equal, in a time that does not tell where they differ.
pub(crate) fn same(one: &[u8], other: &[u8]) -> bool {
    use subtle::ConstantTimeEq;
    Sha256::digest(one).ct_eq(&Sha256::digest(other)).into()
}
