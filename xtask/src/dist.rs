//! `cargo xtask dist`: what is handed out, built so that whoever builds the same sources with the same
//! tools gets the same bytes; with its digests, and what it is made of.

use crate::proof::Row;
use crate::{cache_folder, python, root, sbom, target_folder};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// What the program is made of, beside it.
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

/// Builds the sources in a folder: where they, their dependencies and the compiler lie leaves no trace.
fn build(source: &Path, target: &Path, cargo_home: &Path) -> Result<PathBuf> {
    let compiler = output(Command::new("rustc").arg("-vV").current_dir(source))?;
    let commit = compiler.lines().find_map(|line| line.strip_prefix("commit-hash: ")).unwrap_or("unknown");
    let sysroot = output(Command::new("rustc").args(["--print", "sysroot"]).current_dir(source))?;
    // A later one wins: the target folder may lie among the sources.
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
    // Instead of the developer's own, which others do not have.
    cargo.env("CARGO_ENCODED_RUSTFLAGS", map("--remap-path-prefix").join("\x1f")).env_remove("RUSTFLAGS");
    // SQLite and ring's C.
    cargo.env("CFLAGS", map("-ffile-prefix-map").join(" "));
    // Nothing asks for the time; what once will gets this one.
    cargo.env("SOURCE_DATE_EPOCH", "0");
    ensure!(cargo.status()?.success(), "the build in {} failed", source.display());
    Ok(target.join("dist/drisse"))
}

/// Builds twice, in two folders with dependencies of their own, and compares.
pub(crate) fn proof() -> Result<Vec<Row>> {
    let folder = cache_folder().join("dist");
    let _ = std::fs::remove_dir_all(&folder);
    let mut builds = Vec::new();
    // Paths of two lengths, one with the developer's folder of dependencies, one with another name for it.
    for (name, own) in [("a", true), ("elsewhere/and/deeper", false)] {
        let source = folder.join(name).join("source");
        copy(&source)?;
        let other = folder.join(name).join("cargo");
        std::fs::create_dir_all(&other)?;
        // What is downloaded, and where from; cargo reads it under the other name.
        for part in ["registry", "git", "config.toml"].map(Path::new) {
            if cargo_home().join(part).exists() {
                std::os::unix::fs::symlink(cargo_home().join(part), other.join(part))?;
            }
        }
        let home = if own { cargo_home() } else { other };
        let started = Instant::now();
        let program = build(&source, &folder.join(name).join("target"), &home)?;
        builds.push((started.elapsed(), digest(&program)?, std::fs::read(&program)?));
    }
    let [(first_took, first, program), (second_took, second, _)] = &builds[..] else {
        bail!("two were built")
    };
    run()?;
    let path = target_folder().join("dist").join(SBOM);
    let seconds = |took: &Duration| took.as_secs();
    let took = format!("{} s and {} s", seconds(first_took), seconds(second_took));
    let digests = format!("`{:.12}…` and `{:.12}…`, built in {took}", first, second);
    let traces = traces(program);
    let bill = std::fs::read_to_string(&path)?;
    let (listed, unlisted) = listed(program, &bill)?;
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
        Row::supply(
            "two builds in two folders are the same program",
            digests,
            "the same bytes",
            first == second,
        ),
        Row::supply(
            "the program does not tell where it was built",
            format!("{traces} paths"),
            "0",
            traces == 0,
        ),
        Row::supply(
            "the bill of materials is CycloneDX and names every crate that shows in the program",
            format!("{listed} components, {} missing", unlisted.len()),
            "valid, 0 missing",
            valid && unlisted.is_empty(),
        ),
        Row::supply(
            "the bill of materials tells how much `unsafe` each crate has",
            format!("{without} crates have none"),
            "told",
            without > 0,
        ),
    ])
}

/// Everything that is versioned, as it is now, changes that are not committed among it.
fn copy(to: &Path) -> Result<()> {
    let files = output(Command::new("git").args(["ls-files", "-z"]).current_dir(root()))?;
    for file in files.split('\0').filter(|file| !file.is_empty()) {
        let to = to.join(file);
        std::fs::create_dir_all(to.parent().context("a file has a folder")?)?;
        std::fs::copy(root().join(file), &to).with_context(|| format!("cannot copy {file}"))?;
    }
    Ok(())
}

/// How often the program holds the name of the developer's home or of the folders it was built in.
fn traces(program: &[u8]) -> usize {
    let home = std::env::var("HOME").unwrap_or_default();
    let folders = [format!("{home}/"), cache_folder().display().to_string()];
    let text = String::from_utf8_lossy(program);
    folders.iter().map(|folder| text.matches(folder).count()).sum()
}

/// How many components a bill of materials has, and which crates it lacks whose sources the program names
/// where it may panic.
fn listed(program: &[u8], sbom: &str) -> Result<(usize, Vec<String>)> {
    let sbom: Value = serde_json::from_str(sbom)?;
    let components = sbom["components"].as_array().context("a bill of materials has components")?;
    let listed = |name: &str| {
        components.iter().any(|component| {
            let text = |field: &str| component[field].as_str().unwrap_or_default();
            format!("{}-{}", text("name"), text("version")) == name
        })
    };
    let text = String::from_utf8_lossy(program);
    let named = text.split("/cargo/registry/src/").skip(1).filter_map(|rest| rest.split('/').nth(1));
    let named: std::collections::BTreeSet<_> = named.collect();
    ensure!(named.len() > 10, "the program names the sources of its crates");
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

fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}
