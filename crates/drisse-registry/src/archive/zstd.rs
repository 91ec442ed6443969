//! Zstandard streams: frames one after another, among them frames to be skipped. Format: RFC 8878.

use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
use std::io::{self, BufRead, Read};

/// How many bytes are decoded at once: a block has at most 128 KiB.
const AT_ONCE: usize = 128 << 10;

/// The uncompressed bytes of a stream. The decoder limits the window, and with it the memory, to 128 MiB.
pub(super) struct Frames<R> {
    source: R,
    frame: FrameDecoder,
}

impl<R: BufRead> Frames<R> {
    pub(super) fn new(source: R) -> Self {
        Self { source, frame: FrameDecoder::new() }
    }

    /// Begins the next frame that is not to be skipped. Returns whether there is one.
    fn begin(&mut self) -> io::Result<bool> {
        while !self.source.fill_buf()?.is_empty() {
            use FrameDecoderError::ReadFrameHeaderError as Header;
            match self.frame.reset(&mut self.source) {
                Ok(()) => return Ok(true),
                Err(Header(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                    let length = u64::from(length);
                    if io::copy(&mut (&mut self.source).take(length), &mut io::sink())? < length {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        Ok(false)
    }
}

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = self.frame.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            if self.frame.is_finished() {
                if !self.begin()? {
                    return Ok(0);
                }
            } else {
                let some = BlockDecodingStrategy::UptoBytes(AT_ONCE);
                self.frame.decode_blocks(&mut self.source, some).map_err(io::Error::other)?;
            }
        }
    }
}
