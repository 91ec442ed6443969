//! Checks that the generated code of the gRPC messages matches their .proto files. `WRITE_DOCS=1 cargo test -p xtask
//! --test protos` generates it again.

use std::path::Path;

const FILES: [&str; 5] =
    ["inference.proto", "health.proto", "reflection.proto", "tensorflow.proto", "tensorflow_serving.proto"];

#[test]
fn the_messages_code_is_what_the_proto_files_say() {
    let wire = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/drisse-wire");
    let mut descriptors = protox::compile(FILES, [wire.join("proto")]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut config = prost_build::Config::new();
    // As `Bytes`, so that received tensors are not copied when a message is decoded.
    config.bytes([
        ".inference.ModelInferRequest.raw_input_contents",
        ".inference.ModelInferResponse.raw_output_contents",
        ".tensorflow.TensorProto.tensor_content",
    ]);
    config.out_dir(folder.path()).compile_fds(descriptors.clone()).unwrap();
    let mut files: Vec<_> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            (path.file_name().unwrap().to_owned(), std::fs::read(&path).unwrap())
        })
        .collect();
    // Clients of gRPC reflection do not need comments.
    descriptors.file.iter_mut().for_each(|file| file.source_code_info = None);
    files.push(("descriptors.bin".into(), prost::Message::encode_to_vec(&descriptors)));
    for (name, wanted) in files {
        let path = wire.join("src/grpc").join(name);
        if std::env::var_os("WRITE_DOCS").is_some() {
            std::fs::write(&path, &wanted).unwrap();
        }
        let is = std::fs::read(&path).unwrap_or_default();
        assert!(is == wanted, "{} is out of date: run this test with WRITE_DOCS=1", path.display());
    }
}
