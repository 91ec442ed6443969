//! Registers models from packages in an OCI image layout. Packages are copied unchanged, so that the digests in
//! registries and signatures stay valid.

use super::{Models, signatures};
use crate::blocking::blocking;
use crate::db::models::{ModelRow, Tags};
use crate::error::{ControlError, Result};
use crate::progress::Progress;
use drisse_core::crash_point;
use drisse_registry::{BlobState, Manifest, ModelSource, Store, signature_document};
use drisse_wire::control::ModelChange;
use std::path::PathBuf;
use std::sync::Arc;

/// A package to register.
#[derive(Clone, Debug)]
pub(crate) struct Import {
    /// The folder of the layout.
    pub(crate) layout: PathBuf,
    /// The digest of the package's manifest.
    pub(crate) package: String,
    /// The digests of the manifests of its signatures.
    pub(crate) signatures: Vec<String>,
    pub(crate) name: String,
    pub(crate) tags: Option<Tags>,
    pub(crate) properties: Tags,
}

impl Models {
    /// Registers a package. If the name has a version with the same files, returns that version.
    pub(crate) async fn import(self: &Arc<Self>, progress: &Arc<Progress>, what: Import) -> Result<ModelRow> {
        let (models, progress) = (Arc::clone(self), Arc::clone(progress));
        let replace = what.tags.is_some();
        let change = ModelChange {
            tags: what.tags.clone().unwrap_or_default(),
            properties: what.properties.clone(),
            ..ModelChange::default()
        };
        let row = blocking(move || {
            let failed =
                |error: ControlError| error.context(format!("cannot register package {}", what.package));
            // Until the database refers to the blobs, they must not be collected.
            let _packing = models.store.packing();
            let layout = Store::existing(&what.layout);
            let bundles = signatures::take(&models.store, &layout, &what.package, &what.signatures);
            let bundles = bundles.map_err(failed)?;
            // Checked before the package is parsed.
            models.runtime.block_on(models.check_coming(&what.name, &what.package, &bundles))?;
            let taken = take(&models.store, &layout, &what.package).map_err(failed)?;
            crash_point("a package is in the store");
            models.runtime.block_on(models.register_package(&what, taken, &|line| progress.add(line)))
        })
        .await?;
        self.labelled(row, &change, replace).await
    }

    async fn register_package(&self, what: &Import, taken: Taken, tell: &dyn Fn(String)) -> Result<ModelRow> {
        for manifest in &what.signatures {
            self.db.insert_referrer(&what.package, manifest).await?;
        }
        // The lock makes sure that each registration gets its own version.
        let _models = self.lock().await;
        let Taken { source, digest, size } = taken;
        if let Some(there) = self.db.model_by_digest(&what.name, &digest).await? {
            if there.package != what.package {
                self.db.set_package(&there.name, there.version, &what.package).await?;
            }
            tell(format!("{} already has these files", there.full_name()));
            return Ok(ModelRow { package: what.package.clone(), ..there });
        }
        let row = ModelRow {
            name: what.name.clone(),
            version: self.db.next_version(&what.name).await?,
            digest,
            package: what.package.clone(),
            size,
            framework: source.inspection.framework.map(str::to_owned),
            signature: signature_document(&source.inspection.signature),
            tags: Tags::new(),
            properties: Tags::new(),
            created: crate::db::now(),
            source: None,
        };
        self.db.insert_model(&row).await?;
        tell(format!("registered {}", row.full_name()));
        Ok(row)
    }
}

/// A package whose blobs are in the store.
struct Taken {
    source: ModelSource,
    digest: String,
    size: u64,
}

/// Copies a package's blobs, and inspects its model like that of a file.
fn take(store: &Store, layout: &Store, package: &str) -> Result<Taken> {
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
    let source = source?;
    let size =
        source.inspection.size + source.inspection.external_data.iter().map(|file| file.size).sum::<u64>();
    Ok(Taken { source, digest, size })
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
