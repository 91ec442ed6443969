//! How modules of a crate depend on each other.

use super::sources;
use crate::source::Source;
use std::collections::{BTreeMap, BTreeSet};

/// The most modules that may depend on each other in a circle.
const MOST: usize = 3;

/// The top-level modules of a crate, each with those that it names.
type Uses = BTreeMap<String, BTreeSet<String>>;

/// Returns the crate and top-level module of a source; `None` for tests and for a crate's root.
fn module(path: &str) -> Option<(&str, &str)> {
    let (owner, rest) = path.split_once("/src/")?;
    let name = rest.split('/').next()?.trim_end_matches(".rs");
    (!["lib", "main", "tests", "bin"].contains(&name) && !rest.ends_with("tests.rs")).then_some((owner, name))
}

/// Returns the first names of all paths that begin with `crate::`, also of those in braces.
fn named(code: &str) -> BTreeSet<String> {
    let word =
        |text: &str| text.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or("").to_owned();
    let mut names = BTreeSet::new();
    for rest in code.split("crate::").skip(1) {
        let Some(group) = rest.strip_prefix('{') else {
            names.insert(word(rest));
            continue;
        };
        let (mut depth, mut begins) = (0, true);
        for (at, character) in group.char_indices() {
            match character {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => begins = true,
                character if begins && !character.is_whitespace() => {
                    names.insert(word(&group[at..]));
                    begins = false;
                }
                _ => {}
            }
        }
    }
    names
}

/// Returns the largest set of modules that all depend on each other, directly or not.
fn circle(uses: &Uses) -> BTreeSet<&str> {
    let reach: BTreeMap<&str, BTreeSet<&str>> =
        uses.keys().map(|name| (&**name, reached(uses, name))).collect();
    let circle = |name: &str| -> BTreeSet<&str> {
        let back = reach[name].iter().copied();
        back.filter(|other| reach.get(other).is_some_and(|from| from.contains(name))).collect()
    };
    uses.keys().map(|name| circle(name)).max_by_key(BTreeSet::len).unwrap_or_default()
}

/// Returns the modules that a module depends on, directly or not.
fn reached<'a>(uses: &'a Uses, from: &str) -> BTreeSet<&'a str> {
    let mut found = BTreeSet::new();
    let mut next = vec![from];
    while let Some(name) = next.pop() {
        for used in uses.get(name).into_iter().flatten().filter(|used| uses.contains_key(*used)) {
            if found.insert(&**used) {
                next.push(used);
            }
        }
    }
    found
}

#[test]
fn modules_do_not_depend_on_each_other_in_large_circles() {
    let mut crates: BTreeMap<String, Uses> = BTreeMap::new();
    for (path, text) in sources() {
        if let Some((owner, module)) = module(&path) {
            let uses = crates.entry(owner.to_owned()).or_default().entry(module.to_owned()).or_default();
            uses.extend(named(&Source::new(&text).code_without_tests()));
        }
    }
    let mut wrong = Vec::new();
    for (owner, uses) in &crates {
        let circle = circle(uses);
        if circle.len() > MOST {
            wrong.push(format!("{owner}: {} modules in a circle, at most {MOST}: {circle:?}", circle.len()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn circles_are_found() {
    let code = "use crate::a::B; use crate::{b::{C, D}, c,\n d::E}; fn f() { crate::e::g() }";
    assert_eq!(named(code).into_iter().collect::<Vec<_>>(), ["a", "b", "c", "d", "e"]);
    let uses = |pairs: &[(&str, &str)]| -> Uses {
        let names = |used: &str| used.split_whitespace().map(str::to_owned).collect();
        pairs.iter().map(|(name, used)| ((*name).to_owned(), names(used))).collect()
    };
    let uses = uses(&[("a", "b"), ("b", "c x"), ("c", "a"), ("x", "y"), ("y", "")]);
    assert_eq!(circle(&uses).into_iter().collect::<Vec<_>>(), ["a", "b", "c"]);
}
