//! Registers models from packages in an OCI image layout. Packages are copied unchanged, so that the digests in
//! registries and signatures stay valid. Those that engines cannot read as they are get packed again.

use super::register::{Stored, size_of};
use super::samples::sample;
use super::{Models, signatures};
use crate::db::models::ModelRow;
use crate::db::now;
use crate::error::{ControlError, Result};
use crate::progress::Progress;
use drisse_core::crash_point;
use drisse_registry::{BlobState, Manifest, ModelSource, Package, Store, signature_document};
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
        let _using = self.uploads.using();
        let layout = match &*request.path {
            "" => {
                let complete = self.uploads.complete(package, &request.signatures);
                complete.map_err(|error| failed(error.into()))?;
                self.uploads.layout().clone()
            }
            path => Store::existing(path.as_ref()),
        };
        let bundles = signatures::take(&self.store, &layout, package, &request.signatures).map_err(failed)?;
        // Checked before the package is parsed.
        self.runtime.block_on(self.check_bundles(name, package, &bundles))?;
        let Some((source, digest)) = take(&self.store, &layout, package).map_err(failed)? else {
            if !bundles.is_empty() {
                progress.add(
                    "its signatures are of the package before it was unpacked; sign the model again"
                        .to_owned(),
                );
            }
            return self.repack(progress, name, package, &layout).map_err(failed);
        };
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

    /// Registers the model in a package of another tool, as if from its files. Blocks on the disk.
    fn repack(&self, progress: &Progress, name: &str, package: &str, layout: &Store) -> Result<ModelRow> {
        let unpacked = self.store.unpack(layout, package)?;
        let opened =
            ModelSource::open_to_run(&unpacked.model).map_err(ControlError::from).and_then(|source| {
                let (sample, given) = sample(&source, None, &|line| progress.add(line))?;
                Ok(Stored { model: unpacked.ingested(&source)?, sample, given, path: None })
            });
        // The view of the whole package is of no further use.
        self.store.forget_view(package);
        self.runtime.block_on(self.insert(progress, name, &opened?))
    }
}

/// Copies a package's blobs, and inspects its model like that of a file. Also returns the digest of the model's files.
/// `None` if the package has to be packed again.
fn take(store: &Store, layout: &Store, package: &str) -> Result<Option<(ModelSource, String)>> {
    let Package::Model(manifest) = layout.package(package)? else { return Ok(None) };
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
    if !matches!(source, Ok(Some(_))) {
        // A view of an invalid model must not be found.
        store.forget_view(&digest);
    }
    Ok(source?.map(|source| (source, digest)))
}

/// Opens the model of a package; `None` if the package has weights to which the model does not refer.
fn inspect(store: &Store, digest: &str, manifest: &Manifest) -> Result<Option<ModelSource>> {
    let view = store.view_of(digest, manifest)?;
    let file = manifest.model_file().ok_or_else(|| ControlError::invalid("the package has no model file"))?;
    let source = ModelSource::open_to_run(&view.join(file))?;
    Ok((source.digest()? == *digest).then_some(source))
}
