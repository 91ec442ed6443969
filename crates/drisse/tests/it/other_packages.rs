//! Models in the packages of other tools: pulled as if their files had been registered.

use crate::faulty_registry::{FaultyRegistry, digest, plain};
use crate::registry::User;
use crate::support::root;
use drisse_testkit::onnx::{Dim, bytes, number, port};
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fs;
use std::io::Write;

const MODELPACK: &str = "application/vnd.cncf.model";
const IMAGE: &str = "application/vnd.oci.image";

/// Blobs by digest, and manifests by tag.
#[derive(Default)]
struct Content(HashMap<String, Vec<u8>>);

impl Content {
    /// Adds a package of these layers (media type, bytes, uncompressed bytes, title) under a tag. Returns its digest.
    fn package(&mut self, tag: &str, config: &str, layers: &[(&str, Vec<u8>, &[u8], &str)]) -> String {
        let diffs: Vec<_> = layers.iter().map(|(_, _, plain, _)| digest(plain)).collect();
        let text = json!({ "modelfs": { "diffIds": diffs }, "rootfs": { "diff_ids": diffs } }).to_string();
        let parts: Vec<_> =
            layers.iter().map(|(kind, bytes, _, title)| self.part(kind, bytes, title)).collect();
        let config = self.part(config, text.as_bytes(), "");
        let manifest =
            json!({ "schemaVersion": 2, "config": config, "layers": parts }).to_string().into_bytes();
        self.0.insert(tag.to_owned(), manifest.clone());
        self.0.insert(digest(&manifest), manifest.clone());
        digest(&manifest)
    }

    fn part(&mut self, kind: &str, bytes: &[u8], title: &str) -> Value {
        let named = digest(bytes);
        self.0.insert(named.clone(), bytes.to_vec());
        let annotations =
            if title.is_empty() { json!({}) } else { json!({ "org.opencontainers.image.title": title }) };
        json!({ "mediaType": kind, "digest": named, "size": bytes.len(), "annotations": annotations })
    }

    fn serve(self) -> FaultyRegistry {
        FaultyRegistry::start(move |_, path| match path.rsplit('/').next().unwrap() {
            "" => plain(vec![]),
            name => self.0.get(name).map_or((404, vec![], vec![]), |bytes| plain(bytes.clone())),
        })
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        archive.append_data(&mut header, path, *bytes).unwrap();
    }
    archive.into_inner().unwrap()
}

/// Returns a model that multiplies by a matrix in `data/w.bin`: ModelProto of onnx.proto.
fn with_external_data() -> Vec<u8> {
    let location = [bytes(1, b"location"), bytes(2, b"data/w.bin")].concat();
    let weights =
        [number(1, 2), number(1, 2), number(2, 1), bytes(8, b"w"), bytes(13, &location), number(14, 1)];
    let node = [bytes(1, b"x"), bytes(1, b"w"), bytes(2, b"y"), bytes(4, b"MatMul")];
    let dims = [Dim::Free("n"), Dim::Fixed(2)];
    let graph = [
        bytes(1, &node.concat()),
        bytes(2, b"g"),
        bytes(5, &weights.concat()),
        port(11, "x", &dims),
        port(12, "y", &dims),
    ];
    [number(1, 8), bytes(7, &graph.concat()), bytes(8, &number(2, 13))].concat()
}

