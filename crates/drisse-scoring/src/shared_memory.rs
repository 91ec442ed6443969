//! Memory that clients share with the server: POSIX shared memory objects, if the operator allowed their names. They are
//! read and written as files, not mapped: a client that shortened a mapped object would kill the process.
//!
//! Source: <https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_shared_memory.md>

use crate::memory::{BodyMemory, HeldBytes};
use drisse_core::{Error, ErrorKind, Result};
use drisse_wire::shared_memory::{Part, Regions};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// The folder of the objects (shm_overview(7)).
const FOLDER: &str = "/dev/shm";

/// The largest number of regions; each is an open file.
const MAX_REGIONS: usize = 256;
const MAX_NAME: usize = 256;

/// The registered regions of a server.
#[derive(Debug, Default)]
pub(crate) struct SharedMemory {
    /// Allowed names of objects; with a `*` at the end, allowed beginnings.
    allowed: Vec<String>,
    regions: Mutex<BTreeMap<String, Region>>,
}

/// A registered region of an object.
#[derive(Clone, Debug)]
pub(crate) struct Region {
    /// The object's name.
    pub(crate) key: String,
    /// The region's offset in the object, in bytes.
    pub(crate) offset: u64,
    /// The region's length, in bytes.
    pub(crate) byte_size: u64,
    file: Arc<File>,
}

impl SharedMemory {
    pub(crate) fn new(allowed: &[String]) -> Self {
        let bare = |name: &String| name.trim_start_matches('/').to_owned();
        Self { allowed: allowed.iter().map(bare).collect(), regions: Mutex::default() }
    }

    /// Returns whether the operator allowed any object.
    pub(crate) fn is_on(&self) -> bool {
        !self.allowed.is_empty()
    }

    fn check_on(&self) -> Result<()> {
        if self.is_on() {
            return Ok(());
        }
        let message = "shared memory is not allowed here: see `drisse serve --shared-memory`";
        Err(Error::new(ErrorKind::Forbidden, message))
    }

    /// Registers a region. Refuses a name in use, and an object that is not allowed or too short.
    pub(crate) fn register(&self, name: &str, key: &str, offset: u64, byte_size: u64) -> Result<()> {
        self.check_on()?;
        let shown = &name[..name.floor_char_boundary(80)];
        let refused = |why: String| Error::invalid(format!("cannot register the region `{shown}`: {why}"));
        if name.is_empty() || name.len() > MAX_NAME {
            return Err(refused(format!("a name has 1 to {MAX_NAME} bytes")));
        }
        let bare = key.strip_prefix('/').unwrap_or(key);
        if !self.allows(bare) {
            let key = &key[..key.floor_char_boundary(80)];
            let message = format!("this server may not use the shared memory `{key}`: see `--shared-memory`");
            return Err(Error::new(ErrorKind::Forbidden, message));
        }
        let file = open(bare).map_err(|error| refused(format!("{key}: {error}")))?;
        let about = file.metadata().map_err(|error| refused(format!("{key}: {error}")))?;
        if !about.is_file() {
            return Err(refused(format!("{key} is not shared memory")));
        }
        let there = about.len();
        if offset.checked_add(byte_size).is_none_or(|end| end > there) {
            return Err(refused(format!("{key} has {there} bytes, not {byte_size} from {offset} on")));
        }
        let mut regions = self.regions.lock().unwrap_or_else(PoisonError::into_inner);
        if regions.contains_key(name) {
            return Err(refused("there is one of this name: unregister it first".to_owned()));
        }
        if regions.len() >= MAX_REGIONS {
            return Err(refused(format!("there are {MAX_REGIONS} regions already")));
        }
        let file = Arc::new(file);
        regions.insert(name.to_owned(), Region { key: key.to_owned(), offset, byte_size, file });
        Ok(())
    }

    /// Returns the region of this name, or all regions.
    pub(crate) fn status(&self, name: Option<&str>) -> Result<Vec<(String, Region)>> {
        let regions = self.regions.lock().unwrap_or_else(PoisonError::into_inner);
        match name {
            None => Ok(regions.iter().map(|(name, region)| (name.clone(), region.clone())).collect()),
            Some(name) => {
                let region = regions.get(name).ok_or_else(|| unknown(name))?;
                Ok(vec![(name.to_owned(), region.clone())])
            }
        }
    }

    /// Removes the region of this name, or all regions. A missing region is not an error.
    pub(crate) fn unregister(&self, name: Option<&str>) {
        let mut regions = self.regions.lock().unwrap_or_else(PoisonError::into_inner);
        match name {
            None => regions.clear(),
            Some(name) => drop(regions.remove(name)),
        }
    }

