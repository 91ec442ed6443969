//! The workspace's folder: where everything in it lies, and that one control plane at a time has it.

use crate::error::{ControlError, Result};
use drisse_net::{hex, runtime_folder, runtime_path};
use drisse_registry::make_folder;
use drisse_wire::control::Failure;
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// A workspace's folder, and the short one for its sockets.
#[derive(Clone, Debug)]
pub struct Workspace {
    /// Absolute, without links.
    pub root: PathBuf,
    /// Names it in arguments of processes and in the sockets' folder.
    pub id: String,
    /// Where its sockets are.
    pub sockets: PathBuf,
}

/// What names a workspace, from its folder's path.
fn id(root: &Path) -> String {
    hex(&Sha256::digest(root.as_os_str().as_encoded_bytes()))[..10].to_owned()
}

/// Held by the control plane as long as it lives.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "unlocked when it is closed")] File);

/// Why a workspace cannot be locked.
#[derive(Debug)]
pub(crate) enum LockError {
    /// Another control plane has it.
    Taken(Failure),
    /// Something in its folder cannot be written.
    Failed(ControlError),
}

impl LockError {
    pub(crate) fn into_failure(self) -> Failure {
        match self {
            Self::Taken(failure) => failure,
            Self::Failed(error) => error.failure,
        }
    }
}

impl From<ControlError> for LockError {
    fn from(error: ControlError) -> Self {
        Self::Failed(error)
    }
}

impl Workspace {
    /// The workspace of this folder, which is not made where it is not there: then nothing is in it.
    pub fn existing(root: &Path) -> std::io::Result<Self> {
        if root.exists() {
            return Self::open(root);
        }
        let root = std::path::absolute(root)?;
        let id = id(&root);
        Ok(Self { sockets: runtime_path(&id), id, root })
    }

    /// Opens the folder, and makes it, for this user alone, where there is none.
    pub fn open(root: &Path) -> std::io::Result<Self> {
        if !root.exists() {
            make_folder(root)?;
        }
        let root = root.canonicalize()?;
        let metadata = fs::metadata(&root)?;
        let (mode, me) = (metadata.permissions().mode(), rustix::process::geteuid().as_raw());
        let denied = |why: &str| std::io::Error::new(std::io::ErrorKind::PermissionDenied, why);
        // Whoever may rename what is in it decides which models and keys are used.
        if ![0, me].contains(&metadata.uid()) {
            return Err(denied("it belongs to somebody else"));
        }
        if mode & 0o077 != 0 && !root.join("drisse.db").exists() && fs::read_dir(&root)?.next().is_none() {
            fs::set_permissions(&root, fs::Permissions::from_mode(0o700))?;
        } else if mode & 0o002 != 0 {
            return Err(denied("it can be written by everybody"));
        }
        let id = id(&root);
        Ok(Self { sockets: runtime_folder(&id)?, id, root })
    }

    /// The control API's socket.
    pub fn control_socket(&self) -> PathBuf {
        self.sockets.join("control")
    }

    /// The database.
    pub fn database(&self) -> PathBuf {
        self.root.join("drisse.db")
    }

    /// Models.
    pub fn store(&self) -> PathBuf {
        self.root.join("store")
    }

    /// Keys and logs of services.
    pub fn services(&self) -> PathBuf {
        self.root.join("services")
    }

    /// The gateway's routes.
    pub fn routes(&self) -> PathBuf {
        self.root.join("routes")
    }

    /// The daemons' logs.
    pub fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// The token of the control API over TCP.
    pub fn token(&self) -> PathBuf {
        self.root.join("control.token")
    }

    /// There while everything was stopped on purpose.
    pub fn stopped_mark(&self) -> PathBuf {
        self.root.join("stopped")
    }

    /// Takes the workspace for somebody who is no control plane; `None` while one has it.
    pub fn try_lock(&self) -> Option<Lock> {
        self.lock().ok()
    }

    /// Takes the workspace for this process; refused while another control plane has it.
    pub(crate) fn lock(&self) -> Result<Lock, LockError> {
        let path = self.root.join("control.lock");
        let open = fs::OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let file = open.map_err(|error| {
            ControlError::internal(format!("cannot write in the workspace {}", self.root.display()))
                .because_of_disk(&error)
        })?;
        file.try_lock().map_err(|_| {
            let message = format!("another control plane has the workspace {}", self.root.display());
            LockError::Taken(Failure::new(message).hint("`drisse status` shows it"))
        })?;
        for folder in [self.root.clone(), self.services(), self.routes(), self.logs()] {
            make_folder(&folder).map_err(|error| {
                ControlError::internal(format!("cannot make {}", folder.display())).because_of_disk(&error)
            })?;
        }
        Ok(Lock(file))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_everybody_may_write_to_is_no_workspace_unless_it_is_empty_and_can_be_closed() {
        let folder = tempfile::tempdir().unwrap();
        let mode = |mode| fs::set_permissions(folder.path(), fs::Permissions::from_mode(mode)).unwrap();
        mode(0o777);
        let sockets = Workspace::open(folder.path()).unwrap().sockets;
        assert_eq!(fs::metadata(folder.path()).unwrap().permissions().mode() & 0o777, 0o700);
        mode(0o777);
        fs::write(folder.path().join("drisse.db"), "").unwrap();
        let error = Workspace::open(folder.path()).unwrap_err().to_string();
        assert_eq!(error, "it can be written by everybody");
        mode(0o755);
        Workspace::open(folder.path()).unwrap();
        fs::remove_dir(sockets).unwrap();
    }
}
