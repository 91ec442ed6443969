//! Cryptographic signatures of models, and the keys that the workspace trusts.

use super::Models;
use crate::blocking::blocking;
use crate::db::models::ModelRow;
use crate::error::{ControlError, Result};
use drisse_core::Trust;
use drisse_registry::{Bundle, PublicKey, SignatureError, Store, verify};
use drisse_wire::control::{Signature, TrustDocument};
use std::collections::HashSet;
use std::sync::Arc;

/// The setting with the trusted keys.
const TRUSTED: &str = "trusted_keys";

/// The maximum number of signatures of a model.
const MOST: usize = 64;

impl Models {
    /// Returns the trusted keys. If there are none, models need no signature.
    pub(crate) async fn trusted(&self) -> Result<TrustDocument> {
        let keys = self.db.setting::<Option<Vec<String>>>(TRUSTED).await?.flatten();
        Ok(TrustDocument { keys: keys.unwrap_or_default() })
    }

    /// Replaces the trusted keys.
    pub(crate) async fn set_trusted(&self, document: &TrustDocument) -> Result<()> {
        let keys = read_keys(document)?;
        let keys: Vec<_> = keys.iter().map(PublicKey::to_pem).collect();
        self.db.keep_setting(TRUSTED, (!keys.is_empty()).then_some(&keys)).await
    }

    /// Returns what servers need to verify a package: the trusted keys, and the package's signatures.
    pub(crate) async fn trust(&self, package: &str) -> Result<Trust> {
        let keys = self.trusted().await?.keys.concat();
        if keys.is_empty() {
            return Ok(Trust::default());
        }
        let signatures = self.signatures(package).await?.into_iter();
        Ok(Trust { keys, bundles: signatures.map(|signature| signature.bundle.into_bytes()).collect() })
    }

    /// Returns an error if no trusted key has signed the model.
    pub(crate) async fn check_signed(&self, model: &str, package: &str) -> Result<()> {
        let bundles = self.trust(package).await?.bundles;
        self.check_bundles(model, package, &bundles).await
    }

    /// Returns an error if none of these signatures of a package is by a trusted key.
    pub(crate) async fn check_bundles(&self, model: &str, package: &str, bundles: &[Vec<u8>]) -> Result<()> {
        let keys = read_keys(&self.trusted().await?)?;
        if keys.is_empty() {
            return Ok(());
        }
        verify(package, bundles.iter().map(Vec::as_slice), &keys).map(drop).map_err(|error| {
            let message = format!("model `{model}` may not run in this workspace");
            ControlError::conflict(message).because(&error).hint(error.hint())
        })
    }

    /// Returns the signatures of a package.
    pub(crate) async fn signatures(&self, package: &str) -> Result<Vec<Signature>> {
        let mut found = Vec::new();
        for manifest in self.db.referrers(package).await? {
            let of = manifest.clone();
            let bundle = move |store: &Store| store.read(&store.referrer(&of)?.bundle().digest);
            match self.with_store(bundle).await {
                Ok(bundle) => {
                    let bundle = String::from_utf8_lossy(&bundle).into_owned();
                    found.push(Signature { manifest: Some(manifest), bundle });
                }
                // A damaged signature is ignored; the others are still valid.
                Err(error) => tracing::warn!(package, manifest, "a signature cannot be read: {error}"),
            }
        }
        Ok(found)
    }

    /// Stores a signature of a model. Whether its key is trusted is checked when the model is to run.
    pub(crate) async fn sign(self: &Arc<Self>, model: &ModelRow, bundle: &str) -> Result<()> {
        let what = || format!("cannot add the signature to `{}`", model.full_name());
        let refused =
            |error: SignatureError| ControlError::invalid(what()).because(&error).hint(error.hint());
        Bundle::parse(bundle.as_bytes()).and_then(|bundle| bundle.claims(&model.package)).map_err(refused)?;
        if self.db.referrers(&model.package).await?.len() >= MOST {
            return Err(ControlError::conflict(format!("{}: it already has {MOST} signatures", what())));
        }
        let (package, bundle) = (model.package.clone(), bundle.to_owned());
        let models = Arc::clone(self);
        blocking(move || {
            // Until the database refers to the blobs, they must not be collected.
            let _packing = models.store.packing();
            let kept = models.store.attach(&package, bundle.as_bytes())?;
            models.runtime.block_on(models.db.insert_referrer(&package, &kept))
        })
        .await
    }

    /// Returns the digests of all blobs of signatures, which must not be collected.
    pub(crate) async fn signature_blobs(&self) -> Result<HashSet<String>> {
        let mut live = HashSet::new();
        for manifest in self.db.every_referrer().await? {
            // The blobs of a damaged signature are useless.
            if let Ok(referrer) = self.store.referrer(&manifest) {
                live.extend(referrer.blobs().into_iter().map(|blob| blob.digest));
            }
            live.insert(manifest);
        }
        Ok(live)
    }
}

/// Copies signatures from another store, and returns their bundles.
pub(super) fn take(
    store: &Store,
    other: &Store,
    package: &str,
    manifests: &[String],
) -> Result<Vec<Vec<u8>>> {
    let mut bundles = Vec::new();
    for manifest in manifests.iter().take(MOST) {
        let referrer = other.referrer(manifest)?;
        if referrer.subject() != package {
            return Err(ControlError::invalid(format!("signature {manifest} belongs to another package")));
        }
        for blob in referrer.blobs() {
            store.put_bytes(&other.read(&blob.digest)?)?;
        }
        store.put_bytes(&other.read(manifest)?)?;
        bundles.push(other.read(&referrer.bundle().digest)?);
    }
    Ok(bundles)
}

fn read_keys(document: &TrustDocument) -> Result<Vec<PublicKey>> {
    let keys = document.keys.iter().map(|key| PublicKey::all_in(key)).collect::<Result<Vec<_>, _>>();
    keys.map(|keys| keys.concat())
        .map_err(|error| ControlError::invalid("cannot trust the key").because(&error).hint(error.hint()))
}
