//! External programs for end-to-end tests, built or unpacked once: OpenTelemetry's receiver, Prometheus, a registry,
//! OCI's conformance tests, podman and Docker.

use anyhow::{Context, Result, ensure};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// OCI's conformance tests of registries, a Go program, and the version whose results are known.
const OCI_CONFORMANCE_MODULE: &str = "github.com/opencontainers/distribution-spec/conformance";
const OCI_CONFORMANCE: &str = "v0.0.0-20260831232431-97274622c111";

/// The sources of the OpenTelemetry receiver, a Go program.
const RECEIVER: &str = "tests/otlp";

/// Passes the paths of the programs to tests, in environment variables. A test whose program is missing says so and
/// passes; in CI only Docker may be missing.
pub(crate) fn name(tests: &mut Command) -> Result<&mut Command> {
    for (variable, tool) in [
        ("DRISSE_OTLP_RECEIVER", otlp_receiver as fn() -> _),
        ("DRISSE_PROMETHEUS", prometheus),
        ("DRISSE_REGISTRY", registry),
        ("DRISSE_OCI_CONFORMANCE", oci_conformance),
        ("DRISSE_PODMAN", podman),
        ("DRISSE_DOCKER", docker),
    ] {
        if std::env::var_os(variable).is_some() {
            continue;
        }
        match tool() {
            Ok(path) => drop(tests.env(variable, path)),
            // Docker is optional even in CI: not every machine allows its daemon to start.
            Err(error) if std::env::var_os("CI").is_some() && variable != "DRISSE_DOCKER" => {
                return Err(error);
            }
            Err(error) => println!("\ntesting without {variable}: {error:#}"),
        }
    }
    Ok(tests)
}

/// Builds the receiver, once for each state of its sources.
fn otlp_receiver() -> Result<PathBuf> {
    let folder = crate::root().join(RECEIVER);
    let mut sources =
        std::fs::read_dir(&folder)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    sources.sort();
    let mut hasher = DefaultHasher::new();
    for source in &sources {
        (source.file_name(), std::fs::read(source)?).hash(&mut hasher);
    }
    let program = crate::cache_folder().join(format!("otlp-receiver-{:016x}", hasher.finish()));
    if program.exists() {
        return Ok(program);
    }
    println!("\nbuilding {} (once)", program.display());
    // The program gets its name when it is complete, so that an interrupted build is repeated.
    let part = part_of(&program)?;
    let mut build = Command::new("go");
    build.args(["build", "-trimpath", "-buildvcs=false", "-mod=readonly", "-o"]).arg(&part).arg(".");
    let built = build.current_dir(folder).env("CGO_ENABLED", "0").status();
    ensure!(built.context("cannot run Go: see https://go.dev/dl")?.success(), "cannot build {RECEIVER}");
    std::fs::rename(part, &program)?;
    Ok(program)
}

/// Returns the installed program, or the one in the Debian package of this name. The package is only unpacked: that
/// starts no service and does not need root.
fn unpacked(name: &str) -> Result<PathBuf> {
    let mut version = Command::new(name);
    if version.arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok() {
        return Ok(name.into());
    }
    let program = crate::cache_folder().join(format!("{name}-debian"));
    if program.exists() {
        return Ok(program);
    }
    println!("\nunpacking {} (once)", program.display());
    let part = part_of(&program)?;
    std::fs::create_dir_all(&part)?;
    unpack(name, &part)?;
    std::fs::rename(part.join("usr/bin").join(name), &program)?;
    std::fs::remove_dir_all(part)?;
    Ok(program)
}

