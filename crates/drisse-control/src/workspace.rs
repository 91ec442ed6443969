//! The workspace's folder: the paths of its files, and the lock that allows one control plane at a time.

use crate::error::{ControlError, RunError};
use drisse_net::{hex, runtime_folder, runtime_path};
use drisse_registry::make_folder;
use drisse_wire::control::Failure;
use rustix::fs::{Access, access};
use sha2::{Digest, Sha256};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// A workspace: its folder, and a folder with a short path for its sockets.
#[derive(Clone, Debug)]
pub struct Workspace {
    /// The path of the folder, absolute and without symbolic links.
    pub root: PathBuf,
    /// The id of the workspace, used in arguments of processes and in the path of the sockets' folder.
    pub id: String,
    /// The folder of the sockets.
    pub sockets: PathBuf,
}

/// Returns the id of the workspace with this path.
fn id(root: &Path) -> String {
    hex(&Sha256::digest(root.as_os_str().as_encoded_bytes()))[..10].to_owned()
}

/// Whether a path leads to this file or folder.
fn is_same(path: &Path, file: &fs::Metadata) -> bool {
    fs::metadata(path).is_ok_and(|found| (found.dev(), found.ino()) == (file.dev(), file.ino()))
}

/// The process that holds the lock of a workspace: its control plane.
#[derive(Clone, Debug)]
pub struct Holder {
    /// The id of the process.
    pub pid: u32,
    /// The user that the process runs as.
    pub user: u32,
    /// The path that the workspace's folder had when the process was started, if the process names one.
    pub started_at: Option<PathBuf>,
}

/// The lock of a workspace, held by its control plane. Dropping it unlocks the workspace.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "unlocked when it is closed")] File);

impl Workspace {
    /// Returns the workspace at this path without creating it. A folder that does not exist is an empty workspace.
    ///
    /// # Errors
    /// Returns the errors of [`Workspace::open`] if the folder exists.
    pub fn existing(root: &Path) -> std::io::Result<Self> {
        if root.exists() {
            return Self::open(root);
        }
        let root = std::path::absolute(root)?;
        let id = id(&root);
        Ok(Self { sockets: runtime_path(&id), id, root })
    }

    /// Opens the workspace at this path. Creates the folder, accessible to this user only, if it does not exist.
    ///
    /// # Errors
    /// Returns `PermissionDenied` if the folder belongs to another user or every user can write to it, or the system's
    /// error if it cannot be created.
    pub fn open(root: &Path) -> std::io::Result<Self> {
        if !root.exists() {
            make_folder(root)?;
        }
        let root = root.canonicalize()?;
        let metadata = fs::metadata(&root)?;
        let (mode, me) = (metadata.permissions().mode(), rustix::process::geteuid().as_raw());
        let denied = |why: &str| std::io::Error::new(std::io::ErrorKind::PermissionDenied, why);
        // A user who can rename files in the folder decides which models and keys are used.
        if ![0, me].contains(&metadata.uid()) {
            return Err(denied("it belongs to another user"));
        }
        let all = Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK;
        if metadata.uid() != me && access(&root, all).is_err() {
            return Err(denied("it belongs to root: run the command as root"));
        }
        if mode & 0o077 != 0 && !root.join("drisse.db").exists() && fs::read_dir(&root)?.next().is_none() {
            fs::set_permissions(&root, fs::Permissions::from_mode(0o700))?;
        } else if mode & 0o002 != 0 {
            return Err(denied("every user can write to it"));
        }
        let id = id(&root);
        Ok(Self { sockets: runtime_folder(&id)?, id, root })
    }

    /// Returns the path of the control API's socket.
    pub fn control_socket(&self) -> PathBuf {
        self.sockets.join("control")
    }

    /// Returns the path of the database.
    pub fn database(&self) -> PathBuf {
        self.root.join("drisse.db")
    }

    /// Returns the folder of the store, which holds the models.
    pub fn store(&self) -> PathBuf {
        self.root.join("store")
    }

    /// Returns the folder of the services' keys and logs.
    pub fn services(&self) -> PathBuf {
        self.root.join("services")
    }

    /// Returns the folder of the gateway's routes.
    pub fn routes(&self) -> PathBuf {
        self.root.join("routes")
    }

    /// Returns the folder of the logs of the control plane and the gateway.
    pub fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// Returns the file with the token of the control API over TCP.
    pub fn token(&self) -> PathBuf {
        self.root.join("control.token")
    }

