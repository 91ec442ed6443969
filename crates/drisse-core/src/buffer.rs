//! The buffer that holds a tensor's elements: aligned, growable, filled in place by decoders.

use bytemuck::{Pod, Zeroable};
use half::{bf16, f16};
use std::cell::RefCell;

/// Alignment in bytes: a cache line, and the widest vector register (AVX-512).
const ALIGN: usize = 64;

/// Buffers of at most this many blocks return to their thread's pool: 1024 × 64 B = 64 KiB.
const POOLED_BLOCKS: usize = 1024;

/// A thread's pool holds at most this many buffers: 16 × 64 KiB = 1 MiB.
const POOLED_BUFFERS: usize = 16;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Block([u8; ALIGN]);

thread_local! {
    static POOL: RefCell<Vec<Vec<Block>>> = const { RefCell::new(Vec::new()) };
}

/// A fixed-size element type of a [`Buffer`].
pub trait Element: Pod {}

impl Element for u8 {}
impl Element for i8 {}
impl Element for u16 {}
impl Element for i16 {}
impl Element for u32 {}
impl Element for i32 {}
impl Element for u64 {}
impl Element for i64 {}
impl Element for f16 {}
impl Element for bf16 {}
impl Element for f32 {}
impl Element for f64 {}

/// A growable byte buffer, aligned to 64 bytes, that can be read as any [`Element`]. Each thread keeps a pool of small
/// buffers.
#[derive(Default)]
pub struct Buffer {
    blocks: Vec<Block>,
    len: usize,
}

impl Buffer {
    /// Creates an empty buffer, with memory from the pool if there is some.
    pub fn new() -> Self {
        let blocks = POOL.with_borrow_mut(Vec::pop).unwrap_or_default();
        Self { blocks, len: 0 }
    }

    /// Creates a buffer of `len` zero bytes.
    pub fn zeroed(len: usize) -> Self {
        let mut buffer = Self::new();
        buffer.reserve(len);
        buffer.blocks[..len.div_ceil(ALIGN)].fill(Block::zeroed());
        buffer.len = len;
        buffer
    }

    /// Creates a buffer with a copy of `bytes`.
    pub fn copy_from(bytes: &[u8]) -> Self {
        let mut buffer = Self::new();
        buffer.extend(bytes);
        buffer
    }

    /// Returns the length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns whether the buffer is empty.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Reserves memory for `additional` more bytes. If the buffer grows, it at least doubles.
    pub fn reserve(&mut self, additional: usize) {
        let wanted = (self.len + additional).div_ceil(ALIGN);
        if wanted > self.blocks.len() {
            let blocks = wanted.max(2 * self.blocks.len()).max(4);
            self.blocks.resize(blocks, Block::zeroed());
        }
    }

    /// Appends one element.
    #[inline]
    pub fn push<T: Element>(&mut self, value: T) {
        let end = self.len + size_of::<T>();
        if end > self.blocks.len() * ALIGN {
            self.reserve(size_of::<T>());
        }
        bytemuck::cast_slice_mut::<Block, u8>(&mut self.blocks)[self.len..end]
            .copy_from_slice(bytemuck::bytes_of(&value));
        self.len = end;
    }

    /// Appends elements.
    pub fn extend_from<T: Element>(&mut self, values: &[T]) {
        self.extend(bytemuck::cast_slice(values));
    }

    /// Appends bytes.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.reserve(bytes.len());
        let end = self.len + bytes.len();
        bytemuck::cast_slice_mut::<Block, u8>(&mut self.blocks)[self.len..end].copy_from_slice(bytes);
        self.len = end;
    }

    /// Returns the bytes.
    pub fn bytes(&self) -> &[u8] {
        &bytemuck::cast_slice::<Block, u8>(&self.blocks)[..self.len]
    }

    /// Returns the bytes, to be changed in place.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut::<Block, u8>(&mut self.blocks)[..self.len]
    }

    /// Returns the bytes as elements, without trailing bytes that do not fill an element.
    pub fn elements<T: Element>(&self) -> &[T] {
        let whole = self.len - self.len % size_of::<T>();
        bytemuck::cast_slice(&self.bytes()[..whole])
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let blocks = std::mem::take(&mut self.blocks);
        if blocks.is_empty() || blocks.len() > POOLED_BLOCKS {
            return;
        }
        // A thread that is ending has no pool any more: the memory is freed.
        let _ = POOL.try_with(|pool| {
            let mut pool = pool.borrow_mut();
            if pool.len() < POOLED_BUFFERS {
                pool.push(blocks);
            }
        });
    }
}

impl Clone for Buffer {
    fn clone(&self) -> Self {
        Self::copy_from(self.bytes())
    }
}

impl PartialEq for Buffer {
    fn eq(&self, other: &Self) -> bool {
        self.bytes() == other.bytes()
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer({} bytes)", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_pushed_is_read_back_across_growth() {
        let mut buffer = Buffer::new();
        for i in 0..10_000_i64 {
            buffer.push(i);
        }
        assert!(buffer.elements::<i64>().iter().copied().eq(0..10_000));
        assert_eq!(buffer.bytes().as_ptr() as usize % ALIGN, 0);
    }

    #[test]
    fn a_zeroed_buffer_is_zero_even_when_it_comes_from_the_pool() {
        drop(Buffer::copy_from(&[7; 100]));
        assert_eq!(Buffer::zeroed(100).bytes(), [0; 100]);
    }
}
