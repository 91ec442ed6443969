//! Pushing models and images to registries, and pulling them.

use crate::cli::{Output, RegistryOptions};
use crate::connect::WorkspaceRef;
use crate::error::{CliError, Result};
use crate::follow::{Left, follow};
use crate::{printer, units, wiring};
use anyhow::Context;
use drisse_control::Workspace;
use drisse_core::{ModelName, ServiceName};
use drisse_registry::{Access, Base, Pushed, Reference, RemoteError, RemoteRepository, Store, Transfer};
use drisse_wire::control::RegisterRequest;
use indicatif::ProgressBar;
use serde_json::json;
use std::fs::{File, TryLockError};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

/// The files of an interrupted pull are removed after this time without a new attempt.
const FORGOTTEN: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// A progress bar for transferred bytes.
pub(super) struct Bar(ProgressBar);

impl Bar {
    /// Sets the number of transferred bytes.
    pub(super) fn set(&self, bytes: u64) {
        self.0.set_position(bytes);
    }

    pub(super) fn new(what: &str) -> Self {
        let bar = printer::bar(Some(0), "{msg} {bar:30} {bytes} of {total_bytes}, {bytes_per_sec}");
        // Draws the bar, which `with_message` would not.
        bar.set_message(what.to_owned());
        Self(bar)
    }
}

impl Transfer for Bar {
    fn total(&self, bytes: u64) {
        self.0.set_length(bytes);
    }

    fn moved(&self, bytes: i64) {
        let bytes = self.0.position().saturating_add_signed(bytes);
        self.0.set_position(bytes);
    }

    fn note(&self, text: &str) {
        self.0.suspend(|| printer::note(text));
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

impl From<RemoteError> for CliError {
    fn from(error: RemoteError) -> Self {
        let hint = error.hint();
        let failure = Self::from(anyhow::Error::new(error));
        Self { hint: hint.or(failure.hint), ..failure }
    }
}

impl RegistryOptions {
    pub(crate) fn access(&self) -> Access {
        Access { ca: self.registry_ca.clone(), plain_http: self.plain_http }
    }
}

/// Returns the workspace if it is on this machine, because the command reads its store. `verb` is for the error.
pub(super) fn beside<'a>(workspace: &'a WorkspaceRef, verb: &str) -> Result<&'a Workspace> {
    workspace.folder().map_err(|_| {
        CliError::new(format!("cannot {verb} models of a remote workspace"))
            .hint("run this on the control plane's machine, with --workspace DIR")
    })
}

/// `drisse models push`.
pub(crate) async fn push(
    workspace: &WorkspaceRef,
    model: &str,
    to: &str,
    options: &RegistryOptions,
    output: Output,
) -> Result<ExitCode> {
    let mut reference: Reference = to.parse()?;
    let folder = beside(workspace, "push")?;
    let client = workspace.reach().await?;
    let (name, version) = super::models::parse(model)?;
    let model = client.model(name, version).await?;
    reference.tag.get_or_insert_with(|| model.version.to_string());
    let store = Store::existing(&folder.store());
    let signatures = client.signatures(&model.name, Some(model.version)).await?;
    let signatures: Vec<_> = signatures.into_iter().filter_map(|signature| signature.manifest).collect();
    let pushed = upload(&reference, options, &store, &model.manifest_digest, &signatures).await?;
    print(output, &reference, &pushed, Some(format!("{}:{}", model.name, model.version)));
    Ok(ExitCode::SUCCESS)
}

/// Pushes a manifest with its blobs from a store, and its signatures.
pub(crate) async fn upload(
    reference: &Reference,
    options: &RegistryOptions,
    store: &Store,
    digest: &str,
    signatures: &[String],
) -> Result<Pushed> {
    let registry = RemoteRepository::to_push(reference, &options.access()).await?;
    let (bar, cache) = (Bar::new("pushing"), wiring::cache_folder().join("registries"));
    let pushed = registry.push(digest, store, &cache, &bar).await?;
    for signature in signatures {
        registry.push_signature(signature, store, &cache, &()).await?;
    }
    Ok(pushed)
}

/// Prints the result of a push.
pub(crate) fn print(output: Output, reference: &Reference, pushed: &Pushed, model: Option<String>) {
    let Pushed { digest, sent, there } = pushed;
    let document = || json!({ "model": model, "reference": reference.to_string(), "digest": digest, "sent": sent, "there": there });
    let text = || {
        let (sent, there) = (units::shown(*sent), units::shown(*there));
        format!("{reference} {digest}\n{sent} sent, {there} already there\n")
    };
    printer::result(output, document, text);
}