/// Unpacks a Debian package into a folder without installing it.
fn unpack(name: &str, folder: &Path) -> Result<()> {
    let apt = |arguments: &[&str]| {
        let mut apt = Command::new("apt-get");
        apt.args(["-q", "-o", "APT::Sandbox::User=root"]).args(arguments).current_dir(folder);
        Ok::<_, anyhow::Error>(
            apt.status().context("cannot run apt-get, and the program is not in PATH")?.success(),
        )
    };
    let download = ["download", name];
    ensure!(
        apt(&download)? || apt(&["update"])? && apt(&download)?,
        "cannot download the Debian package {name}"
    );
    let files = std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    let package = files.iter().find(|file| file.extension().is_some_and(|end| end == "deb"));
    let package = package.context("apt-get downloaded nothing")?;
    let unpacked = Command::new("dpkg-deb").arg("-x").arg(package).arg(folder).status()?;
    ensure!(unpacked.success(), "cannot unpack the Debian package {name}");
    std::fs::remove_file(package)?;
    Ok(())
}

fn prometheus() -> Result<PathBuf> {
    unpacked("prometheus")
}

/// Returns the folders (as in `PATH`) with Docker's daemon and the programs it starts: installed, or unpacked from
/// Debian's packages.
fn docker() -> Result<PathBuf> {
    let installed = Path::new("/usr/sbin");
    if installed.join("dockerd").exists() {
        return Ok(installed.into());
    }
    let folder = crate::cache_folder().join("docker-debian");
    if !folder.exists() {
        println!("\nunpacking {} (once)", folder.display());
        let part = part_of(&folder)?;
        std::fs::create_dir_all(&part)?;
        for package in ["docker.io", "containerd"] {
            unpack(package, &part)?;
        }
        std::fs::rename(part, &folder)?;
    }
    let programs = ["usr/bin", "usr/sbin"].map(|programs| folder.join(programs));
    Ok(std::env::join_paths(programs)?.into())
}

/// Builds OCI's conformance tests of registries, once.
fn oci_conformance() -> Result<PathBuf> {
    let program = crate::cache_folder().join(format!("oci-conformance-{OCI_CONFORMANCE}"));
    if program.exists() {
        return Ok(program);
    }
    println!("\nbuilding {} (once)", program.display());
    let part = part_of(&program)?;
    let mut install = Command::new("go");
    install.arg("install").arg(format!("{OCI_CONFORMANCE_MODULE}@{OCI_CONFORMANCE}")).env("GOBIN", &part);
    let built = install.env("CGO_ENABLED", "0").status();
    ensure!(
        built.context("cannot run Go: see https://go.dev/dl")?.success(),
        "cannot build {OCI_CONFORMANCE_MODULE}"
    );
    std::fs::rename(part.join("conformance"), &program)?;
    std::fs::remove_dir_all(part)?;
    Ok(program)
}

fn registry() -> Result<PathBuf> {
    unpacked("docker-registry")
}

/// Returns podman, and installs Debian's packages of podman, runc and skopeo if one of them is missing. `runc`, because
/// `crun` refuses to run on machines with both versions of control groups.
pub(crate) fn podman() -> Result<PathBuf> {
    let works = |tool: &str| {
        let version =
            Command::new(tool).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        version.is_ok_and(|status| status.success())
    };
    let tools = ["podman", "runc", "skopeo"];
    if !tools.into_iter().all(works) {
        println!("\ninstalling {} (once)", tools.join(", "));
        let apt = |arguments: &[&str]| {
            let mut apt = Command::new("apt-get");
            apt.args(["-q", "-y"]).args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
            apt.status().is_ok_and(|status| status.success())
        };
        let install = [&["install", "--no-install-recommends"], &tools[..]].concat();
        ensure!(apt(&install) || apt(&["update"]) && apt(&install), "cannot install {}", tools.join(", "));
    }
    Ok("podman".into())
}

/// Returns the temporary path for a program that is being made, in the same folder; removes what an earlier attempt
/// left.
fn part_of(program: &Path) -> Result<PathBuf> {
    let part = program.with_extension("part");
    std::fs::create_dir_all(program.parent().context("a program has a folder")?)?;
    let _ = std::fs::remove_dir_all(&part);
    Ok(part)
}
