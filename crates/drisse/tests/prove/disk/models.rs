//! Models for these tests: a large one, and one with external data.

use crate::workspace::Workspace;
use std::path::PathBuf;

/// Writes the digits model with an additional text of `length` bytes.
pub(crate) fn large(workspace: &Workspace, length: usize) -> PathBuf {
    let mut bytes = std::fs::read(crate::support::root().join("examples/digits/digits.onnx")).unwrap();
    // ModelProto.doc_string, field 6, and its length in base 128.
    bytes.push(0x32);
    let mut rest = length;
    while rest > 0x7f {
        bytes.push(u8::try_from(rest & 0x7f).unwrap() | 0x80);
        rest >>= 7;
    }
    bytes.push(u8::try_from(rest).unwrap());
    bytes.extend((0..length).map(|nth| b'a' + u8::try_from(nth * nth % 23).unwrap()));
    let path = workspace.folder.path().join("large.onnx");
    std::fs::write(&path, bytes).unwrap();
    path
}

/// Makes a folder with a model that returns its input and has a tensor in a separate file.
pub(crate) fn split(workspace: &Workspace) -> PathBuf {
    let folder = workspace.folder.path().join("split");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("weights.bin"), vec![7; 200_000]).unwrap();
    // Protobuf by hand, all lengths below 128: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3
    let field = |number: u8, inside: &[u8]| {
        [&[number << 3 | 2, u8::try_from(inside.len()).unwrap()], inside].concat()
    };
    let entry =
        |key: &str, value: &str| field(13, &[field(1, key.as_bytes()), field(2, value.as_bytes())].concat());
    let fifty_thousand_floats = [0x08, 0xd0, 0x86, 0x03, 0x10, 1];
    let beside = [0x70, 1];
    let tensor =
        [&fifty_thousand_floats[..], &field(8, b"w"), &entry("location", "weights.bin"), &beside].concat();
    let one_float = [&[0x08, 1][..], &field(2, &field(1, &[0x08, 1]))].concat();
    let port = |name: &str| [field(1, name.as_bytes()), field(2, &field(1, &one_float))].concat();
    let node = [field(1, b"x"), field(2, b"y"), field(4, b"Identity")].concat();
    let ports = [field(11, &port("x")), field(12, &port("y"))].concat();
    let graph = [field(1, &node), field(2, b"g"), field(5, &tensor), ports].concat();
    let model = [&[0x08, 8][..], &field(7, &graph), &field(8, &[0x10, 18])].concat();
    std::fs::write(folder.join("model.onnx"), model).unwrap();
    folder
}
