//! Writing images: as an archive that every container engine loads, or as a folder in the OCI image layout.
//!
//! Specification: <https://github.com/opencontainers/image-spec/blob/v1.1.1/image-layout.md>. The archive also
//! has the `manifest.json` that `docker load` requires: <https://github.com/moby/docker-image-spec>.

use super::{Content, Image, ImageError};
use crate::blobs::{Blob, Hashing};
use crate::durable::{make_folder, sync_folder_of};
use crate::package::{MANIFEST, REF_NAME};
use serde_json::{Value, json};
use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// Block size of tar archives, which end with two empty blocks: POSIX.1-2017, `pax`.
const BLOCK: usize = 512;

/// A writer that reports the number of bytes it passes on.
struct Reporting<'a, W> {
    inner: W,
    progress: &'a dyn Fn(u64),
}

impl Image {
    /// Writes the image as a tar archive named `reference`. Calls `progress` with the number of bytes of each chunk of
    /// a layer.
    ///
    /// # Errors
    ///
    /// Returns [`ImageError::Changed`] if a file changed since the image was built, or another error if a file cannot
    /// be read or `out` fails.
    pub fn write_archive(
        &self,
        mut out: impl Write,
        reference: &str,
        progress: &dyn Fn(u64),
    ) -> Result<(), ImageError> {
        let failed = |error| ImageError::io("write", Path::new("the archive"), error);
        let index = json!({"schemaVersion": 2, "manifests": [self.entry(reference)]}).to_string();
        let layers: Vec<_> = self.layers.iter().map(|(blob, _)| path(&blob.digest)).collect();
        let docker =
            json!([{"Config": path(&self.config.0.digest), "RepoTags": [reference], "Layers": layers}]);
        for (name, bytes) in [
            ("oci-layout", LAYOUT),
            ("index.json", index.as_bytes()),
            ("manifest.json", docker.to_string().as_bytes()),
            (&*path(&self.digest), &self.manifest),
            (&*path(&self.config.0.digest), &self.config.1),
        ] {
            member(&mut out, name, bytes.len() as u64, |out| out.write_all(bytes)).map_err(failed)?;
        }
        for (blob, content) in &self.layers {
            let mut became = None;
            let written = member(&mut out, &path(&blob.digest), blob.size, |out| {
                let mut hashing = Hashing::new(Reporting { inner: out, progress });
                content.write(&mut hashing)?;
                became = Some(hashing.finish());
                Ok(())
            });
            same(blob, became.as_ref())?;
            written.map_err(failed)?;
        }
        out.write_all(&[0; 2 * BLOCK]).and_then(|()| out.flush()).map_err(failed)
    }

