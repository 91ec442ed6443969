//! Packages as other tools push them: the model in them has the digest of the same files on disk.

use super::super::{Package, TITLE};
use super::*;
use crate::archive::tests::{gzip, tar_of, zstd};
use serde_json::json;
use tar::EntryType::{Directory, Regular, Symlink};

const MODELPACK: &str = "application/vnd.cncf.model";
const IMAGE: &str = "application/vnd.oci.image";

fn example(name: &str) -> (PathBuf, Vec<u8>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples").join(name);
    let bytes = std::fs::read(&path).unwrap();
    (path, bytes)
}

/// A layer: media type, bytes, uncompressed bytes, annotations.
type Layer = (String, Vec<u8>, Vec<u8>, Value);

fn raw(media_type: &str, bytes: &[u8], path: &str) -> Layer {
    let annotations = json!({ "org.cncf.model.filepath": path });
    (media_type.to_owned(), bytes.to_vec(), bytes.to_vec(), annotations)
}

/// Returns a layer whose media type says how it is compressed.
fn packed(media_type: &str, files: &[(&str, &[u8])]) -> Layer {
    let entries: Vec<_> = files.iter().map(|(path, bytes)| (*path, Regular, *bytes)).collect();
    let tar = tar_of(&entries);
    let bytes = match media_type {
        kind if kind.ends_with("gzip") => gzip(&tar),
        kind if kind.ends_with("zstd") => zstd(&tar),
        _ => tar.clone(),
    };
    (media_type.to_owned(), bytes, tar, json!({}))
}

/// A package in a layout, and the store into which it is unpacked.
struct Pushed {
    layout: Store,
    store: Store,
    digest: String,
    _folder: tempfile::TempDir,
}

impl Pushed {
    /// Stores a package. `kind` is the type of its config.
    fn new(kind: &str, layers: &[Layer]) -> Self {
        let diffs: Vec<_> = layers.iter().map(|(_, _, plain, _)| Blob::of(plain).digest).collect();
        Self::with(kind, layers, &json!({ "modelfs": { "diffIds": diffs }, "rootfs": { "diff_ids": diffs } }))
    }

    fn with(kind: &str, layers: &[Layer], config: &Value) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let layout = Store::open(&folder.path().join("layout")).unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        let part = |kind: &str, bytes: &[u8], annotations: &Value| {
            let Blob { digest, size } = layout.put_bytes(bytes).unwrap();
            json!({ "mediaType": kind, "digest": digest, "size": size, "annotations": annotations })
        };
        let manifest = json!({
            "schemaVersion": 2, "config": part(kind, config.to_string().as_bytes(), &Value::Null),
            "layers": layers.iter().map(|(kind, bytes, _, annotations)| part(kind, bytes, annotations)).collect::<Vec<_>>(),
        });
        let digest = layout.put_bytes(manifest.to_string().as_bytes()).unwrap().digest;
        Self { layout, store, digest, _folder: folder }
    }

    /// Returns the name of the model's file and the model's digest.
    fn model(&self) -> Result<(PathBuf, String), String> {
        match self.layout.package(&self.digest).map_err(|error| error.to_string())? {
            Package::Other(package) => assert!(!package.blobs().is_empty()),
            Package::Model(_) => panic!("the package is registered as it is"),
        }
        let unpacked = self.store.unpack(&self.layout, &self.digest).map_err(|error| error.to_string())?;
        let source = ModelSource::open_to_run(&unpacked.model).map_err(|error| error.to_string())?;
        let model = unpacked.ingested(&source).unwrap();
        assert_eq!(model.digest, source.digest().unwrap());
        assert!(source.sample.is_none_or(|sample| std::fs::read(sample).unwrap() == b"{}"));
        Ok((model.files[0].0.clone(), model.digest))
    }

    fn refused(&self) -> String {
        self.model().unwrap_err()
    }
}

