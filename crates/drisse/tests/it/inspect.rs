//! `drisse inspect`, as a user sees it.

use crate::support::{drisse, output};
use drisse_testkit::onnx::varint;
use std::io::{Seek, Write};

#[test]
fn shows_what_a_model_holds() {
    let (code, stdout, stderr) = output(&["inspect", "examples/digits/digits.onnx"]);
    assert_eq!((code, &*stderr), (0, ""));
    insta::assert_snapshot!(stdout);
}

#[test]
fn prints_one_document_for_machines() {
    let (code, stdout, _) = output(&["inspect", "examples/iris", "--output", "json"]);
    let document: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(code, 0);
    assert_eq!(document["name"], "iris");
    assert_eq!(
        document["inputs"][0],
        serde_json::json!({
            "name": "X", "kind": "tensor", "datatype": "FP32", "shape": ["batch", 4]
        })
    );
    assert_eq!(document["outputs"][1]["of"]["kind"], "map");
    assert_eq!(document["framework"], "scikit-learn");
}

#[test]
fn a_file_of_another_format_is_an_error_with_the_command_that_converts_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.pkl");
    std::fs::write(&path, b"\x80\x04\x95rest").unwrap();
    let (code, stdout, stderr) = output(&["inspect", path.to_str().unwrap()]);
    assert_eq!((code, &*stdout), (1, ""));
    insta::assert_snapshot!(stderr.replace(folder.path().to_str().unwrap(), "FOLDER"));
}

#[test]
fn an_error_for_machines_is_one_document_too() {
    let (code, stdout, _) = output(&["inspect", "/nowhere.onnx", "--output", "json"]);
    let document: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(code, 1);
    assert_eq!(document["error"]["message"], "cannot inspect /nowhere.onnx");
    assert_eq!(document["error"]["causes"][0], "cannot read /nowhere.onnx");
}

/// ModelProto { ir_version: 8, graph: { output, initializer: { dims: [2^30], raw_data: 4 GiB of nothing } } }
fn sparse_4_gib_model(file: &mut std::fs::File) {
    const RAW: u64 = 4 << 30;
    let output = b"\x62\x03\x0a\x01y";
    let tensor_head = [&[0x08][..], &varint(RAW / 4), &[0x4a], &varint(RAW)].concat();
    let tensor = tensor_head.len() as u64 + RAW;
    let initializer = [&[0x2a][..], &varint(tensor)].concat();
    let graph = output.len() as u64 + initializer.len() as u64 + tensor;
    let head = [&[0x08, 8, 0x3a][..], &varint(graph), output, &initializer, &tensor_head].concat();
    file.write_all(&head).unwrap();
    file.set_len(head.len() as u64 + RAW).unwrap();
    file.rewind().unwrap();
}

#[test]
fn a_4_gib_model_is_inspected_in_under_64_mib() {
    let mut file = tempfile::Builder::new().suffix(".onnx").tempfile().unwrap();
    sparse_4_gib_model(file.as_file_mut());
    let path = file.path().to_str().unwrap();
    // Limits the address space, not only resident memory: the kernel enforces that exactly.
    let mut limited = std::process::Command::new("bash");
    let binary = drisse(&[]).get_program().to_owned();
    limited.args(["-c", "ulimit -v 65536; exec \"$0\" inspect \"$1\" --output json"]).arg(binary).arg(path);
    let output = limited.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["parameters"], 1_u64 << 30);
}

#[test]
fn a_pipe_is_refused_and_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let (code, _, stderr) = output(&["inspect", pipe.to_str().unwrap()]);
    assert_eq!(code, 1);
    assert!(stderr.contains("is a device or a pipe, not an ONNX model"), "{stderr}");
}
