//! `drisse image`: what can be said of container images.

use super::manage::RegistryOptions;
use clap::{Args, Subcommand};
use drisse_registry::{Reference, RemoteError};
use std::path::PathBuf;
use std::str::FromStr;

#[derive(Debug, Args)]
pub(crate) struct Image {
    #[command(subcommand)]
    pub(crate) command: ImageCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Build a container image that serves a model: no Dockerfile, no daemon, no base image
    Build(ImageBuild),
    /// Push an image that was built before; what is there already is not sent
    Push(ImagePush),
    /// List this machine's runtime layers: Drisse, ONNX Runtime and their libraries, which images share
    Runtimes,
    /// Remove the runtime layers that this Drisse does not build images with
    Prune,
}

#[derive(Debug, Args)]
pub(crate) struct ImageBuild {
    /// Model file or folder, or the name of a registered model: NAME[:VERSION]
    pub(crate) model: String,
    /// Where it goes: oci-archive:FILE[:REFERENCE] (`-`: stdout), oci:DIR[:REFERENCE], or docker://HOST/REPOSITORY[:TAG]
    #[arg(short = 'o', long = "to", value_name = "DESTINATION")]
    pub(crate) to: Destination,
    /// What the model is served as [default: the registered name, or the file's]
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Put the layers on this image from a registry: docker://HOST/REPOSITORY[:TAG]
    #[arg(long, value_name = "REFERENCE")]
    pub(crate) base: Option<Reference>,
    /// Build on this runtime layer, instead of one of this Drisse and this machine's libraries
    #[arg(long, value_name = "DIGEST")]
    pub(crate) runtime: Option<String>,
    /// ONNX Runtime library to pack [default: beside the binary, in the cache, or downloaded there]
    #[arg(long, value_name = "FILE", env = "DRISSE_ONNXRUNTIME")]
    pub(crate) onnxruntime: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) registry: RegistryOptions,
}

#[derive(Debug, Args)]
pub(crate) struct ImagePush {
    /// Where it is: oci-archive:FILE[:REFERENCE], or oci:DIR[:REFERENCE]
    #[arg(value_name = "IMAGE")]
    pub(crate) from: Destination,
    /// Where it goes: docker://HOST/REPOSITORY[:TAG]
    #[arg(value_name = "REFERENCE")]
    pub(crate) to: Reference,
    #[command(flatten)]
    pub(crate) registry: RegistryOptions,
}

/// Where an image goes, as skopeo and podman spell it: `containers-transports(5)`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Destination {
    /// A file; none is stdout.
    Archive(Option<PathBuf>, Option<String>),
    Layout(PathBuf, Option<String>),
    Registry(Reference),
}

impl Destination {
    /// What the image is to be called there.
    pub(crate) fn reference(&self) -> Option<&str> {
        match self {
            Self::Archive(_, reference) | Self::Layout(_, reference) => reference.as_deref(),
            Self::Registry(_) => None,
        }
    }
}

impl FromStr for Destination {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = || {
            "oci-archive:FILE[:REFERENCE], oci:DIR[:REFERENCE] or docker://HOST/REPOSITORY[:TAG] is wanted"
                .to_owned()
        };
        if text.starts_with("docker://") || text.starts_with("oci://") {
            let to = text.parse().map_err(|error: RemoteError| error.to_string())?;
            return Ok(Self::Registry(Reference::or_latest(to)));
        }
        let (transport, rest) = text.split_once(':').ok_or_else(wanted)?;
        let (path, reference) = match rest.split_once(':') {
            Some((path, reference)) => (path, Some(reference.to_owned())),
            None => (rest, None),
        };
        if path.is_empty() {
            return Err(wanted());
        }
        if let Some(reference) = &reference {
            checked(reference)?;
        }
        match transport {
            "oci-archive" if path == "-" => Ok(Self::Archive(None, reference)),
            "oci-archive" => Ok(Self::Archive(Some(path.into()), reference)),
            "oci" => Ok(Self::Layout(path.into(), reference)),
            _ => Err(wanted()),
        }
    }
}

/// A reference is `[HOST[:PORT]/]NAME[/NAME]…[:TAG]`, as in OCI's distribution specification.
fn checked(reference: &str) -> Result<(), String> {
    let wrong = || format!("`{reference}` is no reference of an image, such as team/digits:1");
    let (name, tag) = match reference.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, tag),
        _ => (reference, "latest"),
    };
    let word = |c: u8| c.is_ascii_alphanumeric() || b"_.-".contains(&c);
    let begins = |text: &str| text.bytes().next().is_some_and(|c| c.is_ascii_alphanumeric() || c == b'_');
    let is_tag = begins(tag) && tag.len() <= 128 && tag.bytes().all(word);
    let mut parts = name.split('/').enumerate();
    let is_name = parts.all(|(nth, part)| {
        let host = nth == 0 && name.contains('/');
        let plain =
            |c: u8| word(c) && !c.is_ascii_uppercase() || host && (c == b':' || c.is_ascii_uppercase());
        begins(part) && part.bytes().all(plain)
    });
    if is_tag && is_name && reference.len() <= 255 { Ok(()) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_are_spelled_as_skopeo_spells_them() {
        let archive = |path: &str, reference: Option<&str>| {
            Destination::Archive(Some(path.into()), reference.map(str::to_owned))
        };
        assert_eq!("oci-archive:a.tar".parse(), Ok(archive("a.tar", None)));
        assert_eq!(
            "oci-archive:/x/a.tar:team/digits:1".parse(),
            Ok(archive("/x/a.tar", Some("team/digits:1")))
        );
        assert_eq!("oci-archive:-".parse(), Ok(Destination::Archive(None, None)));
        assert_eq!(
            "oci:d:host:5000/x:v".parse(),
            Ok(Destination::Layout("d".into(), Some("host:5000/x:v".into())))
        );
        for wrong in [
            "a.tar",
            "oci:",
            "tar:x",
            "oci:d:",
            "oci:d:Upper",
            "oci:d:a b",
            "oci:d:../x:1",
            "oci:d:x:-",
            "oci:d:x\n",
        ] {
            assert!(wrong.parse::<Destination>().is_err(), "{wrong}");
        }
    }
}
