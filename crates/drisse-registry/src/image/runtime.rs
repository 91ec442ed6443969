//! The runtime layer: this program, ONNX Runtime and the shared libraries they need. Built once for all models.

use super::layer::{Layer, Source};
use super::packages::packages;
use super::shared_libraries::SharedLibraries;
use super::{ImageError, USER};
use crate::blobs::{BlobState, Hashing};
use crate::durable::{make_folder, replace_file};
use crate::{Store, StoreError};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// Path of the program in an image. ONNX Runtime's library is beside it, where the program looks first.
pub const PROGRAM: &str = "/usr/lib/drisse/drisse";
const LIBRARY: &str = "/usr/lib/drisse/libonnxruntime.so";

/// Folders in which libraries keep their paths: the loader searches them without a cache.
const USUAL: [&str; 4] = ["/lib", "/usr/lib", "/lib64", "/usr/lib64"];

/// Version of the layer's composition: increase it when the same parts make another layer.
const SCHEMA: u32 = 2;

/// The parts of which a runtime layer is made.
#[derive(Clone, Copy)]
#[expect(missing_debug_implementations, reason = "a function has none")]
pub struct RuntimeParts<'a> {
    /// Path of the `drisse` program.
    pub program: &'a Path,
    /// The program's version.
    pub version: &'a str,
    /// Path of ONNX Runtime's library.
    pub onnxruntime: &'a Path,
    /// Returns ONNX Runtime's version. Called only when a layer is built: the library may have to be loaded.
    pub onnxruntime_version: &'a dyn Fn() -> String,
}

/// A runtime layer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Runtime {
    /// The digest of the compressed layer.
    pub digest: String,
    /// The size of the compressed layer in bytes.
    pub size: u64,
    /// The digest of the uncompressed layer.
    pub diff_id: String,
    /// The architecture as OCI names it: `amd64` or `arm64`.
    pub architecture: String,
    /// Drisse's version.
    pub version: String,
    /// ONNX Runtime's version.
    pub onnxruntime: String,
    /// The system packages in the layer, each as `NAME VERSION`.
    pub packages: Vec<String>,
}

/// The runtime layers on this machine, in a folder that all workspaces share. A file lock lets many processes read, or
/// one add and remove.
#[derive(Debug)]
pub struct Runtimes {
    store: Store,
    /// Has a JSON document for each layer, named by a hash of the layer's parts.
    folder: PathBuf,
    lock: File,
}

impl Runtimes {
    /// Opens the folder and creates it if it does not exist. Blocks while another process adds or removes layers.
    ///
    /// # Errors
    ///
    /// Returns [`ImageError::Io`] if the folder or its lock cannot be created.
    pub fn open(root: &Path) -> Result<Self, ImageError> {
        let folder = root.join("runtimes");
        let failed = |error| ImageError::io("write in", root, error);
        make_folder(&folder).map_err(failed)?;
        let lock = File::create(root.join("lock")).map_err(failed)?;
        lock.lock_shared().map_err(failed)?;
        Ok(Self { store: Store::existing(root), folder, lock })
    }

    /// Runs `change` with the exclusive lock; blocks until no other process holds the lock. Not reentrant.
    fn exclusive<T>(&self, change: impl FnOnce() -> Result<T, ImageError>) -> Result<T, ImageError> {
        let failed = |error| ImageError::io("lock", &self.folder, error);
        self.lock.lock().map_err(failed)?;
        let changed = Store::open(self.store.root()).map_err(ImageError::from).and_then(|_| change());
        self.lock.lock_shared().map_err(failed)?;
        changed
    }

