//! The closure of shared libraries: all libraries that a program needs, directly or not, found as the loader finds
//! them.

use super::ImageError;
use super::elf::Elf;
use super::loader::loader_cache;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};

/// Folders in which the loader searches by default, after its cache.
const USUAL: [&str; 6] =
    ["/lib64", "/usr/lib64", "/lib", "/usr/lib", "/lib/x86_64-linux-gnu", "/lib/aarch64-linux-gnu"];

/// The loader and libraries that a program needs.
#[derive(Debug)]
pub(super) struct SharedLibraries {
    /// The architecture's name in OCI images.
    pub(super) architecture: &'static str,
    /// Path of the dynamic loader; `None` for a static program.
    pub(super) loader: Option<PathBuf>,
    /// Path of each library by the name under which it is required.
    pub(super) libraries: BTreeMap<String, PathBuf>,
}

struct Finder {
    cache: HashMap<String, String>,
    machine: u16,
}

impl SharedLibraries {
    /// Finds the closure of a program and of libraries that it loads with `dlopen`.
    pub(super) fn of(program: &Path, opened: &[&Path]) -> Result<Self, ImageError> {
        let root = elf(program)?;
        let architecture = root.architecture().ok_or_else(|| ImageError::machine(program, root.machine))?;
        let cache = loader_cache(&fs::read("/etc/ld.so.cache").unwrap_or_default(), root.machine);
        let finder = Finder { cache, machine: root.machine };
        let loader = root.interpreter.as_ref().map(PathBuf::from);
        let mut libraries = BTreeMap::new();
        let mut waiting = VecDeque::from([(program.to_owned(), root)]);
        for &library in opened {
            let library = library.to_owned();
            let read = elf(&library)?;
            if read.machine != finder.machine {
                return Err(ImageError::machine(&library, read.machine));
            }
            waiting.push_back((library, read));
        }
        while let Some((path, found)) = waiting.pop_front() {
            for name in &found.needed {
                let is_loader = loader.as_deref().is_some_and(|loader| loader.ends_with(name));
                if is_loader || libraries.contains_key(name) {
                    continue;
                }
                let (library, read) = finder.find(name, &path, &found.search)?;
                libraries.insert(name.clone(), library.clone());
                waiting.push_back((library, read));
            }
        }
        Ok(Self { architecture, loader, libraries })
    }
}

impl Finder {
    /// Finds the library `name` for the file `by`: in its own search path, the loader's cache, the default folders.
    fn find(&self, name: &str, by: &Path, search: &[String]) -> Result<(PathBuf, Elf), ImageError> {
        let real = by.canonicalize().unwrap_or_else(|_| by.to_owned());
        let origin = real.parent().unwrap_or(Path::new("/")).display().to_string();
        let own = search.iter().map(|folder| {
            PathBuf::from(folder.replace("${ORIGIN}", &origin).replace("$ORIGIN", &origin)).join(name)
        });
        let cached = self.cache.get(name).map(PathBuf::from);
        let usual = USUAL.iter().map(|folder| Path::new(folder).join(name));
        let candidates: Vec<_> = match name.contains('/') {
            true => vec![PathBuf::from(name)],
            false => own.chain(cached).chain(usual).collect(),
        };
        for path in candidates.iter().filter(|path| path.is_absolute() && path.is_file()) {
            // The loader skips libraries of other architectures too.
            if let Ok(Some(read)) = Elf::open(path)
                && read.machine == self.machine
            {
                return Ok((path.clone(), read));
            }
        }
        Err(ImageError::Library { name: name.to_owned(), by: by.to_owned() })
    }
}

fn elf(path: &Path) -> Result<Elf, ImageError> {
    let read = Elf::open(path).map_err(|error| ImageError::io("read", path, error))?;
    read.ok_or_else(|| ImageError::NoElf { path: path.to_owned() })
}