#[test]
fn every_form_of_a_package_gives_the_model_of_its_files() {
    let (path, model) = example("digits/digits.onnx");
    let digest = ModelSource::open(&path).unwrap().digest().unwrap();
    let (config, kit) = (format!("{MODELPACK}.config.v1+json"), "application/vnd.kitops.modelkit");
    let oci = format!("{IMAGE}.config.v1+json");
    let titled = |path: &str, bytes: &[u8]| {
        let annotations = json!({ "org.opencontainers.image.title": path });
        (format!("{IMAGE}.layer.v1.tar"), bytes.to_vec(), bytes.to_vec(), annotations)
    };
    let weights: &[(&str, &[u8])] =
        &[("./net/digits.onnx", &model), ("net/._digits.onnx", b"x"), ("notes", b"x")];
    let mut packages = Vec::new();
    for compression in ["tar", "tar+gzip", "tar+zstd"] {
        let cnai = "application/vnd.cnai.model";
        packages.extend([
            (
                config.clone(),
                vec![
                    packed(&format!("{MODELPACK}.weight.config.v1.{compression}"), &[("other.onnx", b"x")]),
                    packed(&format!("{MODELPACK}.code.v1.{compression}"), &[("../x", b"x")]),
                    packed(&format!("{MODELPACK}.weight.v1.{compression}"), weights),
                    raw(&format!("{MODELPACK}.dataset.v1.raw"), b"{}", "data/sample.json"),
                    raw(&format!("{MODELPACK}.doc.v1.raw"), b"text", ""),
                ],
            ),
            (
                format!("{cnai}.config.v1+json"),
                vec![packed(&format!("{cnai}.weight.v1.{compression}"), weights)],
            ),
            (
                format!("{cnai}.config.v1+json"),
                vec![packed(&format!("{IMAGE}.layer.v1.{compression}"), weights)],
            ),
            (
                format!("{kit}.config.v1+json"),
                vec![
                    packed(
                        &format!("{kit}.model.v1.{compression}"),
                        &[("digits.onnx", &model), ("sample.json", b"{}")],
                    ),
                    packed(&format!("{kit}.modelpart.v1.{compression}"), &[("tokenizer.json", b"x")]),
                    packed(&format!("{kit}.dataset.v1.{compression}"), &[("rows.csv", b"x")]),
                ],
            ),
            (
                oci.clone(),
                vec![
                    packed(
                        &format!("{IMAGE}.layer.v1.{compression}"),
                        &[("etc/passwd", b"x"), ("models/1/digits.onnx", b"old")],
                    ),
                    packed(
                        &format!("{IMAGE}.layer.v1.{compression}"),
                        &[("models/1/digits.onnx", &model), ("models/1/sample.json", b"{}")],
                    ),
                ],
            ),
        ]);
    }
    packages.extend([
        (
            config,
            vec![
                raw(&format!("{MODELPACK}.weight.v1.raw"), b"x", "a/license"),
                raw(&format!("{MODELPACK}.weight.v1.raw"), &model, "a/digits.onnx"),
            ],
        ),
        (
            "application/vnd.oci.empty.v1+json".to_owned(),
            vec![titled("digits.onnx", &model), titled("README.md", b"x")],
        ),
        (
            "application/vnd.acme.config+json".to_owned(),
            vec![packed("application/tar+gzip", &[("digits.onnx", &model)])],
        ),
    ]);
    for (kind, layers) in packages {
        let found = Pushed::new(&kind, &layers).model();
        let types: Vec<_> = layers.iter().map(|layer| &layer.0).collect();
        assert_eq!(found, Ok(("digits.onnx".into(), digest.clone())), "{kind} {types:?}");
    }
}

#[test]
fn a_folder_that_oras_packed_is_unpacked() {
    let (path, model) = example("wine/wine.onnx");
    let mut layer = packed("application/vnd.oci.image.layer.v1.tar+gzip", &[("net/wine.onnx", &model)]);
    let unpacked = Blob::of(&layer.2).digest;
    let annotations = |digest: &str| {
        json!({
            "org.opencontainers.image.title": "net", "io.deis.oras.content.unpack": "true", "io.deis.oras.content.digest": digest,
        })
    };
    layer.3 = annotations(&unpacked);
    let digest = ModelSource::open(&path).unwrap().digest().unwrap();
    let kind = "application/vnd.unknown.config.v1+json";
    assert_eq!(Pushed::new(kind, std::slice::from_ref(&layer)).model(), Ok(("wine.onnx".into(), digest)));
    layer.3 = annotations(&Blob::of(b"").digest);
    assert!(Pushed::new(kind, &[layer]).refused().contains("it unpacks to sha256:"));
}

#[test]
fn a_layer_of_an_image_hides_what_is_below_it() {
    let (_, model) = example("wine/wine.onnx");
    let layer = format!("{IMAGE}.layer.v1.tar");
    let below =
        packed(&layer, &[("models/a/b.onnx", b"x"), ("models/a/c.onnx", b"x"), ("models/w.onnx", &model)]);
    let image = |above: &[(&str, &[u8])]| {
        Pushed::new(&format!("{IMAGE}.config.v1+json"), &[below.clone(), packed(&layer, above)]).model()
    };
    let name = |found: Result<(PathBuf, String), String>| found.map(|(name, _)| name);
    assert_eq!(name(image(&[("models/a/.wh..wh..opq", b"")])), Ok("w.onnx".into()));
    assert_eq!(
        name(image(&[("models/a/.wh.b.onnx", b""), ("models/a/.wh.c.onnx", b"")])),
        Ok("w.onnx".into())
    );
    assert_eq!(name(image(&[(".wh.models", b""), ("models/v.onnx", &model)])), Ok("v.onnx".into()));
    let error = image(&[("models/.wh.a", b""), ("models/x.onnx", b"x")]).unwrap_err();
    assert_eq!(
        error,
        "it is a container image with 2 ONNX models below /models: models/w.onnx, models/x.onnx"
    );
}

