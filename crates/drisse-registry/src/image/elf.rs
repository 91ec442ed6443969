//! What an ELF file says of the libraries it needs, read and never run.
//!
//! Specification: <https://gabi.xinuos.com/>; what the loader makes of it: `ld.so(8)`.

use object::LittleEndian as LE;
use object::elf::{self, Dyn64, DynamicTag, FileHeader64, ProgramHeader64};
use object::read::elf::{FileHeader, ProgramHeader};
use object::read::{ReadCache, ReadRef};
use std::fs::File;
use std::io;
use std::path::Path;

/// Longer lists and names are no program's.
const MAX_DYNAMIC: u64 = 1 << 20;
const MAX_NAME: u64 = 4096;

/// What of a program or library concerns its loading.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Elf {
    /// For which machine: `EM_X86_64` is 62, `EM_AARCH64` 183.
    pub machine: u16,
    /// The loader it asks for; libraries do not.
    pub interpreter: Option<String>,
    /// Libraries by name.
    pub needed: Vec<String>,
    /// Folders to search first; before those of the environment where the file has no `RUNPATH`.
    pub search: Vec<String>,
    /// Bytes from the beginning that are ever loaded: what follows is for debuggers and linkers.
    pub loaded: u64,
}

impl Elf {
    /// Reads a file's; `None` where it is no 64-bit little-endian ELF file.
    pub fn open(path: &Path) -> io::Result<Option<Self>> {
        let wrong = |why| io::Error::new(io::ErrorKind::InvalidData, format!("a damaged ELF file: {why}"));
        Self::parse(&ReadCache::new(File::open(path)?)).map_err(wrong)
    }

    /// The same of bytes.
    pub fn parse<'data, R: ReadRef<'data>>(data: R) -> Result<Option<Self>, &'static str> {
        let Ok(header) = FileHeader64::<LE>::parse(data) else { return Ok(None) };
        if !header.is_little_endian() {
            return Ok(None);
        }
        let segments = header.program_headers(LE, data).map_err(|_| "its segments lie beyond its end")?;
        let mut found = Self { machine: header.e_machine(LE).0, ..Self::default() };
        for segment in segments {
            let (offset, size) = segment.file_range(LE);
            let end = offset.checked_add(size).ok_or("a segment's size overflows")?;
            match segment.p_type(LE) {
                elf::PT_LOAD => found.loaded = found.loaded.max(end),
                elf::PT_INTERP if size > MAX_NAME => return Err("its loader's name is too long"),
                elf::PT_INTERP => {
                    let bytes = data.read_bytes_at(offset, size).map_err(|()| "its loader's name is cut")?;
                    found.interpreter = Some(text(bytes.strip_suffix(&[0]).unwrap_or(bytes))?);
                }
                elf::PT_DYNAMIC if size > MAX_DYNAMIC => return Err("its dynamic section is too long"),
                elf::PT_DYNAMIC => {
                    let entries = segment.dynamic(LE, data).map_err(|_| "its dynamic section is cut")?;
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
            let from = table.checked_add(at).ok_or("a name's place overflows")?;
            let end = from.saturating_add(MAX_NAME).min(data.len().unwrap_or(0));
            let range = if from < end { from..end } else { return Err("a name lies beyond its end") };
            text(data.read_bytes_at_until(range, 0).map_err(|()| "a name has no end")?)
        };
        self.needed = values(elf::DT_NEEDED).map(name).collect::<Result<_, _>>()?;
        // A file that has both is searched by the newer one.
        let folders = values(elf::DT_RUNPATH).next().or_else(|| values(elf::DT_RPATH).next());
        if let Some(folders) = folders {
            let folders = name(folders)?;
            self.search = folders.split(':').filter(|folder| !folder.is_empty()).map(str::to_owned).collect();
        }
        Ok(())
    }

    /// As OCI names its architecture; `None` for those Drisse does not run on.
    pub fn architecture(&self) -> Option<&'static str> {
        match self.machine {
            62 => Some("amd64"),
            183 => Some("arm64"),
            _ => None,
        }
    }
}

/// A file's head as it is when only what is loaded is kept: without the place of what was cut.
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
    fn what_is_no_program_is_none_and_what_is_cut_short_is_told() {
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
