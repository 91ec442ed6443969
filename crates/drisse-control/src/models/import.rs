//! Registers models from packages in an OCI image layout. Packages are copied unchanged, so that the digests in
//! registries and signatures stay valid.

use super::register::size_of;
use super::{Models, signatures};
use crate::db::models::ModelRow;
use crate::db::now;
use crate::error::{ControlError, Result};
use crate::progress::Progress;
use drisse_core::crash_point;
use drisse_registry::{BlobState, Manifest, ModelSource, Store, signature_document};
use drisse_wire::control::RegisterRequest;

impl Models {
    /// Registers a package of the layout that the request names. Blocks on the disk.
    pub(super) fn import(
        &self,
        progress: &Progress,
        name: &str,
        package: &str,
        request: &RegisterRequest,
    ) -> Result<ModelRow> {
        let failed = |error: ControlError| error.context(format!("cannot register package {package}"));
        // Until the database refers to the blobs, they must not be collected.
        let _packing = self.store.packing();
        let layout = Store::existing(request.path.as_ref());
        let bundles = signatures::take(&self.store, &layout, package, &request.signatures).map_err(failed)?;
        // Checked before the package is parsed.
        self.runtime.block_on(self.check_bundles(name, package, &bundles))?;
        let (source, digest) = take(&self.store, &layout, package).map_err(failed)?;
        crash_point("a package is in the store");
        self.runtime.block_on(async {
            for manifest in &request.signatures {
                self.db.insert_referrer(package, manifest).await?;
            }
            // The lock makes sure that each registration gets its own version.
            let _models = self.lock().await;
            if let Some(there) = self.db.model_by_digest(name, &digest).await? {
                if there.package != package {
                    self.db.set_package(&there.name, there.version, package).await?;
                }
                progress.add(format!("{} already has these files", there.full_name()));
                return Ok(ModelRow { package: package.to_owned(), ..there });
            }
            let row = ModelRow {
                name: name.to_owned(),
                version: self.db.next_version(name).await?,
                digest,
                package: package.to_owned(),
                size: size_of(&source),
                framework: source.inspection.framework.map(str::to_owned),
                signature: signature_document(&source.inspection.signature),
                created: now(),
                ..ModelRow::default()
            };
            self.db.insert_model(&row).await?;
            progress.add(format!("registered {}", row.full_name()));
            Ok(row)
        })
    }
}

/// Copies a package's blobs, and inspects its model like that of a file. Also returns the digest of the model's files.
fn take(store: &Store, layout: &Store, package: &str) -> Result<(ModelSource, String)> {
    let manifest = layout.manifest(package)?;
    for (what, blob) in manifest.every_blob() {
        if store.check(&blob.digest)? == BlobState::Good {
            continue;
        }
        let kept = store.put_file(&layout.path(&blob.digest)?, &|_| ())?;
        if kept != blob {
            let message = format!(
                "{what} does not match the package's manifest: its digest is {}, its size {} bytes",
                kept.digest, kept.size
            );
            return Err(ControlError::invalid(message).hint("pull it again"));
        }
    }
    store.put_bytes(&layout.read(package)?)?;
    let digest = manifest.model_digest();
    let source = inspect(store, &digest, &manifest);
    if source.is_err() {
        // A view of an invalid model must not be found.
        store.forget_view(&digest);
    }
    Ok((source?, digest))
}

fn inspect(store: &Store, digest: &str, manifest: &Manifest) -> Result<ModelSource> {
    let view = store.view_of(digest, manifest)?;
    let file = manifest.model_file().ok_or_else(|| ControlError::invalid("the package has no model file"))?;
    let source = ModelSource::open_to_run(&view.join(file))?;
    if source.digest()? != *digest {
        let message = "the package contains weights that its model does not refer to";
        return Err(
            ControlError::invalid(message).hint("a model is one file and the external data it refers to")
        );
    }
    Ok(source)
}