#[test]
fn what_is_not_one_model_is_named_with_its_files() {
    let config = format!("{MODELPACK}.config.v1+json");
    let weight = format!("{MODELPACK}.weight.v1.tar");
    let (image, layer) = (format!("{IMAGE}.config.v1+json"), format!("{IMAGE}.layer.v1.tar"));
    let titled = |path: &str| ("x/y".to_owned(), b"x".to_vec(), b"x".to_vec(), json!({ TITLE: path }));
    let link = tar_of(&[("models/m.onnx", Symlink, b""), ("models", Directory, b"")]);
    for (kind, layers, why) in [
        (
            &*config,
            vec![packed(&weight, &[("a.onnx", b"x"), ("b/c.ONNX", b"x")])],
            "a ModelPack package with 2 ONNX models: a.onnx, b/c.ONNX",
        ),
        (
            &config,
            vec![packed(&weight, &[("a.pt", b"x"), ("b", b"x")])],
            "without an ONNX model; its files there are a.pt, b",
        ),
        (
            &config,
            vec![packed(&weight, &[("a.onnx", b"x")]), packed(&weight, &[("a.onnx", b"y")])],
            "whose layers have the file `a.onnx` twice",
        ),
        (
            &config,
            vec![packed(&weight, &[("a.onnx", b"x"), ("a.onnx/b", b"x")])],
            "`a.onnx/b` is inside a path that is a file",
        ),
        (&config, vec![packed(&weight, &[("../a.onnx", b"x")])], "not a plain path"),
        (&config, vec![raw(&format!("{MODELPACK}.weight.v1.raw"), b"x", "../a.onnx")], "not a plain path"),
        (
            &config,
            vec![],
            "a ModelPack package of type application/vnd.cncf.model.config.v1+json without files of a model; its layers are none",
        ),
        (
            &image,
            vec![packed(&layer, &[("opt/m.onnx", b"x"), ("models/README", b"x")])],
            "below /models; elsewhere it has opt/m.onnx",
        ),
        (&image, vec![packed(&layer, &[("/models/m.onnx", b"x")])], "not a plain path"),
        (
            &image,
            vec![(layer.clone(), link.clone(), link.clone(), json!({}))],
            "`models/m.onnx` is not a regular file",
        ),
        (
            "application/vnd.oci.empty.v1+json",
            vec![titled("a.gguf"), titled("b.txt")],
            "an OCI artifact without an ONNX model; its files are a.gguf, b.txt",
        ),
        (
            "application/vnd.cncf.helm.config.v1+json",
            vec![("x/helm".to_owned(), vec![], vec![], json!({}))],
            "of type application/vnd.cncf.helm.config.v1+json without files of a model; its layers are x/helm",
        ),
        ("application/vnd.oci.empty.v1+json", vec![titled("m.pkl")], "m.pkl"),
    ] {
        let error = Pushed::new(kind, &layers).refused();
        assert!(error.contains(why), "{why}: {error}");
    }
}

#[test]
fn a_layer_must_unpack_to_the_digest_in_the_config() {
    let (_, model) = example("wine/wine.onnx");
    let layers = [packed(&format!("{MODELPACK}.weight.v1.tar+gzip"), &[("wine.onnx", &model)])];
    let kind = format!("{MODELPACK}.config.v1+json");
    for (diffs, why) in [
        (json!([Blob::of(b"x").digest]), "it unpacks to sha256:"),
        (json!([1, 2]), "whose manifest has 1 layers, and whose config 2"),
    ] {
        let error = Pushed::with(&kind, &layers, &json!({ "modelfs": { "diffIds": diffs } })).refused();
        assert!(error.contains(why), "{error}");
    }
    for config in [json!({}), json!({ "modelfs": { "diffIds": [] } }), json!(1)] {
        Pushed::with(&kind, &layers, &config).model().unwrap();
    }
    let pushed = Pushed::new(&kind, &layers);
    let blob = pushed.layout.path(&Blob::of(&layers[0].1).digest).unwrap();
    std::fs::remove_file(&blob).unwrap();
    std::fs::write(&blob, "other bytes").unwrap();
    assert!(pushed.refused().contains("is missing"));
}
