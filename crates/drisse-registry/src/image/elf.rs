//! Reads from an ELF file which libraries it needs. Nothing is executed.
//!
//! Specification: <https://gabi.xinuos.com/>; how the loader uses it: `ld.so(8)`.

use object::LittleEndian as LE;
use object::elf::{self, Dyn64, DynamicTag, FileHeader64, ProgramHeader64};
use object::read::elf::{FileHeader, ProgramHeader};
use object::read::{ReadCache, ReadRef};
use std::fs::File;
use std::io;
use std::path::Path;

/// Longest dynamic section and longest name that are read, in bytes.
const MAX_DYNAMIC: u64 = 1 << 20;
const MAX_NAME: u64 = 4096;

/// The parts of a program or library that decide how it is loaded.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Elf {
    /// The architecture (`e_machine`): 62 is `EM_X86_64`, 183 is `EM_AARCH64`.
    pub machine: u16,
    /// Path of the dynamic loader; `None` for libraries and static programs.
    pub interpreter: Option<String>,
    /// Names of the required libraries (`DT_NEEDED`).
    pub needed: Vec<String>,
    /// Folders in which required libraries are searched first: `RUNPATH`, or `RPATH` if there is none.
    pub search: Vec<String>,
    /// Number of bytes from the start of the file that are loaded. The rest is for debuggers and linkers.
    pub loaded: u64,
}

impl Elf {
    /// Reads an ELF file. Returns `None` if the file is not a 64-bit little-endian ELF file.
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be read or is a damaged ELF file.
    pub fn open(path: &Path) -> io::Result<Option<Self>> {
        let wrong = |why| io::Error::new(io::ErrorKind::InvalidData, format!("a damaged ELF file: {why}"));
        Self::parse(&ReadCache::new(File::open(path)?)).map_err(wrong)
    }

    /// Parses the bytes of an ELF file, like [`Self::open`].
    ///
    /// # Errors
    ///
    /// Returns a description of the damage.
    ///
    /// ```
    /// assert_eq!(drisse_registry::Elf::parse(&b"#!/bin/sh\n"[..]), Ok(None));
    /// ```
    pub fn parse<'data, R: ReadRef<'data>>(data: R) -> Result<Option<Self>, &'static str> {
        let Ok(header) = FileHeader64::<LE>::parse(data) else { return Ok(None) };
        if !header.is_little_endian() {
            return Ok(None);
        }
        let segments =
            header.program_headers(LE, data).map_err(|_| "its segments are outside of the file")?;
        let mut found = Self { machine: header.e_machine(LE).0, ..Self::default() };
        for segment in segments {
            let (offset, size) = segment.file_range(LE);
            let end = offset.checked_add(size).ok_or("a segment's size overflows")?;
            match segment.p_type(LE) {
                elf::PT_LOAD => found.loaded = found.loaded.max(end),
                elf::PT_INTERP if size > MAX_NAME => return Err("its loader's name is too long"),
                elf::PT_INTERP => {
                    let bytes =
                        data.read_bytes_at(offset, size).map_err(|()| "its loader's name is truncated")?;
                    found.interpreter = Some(text(bytes.strip_suffix(&[0]).unwrap_or(bytes))?);
                }
                elf::PT_DYNAMIC if size > MAX_DYNAMIC => return Err("its dynamic section is too long"),
                elf::PT_DYNAMIC => {
                    let entries =
                        segment.dynamic(LE, data).map_err(|_| "its dynamic section is truncated")?;
                    found.read_dynamic(data, segments, entries.unwrap_or_default())?;
                }
                _ => {}
            }
        }
        Ok(Some(found))
    }

    fn read_dynamic<'data, R: ReadRef<'data>>(
        &mut self,
        data: R,
        segments: &[ProgramHeader64<LE>],
        entries: &[Dyn64<LE>],
    ) -> Result<(), &'static str> {
        let entries = entries.iter().map(|entry| (entry.d_tag.get(LE), entry.d_val.get(LE)));
        let entries: Vec<_> = entries.take_while(|(tag, _)| *tag != elf::DT_NULL).collect();
        let values = |wanted: DynamicTag| {
            entries.iter().filter(move |(tag, _)| *tag == wanted).map(|(_, value)| *value)
        };
        let Some(table) = values(elf::DT_STRTAB).next() else { return Ok(()) };
        let table = file_offset(segments, table).ok_or("its names are not in any segment")?;
        let name = |at: u64| {
            let from = table.checked_add(at).ok_or("a name's offset overflows")?;
            let end = from.saturating_add(MAX_NAME).min(data.len().unwrap_or(0));
            let range = if from < end { from..end } else { return Err("a name is outside of the file") };
            text(data.read_bytes_at_until(range, 0).map_err(|()| "a name has no end")?)
        };
        self.needed = values(elf::DT_NEEDED).map(name).collect::<Result<_, _>>()?;
        // The loader ignores `RPATH` if there is a `RUNPATH`.
        let folders = values(elf::DT_RUNPATH).next().or_else(|| values(elf::DT_RPATH).next());
        if let Some(folders) = folders {
            let folders = name(folders)?;
            self.search = folders.split(':').filter(|folder| !folder.is_empty()).map(str::to_owned).collect();
        }
        Ok(())
    }

    /// Returns the architecture's name in OCI images; `None` if Drisse does not support it.
    pub fn architecture(&self) -> Option<&'static str> {
        match self.machine {
            62 => Some("amd64"),
            183 => Some("arm64"),
            _ => None,
        }
    }
}

