//! Packages: identical bytes everywhere, as OCI tools and ModelPack expect them, and no unsafe paths.

use super::*;
use serde_json::json;

fn example(name: &str) -> ModelSource {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    ModelSource::open(&root.join(name)).unwrap()
}

#[test]
fn the_same_model_has_the_same_package_everywhere_and_its_digest_is_the_inspectors() {
    let pack = || {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let source = example("digits");
        let model = store.ingest(&source, &|_| ()).unwrap();
        assert_eq!(model.digest, source.digest().unwrap());
        (store.pack(&model, "digits", 1, Some(b"{}")).unwrap(), store, folder)
    };
    let (one, store, _folder) = pack();
    assert_eq!(one, pack().0);
    let manifest = store.manifest(&one).unwrap();
    assert_eq!(manifest.model_file(), Some("digits.onnx".into()));
    let view = store.view_of(&example("digits").digest().unwrap(), &manifest).unwrap();
    assert!(view.join("digits.onnx").is_file() && view.join("sample.json").is_file());
    assert!(!view.join(DERIVED).exists());
}

#[test]
fn a_view_and_an_image_name_the_engine_if_it_is_not_the_default() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let mut source = example("wine");
    source.engine = "npu".to_owned();
    let model = store.ingest(&source, &|_| ()).unwrap();
    let package = store.pack(&model, "wine", 1, None).unwrap();
    let view = store.view_of(&model.digest, &store.manifest(&package).unwrap()).unwrap();
    let opened = ModelSource::open(&view).unwrap();
    assert_eq!(opened.engine, "npu");
    let packed = crate::ImageModel::of_package(&store, &model.digest, &package).unwrap();
    let on_disk = crate::ImageModel::of_source(&opened, "wine", "1").unwrap();
    for image in [packed, on_disk] {
        assert!(
            image.files.iter().any(|(path, _)| path == Path::new(DERIVED)),
            "an image names the engine too"
        );
    }
}

#[test]
fn the_config_has_only_what_modelpacks_schema_allows() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let model = store.ingest(&example("wine"), &|_| ()).unwrap();
    let manifest = store.manifest(&store.pack(&model, "wine", 3, None).unwrap()).unwrap();
    let config = store.read(&manifest.config.digest).unwrap();
    let config: serde_json::Value = serde_json::from_slice(&config).unwrap();
    let keys = |value: &serde_json::Value| {
        value.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>()
    };
    // Every field is in the schema, with its type, and every required field is present.
    assert_eq!(keys(&config), ["config", "descriptor", "modelfs"]);
    assert_eq!(config["descriptor"], json!({ "name": "wine", "version": "3" }));
    assert_eq!(keys(&config["config"]), ["format", "paramSize"]);
    assert!(config["config"]["format"] == "onnx" && config["config"]["paramSize"].is_string());
    let digests: Vec<_> = manifest.layers.iter().map(|layer| &*layer.digest).collect();
    assert_eq!(config["modelfs"], json!({ "type": "layers", "diffIds": digests }));
    assert!(manifest.layers.iter().all(|layer| layer.annotations.contains_key(FILEPATH)));
}

#[test]
fn a_package_of_another_tool_may_say_more_or_less_of_its_model() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let blob = store.put_bytes(b"x").unwrap();
    for (descriptor, name) in [
        (
            json!({ "createdAt": "2025-01-01T00:00:00Z", "family": "Wine", "name": "Wine", "authors": ["x"] }),
            "Wine",
        ),
        (json!({ "name": "../../usr/lib" }), "usr-lib"),
        (json!({}), "model"),
    ] {
        let text = json!({ "descriptor": descriptor, "config": { "architecture": "mlp", "precision": "f32" },
                           "modelfs": { "type": "layers", "diffIds": [blob.digest] } });
        let config = store.put_bytes(text.to_string().as_bytes()).unwrap();
        let text = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": ARTIFACT,
            "config": { "mediaType": CONFIG, "digest": config.digest, "size": config.size },
            "layers": [{ "mediaType": WEIGHT, "digest": blob.digest, "size": 1,
                         "annotations": { FILEPATH: "x.onnx" } }] });
        let package = store.put_bytes(text.to_string().as_bytes()).unwrap();
        let model = crate::ImageModel::of_package(&store, &blob.digest, &package.digest).unwrap();
        assert_eq!(model.path().unwrap(), Path::new("/models").join(name).join("x.onnx"));
    }
}

#[test]
fn the_index_names_every_package_as_oci_tools_expect_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let model = store.ingest(&example("wine"), &|_| ()).unwrap();
    let package = store.pack(&model, "wine", 1, None).unwrap();
    let entry = |version| ("wine".to_owned(), version, package.clone());
    store.write_index(&[entry(1), entry(2)]).unwrap();
    let text = std::fs::read(folder.path().join("index.json")).unwrap();
    let index: serde_json::Value = serde_json::from_slice(&text).unwrap();
    assert_eq!((&index["schemaVersion"], &index["mediaType"]), (&2.into(), &INDEX.into()));
    let [first, second] = &**index["manifests"].as_array().unwrap() else { panic!("{index}") };
    assert_eq!((&first["digest"], &first["mediaType"]), (&(*package).into(), &MANIFEST.into()));
    assert_eq!(first["annotations"][REF_NAME], "wine:1");
    assert_eq!(
        (&second["annotations"][REF_NAME], &second["artifactType"]),
        (&"wine:2".into(), &ARTIFACT.into())
    );
    assert!(first["size"].as_u64().unwrap() > 100);
}

#[test]
fn a_manifest_whose_paths_are_not_plain_files_of_one_folder_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let blob = store.put_bytes(b"x").unwrap();
    let read = |paths: &[&str]| {
        let layer = |path| json!({ "mediaType": WEIGHT, "digest": blob.digest, "size": 1, "annotations": { FILEPATH: path } });
        let text = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": ARTIFACT,
            "config": { "mediaType": CONFIG, "digest": blob.digest, "size": 1 },
            "layers": paths.iter().map(layer).collect::<Vec<_>>() });
        store.manifest(&store.put_bytes(text.to_string().as_bytes()).unwrap().digest)
    };
    let (long, deep) = ("x".repeat(256), "x/".repeat(600) + "x");
    for path in ["../x", "/etc/x", "", ".", "a/../../x", "a\0b", "a\nb", "a/", &long, &deep] {
        assert!(read(&[path]).unwrap_err().to_string().contains("not a plain path"), "{path}");
    }
    assert!(read(&["a", "a"]).unwrap_err().to_string().contains("two layers are both"));
    assert!(read(&["a/b/c", "a"]).unwrap_err().to_string().contains("is inside a path that is a file"));
    read(&["a.onnx", "data/b", "data/c"]).unwrap();
}
