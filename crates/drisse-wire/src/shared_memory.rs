//! Tensors in memory that a client shares with the server, and the request parameters that refer to them.
//!
//! Source: <https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_shared_memory.md>

use crate::raw;
use drisse_core::{DataType, DataView, Error, Result, Shape, Tensor, TensorView};
use std::fmt;
use std::sync::Arc;

/// The parameters of a tensor in shared memory: the region's name, and offset and length in bytes.
pub(crate) const REGION: &str = "shared_memory_region";
pub(crate) const OFFSET: &str = "shared_memory_offset";
pub(crate) const BYTE_SIZE: &str = "shared_memory_byte_size";

/// The regions that clients have registered.
pub trait Regions {
    /// Returns `len` bytes of a region from `offset` on.
    ///
    /// # Errors
    /// Returns an error if the region does not exist, or if it ends earlier.
    fn part(&self, region: &str, offset: usize, len: usize) -> Result<Arc<dyn Part>>;
}

/// A part of a region.
pub trait Part: fmt::Debug + Send + Sync {
    /// Fills `into` with the part's first bytes.
    ///
    /// # Errors
    /// Returns an error if the memory cannot be read any more.
    fn read(&self, into: &mut [u8]) -> Result<()>;
    /// Overwrites the part's first bytes with `bytes`.
    ///
    /// # Errors
    /// Returns an error if the memory cannot be written any more.
    fn write(&self, bytes: &[u8]) -> Result<()>;
}

/// The regions of a server that does not allow shared memory: none.
#[derive(Clone, Copy, Debug)]
pub struct NoRegions;

impl Regions for NoRegions {
    fn part(&self, _: &str, _: usize, _: usize) -> Result<Arc<dyn Part>> {
        Err(Error::invalid("shared memory is not allowed here: see `drisse serve --shared-memory`"))
    }
}

/// A tensor's parameters for shared memory, as given.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct SharedMemoryParameters {
    pub(crate) region: Option<String>,
    pub(crate) offset: usize,
    pub(crate) len: Option<usize>,
}

impl SharedMemoryParameters {
    /// Returns the memory that the parameters refer to, if any; `what` names the tensor in errors.
    pub(crate) fn find(self, regions: &dyn Regions, what: impl fmt::Display) -> Result<Option<Window>> {
        let Some(region) = self.region else {
            return match self.len {
                None => Ok(None),
                Some(_) => Err(Error::invalid(format!("{what}: it has `{BYTE_SIZE}` but no `{REGION}`"))),
            };
        };
        let Some(len) = self.len else {
            return Err(Error::invalid(format!("{what}: it has `{REGION}` but no `{BYTE_SIZE}`")));
        };
        let part = regions.part(&region, self.offset, len).map_err(|error| error.context(what))?;
        Ok(Some(Window { region, offset: self.offset, len, part }))
    }
}

/// The part of a region that holds one tensor.
#[derive(Clone, Debug)]
pub struct Window {
    pub(crate) region: String,
    pub(crate) offset: usize,
    len: usize,
    part: Arc<dyn Part>,
}

impl Window {
    /// Reads a tensor, copying it once into an aligned buffer.
    pub(crate) fn tensor(
        &self,
        datatype: DataType,
        shape: Shape,
        what: fmt::Arguments<'_>,
    ) -> Result<Tensor> {
        raw::read_with(datatype, shape, self.len, what, |into| self.part.read(into))
    }

    /// Writes a tensor and returns its length in bytes.
    pub(crate) fn put(&self, tensor: &TensorView<'_>) -> Result<usize> {
        let (len, capacity) = (raw::byte_len(tensor), self.len);
        if len > capacity {
            let region = &self.region;
            return Err(Error::invalid(format!(
                "an output of {len} bytes does not fit in its {capacity} bytes of the shared memory region `{region}`"
            )));
        }
        match tensor.data {
            DataView::Raw(bytes) if tensor.datatype.has_json_form() => self.part.write(bytes)?,
            _ => {
                let mut bytes = Vec::new();
                raw::write(tensor, &mut bytes)?;
                self.part.write(&bytes)?;
            }
        }
        Ok(len)
    }
}
