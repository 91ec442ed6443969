//! Writes the files of a service's replicas: keys, environment, evidence of signatures. Every function here blocks on
//! the disk and must be called in [`drisse_net::blocking`].

use super::{Files, Servers, TRUSTED, evidence_beside, failed};
use drisse_core::{Environment, RevisionSpec, TargetError, Trust, crash_point};
use drisse_net::hex;
use drisse_registry::{Evidence, Store};
use sha2::{Digest, Sha256};
use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

impl Servers {
    /// Writes the service's keys file if it has changed, and returns its digest; `None` if there are no keys.
    pub(super) fn write_keys(&self, revision: &RevisionSpec) -> Result<Option<String>, TargetError> {
        if revision.keys.is_empty() {
            return Ok(None);
        }
        let text: String = revision.keys.iter().map(|key| format!("{key}\n")).collect();
        let path = self.keys_of(&revision.service);
        let digest = Some(hex(&Sha256::digest(&text)));
        if std::fs::read_to_string(&path).is_ok_and(|there| there == text) {
            return Ok(digest);
        }
        let write = || -> std::io::Result<()> {
            // Always the same name, so that the next write replaces a file that was left half written.
            let fresh = path.with_extension("new");
            self.write_secret(&fresh, text.as_bytes())?.sync_all()?;
            crash_point("keys are written");
            std::fs::rename(&fresh, &path)?;
            crash_point("keys are in place");
            Ok(())
        };
        write().map_err(|error| failed("write the keys", &path, &error))?;
        Ok(digest)
    }

    /// Writes a file that only the replicas can read.
    fn write_secret(&self, path: &Path, bytes: &[u8]) -> std::io::Result<std::fs::File> {
        let mut file = std::fs::OpenOptions::new();
        let mut file = file.create(true).truncate(true).write(true).mode(0o600).open(path)?;
        if self.others {
            file.set_permissions(Permissions::from_mode(0o444))?;
        }
        file.write_all(bytes)?;
        Ok(file)
    }

    /// Writes the environment variables of a replica that is about to start. The folder must exist.
    pub(crate) fn write_environment(
        &self,
        files: &Files,
        revision: &RevisionSpec,
    ) -> Result<(), TargetError> {
        let Environment(variables) = &revision.environment;
        if variables.is_empty() {
            return Ok(());
        }
        let text: String = variables.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
        let written = self.write_secret(&files.environment, text.as_bytes());
        written.map(drop).map_err(|error| failed("write the environment", &files.environment, &error))
    }

    /// Writes the evidence that the model is signed, if the revision requires a signature.
    pub(super) fn write_evidence(&self, revision: &RevisionSpec, store: &Store) -> Result<(), TargetError> {
        let Trust { keys, bundles } = &revision.trust;
        if keys.is_empty() {
            return Ok(());
        }
        let folder = evidence_beside(&self.keys_of(&revision.service), revision);
        self.make_folder(&folder, 0o755)?;
        let manifest = store.read(&revision.package).map_err(|error| {
            TargetError::permanent(format!("cannot read the manifest of `{}`: {error}", revision.service))
        })?;
        let evidence = Evidence { manifest, bundles: bundles.clone() };
        for (name, bytes) in evidence.files().chain([(TRUSTED.to_owned(), keys.as_bytes())]) {
            let path = folder.join(name);
            if std::fs::read(&path).is_ok_and(|there| there == bytes) {
                continue;
            }
            let fresh = folder.join("new");
            let written = self.write_secret(&fresh, bytes).and_then(|_| std::fs::rename(&fresh, &path));
            written.map_err(|error| failed("write", &path, &error))?;
        }
        Ok(())
    }

    /// Makes a folder for this user only or, if replicas run as other users, one with these access rights.
    pub(crate) fn make_folder(&self, folder: &Path, mode: u32) -> Result<(), TargetError> {
        let make = || {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
            if self.others {
                std::fs::set_permissions(folder, Permissions::from_mode(mode))?;
            }
            Ok(())
        };
        make().map_err(|error| failed("create the folder", folder, &error))
    }
}
