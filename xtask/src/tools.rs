//! External programs for end-to-end tests, built or unpacked once: OpenTelemetry's receiver, Prometheus, a registry,
//! OCI's conformance tests, podman and Docker.

use crate::setup::{apt, apt_install, exists, once, works};
use crate::stages::Stages;
use anyhow::{Context, Result, ensure};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

/// OCI's conformance tests of registries, a Go program, and the version whose results are known.
const OCI_CONFORMANCE_MODULE: &str = "github.com/opencontainers/distribution-spec/conformance";
const OCI_CONFORMANCE: &str = "v0.0.0-20260831232431-97274622c111";

/// The sources of the OpenTelemetry receiver, a Go program.
const RECEIVER: &str = "tests/otlp";

/// Makes a program unless it is there, and returns its path.
type Tool = fn() -> Result<PathBuf>;

/// The programs, each with the environment variable that names its path to the tests.
pub(crate) const TOOLS: [(&str, Tool); 6] = [
    ("DRISSE_OTLP_RECEIVER", otlp_receiver),
    ("DRISSE_PROMETHEUS", prometheus),
    ("DRISSE_REGISTRY", registry),
    ("DRISSE_OCI_CONFORMANCE", oci_conformance),
    ("DRISSE_PODMAN", podman),
    ("DRISSE_DOCKER", docker),
];

/// Passes the paths of the programs to tests, in environment variables. A test whose program is missing says so and
/// passes; in CI only Docker may be missing.
pub(crate) fn name<'a>(stages: &Stages, tests: &'a mut Command) -> Result<&'a mut Command> {
    for (variable, tool) in TOOLS.into_iter().filter(|(variable, _)| std::env::var_os(variable).is_none()) {
        match stages.need(variable, tool) {
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
    made(&format!("otlp-receiver-{:016x}", hasher.finish()), |part| {
        let mut build = Command::new("go");
        build.args(["build", "-trimpath", "-buildvcs=false", "-mod=readonly", "-o"]);
        build.arg(part.join("receiver")).arg(".").current_dir(folder);
        run_go(&mut build, RECEIVER)?;
        Ok("receiver".into())
    })
}

/// Runs a command of Go that builds `what`.
fn run_go(command: &mut Command, what: &str) -> Result<()> {
    let built = command.env("CGO_ENABLED", "0").status().context("cannot run Go: see https://go.dev/dl")?;
    ensure!(built.success(), "cannot build {what}");
    Ok(())
}

/// Returns the file or folder of this name in the cache. If it is missing, `make` makes it inside the given folder and
/// returns its path there. It gets its name when it is complete, so that an interrupted attempt is repeated.
fn made(name: &str, make: impl FnOnce(&Path) -> Result<PathBuf>) -> Result<PathBuf> {
    once(name, || {
        let path = crate::cache_folder().join(name);
        if path.exists() {
            return Ok(path);
        }
        println!("\nmaking {} (once)", path.display());
        let part = path.with_extension("part");
        let _ = std::fs::remove_dir_all(&part);
        std::fs::create_dir_all(&part)?;
        let complete = part.join(make(&part)?);
        std::fs::rename(complete, &path)?;
        // Already renamed if it is the whole folder.
        let _ = std::fs::remove_dir_all(part);
        Ok(path)
    })
}

/// Returns the installed program, or the one in the Debian package of this name. The package is only unpacked: that
/// starts no service and does not need root.
fn unpacked(name: &str) -> Result<PathBuf> {
    if exists(name) {
        return Ok(name.into());
    }
    made(&format!("{name}-debian"), |part| {
        unpack(name, part)?;
        Ok(Path::new("usr/bin").join(name))
    })
}

/// Unpacks a Debian package into a folder without installing it.
fn unpack(name: &str, folder: &Path) -> Result<()> {
    let download = ["download", name];
    ensure!(
        apt(&download, folder) || apt(&["update"], folder) && apt(&download, folder),
        "cannot download the Debian package {name}, and the program is not in PATH"
    );
    let files = std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    let package = files.iter().find(|file| file.extension().is_some_and(|end| end == "deb"));
    let package = package.context("apt-get downloaded nothing")?;
    let unpacked = Command::new("dpkg-deb").arg("-x").arg(package).arg(folder).status()?;
    ensure!(unpacked.success(), "cannot unpack the Debian package {name}");
    std::fs::remove_file(package)?;
    Ok(())
}

/// Returns Prometheus, which has `promtool` beside it.
fn prometheus() -> Result<PathBuf> {
    if exists("prometheus") {
        return Ok("prometheus".into());
    }
    let folder = made("prometheus-tools-debian", |part| {
        unpack("prometheus", part)?;
        Ok("usr/bin".into())
    })?;
    Ok(folder.join("prometheus"))
}

/// Returns the folders (as in `PATH`) with Docker's daemon and the programs it starts: installed, or unpacked from
/// Debian's packages.
fn docker() -> Result<PathBuf> {
    let installed = Path::new("/usr/sbin");
    if installed.join("dockerd").exists() {
        return Ok(installed.into());
    }
    let folder = made("docker-debian", |part| {
        ["docker.io", "containerd"].into_iter().try_for_each(|package| unpack(package, part))?;
        Ok(PathBuf::new())
    })?;
    let programs = ["usr/bin", "usr/sbin"].map(|programs| folder.join(programs));
    Ok(std::env::join_paths(programs)?.into())
}

/// Builds OCI's conformance tests of registries, once.
fn oci_conformance() -> Result<PathBuf> {
    made(&format!("oci-conformance-{OCI_CONFORMANCE}"), |part| {
        let mut install = Command::new("go");
        install.arg("install").arg(format!("{OCI_CONFORMANCE_MODULE}@{OCI_CONFORMANCE}")).env("GOBIN", part);
        run_go(&mut install, OCI_CONFORMANCE_MODULE)?;
        Ok("conformance".into())
    })
}

fn registry() -> Result<PathBuf> {
    unpacked("docker-registry")
}

/// Returns podman, and installs Debian's packages of podman, runc and skopeo if one of them is missing. `runc`, because
/// `crun` refuses to run on machines with both versions of control groups.
pub(crate) fn podman() -> Result<PathBuf> {
    let tools = ["podman", "runc", "skopeo"];
    once("podman", || {
        if !tools.into_iter().all(|tool| works(&[tool, "--version"])) {
            println!("\ninstalling {} (once)", tools.join(", "));
            ensure!(apt_install(&tools), "cannot install {}", tools.join(", "));
        }
        Ok("podman".into())
    })
}
