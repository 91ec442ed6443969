//! Tensors that stay in memory a client shares with the server: what a request's parameters say of them.
//!
//! Source: <https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_shared_memory.md>

use crate::raw;
use drisse_core::{DataType, DataView, Error, Result, Shape, Tensor, TensorView};
use std::fmt;
use std::sync::Arc;

/// The parameters that say that, and where, a tensor is in shared memory.
pub(crate) const REGION: &str = "shared_memory_region";
pub(crate) const OFFSET: &str = "shared_memory_offset";
pub(crate) const BYTE_SIZE: &str = "shared_memory_byte_size";

/// The regions that clients have registered.
pub trait Regions {
    /// The bytes of a region from `offset` on, so many of them; an error where there is no such region, or it has fewer.
    fn part(&self, region: &str, offset: usize, len: usize) -> Result<Arc<dyn Part>>;
}

/// Part of a region.
pub trait Part: fmt::Debug + Send + Sync {
    /// Copies its beginning.
    fn read(&self, into: &mut [u8]) -> Result<()>;
    /// Overwrites its beginning.
    fn write(&self, bytes: &[u8]) -> Result<()>;
}

/// Of a server that lets nobody share memory.
#[derive(Clone, Copy, Debug)]
pub struct NoRegions;

impl Regions for NoRegions {
    fn part(&self, _: &str, _: usize, _: usize) -> Result<Arc<dyn Part>> {
        Err(Error::invalid("shared memory is not allowed here: see `drisse serve --shared-memory`"))
    }
}

/// What a tensor's parameters say.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Place {
    pub(crate) region: Option<String>,
    pub(crate) offset: usize,
    pub(crate) len: Option<usize>,
}

impl Place {
    /// The memory that is meant, if any is; `what` names the tensor in errors.
    pub(crate) fn find(self, regions: &dyn Regions, what: impl fmt::Display) -> Result<Option<Window>> {
        let Some(region) = self.region else {
            return match self.len {
                None => Ok(None),
                Some(_) => Err(Error::invalid(format!("{what}: it has `{BYTE_SIZE}` and no `{REGION}`"))),
            };
        };
        let Some(len) = self.len else {
            return Err(Error::invalid(format!("{what}: it has `{REGION}` and no `{BYTE_SIZE}`")));
        };
        let part = regions.part(&region, self.offset, len).map_err(|error| error.context(what))?;
        Ok(Some(Window { region, offset: self.offset, len, part }))
    }
}

/// The memory of one tensor.
#[derive(Clone, Debug)]
pub struct Window {
    pub(crate) region: String,
    pub(crate) offset: usize,
    len: usize,
    part: Arc<dyn Part>,
}

impl Window {
    /// Reads a tensor: one copy, into an aligned buffer.
    pub(crate) fn tensor(
        &self,
        datatype: DataType,
        shape: Shape,
        what: fmt::Arguments<'_>,
    ) -> Result<Tensor> {
        raw::read_with(datatype, shape, self.len, what, |into| self.part.read(into))
    }

    /// Writes a tensor; how many bytes it took.
    pub(crate) fn put(&self, tensor: &TensorView<'_>) -> Result<usize> {
        let (len, room) = (raw::byte_len(tensor), self.len);
        if len > room {
            let region = &self.region;
            return Err(Error::invalid(format!(
                "an output of {len} bytes does not fit the {room} bytes for it in the shared memory region `{region}`"
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
