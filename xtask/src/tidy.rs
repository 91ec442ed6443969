//! Rules for the sources, each a test. ARCHITECTURE.md states them.

mod dependencies;
mod modules;
mod words;

use crate::root;
use crate::source::Source;
use std::path::PathBuf;

/// The most lines of a file, without comments.
const MAX_LINES: usize = 500;

/// Files with more lines, each with its reason. Short, and meant to stay so.
const LONG_FILES: [(&str, &str); 0] = [];

/// The one file of test code that may pause: its helper checks a condition again after each pause.
const POLL: &str = "crates/drisse-testkit/src/poll.rs";

/// Folders and files whose code may be `unsafe`.
const UNSAFE: [&str; 2] = ["crates/drisse-engines/src/onnx/", "bench/src/probe.rs"];

/// Crates whose types may derive `Serialize` and `Deserialize`, because they decide what crosses the network and what is
/// in packages.
const FORMATS: [&str; 2] = ["crates/drisse-wire/", "crates/drisse-registry/"];

/// Other folders with such types, the number of derives in each, and the reason. The numbers may only shrink.
const OTHER_FORMATS: [(&str, usize, &str); 3] = [
    ("crates/drisse-conformance/src/", 3, "the cases, which are read from TOML"),
    ("crates/drisse-control/src/", 13, "query parameters; settings and decisions that are stored"),
    ("bench/json/src/", 3, "what other JSON libraries are compared with"),
];

/// Returns the files below a folder of the repository with this extension.
fn files(below: &str, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(below)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap().map(Result::unwrap) {
            let (path, name) = (entry.path(), entry.file_name());
            if path.is_dir() {
                if name != "target" && !name.to_string_lossy().starts_with('.') {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|e| e == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Returns the path in the repository and the text of each file with this extension.
fn texts(below: &str, extension: &str) -> Vec<(String, String)> {
    let named = files(below, extension).into_iter().map(|path| {
        let name = path.strip_prefix(root()).unwrap().display().to_string();
        (name, std::fs::read_to_string(path).unwrap())
    });
    named.collect()
}

/// Returns all Rust sources except those that `tests/protos.rs` generates.
fn sources() -> Vec<(String, String)> {
    let all = ["crates", "xtask", "bench", "fuzz"].into_iter().flat_map(|folder| texts(folder, "rs"));
    all.filter(|(_, text)| !text.starts_with("// This file is @generated")).collect()
}

fn read(name: &str) -> String {
    std::fs::read_to_string(root().join(name)).unwrap()
}

/// Counts what `count` finds in the sources below the folders of `known`, which may have at most as many as they list.
/// Elsewhere, outside the files that `may` accepts, there must be none.
fn at_most(known: &[(&str, usize)], may: impl Fn(&str) -> bool, count: impl Fn(&str, &str) -> usize) {
    let mut found: Vec<(&str, usize, usize)> =
        known.iter().map(|&(folder, most)| (folder, most, 0)).collect();
    let mut wrong = Vec::new();
    for (name, text) in sources() {
        let counted = count(&name, &text);
        match found.iter_mut().find(|(folder, ..)| name.starts_with(folder)) {
            Some((.., sum)) => *sum += counted,
            None if counted == 0 || may(&name) => {}
            None => wrong.push(format!("{name} has {counted}")),
        }
    }
    for (folder, most, sum) in found {
        if sum > most {
            wrong.push(format!("{folder} has {sum}, at most {most} are allowed"));
        } else if sum == 0 {
            wrong.push(format!("{folder} has none left: remove it from the list"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn servers_name_no_engine_and_no_target() {
    for (name, text) in sources() {
        let server = ["scoring", "serve", "gateway", "control"]
            .iter()
            .any(|c| name.starts_with(&format!("crates/drisse-{c}/src")));
        let is_test = name.ends_with("tests.rs");
        // Examples in the documentation use the fake engine.
        let text = Source::new(&text).code();
        for named in ["drisse_engines", " ort::", "(ort::", "drisse_targets"] {
            assert!(!server || is_test || !text.contains(named), "{name} names {named}");
        }
    }
}

/// The lint `undocumented_unsafe_blocks` requires the reason for each.
#[test]
fn unsafe_stays_at_its_seam() {
    for (name, text) in sources() {
        let is_used = Source::new(&text).code().contains("unsafe ");
        assert!(!is_used || UNSAFE.iter().any(|allowed| name.starts_with(allowed)), "{name} uses unsafe");
    }
}

#[test]
fn only_wire_and_registry_decide_what_is_sent_and_stored() {
    let known = OTHER_FORMATS.map(|(folder, most, _)| (folder, most));
    let format = |name: &str| FORMATS.iter().any(|folder| name.starts_with(folder));
    at_most(&known, format, |name, text| {
        let code = Source::new(text).code_without_tests();
        let derives = code.split("derive(").skip(1).filter_map(|rest| rest.split(')').next());
        if name.contains("/tests/") { 0 } else { derives.filter(|names| names.contains("erialize")).count() }
    });
}

#[test]
fn every_file_opens_with_what_it_contains_and_stays_short() {
    for (name, text) in sources() {
        assert!(text.starts_with("//! "), "{name} does not open with a //! sentence");
        let code = Source::new(&text).lines_with_tests();
        let excused = LONG_FILES.iter().any(|(file, _)| *file == name);
        assert!(code <= MAX_LINES || excused, "{name} has {code} lines besides comments");
    }
}

#[test]
fn modules_are_files_beside_their_folder() {
    assert!(sources().iter().all(|(name, _)| !name.ends_with("/mod.rs")), "use foo.rs and foo/, not mod.rs");
}

#[test]
fn no_test_sleeps_or_is_ignored() {
    for (name, text) in sources() {
        let source = Source::new(&text);
        let whole = name.contains("/tests/") || name.ends_with("tests.rs") || name.contains("-testkit/");
        let tests = if whole { source.code() } else { source.code_of_tests() };
        let sleeps = ["sleep(", "park_timeout("].iter().any(|pause| tests.contains(pause));
        assert!(!sleeps || name == POLL, "{name} sleeps: wait for an event, or with drisse_testkit::wait");
        assert!(!source.code().contains("#[ignore"), "{name} ignores a test");
    }
}

#[test]
fn the_architecture_stays_readable_and_links_lead_somewhere() {
    assert!(read("ARCHITECTURE.md").lines().count() <= 200);
    for (name, text) in documents() {
        let folder = root().join(&name);
        for link in text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next()) {
            if !link.is_empty() && !link.contains("://") {
                let target = folder.with_file_name(link);
                assert!(target.exists(), "{name} links to {link}, which does not exist");
            }
        }
    }
}

/// Returns all documents in Markdown.
fn documents() -> Vec<(String, String)> {
    texts("", "md")
}
