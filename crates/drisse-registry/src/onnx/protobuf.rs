//! A protobuf reader over a file. Reads messages field by field, and skips large fields by seeking.
//!
//! Wire format: <https://protobuf.dev/programming-guides/encoding/>.

use std::io::{self, BufRead, BufReader, Read, Seek};

/// An error of reading a protobuf message.
#[derive(Debug)]
pub(crate) enum Fault {
    Io(io::Error),
    /// A field of the outermost message ends beyond the end of the file.
    Truncated {
        wants: u64,
    },
    Corrupt {
        at: u64,
        what: String,
    },
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

pub(crate) type Result<T> = std::result::Result<T, Fault>;

/// Deepest nesting of messages. Real models, with subgraphs in loops in functions, stay far below.
const MAX_DEPTH: u32 = 200;

/// A field's number, and its value or, for `Bytes`, its length: the bytes have not been read yet.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Field {
    Varint(u32, u64),
    Bytes(u32, u64),
    Other,
}

pub(crate) struct Proto<R> {
    input: BufReader<R>,
    at: u64,
    /// End of the message being read.
    end: u64,
    depth: u32,
    /// End of a `Bytes` field that has been returned but not read yet.
    pending: Option<u64>,
}

impl<R: Read + Seek> Proto<R> {
    /// Returns a reader of one message of `size` bytes.
    pub(crate) fn new(input: R, size: u64) -> Self {
        Self { input: BufReader::with_capacity(64 << 10, input), at: 0, end: size, depth: 0, pending: None }
    }

    /// Returns the next field of this message; `None` at its end. Skips the unread bytes of the previous field.
    pub(crate) fn field(&mut self) -> Result<Option<Field>> {
        if let Some(end) = self.pending.take() {
            self.seek_to(end)?;
        }
        if self.at == self.end {
            return Ok(None);
        }
        let start = self.at;
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).unwrap_or(0);
        if number == 0 {
            return Err(self.corrupt(start, "a field has no number"));
        }
        Ok(Some(match tag & 7 {
            0 => Field::Varint(number, self.varint()?),
            2 => {
                let len = self.varint()?;
                let end =
                    self.at.checked_add(len).ok_or_else(|| self.corrupt(start, "a length overflows"))?;
                self.within(start, end)?;
                self.pending = Some(end);
                Field::Bytes(number, len)
            }
            wire @ (1 | 5) => {
                let end = self.at + if wire == 1 { 8 } else { 4 };
                self.within(start, end)?;
                self.pending = Some(end);
                Field::Other
            }
            wire => return Err(self.corrupt(start, format!("a field has wire type {wire}"))),
        }))
    }

    /// Reads the pending bytes as a nested message.
    pub(crate) fn message(&mut self, read: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        let Some(end) = self.pending.take() else {
            return Err(self.corrupt(self.at, "a nested message has the wrong wire type"));
        };
        if self.depth == MAX_DEPTH {
            return Err(self.corrupt(self.at, "messages are nested too deep"));
        }
        let outer = std::mem::replace(&mut self.end, end);
        self.depth += 1;
        read(self)?;
        if let Some(rest) = self.pending.take() {
            self.seek_to(rest)?;
        }
        self.depth -= 1;
        self.end = outer;
        self.pending = Some(end);
        Ok(())
    }

    /// Reads the pending bytes as text for people. More than `max` bytes are an error; bytes that are not UTF-8 are
    /// written as `\xNN`.
    pub(crate) fn text(&mut self, max: u64) -> Result<String> {
        Ok(drisse_core::printable(&self.bytes(max)?).into_owned())
    }

    /// Reads the pending bytes as a name that requests use. More than `max` bytes are an error, and so are bytes that are
    /// not UTF-8: no protocol could carry the name.
    pub(crate) fn name(&mut self, max: u64) -> Result<String> {
        let start = self.at;
        String::from_utf8(self.bytes(max)?).map_err(|error| {
            let shown = drisse_core::printable(error.as_bytes()).into_owned();
            self.corrupt(start, format!("the name `{shown}` of an input or output is not UTF-8"))
        })
    }

    /// Reads the pending bytes. More than `max` bytes are an error.
    pub(crate) fn bytes(&mut self, max: u64) -> Result<Vec<u8>> {
        let start = self.at;
        let Some(end) = self.pending.take() else {
            return Err(self.corrupt(start, "a text has the wrong wire type"));
        };
        let len = end - start;
        if len > max {
            return Err(self.corrupt(start, format!("a text of {len} bytes is too long")));
        }
        let mut bytes = vec![0; len as usize];
        self.input.read_exact(&mut bytes)?;
        self.at = end;
        Ok(bytes)
    }

    /// Calls `each` for the integers of a repeated field, packed or not packed.
    pub(crate) fn integers(&mut self, field: Field, mut each: impl FnMut(u64)) -> Result<()> {
        match field {
            Field::Varint(_, value) => each(value),
            Field::Bytes(..) => {
                let Some(end) = self.pending.take() else { return Ok(()) };
                let outer = std::mem::replace(&mut self.end, end);
                while self.at < end {
                    each(self.varint()?);
                }
                self.end = outer;
            }
            Field::Other => {}
        }
        Ok(())
    }

    fn varint(&mut self) -> Result<u64> {
        let start = self.at;
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            self.within(start, self.at + 1)?;
            let Some(&byte) = self.input.fill_buf()?.first() else {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            };
            self.input.consume(1);
            self.at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(self.corrupt(start, "a number has more than ten bytes"))
    }

    fn seek_to(&mut self, end: u64) -> Result<()> {
        let skip = i64::try_from(end - self.at).map_err(|_| self.corrupt(self.at, "a length overflows"))?;
        self.input.seek_relative(skip)?;
        self.at = end;
        Ok(())
    }

    fn within(&self, start: u64, end: u64) -> Result<()> {
        match (end > self.end, self.depth) {
            (false, _) => Ok(()),
            (true, 0) => Err(Fault::Truncated { wants: end }),
            (true, _) => Err(self.corrupt(start, "a field ends beyond the end of its message")),
        }
    }

    pub(crate) fn corrupt(&self, at: u64, what: impl Into<String>) -> Fault {
        Fault::Corrupt { at, what: what.into() }
    }

    pub(crate) fn at(&self) -> u64 {
        self.at
    }
}