    /// Returns the path of a file that exists while the workspace is stopped on purpose (`drisse down`).
    pub fn stopped_mark(&self) -> PathBuf {
        self.root.join("stopped")
    }

    /// Returns the process that holds the lock of the workspace; `None` if there is none, or it cannot be found.
    ///
    /// Source of the format: <https://man7.org/linux/man-pages/man5/proc_locks.5.html>.
    pub fn holder(&self) -> Option<Holder> {
        let (lock, root) =
            (fs::metadata(self.root.join("control.lock")).ok()?, fs::metadata(&self.root).ok()?);
        let locks = fs::read_to_string("/proc/locks").ok()?;
        let pids = locks.lines().filter_map(|line| {
            let words: Vec<_> = line.split_whitespace().collect();
            let &[_, "FLOCK", _, "WRITE", pid, file, ..] = &words[..] else { return None };
            let is_lock = file.rsplit(':').next()?.parse() == Ok(lock.ino());
            pid.parse::<u32>().ok().filter(|_| is_lock)
        });
        pids.into_iter().find_map(|pid| {
            let folder = PathBuf::from(format!("/proc/{pid}"));
            let line = fs::read(folder.join("cmdline")).ok()?;
            let words: Vec<_> = line.split(|&byte| byte == 0).collect();
            let named = words.windows(2).find(|pair| pair[0] == b"--workspace").map(|pair| pair[1]);
            let started_at = named.map(|path| PathBuf::from(OsStr::from_bytes(path)));
            let user = fs::metadata(&folder).ok()?.uid();
            // The number of the inode alone may be that of a file on another disk.
            let is_holder = match fs::read_dir(folder.join("fd")) {
                Ok(mut opened) => opened.any(|file| file.is_ok_and(|file| is_same(&file.path(), &lock))),
                // Users cannot see which files their own servers have open. A folder that was renamed has no file there now.
                Err(_) => started_at.as_ref().is_none_or(|path| !path.exists() || is_same(path, &root)),
            };
            (is_holder && words.contains(&&b"control"[..])).then_some(Holder { pid, user, started_at })
        })
    }

    /// Returns this workspace as it was named when `holder` was started: with the sockets of that name.
    pub fn as_held_by(&self, holder: &Holder) -> Self {
        let id = id(holder.started_at.as_deref().unwrap_or(&self.root));
        Self { sockets: runtime_path(&id), id, root: self.root.clone() }
    }

    /// Locks the workspace for a process other than a control plane; `None` if another process has the lock.
    ///
    /// # Errors
    /// Returns an error if the workspace cannot be written to.
    pub fn try_lock(&self) -> Result<Option<Lock>, RunError> {
        match self.lock() {
            Err(error) if error.taken => Ok(None),
            locked => locked.map(Some),
        }
    }

    /// Locks the workspace for this control plane, and creates its folders.
    pub(crate) fn lock(&self) -> Result<Lock, RunError> {
        let path = self.root.join("control.lock");
        let open = fs::OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let file = open.map_err(|error| {
            ControlError::internal(format!("cannot write to the workspace {}", self.root.display()))
                .because_of_disk(&error)
        })?;
        file.try_lock().map_err(|_| {
            let message = format!("another control plane has the workspace {}", self.root.display());
            RunError { failure: Failure::new(message).hint("`drisse status` shows its process"), taken: true }
        })?;
        for folder in [self.root.clone(), self.services(), self.routes(), self.logs()] {
            make_folder(&folder).map_err(|error| {
                ControlError::internal(format!("cannot create {}", folder.display())).because_of_disk(&error)
            })?;
        }
        Ok(Lock(file))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_every_user_can_write_to_is_refused_unless_it_is_empty_and_can_be_closed() {
        let folder = tempfile::tempdir().unwrap();
        let mode = |mode| fs::set_permissions(folder.path(), fs::Permissions::from_mode(mode)).unwrap();
        mode(0o777);
        let sockets = Workspace::open(folder.path()).unwrap().sockets;
        assert_eq!(fs::metadata(folder.path()).unwrap().permissions().mode() & 0o777, 0o700);
        mode(0o777);
        fs::write(folder.path().join("drisse.db"), "").unwrap();
        let error = Workspace::open(folder.path()).unwrap_err().to_string();
        assert_eq!(error, "every user can write to it");
        mode(0o755);
        Workspace::open(folder.path()).unwrap();
        fs::remove_dir(sockets).unwrap();
    }
}
