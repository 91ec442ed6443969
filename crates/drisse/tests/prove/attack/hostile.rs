//! Builds ONNX files that no exporter would write. Format: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3.

use drisse_testkit::onnx::{Dim, bytes, number, port, varint};

/// A model `y = Identity(x)` with these dimensions, and `more` fields in its graph.
pub(super) fn model(dims: &[u64], more: &[Vec<u8>]) -> Vec<u8> {
    graph(dims, &[bytes(1, b"x"), bytes(2, b"y"), bytes(4, b"Identity")], &more.concat())
}

fn graph(dims: &[u64], node: &[Vec<u8>], more: &[u8]) -> Vec<u8> {
    let node = bytes(1, &node.concat());
    let dims: Vec<_> = dims.iter().map(|&dim| Dim::Fixed(dim)).collect();
    let graph = [&*node, &bytes(2, b"g"), more, &port(11, "x", &dims), &port(12, "y", &dims)].concat();
    [number(1, 8), bytes(8, &number(2, 17)), bytes(7, &graph)].concat()
}

/// A valid model, followed by the start of an unknown field that would fill a file of `size` bytes.
pub(super) fn up_to(size: u64) -> Vec<u8> {
    let model = model(&[4], &[]);
    // The field's tag has two bytes, its length six.
    let rest = size - model.len() as u64 - 8;
    [model, varint(31 << 3 | 2), varint(rest)].concat()
}

/// An initializer whose data is in the external file `location`.
pub(super) fn external(location: &str) -> Vec<u8> {
    let entry = [bytes(1, b"location"), bytes(2, location.as_bytes())].concat();
    bytes(5, &[number(1, 4), number(2, 1), bytes(8, b"w"), bytes(13, &entry), number(14, 1)].concat())
}

/// A model `y = Add(x, w)` whose weights declare these dimensions but contain only one number.
pub(super) fn short_weights(dims: &[u64]) -> Vec<u8> {
    let dims: Vec<_> = dims.iter().flat_map(|&dim| number(1, dim)).collect();
    let weights = bytes(5, &[dims, number(2, 1), bytes(8, b"w"), bytes(9, &[0; 4])].concat());
    graph(&[4], &[bytes(1, b"x"), bytes(1, b"w"), bytes(2, b"y"), bytes(4, b"Add")], &weights)
}

/// A node with subgraphs that are nested `levels` deep.
pub(super) fn nested(levels: usize) -> Vec<u8> {
    (0..levels).fold(vec![], |inner, _| {
        let attribute =
            [bytes(1, b"then_branch"), bytes(6, &[inner, bytes(2, b"g")].concat()), number(20, 5)];
        bytes(1, &[bytes(1, b"x"), bytes(4, b"If"), bytes(5, &attribute.concat())].concat())
    })
}