/// Pulls a base image. Its layers stay in the cache for the next build.
pub(crate) async fn base(
    reference: &Reference,
    options: &RegistryOptions,
    architecture: &str,
) -> Result<Base> {
    let registry = RemoteRepository::to_pull(reference, &options.access()).await?;
    let layout = Layout::open(&wiring::cache_folder().join("bases"), "layers")?;
    let store = Store::open(&layout.folder).map_err(RemoteError::from)?;
    Ok(Base::pull(&registry, architecture, &store, &Bar::new("pulling the base image")).await?)
}

/// Pulls a package and registers it. The result of the operation is the model.
pub(crate) async fn pull(
    workspace: &WorkspaceRef,
    from: &str,
    name: Option<&str>,
    options: &RegistryOptions,
) -> Result<Left> {
    let reference: Reference = from.parse()?;
    if workspace.is_down() {
        return Err(CliError::new("cannot pull: the workspace is down").hint("`drisse up` starts it"));
    }
    let name = match name {
        Some(name) => match name.parse::<ModelName>() {
            Ok(name) => name.to_string(),
            Err(error) => return Err(CliError::new(error)),
        },
        None => ServiceName::of_stem(reference.name()).map(|name| name.to_string()).ok_or_else(|| {
            CliError::new(format!("cannot derive a model name from `{}`", reference.name()))
                .hint("give a name: --name NAME")
        })?,
    };
    let registry = RemoteRepository::to_pull(&reference, &options.access()).await?;
    let package = registry.package().await?;
    let pulls = wiring::cache_folder().join("pulls");
    let layout = Layout::open(&pulls, package.digest.trim_start_matches("sha256:"))?;
    let store = Store::open(&layout.folder).map_err(RemoteError::from)?;
    let bar = Bar::new("pulling");
    // What the workspace has need not be pulled, where its store can be read.
    let there = match workspace {
        WorkspaceRef::Folder(folder, _) => Store::existing(&folder.store()),
        WorkspaceRef::Remote(..) => store.clone(),
    };
    registry.pull(&package, &store, &there, &bar).await?;
    drop(bar);
    let signatures = registry.pull_signatures(&package.digest, &store).await?;
    let size = units::shown(package.size());
    printer::note(&format!("pulled {reference}, {size} ({})", package.digest));
    let client = workspace.reach().await?;
    let path = match workspace {
        WorkspaceRef::Folder(..) => layout.folder.display().to_string(),
        WorkspaceRef::Remote(..) => {
            super::upload::layout(&client, &store).await?;
            String::new()
        }
    };
    let request = RegisterRequest {
        path,
        package: Some(package.digest),
        signatures,
        name: Some(name),
        ..RegisterRequest::default()
    };
    let operation = client.register(&request).await?;
    let left = follow(workspace, &client, &operation).await?;
    if let Left::Done(_) = left {
        layout.remove();
    }
    Ok(left)
}

/// A folder for a pull in progress, locked by this process.
struct Layout {
    folder: PathBuf,
    _lock: File,
}

impl Layout {
    /// Opens and locks the folder of this name, which may contain the files of an interrupted pull. Removes the
    /// folders of pulls that were interrupted long ago.
    fn open(pulls: &Path, name: &str) -> Result<Self> {
        let folder = pulls.join(name);
        let open = || -> std::io::Result<File> {
            drisse_registry::make_folder(&folder)?;
            let path = pulls.join(format!("{name}.lock"));
            loop {
                let lock = File::create(&path)?;
                if let Err(TryLockError::WouldBlock) = lock.try_lock() {
                    printer::note("waiting: another command is pulling the same files");
                    lock.lock()?;
                }
                // The previous owner may have removed the lock file and the folder: then this lock is stale.
                let inode = lock.metadata()?.ino();
                if std::fs::metadata(&path).is_ok_and(|metadata| metadata.ino() == inode) {
                    drisse_registry::make_folder(&folder)?;
                    return Ok(lock);
                }
            }
        };
        let lock = open().with_context(|| format!("cannot use the folder {}", folder.display()))?;
        for entry in std::fs::read_dir(pulls).into_iter().flatten().flatten() {
            let age = entry.metadata().and_then(|metadata| metadata.modified());
            let age = age.ok().and_then(|at| SystemTime::now().duration_since(at).ok());
            if age.is_some_and(|age| age > FORGOTTEN) && entry.path() != folder {
                let path = entry.path();
                let _ =
                    if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
            }
        }
        Ok(Self { folder, _lock: lock })
    }

    /// Removes the folder of a completed pull.
    fn remove(self) {
        // Files that cannot be removed now are removed by a later pull.
        let _ = std::fs::remove_dir_all(&self.folder);
        let _ = std::fs::remove_file(self.folder.with_extension("lock"));
    }
}