    /// Returns the layer of these parts, and builds it if it is not there yet. Before a build, calls `packing` with the
    /// number of libraries in the layer.
    ///
    /// # Errors
    ///
    /// Returns an error if the program or a library is missing or not an ELF file of a supported architecture, or if
    /// the layer cannot be written.
    pub fn build(
        &self,
        parts: &RuntimeParts<'_>,
        packing: impl FnOnce(usize),
    ) -> Result<Runtime, ImageError> {
        let closure = SharedLibraries::of(parts.program, &[parts.onnxruntime])?;
        let (layer, packages) = layer(parts, &closure)?;
        let document = self.folder.join(format!("{SCHEMA}-{}.json", layer.key()?));
        match self.kept(&document)? {
            Some(kept) => Ok(kept),
            None => self.exclusive(|| {
                // Another process may have built the layer while this one waited for the lock.
                if let Some(kept) = self.kept(&document)? {
                    return Ok(kept);
                }
                packing(closure.libraries.len());
                self.pack(parts, &layer, closure.architecture, packages, &document)
            }),
        }
    }

    fn kept(&self, document: &Path) -> Result<Option<Runtime>, ImageError> {
        let Some(kept) = read(document) else { return Ok(None) };
        Ok((self.store.check(&kept.digest)? == BlobState::Good).then_some(kept))
    }

    fn pack(
        &self,
        parts: &RuntimeParts<'_>,
        layer: &Layer,
        architecture: &str,
        packages: Vec<String>,
        document: &Path,
    ) -> Result<Runtime, ImageError> {
        let mut diff_id = None;
        let blob = self.store.put(|out| {
            let mut inside = Hashing::new(GzEncoder::new(out, Compression::default()));
            layer.write(&mut inside)?;
            let (packed, unpacked) = inside.into_parts();
            packed.finish()?;
            diff_id = Some(unpacked.digest);
            Ok(())
        })?;
        let runtime = Runtime {
            digest: blob.digest,
            size: blob.size,
            diff_id: diff_id.unwrap_or_default(),
            architecture: architecture.to_owned(),
            version: parts.version.to_owned(),
            onnxruntime: (parts.onnxruntime_version)(),
            packages,
        };
        let text = serde_json::to_vec(&runtime).map_err(StoreError::encode)?;
        replace_file(document, &text).map_err(|error| ImageError::io("write", document, error))?;
        Ok(runtime)
    }

    /// Returns the layer with this digest.
    ///
    /// # Errors
    ///
    /// Returns [`ImageError::NoRuntime`] if the layer does not exist, or [`StoreError::Corrupt`] if it is damaged.
    pub fn pinned(&self, digest: &str) -> Result<Runtime, ImageError> {
        let found = self.list().into_iter().find(|runtime| runtime.digest == digest);
        let found = found.ok_or_else(|| ImageError::NoRuntime { digest: digest.to_owned() })?;
        match self.store.check(digest)? {
            BlobState::Good => Ok(found),
            BlobState::Corrupt => Err(StoreError::Corrupt { digest: digest.to_owned() }.into()),
            BlobState::Missing => Err(ImageError::NoRuntime { digest: digest.to_owned() }),
        }
    }

    /// Returns all layers, sorted by digest.
    pub fn list(&self) -> Vec<Runtime> {
        let documents = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let mut found: Vec<_> = documents.filter_map(|entry| read(&entry.path())).collect();
        found.sort_by(|one, other| one.digest.cmp(&other.digest));
        found.dedup();
        found
    }

    /// Removes all layers except those with the digests in `keep`. Returns the number of removed blobs and their size
    /// in bytes.
    ///
    /// # Errors
    ///
    /// Returns an error if a file cannot be removed.
    pub fn prune(&self, keep: &[String]) -> Result<(usize, u64), ImageError> {
        self.exclusive(|| {
            for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
                let path = entry.path();
                if read(&path).is_none_or(|runtime| !keep.contains(&runtime.digest)) {
                    fs::remove_file(&path).map_err(|error| ImageError::io("remove", &path, error))?;
                }
            }
            let live: HashSet<String> = keep.iter().cloned().collect();
            Ok(self.store.collect(|| Ok::<_, StoreError>(live))?)
        })
    }

    /// Returns the path of a layer's blob.
    pub(super) fn layer(&self, runtime: &Runtime) -> Result<PathBuf, ImageError> {
        Ok(self.store.path(&runtime.digest)?)
    }
}