/// Removes the section header table from an ELF header, for a file of which only the loaded bytes are kept.
pub(super) fn cut(head: &mut [u8]) {
    // e_shoff, then e_shnum and e_shstrndx.
    for range in [40..48, 60..64] {
        if let Some(bytes) = head.get_mut(range) {
            bytes.fill(0);
        }
    }
}

fn file_offset(segments: &[ProgramHeader64<LE>], address: u64) -> Option<u64> {
    segments.iter().filter(|segment| segment.p_type(LE) == elf::PT_LOAD).find_map(|segment| {
        let inside = address.checked_sub(segment.p_vaddr(LE))?;
        (inside < segment.p_filesz(LE)).then(|| segment.p_offset(LE).checked_add(inside))?
    })
}

fn text(bytes: &[u8]) -> Result<String, &'static str> {
    String::from_utf8(bytes.to_vec()).map_err(|_| "a name is not UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PROGRAM: &[u8] = include_bytes!("../../../../fuzz/seeds/elf/program");

    #[test]
    fn a_programs_loader_and_libraries_are_read_from_its_segments_alone() {
        let found = Elf::parse(PROGRAM).unwrap().unwrap();
        assert_eq!(found.architecture(), Some("amd64"));
        assert_eq!(found.interpreter.as_deref(), Some("/lib64/ld-linux-x86-64.so.2"));
        assert_eq!(found.needed, ["libc.so.6", "libm.so.6"]);
        assert_eq!(found.search, ["$ORIGIN/lib", "/opt/x"]);
        let this = Elf::open(&std::env::current_exe().unwrap()).unwrap().unwrap();
        assert!(this.needed.contains(&"libc.so.6".to_owned()) && this.loaded > 0, "{this:?}");
    }

    #[test]
    fn other_files_are_none_and_a_truncated_program_is_an_error() {
        assert_eq!(Elf::parse(&b"#!/bin/sh\n"[..]), Ok(None));
        assert_eq!(Elf::parse(&b""[..]), Ok(None));
        assert!(Elf::parse(&PROGRAM[..70]).is_err() && Elf::parse(&PROGRAM[..PROGRAM.len() - 40]).is_err());
    }

    proptest! {
        #[test]
        fn a_damaged_program_is_read_or_refused(at in 0..PROGRAM.len(), byte: u8, length in 0..=PROGRAM.len()) {
            let mut damaged = PROGRAM.to_vec();
            damaged[at] = byte;
            damaged.truncate(length);
            let _ = Elf::parse(&*damaged);
        }
    }
}