    /// Writes the image into an OCI image layout, which is created if it does not exist. An image named `reference` in
    /// the layout is replaced, but its blobs are not removed.
    ///
    /// # Errors
    ///
    /// Returns [`ImageError::Changed`] if a file changed since the image was built, or another error if a file cannot
    /// be read or written.
    pub fn write_layout(
        &self,
        folder: &Path,
        reference: &str,
        progress: &dyn Fn(u64),
    ) -> Result<(), ImageError> {
        let index = folder.join("index.json");
        let unreadable = |why: io::Error| ImageError::io("read", &index, why);
        let mut document = match File::open(&index).map(io::read_to_string) {
            Ok(text) => serde_json::from_str(&text.map_err(unreadable)?)
                .map_err(|error| unreadable(io::Error::other(error)))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                json!({"schemaVersion": 2, "manifests": []})
            }
            Err(error) => return Err(unreadable(error)),
        };
        let entries = document["manifests"].as_array_mut();
        let entries =
            entries.ok_or_else(|| unreadable(io::Error::other("the index has no list of manifests")))?;
        entries.retain(|entry| entry["annotations"][REF_NAME] != reference);
        entries.push(self.entry(reference));
        let blobs = folder.join("blobs/sha256");
        make_folder(&blobs).map_err(|error| ImageError::io("make", &blobs, error))?;
        for (blob, content) in &self.layers {
            let write = |out: &mut dyn Write| content.write(&mut Reporting { inner: out, progress });
            same(blob, Some(&put(folder, &path(&blob.digest), write)?))?;
        }
        for (name, bytes) in [
            (&*path(&self.config.0.digest), &*self.config.1),
            (&*path(&self.digest), &*self.manifest),
            ("oci-layout", LAYOUT),
            ("index.json", document.to_string().as_bytes()),
        ] {
            put(folder, name, |out| out.write_all(bytes))?;
        }
        Ok(())
    }

    /// Returns the bytes of the image's manifest.
    pub fn manifest(&self) -> &[u8] {
        &self.manifest
    }

    /// Returns the size in bytes of the config or the layer with this digest; `None` if the image has none.
    pub fn size_of(&self, digest: &str) -> Option<u64> {
        let blobs = self.layers.iter().map(|(blob, _)| blob).chain([&self.config.0]);
        blobs.into_iter().find(|blob| blob.digest == digest).map(|blob| blob.size)
    }

    /// Writes the config or the layer with this digest; nothing if the image has none. The reader must check the
    /// digest: a file of the layer may have changed.
    ///
    /// # Errors
    ///
    /// Returns an error if a file of the layer cannot be read or `out` fails.
    pub fn write_blob(&self, digest: &str, out: &mut dyn Write) -> io::Result<()> {
        let (config, bytes) = &self.config;
        if config.digest == digest {
            return out.write_all(bytes);
        }
        let layer = self.layers.iter().find(|(blob, _)| blob.digest == digest);
        layer.map_or(Ok(()), |(_, content)| content.write(out))
    }

    fn entry(&self, reference: &str) -> Value {
        json!({
            "mediaType": MANIFEST,
            "digest": self.digest,
            "size": self.manifest.len(),
            "annotations": {REF_NAME: reference},
        })
    }
}

impl Content {
    fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        match self {
            Self::Kept(path) => io::copy(&mut crate::digest::open(path)?, out).map(drop),
            Self::Packed(layer) => layer.write(out),
        }
    }
}

impl<W: Write> Write for Reporting<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        (self.progress)(count as u64);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Returns a blob's path in a layout.
fn path(digest: &str) -> String {
    format!("blobs/{}", digest.replacen(':', "/", 1))
}

/// Checks that the written bytes are still those whose digest is in the manifest.
fn same(measured: &Blob, written: Option<&Blob>) -> Result<(), ImageError> {
    match written {
        Some(written) if written != measured => {
            let (digest, became) = (measured.digest.clone(), written.digest.clone());
            Err(ImageError::Changed { digest, became })
        }
        _ => Ok(()),
    }
}

/// Writes one file of an archive.
fn member(
    out: &mut impl Write,
    name: &str,
    size: u64,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_path(name)?;
    header.set_mode(0o644);
    header.set_size(size);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_cksum();
    out.write_all(header.as_bytes())?;
    write(out)?;
    let over = (size % BLOCK as u64) as usize;
    out.write_all(&[0; BLOCK][..(BLOCK - over) % BLOCK])
}

/// Writes one file of a layout atomically.
fn put(
    folder: &Path,
    name: &str,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<Blob, ImageError> {
    let target = folder.join(name);
    let failed = |error| ImageError::io("write", &target, error);
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
    let mut out = Hashing::new(io::BufWriter::with_capacity(128 * BLOCK, file.as_file_mut()));
    write(&mut out).and_then(|()| out.flush()).map_err(failed)?;
    let written = out.finish();
    file.as_file().set_permissions(Permissions::from_mode(0o644)).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    file.persist(&target).map_err(|error| failed(error.error))?;
    sync_folder_of(&target).map_err(failed)?;
    Ok(written)
}