#[test]
fn a_model_in_a_package_of_another_tool_is_the_one_of_its_files() {
    let (model, weights) = (with_external_data(), [1_f32, 0., 0., 2.].map(f32::to_le_bytes).concat());
    let sample = br#"{"data": [[1.0, 1.0]]}"#;
    let user = User::new();
    let files = user.cache.path().join("net");
    fs::create_dir_all(files.join("data")).unwrap();
    fs::write(files.join("m.onnx"), &model).unwrap();
    fs::write(files.join("data/w.bin"), &weights).unwrap();
    fs::write(files.join("sample.json"), sample).unwrap();
    let registered = user.json(&["models", "register", files.to_str().unwrap(), "--name", "m"]);

    let mut content = Content::default();
    let own: &[(&str, &[u8])] =
        &[("net/data/w.bin", &weights), ("net/m.onnx", &model), ("net/sample.json", sample)];
    let archive = tar(own);
    let below: Vec<_> = own.iter().map(|(path, bytes)| (path.replace("net/", "models/"), *bytes)).collect();
    let car = tar(&below.iter().map(|(path, bytes)| (&**path, *bytes)).collect::<Vec<_>>());
    let (weight, kit) = (format!("{MODELPACK}.weight.v1.tar+gzip"), "application/vnd.kitops.modelkit");
    content.package(
        "pack",
        &format!("{MODELPACK}.config.v1+json"),
        &[(&weight, gzip(&archive), &archive, "net")],
    );
    content.package(
        "kit",
        &format!("{kit}.config.v1+json"),
        &[(&format!("{kit}.model.v1.tar"), archive.clone(), &archive, "")],
    );
    let layer = format!("{IMAGE}.layer.v1.tar");
    content.package(
        "files",
        "application/vnd.oci.empty.v1+json",
        &[
            (&layer, weights.clone(), &weights, "data/w.bin"),
            (&layer, model.clone(), &model, "m.onnx"),
            (&layer, sample.to_vec(), sample, "sample.json"),
        ],
    );
    let image = content.package(
        "image",
        &format!("{IMAGE}.config.v1+json"),
        &[(&format!("{layer}+gzip"), gzip(&car), &car, "")],
    );
    let index = json!({ "schemaVersion": 2, "manifests": [
        { "mediaType": "x", "digest": image, "size": 1, "platform": { "os": "linux", "architecture": "mips" } },
        { "mediaType": "x", "digest": digest(b""), "size": 1, "platform": { "os": "unknown", "architecture": "unknown" } },
    ] });
    content.0.insert("index".to_owned(), index.to_string().into_bytes());
    let registry = content.serve();
    for tag in ["pack", "kit", "files", "image", "index"] {
        let reference = registry.reference(&format!("team/net:{tag}"));
        let other = User::new();
        let pulled = other.json(&["models", "pull", &reference, "--name", "m"]);
        for what in ["name", "version", "digest", "signature", "manifest_digest"] {
            assert_eq!(pulled[what], registered[what], "{tag}: {what}");
        }
        let again = user.json(&["models", "pull", &reference, "--name", "m"]);
        assert_eq!((&again["version"], &again["digest"]), (&1.into(), &registered["digest"]), "{tag}");
        other.json(&["models", "verify"]);
        if tag == "pack" {
            let deployed = other.json(&["deploy", &reference, "--name", "d"]);
            assert_eq!(deployed["answer"]["y"], json!([[1.0, 2.0]]), "{deployed}");
        }
    }
    assert_eq!(user.json(&["models"])["items"].as_array().unwrap().len(), 1);
}

#[test]
fn what_cannot_be_pulled_is_named_and_leaves_nothing() {
    let model = fs::read(root().join("examples/digits/digits.onnx")).unwrap();
    let weight = format!("{MODELPACK}.weight.v1.tar+gzip");
    let mut content = Content::default();
    let mut pack = |tag: &str, files: &[(&str, &[u8])]| {
        let archive = tar(files);
        content.package(
            tag,
            &format!("{MODELPACK}.config.v1+json"),
            &[(&weight, gzip(&archive), &archive, "net")],
        );
    };
    pack("two", &[("a.onnx", &model), ("b.onnx", &model)]);
    pack("other", &[("net/model.pt", b"x"), ("net/config.json", b"{}")]);
    pack("bomb", &[("a.onnx", &vec![0; 300 << 20])]);
    pack("truncated", &[("a.onnx", &model[..1000])]);
    let layer = format!("{IMAGE}.layer.v1.tar");
    let elsewhere = tar(&[("etc/x", b"x"), ("srv/a.onnx", &model)]);
    content.package(
        "image",
        &format!("{IMAGE}.config.v1+json"),
        &[(&layer, elsewhere.clone(), &elsewhere, "")],
    );
    content.package(
        "lies",
        &format!("{IMAGE}.config.v1+json"),
        &[(&layer, tar(&[("models/a.onnx", &model)]), b"", "")],
    );
    content.package("helm", "application/vnd.cncf.helm.config.v1+json", &[("x/chart", vec![1], b"", "")]);
    content.0.insert("list".to_owned(), br#"{"manifests": [{"digest": "x"}, {"digest": "y"}]}"#.to_vec());
    let registry = content.serve();
    let user = User::new();
    for (tag, why) in [
        ("two", "it is a ModelPack package with 2 ONNX models: a.onnx, b.onnx"),
        ("other", "without an ONNX model; its files there are net/config.json, net/model.pt"),
        ("bomb", "it unpacks to more than"),
        ("truncated", "a.onnx is truncated"),
        ("image", "it is a container image without an ONNX model below /models; elsewhere it has srv/a.onnx"),
        ("lies", "it unpacks to"),
        ("helm", "is not a model: it is an OCI artifact of type application/vnd.cncf.helm.config.v1+json"),
        ("list", "it is an index of several manifests: x, y"),
    ] {
        let ran = user.run(&["models", "pull", &registry.reference(&format!("x:{tag}"))]);
        assert!(ran.code == 1 && ran.stderr.contains(why) && ran.stderr.contains("hint: "), "{tag}: {ran:?}");
    }
    assert_eq!(user.json(&["models"])["items"], json!([]));

    // Nothing of a package that must be signed is unpacked before its signature has been checked.
    let (_, public) = crate::signing::keys(user.cache.path(), "key");
    user.json(&["models", "trust", &public]);
    user.refused(&["models", "pull", &registry.reference("x:two")], "the model is not signed");
}