fn read(document: &Path) -> Option<Runtime> {
    serde_json::from_slice(&fs::read(document).ok()?).ok()
}

/// Adds the locale `en_US.UTF-8`, which ONNX Runtime's text operators require: the host's `C.UTF-8`, which changes the
/// case of all of Unicode in the same way. Returns the host's files.
fn locale(layer: &mut Layer) -> Result<Vec<PathBuf>, ImageError> {
    const LOCALE: &str = "/usr/lib/locale/en_US.utf8";
    let found = ["C.utf8", "C.UTF-8"].map(|name| Path::new("/usr/lib/locale").join(name));
    let Some(plain) = found.iter().find(|folder| folder.is_dir()) else { return Ok(Vec::new()) };
    let failed = |error| ImageError::io("read", plain, error);
    let mut taken = Vec::new();
    for folder in [plain.clone(), plain.join("LC_MESSAGES")] {
        for entry in fs::read_dir(&folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.is_file() {
                let name = path.strip_prefix(plain).unwrap_or(&path).display();
                layer.file(&format!("{LOCALE}/{name}"), Source::file(&path)?);
                taken.push(path);
            }
        }
    }
    Ok(taken)
}

/// Composes the layer. Returns the layer and the system packages its files came from.
fn layer(parts: &RuntimeParts<'_>, closure: &SharedLibraries) -> Result<(Layer, Vec<String>), ImageError> {
    let mut layer = Layer::default();
    let mut taken = Vec::new();
    layer.program(PROGRAM, Source::loaded(parts.program)?);
    layer.file(LIBRARY, Source::file(parts.onnxruntime)?);
    if let Some(loader) = &closure.loader {
        taken.push(layer.host(loader, true)?);
    }
    let libc = closure.libraries.get("libc.so.6").or(closure.loader.as_ref());
    let system = libc.and_then(|libc| libc.parent()).unwrap_or(Path::new("/lib"));
    for (name, path) in &closure.libraries {
        let folder = path.parent().unwrap_or(Path::new("/"));
        let usual = folder == system || USUAL.iter().any(|usual| folder == Path::new(usual));
        if usual && path.ends_with(name) {
            taken.push(layer.host(path, false)?);
        } else {
            // Found through a cache or a search path that the image does not have: move it to a default folder.
            let system = system.canonicalize().unwrap_or_else(|_| system.to_owned());
            layer.file(&system.join(name).display().to_string(), Source::file(path)?);
            taken.push(path.clone());
        }
    }
    taken.extend(locale(&mut layer)?);
    for path in ["/etc/ssl/certs/ca-certificates.crt", "/etc/os-release"].map(Path::new) {
        if path.is_file() {
            taken.push(layer.host(path, false)?);
        }
    }
    let packages = packages(Path::new("/var/lib/dpkg"), &taken);
    for package in &packages {
        let status = format!("/var/lib/dpkg/status.d/{}", package.name);
        layer.file(&status, Source::Bytes(package.paragraph.clone().into_bytes()));
        let copyright = PathBuf::from(format!("/usr/share/doc/{}/copyright", package.name));
        if copyright.is_file() {
            layer.host(&copyright, false)?;
        }
    }
    let user = format!("root:x:0:0:root:/:/nologin\ndrisse:x:{USER}:{USER}:drisse:/:/nologin\n");
    layer.file("/etc/passwd", Source::Bytes(user.into_bytes()));
    layer.file("/etc/group", Source::Bytes(format!("root:x:0:\ndrisse:x:{USER}:\n").into_bytes()));
    layer.folder("tmp");
    Ok((layer, packages.iter().map(|package| format!("{} {}", package.name, package.version)).collect()))
}
