//! Tests of the inspector: what it reads, what it refuses, and that it skips weights.

use super::*;
use drisse_core::DataType;
use drisse_testkit::onnx::{self, Dim, bytes, number, varint};
use proptest::prelude::*;
use std::io::Write;

/// A port of datatype FP32 and shape [batch, 64].
fn port(field: u64, name: &str) -> Vec<u8> {
    onnx::port(field, name, &[Dim::Free("batch"), Dim::Fixed(64)])
}

fn model(graph: &[Vec<u8>]) -> Vec<u8> {
    let graph = [vec![port(11, "X"), port(12, "Y")], graph.to_vec()].concat().concat();
    [number(1, 8), bytes(2, b"skl2onnx"), bytes(8, &number(2, 17)), bytes(7, &graph)].concat()
}

fn node(operator: &str) -> Vec<u8> {
    bytes(1, &bytes(4, operator.as_bytes()))
}

fn external(location: &str) -> Vec<u8> {
    let entry = [bytes(1, b"location"), bytes(2, location.as_bytes())].concat();
    bytes(5, &[number(1, 4), bytes(8, b"W"), bytes(13, &entry), number(14, 1)].concat())
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    fn inspect(&self, content: &[u8]) -> Result<Inspection, InspectError> {
        inspect(&self.file("m.onnx", content))
    }
}

#[test]
fn reads_ports_opsets_operators_and_who_wrote_it() {
    let weights = bytes(5, &[number(1, 3), number(1, 5), bytes(8, b"W"), bytes(9, &[0; 60])].concat());
    let found = Folder::new().inspect(&model(&[node("Gemm"), node("Loop"), weights])).unwrap();
    assert_eq!(found.signature.inputs[0].kind.to_string(), "FP32 [batch, 64]");
    assert_eq!(found.signature.outputs[0].name, "Y");
    assert_eq!((found.ir_version, found.opsets["ai.onnx"]), (8, 17));
    assert_eq!((found.operators["Gemm"], found.traits.data_dependent), (1, true));
    assert_eq!((found.parameters, found.weight_bytes), (15, 60));
    assert_eq!(found.framework, Some("scikit-learn"));
}

#[test]
fn an_input_with_an_initializer_is_optional_and_before_ir_4_a_weight() {
    let named = bytes(5, &bytes(8, b"X"));
    let found = Folder::new().inspect(&model(std::slice::from_ref(&named))).unwrap();
    assert!(found.signature.inputs[0].optional);
    let old = [model(&[named]), number(1, 3)].concat();
    assert!(Folder::new().inspect(&old).unwrap().signature.inputs.is_empty());
}

#[test]
fn a_sparse_4_gib_model_is_read_without_its_weights() {
    let folder = Folder::new();
    let raw = 4_u64 << 30;
    let mut tensor = [number(1, raw / 4), bytes(8, b"W"), varint(9 << 3 | 2), varint(raw)].concat();
    let graph_len = |tensor: &[u8]| tensor.len() as u64 + raw;
    let initializer = [varint(5 << 3 | 2), varint(graph_len(&tensor))].concat();
    let ports = [port(11, "X"), port(12, "Y")].concat();
    let graph = (ports.len() + initializer.len()) as u64 + graph_len(&tensor);
    let mut head = [number(1, 8), varint(7 << 3 | 2), varint(graph), ports, initializer].concat();
    head.append(&mut tensor);
    let path = folder.file("m.onnx", &head);
    std::fs::OpenOptions::new().append(true).open(&path).unwrap().set_len(head.len() as u64 + raw).unwrap();
    let found = inspect(&path).unwrap();
    assert_eq!((found.parameters, found.weight_bytes), (raw / 4, raw));
    let error = crate::ModelSource::open_to_run(&path).unwrap_err().to_string();
    assert!(error.ends_with("has 4096 MiB, and a model file has at most 2047 MiB"), "{error}");
}

