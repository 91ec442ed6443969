//! `cargo xtask dist`: builds the release files: the program, its software bill of materials and their digests. The
//! build is reproducible: the same sources and the same tools give the same bytes.

use crate::proof::Row;
use crate::{cache_folder, output, python, root, sbom, target_folder};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

/// The file name of the software bill of materials; it lies beside the program.
const SBOM: &str = "drisse.cdx.json";

pub(crate) fn run() -> Result<()> {
    let program = build(root(), &target_folder(), &cargo_home())?;
    let folder = program.parent().context("a program lies in a folder")?;
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let document = sbom::document(&triple, &digest(&program)?)?;
    std::fs::write(folder.join(SBOM), format!("{document:#}\n"))?;
    let sums = output(Command::new("sha256sum").args(["drisse", SBOM]).current_dir(folder))?;
    std::fs::write(folder.join("SHA256SUMS"), &sums)?;
    print!("{sums}");
    println!("wrote {}", folder.display());
    Ok(())
}

/// Builds the program from the sources in `source`. The paths of the sources, of the dependencies and of the compiler
/// are replaced, so that they leave no trace in the program.
fn build(source: &Path, target: &Path, cargo_home: &Path) -> Result<PathBuf> {
    let compiler = output(Command::new("rustc").arg("-vV").current_dir(source))?;
    let commit = compiler.lines().find_map(|line| line.strip_prefix("commit-hash: ")).unwrap_or("unknown");
    let sysroot = output(Command::new("rustc").args(["--print", "sysroot"]).current_dir(source))?;
    // If several prefixes match, the last one applies: the target folder may be inside the source folder.
    let names = [
        (Path::new(sysroot.trim()).join("lib/rustlib/src/rust"), format!("/rustc/{commit}")),
        (cargo_home.to_owned(), "/cargo".to_owned()),
        (source.to_owned(), "/drisse".to_owned()),
        (target.to_owned(), "/target".to_owned()),
    ];
    let map = |flag: &str| names.each_ref().map(|(from, to)| format!("{flag}={}={to}", from.display()));
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "-q", "--locked", "--profile", "dist", "-p", "drisse"]).current_dir(source);
    cargo.env("CARGO_TARGET_DIR", target).env("CARGO_HOME", cargo_home);
    // Replaces the developer's own flags, which other builders do not have.
    cargo.env("CARGO_ENCODED_RUSTFLAGS", map("--remap-path-prefix").join("\x1f")).env_remove("RUSTFLAGS");
    // For the C code of SQLite and ring.
    cargo.env("CFLAGS", map("-ffile-prefix-map").join(" "));
    // No build script embeds the time today. One that does later gets this constant.
    cargo.env("SOURCE_DATE_EPOCH", "0");
    ensure!(cargo.status()?.success(), "the build in {} failed", source.display());
    Ok(target.join("dist/drisse"))
}

