//! `drisse image`: builds and pushes container images without a container engine.

use super::named::Named;
use super::transfer;
use crate::cli::{Destination, ImageBuild, ImageCommand, ImagePush, Output};
use crate::connect::{WorkspaceRef, env_onnxruntime};
use crate::error::{CliError, Result};
use crate::wiring::{self, VERSION};
use crate::{printer, units};
use anyhow::Context;
use drisse_core::ServiceName;
use drisse_registry::{
    Evidence, Image, ImageModel, RELEASED, Reference, Runtime, RuntimeParts, Runtimes, Store,
};
use serde_json::json;
use std::io::{BufReader, BufWriter};
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

/// Buffer for an archive or a pipe, in bytes.
const BUFFER: usize = 256 << 10;

pub(crate) async fn run(
    workspace: &WorkspaceRef,
    command: &ImageCommand,
    output: Output,
) -> Result<ExitCode> {
    match command {
        ImageCommand::Build(build) => self::build(workspace, build, output).await,
        ImageCommand::Push(push) => self::push(push, output).await,
        ImageCommand::Runtimes => {
            let list = runtimes()?.list();
            printer::result(output, || json!(list), || table(&list));
            Ok(ExitCode::SUCCESS)
        }
        ImageCommand::Prune => {
            let runtimes = runtimes()?;
            let ours = runtime(&runtimes, env_onnxruntime().as_deref())?;
            let (count, bytes) = runtimes.prune(&[ours.digest])?;
            let text = || format!("removed {count} layers, {}\n", units::shown(bytes));
            printer::result(output, || json!({"removed": count, "bytes": bytes}), text);
            Ok(ExitCode::SUCCESS)
        }
    }
}