#[test]
fn lists_that_a_model_has_no_use_for_are_bounded() {
    let many = [bytes(1, b"X"), bytes(2, &bytes(1, &bytes(2, &bytes(1, b"").repeat(65))))].concat();
    let long = external(&"x".repeat(5000));
    for (part, why) in
        [(bytes(11, &many), "more than 64 dimensions"), (long, "more than 4096 bytes in a path")]
    {
        let error = Folder::new().inspect(&model(&[part])).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
}

#[test]
fn a_file_cut_anywhere_is_refused_and_a_cut_graph_says_how_much_is_missing() {
    let whole = model(&[node("Gemm")]);
    let folder = Folder::new();
    for cut in 1..whole.len() {
        assert!(folder.inspect(&whole[..cut]).is_err(), "cut at {cut}");
    }
    let error = folder.inspect(&whole[..whole.len() - 5]).unwrap_err().to_string();
    let wants = whole.len();
    assert!(error.ends_with(&format!("it has {} bytes of at least {wants}", wants - 5)), "{error}");
}

#[test]
fn external_data_must_be_a_plain_file_beside_the_model() {
    let folder = Folder::new();
    folder.file("w.bin", &[0; 16]);
    let found = folder.inspect(&model(&[external("w.bin"), external("./w.bin")])).unwrap();
    assert_eq!(found.external_data[0].size, 16);
    std::fs::File::create(folder.0.path().join("holes")).unwrap().set_len(1 << 40).unwrap();
    for (name, target) in [("link", "w.bin"), ("loop", "."), ("stolen", "/etc/passwd"), ("dangling", "gone")]
    {
        std::os::unix::fs::symlink(target, folder.0.path().join(name)).unwrap();
    }
    for followed in ["link", "loop/w.bin"] {
        assert!(folder.inspect(&model(&[external(followed)])).is_ok(), "{followed}");
    }
    for (location, why) in [
        ("/etc/passwd", "is an absolute path"),
        ("../w.bin", "leads out of the model's folder"),
        ("a/../../w.bin", "leads out of the model's folder"),
        ("stolen", "is a link to /etc/passwd, which is outside"),
        ("dangling", "is a link to a file that does not exist"),
        ("gone.bin", "does not exist"),
        (".", "is not a regular file"),
        ("holes", "is almost nothing but holes"),
        ("", "is not a path"),
    ] {
        let error = folder.inspect(&model(&[external(location)])).unwrap_err();
        assert!(error.to_string().contains(why), "{location}: {error}");
    }
}

#[test]
fn other_formats_are_named_with_the_command_that_converts_them() {
    let folder = Folder::new();
    let zip = |inner: &str| [b"PK\x03\x04", inner.as_bytes()].concat();
    for (name, content, what, hint) in [
        ("m.pkl", b"\x80\x04\x95".to_vec(), "a Python pickle", "skl2onnx"),
        ("m.joblib", b"\x78\x9c\x01".to_vec(), "a joblib file", "joblib.load"),
        ("m.pt", zip("m/data.pkl"), "a PyTorch file", "torch.onnx.export"),
        ("m.keras", zip("model.weights.h5"), "a Keras model", "keras.saving"),
        ("m.h5", b"\x89HDF\r\n\x1a\n\0".to_vec(), "an HDF5 file", "keras.saving"),
        ("saved_model.pb", b"\x08\x01\x12\xff\x01".to_vec(), "a TensorFlow SavedModel", "tf2onnx"),
        ("m.txt", b"hello\n".to_vec(), "text", "name the model file"),
        (
            "m.onnx",
            b"version https://git-lfs.github.com/spec/v1\noid".to_vec(),
            "a Git LFS pointer",
            "git lfs pull",
        ),
        ("m.onnx", b"<!DOCTYPE html>".to_vec(), "HTML", "download"),
        ("m.onnx", vec![], "empty", "again"),
        ("m.gguf", b"GGUF\x03\0".to_vec(), "GGUF", "optimum-cli"),
        ("m.safetensors", b"\x40\0\0\0\0\0\0\0{\"a".to_vec(), "safetensors", "optimum-cli"),
        ("m.gz", b"\x1f\x8b\x08\0".to_vec(), "gzip", "gunzip"),
        ("noise", vec![0xff; 40], "not a valid ONNX model", ""),
    ] {
        let error = inspect(&folder.file(name, &content)).expect_err(name);
        let message = error.to_string();
        assert!(message.contains(what), "{message}");
        assert!(error.hint().unwrap_or_default().contains(hint), "{:?}", error.hint());
        std::fs::remove_file(folder.0.path().join(name)).unwrap();
    }
    assert!(inspect(folder.0.path()).unwrap_err().to_string().contains("a folder"));
}

#[test]
fn datatypes_the_list_does_not_know_are_named_not_guessed() {
    let kind = bytes(1, &number(1, 99));
    let odd = bytes(11, &[bytes(1, b"odd"), bytes(2, &kind)].concat());
    let found = Folder::new().inspect(&model(&[odd])).unwrap();
    assert_eq!(found.signature.inputs[1].kind.to_string(), "tensor of ONNX datatype 99");
    assert_eq!(found.signature.inputs[0].tensor().unwrap().datatype, DataType::Fp32);
}

/// A node with named inputs and one named output.
fn applied(operator: &str, inputs: &[&str], output: &str, attributes: &[Vec<u8>]) -> Vec<u8> {
    let inputs = inputs.iter().map(|name| bytes(1, name.as_bytes())).collect::<Vec<_>>().concat();
    let named = [bytes(2, output.as_bytes()), bytes(4, operator.as_bytes())].concat();
    bytes(1, &[inputs, named, attributes.concat()].concat())
}

/// An attribute with a list of integers.
fn integers(name: &str, numbers: &[i64]) -> Vec<u8> {
    let all: Vec<_> = numbers.iter().flat_map(|&number| varint(number.cast_unsigned())).collect();
    bytes(5, &[bytes(1, name.as_bytes()), bytes(8, &all), number(20, 7)].concat())
}

fn integer(name: &str, value: i64) -> Vec<u8> {
    bytes(5, &[bytes(1, name.as_bytes()), number(3, value.cast_unsigned()), number(20, 2)].concat())
}

/// An INT64 tensor with one value, as field number `field` of its message.
fn constant(field: u64, name: &str, value: i64) -> Vec<u8> {
    let head = [number(1, 1), number(2, 7), bytes(8, name.as_bytes())].concat();
    bytes(field, &[head, bytes(9, &value.to_le_bytes())].concat())
}

#[test]
fn operators_that_let_rows_reach_each_other_are_found() {
    let held = |value| {
        let tensor = [bytes(1, b"value"), constant(5, "", value)].concat();
        applied("Constant", &[], "a", &[bytes(5, &tensor)])
    };
    let transposed = |order: &[i64]| applied("Transpose", &["X"], "t", &[integers("perm", order)]);
    let meet: [(&str, Vec<Vec<u8>>); 14] = [
        ("control flow", vec![applied("NonZero", &["X"], "Y", &[])]),
        (
            "one scale",
            vec![applied("Relu", &["X"], "x", &[]), applied("DynamicQuantizeLinear", &["x"], "Y", &[])],
        ),
        ("axes as an attribute", vec![applied("ReduceMax", &["X"], "Y", &[integers("axes", &[0])])]),
        ("axes as an initializer", vec![constant(5, "a", 0), applied("ReduceMax", &["X", "a"], "Y", &[])]),
        ("axes behind the nodes", vec![applied("ReduceSum", &["X", "a"], "Y", &[]), constant(5, "a", 0)]),
        ("axes as a constant", vec![held(0), applied("CumSum", &["X", "a"], "Y", &[])]),
        ("all axes", vec![applied("ReduceL2", &["X"], "Y", &[])]),
        ("an axis left out", vec![applied("ReduceL2", &["X", ""], "Y", &[])]),
        ("an axis by default", vec![applied("ArgMax", &["X"], "Y", &[])]),
        ("a softmax over rows", vec![applied("Softmax", &["X"], "Y", &[integer("axis", 0)])]),
        (
            "rows that stay first",
            vec![transposed(&[0, 2, 1]), applied("ReduceMean", &["t"], "Y", &[integers("axes", &[0])])],
        ),
        ("batch, height and width", vec![applied("MeanVarianceNormalization", &["X"], "Y", &[])]),
        ("training", vec![applied("BatchNormalization", &["X"], "Y", &[integer("training_mode", 1)])]),
        (
            "of weights and rows",
            vec![applied("Add", &["W", "X"], "s", &[]), applied("ReduceMax", &["s"], "Y", &[])],
        ),
    ];
    for (what, graph) in meet {
        assert!(Folder::new().inspect(&model(&graph)).unwrap().traits.rows_independent.is_err(), "{what}");
    }
    let apart: [(&str, Vec<Vec<u8>>); 9] = [
        ("another axis", vec![applied("ReduceMax", &["X"], "Y", &[integers("axes", &[1, -1])])]),
        ("another axis as a constant", vec![held(1), applied("CumSum", &["X", "a"], "Y", &[])]),
        (
            "no axes, by an attribute",
            vec![applied("ReduceSum", &["X"], "Y", &[integer("noop_with_empty_axes", 1)])],
        ),
        ("weights", vec![applied("DynamicQuantizeLinear", &["W"], "Y", &[])]),
        ("shapes", vec![applied("Shape", &["X"], "s", &[]), applied("ReduceProd", &["s"], "Y", &[])]),
        (
            "rows that moved",
            vec![transposed(&[1, 0]), applied("ReduceMax", &["t"], "Y", &[integers("axes", &[0])])],
        ),
        ("a softmax over columns", vec![applied("Softmax", &["X"], "Y", &[])]),
        ("a normalization", vec![applied("BatchNormalization", &["X"], "Y", &[integer("training_mode", 0)])]),
        ("axes that are computed", vec![applied("ReduceMax", &["X", "W"], "Y", &[])]),
    ];
    for (what, graph) in apart {
        assert_eq!(Folder::new().inspect(&model(&graph)).unwrap().traits.rows_independent, Ok(()), "{what}");
    }
    let body = |node: &[u8]| {
        bytes(25, &[bytes(4, b"X"), [varint(7 << 3 | 2), node[1..].to_vec()].concat()].concat())
    };
    let function = body(&applied("ReduceMax", &["X"], "Y", &[]));
    assert!(
        Folder::new().inspect(&[model(&[]), function].concat()).unwrap().traits.rows_independent.is_err()
    );
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(noise in proptest::collection::vec(any::<u8>(), 1..200), at in 0..200_usize) {
        let mut content = model(&[node("If"), external("w")]);
        let at = at.min(content.len());
        content.splice(at.., noise);
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&content).unwrap();
        let _ = inspect(file.path());
    }
}