/// Builds the program twice, in different folders and with different paths of the dependencies, and compares the
/// results.
pub(crate) fn proof() -> Result<Vec<Row>> {
    let folder = cache_folder().join("dist");
    let _ = std::fs::remove_dir_all(&folder);
    let mut builds = Vec::new();
    // The paths differ in length. The first build uses the developer's CARGO_HOME, the second one an alias of it.
    for (name, own_home) in [("a", true), ("elsewhere/and/deeper", false)] {
        let source = folder.join(name).join("source");
        copy(&source)?;
        let alias = folder.join(name).join("cargo");
        std::fs::create_dir_all(&alias)?;
        // Links to the downloaded crates and to the configuration of their source.
        for part in ["registry", "git", "config.toml"].map(Path::new) {
            if cargo_home().join(part).exists() {
                std::os::unix::fs::symlink(cargo_home().join(part), alias.join(part))?;
            }
        }
        let home = if own_home { cargo_home() } else { alias };
        let started = Instant::now();
        let program = build(&source, &folder.join(name).join("target"), &home)?;
        builds.push((started.elapsed(), digest(&program)?, std::fs::read(&program)?));
    }
    let [(first_took, first, program), (second_took, second, _)] = &builds[..] else {
        bail!("expected two builds")
    };
    run()?;
    let path = target_folder().join("dist").join(SBOM);
    let is_same = first == second;
    let took = format!("{} s and {} s", first_took.as_secs(), second_took.as_secs());
    let digests = format!("`{:.12}…` and `{:.12}…`, built in {took}", first, second);
    let traces = traces(program);
    let paths = format!("{traces} paths");
    let bill = std::fs::read_to_string(&path)?;
    let (components, missing) = components(program, &bill)?;
    let without = serde_json::from_str::<Value>(&bill)?["components"].as_array().map_or(0, |components| {
        let none = |property: &Value| property["name"] == sbom::UNSAFE && property["value"] == "0";
        let of =
            |component: &&Value| component["properties"].as_array().is_some_and(|all| all.iter().any(none));
        components.iter().filter(of).count()
    });
    let mut validate = Command::new(python::environment()?);
    let valid = validate.arg("tests/conformance/sbom.py").arg(&path).current_dir(root()).status()?.success();
    std::fs::remove_dir_all(&folder)?;
    Ok(vec![
        Row::supply("two builds in two folders are the same program", digests, "the same bytes", is_same),
        Row::supply("the program does not contain the paths it was built in", paths, "0", traces == 0),
        Row::supply(
            "the bill of materials is valid CycloneDX and lists every crate whose paths are in the program",
            format!("{components} components, {} missing", missing.len()),
            "valid, 0 missing",
            valid && missing.is_empty(),
        ),
        Row::supply(
            "the bill of materials states how many lines with `unsafe` each crate has",
            format!("{without} crates have none"),
            "stated",
            without > 0,
        ),
    ])
}

/// Copies all versioned files in their current state, including changes that are not committed.
fn copy(to: &Path) -> Result<()> {
    let files = output(Command::new("git").args(["ls-files", "-z"]).current_dir(root()))?;
    for file in files.split('\0').filter(|file| !file.is_empty()) {
        let to = to.join(file);
        std::fs::create_dir_all(to.parent().context("a file has a folder")?)?;
        std::fs::copy(root().join(file), &to).with_context(|| format!("cannot copy {file}"))?;
    }
    Ok(())
}

/// Counts how often the path of the developer's home or of the build folders occurs in the program.
fn traces(program: &[u8]) -> usize {
    let home = std::env::var("HOME").unwrap_or_default();
    let folders = [format!("{home}/"), cache_folder().display().to_string()];
    let text = String::from_utf8_lossy(program);
    folders.iter().map(|folder| text.matches(folder).count()).sum()
}

/// Returns the number of components in a bill of materials, and the crates that it lacks although their source paths
/// are in the program (in panic locations).
fn components(program: &[u8], sbom: &str) -> Result<(usize, Vec<String>)> {
    let sbom: Value = serde_json::from_str(sbom)?;
    let components = sbom["components"].as_array().context("the bill of materials has no components")?;
    let listed = |name: &str| {
        components.iter().any(|component| {
            let text = |field: &str| component[field].as_str().unwrap_or_default();
            format!("{}-{}", text("name"), text("version")) == name
        })
    };
    let text = String::from_utf8_lossy(program);
    let named = text.split("/cargo/registry/src/").skip(1).filter_map(|rest| rest.split('/').nth(1));
    let named: std::collections::BTreeSet<_> = named.collect();
    ensure!(named.len() > 10, "the program contains the source paths of only {} crates", named.len());
    Ok((components.len(), named.into_iter().filter(|name| !listed(name)).map(str::to_owned).collect()))
}

fn digest(file: &Path) -> Result<String> {
    let line = output(Command::new("sha256sum").arg(file))?;
    Ok(line.split(' ').next().unwrap_or_default().to_owned())
}

fn cargo_home() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or("/root".into())).join(".cargo");
    std::env::var_os("CARGO_HOME").map_or_else(home, PathBuf::from)
}