async fn build(workspace: &WorkspaceRef, arguments: &ImageBuild, output: Output) -> Result<ExitCode> {
    let began = Instant::now();
    let failed = || format!("cannot build an image of {}", arguments.model);
    let model = model(workspace, arguments).await?;
    let runtimes = runtimes()?;
    let runtime = match &arguments.runtime {
        Some(digest) => runtimes.pinned(digest).with_context(failed)?,
        None => runtime(&runtimes, arguments.onnxruntime.as_deref())?,
    };
    let base = match &arguments.base {
        Some(base) => Some(transfer::base(base, &arguments.registry, &runtime.architecture).await?),
        None => None,
    };
    let created = created()?;
    let image = Image::new(&runtimes, &runtime, &model, base.as_ref(), &created).with_context(failed)?;
    let default_reference = match &arguments.to {
        Destination::Registry(to) => to.to_string(),
        _ => format!("{}:{}", repository(&model.name), model.version),
    };
    let reference = arguments.to.reference().unwrap_or(&default_reference);
    if let Destination::Registry(to) = &arguments.to {
        let folder = tempfile::tempdir_in(wiring::cache_folder()).context("cannot write the image")?;
        write(&image, &Destination::Layout(folder.path().to_owned(), None), &default_reference)?;
        transfer::upload(to, &arguments.registry, &Store::existing(folder.path()), &image.digest, &[])
            .await?;
    } else {
        write(&image, &arguments.to, reference)?;
    }
    let (digest, size) = (&image.digest, image.size());
    let document = || {
        json!({
            "reference": reference, "digest": digest, "size": size, "architecture": runtime.architecture,
            "model": {"name": model.name, "version": model.version, "digest": model.digest}, "runtime": runtime,
        })
    };
    let text = || {
        let took = units::seconds(began.elapsed());
        let (all, shared) = (units::shown(size), units::shown(runtime.size));
        format!(
            "{reference} {digest}\n{all}, of which {shared} are the runtime layer that images share; built in {took}\n"
        )
    };
    match &arguments.to {
        // The image itself is on stdout.
        Destination::Archive(None, _) => printer::note(text().trim_end()),
        _ => printer::result(output, document, text),
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns the name of a model's repository: the model's own or, if a repository cannot be named so, its label.
fn repository(model: &str) -> String {
    if format!("localhost/{model}").parse::<Reference>().is_ok() {
        return model.to_owned();
    }
    model.parse::<ServiceName>().map_or_else(|_| "model".to_owned(), |name| name.label().into_owned())
}

/// `drisse image push`.
async fn push(arguments: &ImagePush, output: Output) -> Result<ExitCode> {
    let to = arguments.to.clone().or_latest();
    let failed = || format!("cannot push to {to}");
    let unpacked = tempfile::tempdir_in(wiring::cache_folder()).with_context(failed)?;
    let folder = match &arguments.from {
        Destination::Layout(folder, _) => folder,
        Destination::Archive(Some(file), _) => {
            let archive =
                std::fs::File::open(file).with_context(|| format!("cannot read {}", file.display()))?;
            let folder = unpacked.path();
            drisse_registry::unpack(BufReader::with_capacity(BUFFER, archive), folder)
                .with_context(|| format!("cannot push {}", file.display()))?;
            folder
        }
        _ => {
            return Err(CliError::new("cannot push from a registry or from stdin: name a file or a folder")
                .hint("drisse image push oci-archive:FILE docker://HOST/REPOSITORY:TAG"));
        }
    };
    let digest = drisse_registry::image_in(folder, arguments.from.reference())?;
    let pushed = transfer::upload(&to, &arguments.registry, &Store::existing(folder), &digest, &[]).await?;
    transfer::print(output, &to, &pushed, None);
    Ok(ExitCode::SUCCESS)
}

async fn model(workspace: &WorkspaceRef, arguments: &ImageBuild) -> Result<ImageModel> {
    let failed = || format!("cannot build an image of {}", arguments.model);
    let model = match Named::find(workspace, &arguments.model).await? {
        Named::Source(source) => {
            let name = ServiceName::of_stem(&source.name)
                .map_or_else(|| "model".to_owned(), |name| name.to_string());
            ImageModel::of_source(&source, &name, "1").with_context(failed)?
        }
        Named::Registered(store, found) => {
            let model = ImageModel::of_package(&store, &found.digest, &found.manifest_digest);
            let client = workspace.reach().await?;
            let signatures = client.signatures(&found.name, Some(found.version)).await?;
            let evidence = Evidence {
                manifest: store.read(&found.manifest_digest).with_context(failed)?,
                bundles: signatures.into_iter().map(|signature| signature.bundle.into_bytes()).collect(),
            };
            let evidence = (!evidence.bundles.is_empty()).then_some(evidence);
            let (name, version) = (found.name, found.version.to_string());
            ImageModel { name, version, evidence, ..model.with_context(failed)? }
        }
    };
    let Some(name) = &arguments.name else { return Ok(model) };
    let name = name.parse::<ServiceName>().with_context(failed)?.to_string();
    Ok(ImageModel { name, ..model })
}

/// Writes the image to its destination. A file is replaced only once the new one is complete.
/// Returns the date of a new image, which is reproducible: the one in `SOURCE_DATE_EPOCH`, or that of this version.
///
/// Source: <https://reproducible-builds.org/specs/source-date-epoch/>.
fn created() -> Result<String> {
    let Some(given) = std::env::var_os("SOURCE_DATE_EPOCH").filter(|given| !given.is_empty()) else {
        return Ok(RELEASED.to_owned());
    };
    let seconds = given.to_str().and_then(|given| given.parse().ok()).filter(|&seconds: &i64| seconds >= 0);
    match seconds.and_then(|seconds| jiff::Timestamp::from_second(seconds).ok()) {
        Some(time) => Ok(time.to_string()),
        None => Err(CliError::new(format!(
            "the variable SOURCE_DATE_EPOCH is not a time: `{}`",
            given.to_string_lossy()
        ))
        .hint("set it to the seconds since 1970, or unset it")),
    }
}

fn write(image: &Image, to: &Destination, reference: &str) -> Result<()> {
    let bar = printer::bar(Some(image.size()), "writing {bytes} of {total_bytes} {eta}");
    let progress = |bytes| bar.inc(bytes);
    match to {
        Destination::Archive(None, _) => {
            let stdout = BufWriter::with_capacity(BUFFER, std::io::stdout().lock());
            image.write_archive(stdout, reference, &progress)?;
        }
        Destination::Archive(Some(file), _) => {
            let failed = || format!("cannot write {}", file.display());
            // A link is followed and stays a link.
            let file = file.canonicalize().unwrap_or_else(|_| file.clone());
            if std::fs::metadata(&file).is_ok_and(|metadata| !metadata.is_file()) {
                // A pipe or a device is written to directly, not replaced.
                let out = std::fs::OpenOptions::new().write(true).open(&file).with_context(failed)?;
                let out = BufWriter::with_capacity(BUFFER, out);
                image.write_archive(out, reference, &progress).with_context(failed)?;
                bar.finish_and_clear();
                return Ok(());
            }
            let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
            let folder = folder.unwrap_or(Path::new("."));
            let mut scratch = tempfile::NamedTempFile::new_in(folder).with_context(failed)?;
            let out = BufWriter::with_capacity(BUFFER, scratch.as_file_mut());
            image.write_archive(out, reference, &progress).with_context(failed)?;
            let readable = std::os::unix::fs::PermissionsExt::from_mode(0o644);
            scratch.as_file().set_permissions(readable).with_context(failed)?;
            scratch.as_file().sync_all().with_context(failed)?;
            scratch.persist(&file).with_context(failed)?;
        }
        Destination::Layout(folder, _) => image.write_layout(folder, reference, &progress)?,
        // `build` writes to a folder first, and pushes that.
        Destination::Registry(_) => {}
    }
    bar.finish_and_clear();
    Ok(())
}

/// Opens the cache of runtime layers of this machine.
fn runtimes() -> Result<Runtimes> {
    Ok(Runtimes::open(&wiring::cache_folder().join("images"))?)
}

/// Returns the runtime layer of this program and this machine's libraries; builds it if it is missing.
fn runtime(runtimes: &Runtimes, onnxruntime: Option<&Path>) -> Result<Runtime> {
    let library = wiring::onnx_library(onnxruntime)?;
    let found = wiring::onnx_version(&library)?;
    let program = std::env::current_exe().context("cannot find this program's file")?;
    let parts = RuntimeParts {
        program: &program,
        version: VERSION,
        onnxruntime: &library,
        onnxruntime_version: &|| found.clone(),
    };
    let packing = |libraries| {
        printer::note(&format!(
            "building the runtime layer, once: Drisse, ONNX Runtime, {libraries} system libraries"
        ));
    };
    Ok(runtimes.build(&parts, packing).context("cannot build the runtime layer")?)
}

fn table(runtimes: &[Runtime]) -> String {
    let row = |runtime: &Runtime| {
        let Runtime { digest, version, onnxruntime, .. } = runtime;
        vec![digest.clone(), units::shown(runtime.size), version.clone(), onnxruntime.clone()]
    };
    printer::table(&["DIGEST", "SIZE", "DRISSE", "ONNX RUNTIME"], runtimes.iter().map(row))
}