    fn allows(&self, key: &str) -> bool {
        let plain = !key.is_empty() && !key.contains(['/', '\0']) && !matches!(key, "." | "..");
        let fits = |allowed: &String| match allowed.strip_suffix('*') {
            Some(beginning) => key.starts_with(beginning),
            None => key == allowed,
        };
        plain && self.allowed.iter().any(fits)
    }
}

/// Opens an object. A symbolic link is refused, and a pipe does not block.
fn open(key: &str) -> std::io::Result<File> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).unwrap_or_default();
    OpenOptions::new().read(true).write(true).custom_flags(flags).open(Path::new(FOLDER).join(key))
}

fn unknown(name: &str) -> Error {
    let name = &name[..name.floor_char_boundary(80)];
    Error::invalid(format!("no shared memory region `{name}` is registered"))
}

/// Returns the error of a client that registers memory of a GPU.
pub(crate) fn no_cuda_region(name: &str) -> Error {
    let name = &name[..name.floor_char_boundary(80)];
    Error::invalid(format!(
        "cannot register the CUDA region `{name}`: this server uses no GPU; register system shared memory"
    ))
}

/// Returns the error of a client that asks for a region of a GPU's memory: none can be registered.
pub(crate) fn unknown_cuda(name: &str) -> Error {
    let name = &name[..name.floor_char_boundary(80)];
    Error::invalid(format!("no CUDA shared memory region `{name}` is registered"))
}

/// The regions as one request uses them: what it reads counts against the memory for bodies.
pub(crate) struct RequestRegions<'a> {
    regions: &'a SharedMemory,
    memory: &'a BodyMemory,
    max_bytes: usize,
    held: Mutex<Vec<HeldBytes>>,
}

impl<'a> RequestRegions<'a> {
    /// `max_bytes`: the largest part that the request may use.
    pub(crate) fn new(regions: &'a SharedMemory, memory: &'a BodyMemory, max_bytes: usize) -> Self {
        Self { regions, memory, max_bytes, held: Mutex::default() }
    }
}

impl Regions for RequestRegions<'_> {
    fn part(&self, name: &str, offset: usize, len: usize) -> Result<Arc<dyn Part>> {
        self.regions.check_on()?;
        let regions = self.regions.status(Some(name))?;
        let (_, region) = regions.first().ok_or_else(|| unknown(name))?;
        let (offset, wanted) = (offset as u64, len as u64);
        if offset.checked_add(wanted).is_none_or(|end| end > region.byte_size) {
            let there = region.byte_size;
            let message = format!("the region `{name}` has {there} bytes, not {len} from {offset} on");
            return Err(Error::invalid(message));
        }
        let limit = self.max_bytes;
        if len > limit {
            let message = format!("{len} bytes of shared memory are over the limit of {limit} bytes");
            return Err(Error::new(ErrorKind::TooLarge, message));
        }
        let held = self.memory.hold(len)?;
        self.held.lock().unwrap_or_else(PoisonError::into_inner).push(held);
        Ok(Arc::new(FilePart { file: Arc::clone(&region.file), offset: region.offset + offset }))
    }
}

/// A part of an object.
#[derive(Debug)]
struct FilePart {
    file: Arc<File>,
    offset: u64,
}

impl Part for FilePart {
    fn read(&self, into: &mut [u8]) -> Result<()> {
        self.file.read_exact_at(into, self.offset).map_err(|error| changed(&error))
    }

    fn write(&self, bytes: &[u8]) -> Result<()> {
        self.file.write_all_at(bytes, self.offset).map_err(|error| changed(&error))
    }
}

/// The error if an object is shorter than when it was registered.
fn changed(error: &std::io::Error) -> Error {
    Error::invalid(format!("the shared memory has changed since it was registered: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_the_operator_allowed_are_used() {
        let memory = SharedMemory::new(&["/one".to_owned(), "team-*".to_owned()]);
        for (key, allowed) in [
            ("one", true),
            ("team-a", true),
            ("team-", true),
            ("ones", false),
            ("tea", false),
            ("", false),
            (".", false),
            ("team-/../one", false),
            ("../etc/passwd", false),
            ("team-\0", false),
        ] {
            assert_eq!(memory.allows(key), allowed, "{key:?}");
        }
        assert!(!SharedMemory::new(&["*".to_owned()]).allows(".."));
    }
}
