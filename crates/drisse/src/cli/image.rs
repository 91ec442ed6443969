//! The arguments of `drisse image`.

use super::manage::RegistryOptions;
use clap::{Args, Subcommand};
use drisse_registry::{Reference, RemoteError};
use std::path::PathBuf;
use std::str::FromStr;

#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Build a container image that serves a model; needs no Dockerfile, daemon or base image
    Build(ImageBuild),
    /// Push a built image; blobs that the registry already has are not sent
    Push(ImagePush),
    /// List the cached runtime layers (Drisse, ONNX Runtime and their libraries), which images share
    Runtimes,
    /// Remove the cached runtime layers that this version of Drisse does not use
    Prune,
}

#[derive(Debug, Args)]
pub(crate) struct ImageBuild {
    /// Model file or folder, or registered NAME[:VERSION]
    pub(crate) model: String,
    /// Destination: oci-archive:FILE[:REFERENCE] (`-`: stdout), oci:DIR[:REFERENCE] or docker://HOST/REPOSITORY[:TAG]
    #[arg(short = 'o', long = "to", value_name = "DESTINATION")]
    pub(crate) to: Destination,
    /// Name to serve the model under [default: the registered name, or the file's name]
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Base image from a registry: docker://HOST/REPOSITORY[:TAG] [default: none]
    #[arg(long, value_name = "REFERENCE")]
    pub(crate) base: Option<Reference>,
    /// Digest of a cached runtime layer to use [default: one built from this machine's libraries]
    #[arg(long, value_name = "DIGEST")]
    pub(crate) runtime: Option<String>,
    /// ONNX Runtime library to include [default: next to the binary, in the cache, or downloaded]
    #[arg(long, value_name = "FILE", env = "DRISSE_ONNXRUNTIME")]
    pub(crate) onnxruntime: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) registry: RegistryOptions,
}

#[derive(Debug, Args)]
pub(crate) struct ImagePush {
    /// Image to push: oci-archive:FILE[:REFERENCE] or oci:DIR[:REFERENCE]
    #[arg(value_name = "IMAGE")]
    pub(crate) from: Destination,
    /// Destination: docker://HOST/REPOSITORY[:TAG]
    #[arg(value_name = "REFERENCE")]
    pub(crate) to: Reference,
    #[command(flatten)]
    pub(crate) registry: RegistryOptions,
}

/// Where an image is read or written, in the notation of skopeo and podman: `containers-transports(5)`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Destination {
    /// A tar file, or stdout if `None`; and the image's reference.
    Archive(Option<PathBuf>, Option<String>),
    /// An OCI image layout in a folder; and the image's reference.
    Layout(PathBuf, Option<String>),
    /// A repository in a registry.
    Registry(Reference),
}

impl Destination {
    /// Returns the reference given for the image inside an archive or a layout.
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
        let expected = || {
            "expected oci-archive:FILE[:REFERENCE], oci:DIR[:REFERENCE] or docker://HOST/REPOSITORY[:TAG]"
                .to_owned()
        };
        if text.starts_with("docker://") || text.starts_with("oci://") {
            let to = text.parse().map_err(|error: RemoteError| error.to_string())?;
            return Ok(Self::Registry(Reference::or_latest(to)));
        }
        let (transport, rest) = text.split_once(':').ok_or_else(expected)?;
        let (path, reference) = match rest.split_once(':') {
            Some((path, reference)) => (path, Some(reference.to_owned())),
            None => (rest, None),
        };
        if path.is_empty() {
            return Err(expected());
        }
        if let Some(reference) = &reference {
            checked(reference)?;
        }
        match transport {
            "oci-archive" if path == "-" => Ok(Self::Archive(None, reference)),
            "oci-archive" => Ok(Self::Archive(Some(path.into()), reference)),
            "oci" => Ok(Self::Layout(path.into(), reference)),
            _ => Err(expected()),
        }
    }
}

/// Checks a reference `[HOST[:PORT]/]NAME[/NAME]…[:TAG]` by the rules of the OCI distribution specification.
fn checked(reference: &str) -> Result<(), String> {
    let wrong = || format!("`{reference}` is not an image reference, such as team/digits:1");
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
