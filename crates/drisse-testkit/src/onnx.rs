//! Builds ONNX files field by field, also ones that no exporter would write. Format:
//! <https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3>.

/// A dimension of a port.
#[derive(Clone, Copy, Debug)]
pub enum Dim<'a> {
    /// Any size, with a name.
    Free(&'a str),
    /// This size.
    Fixed(u64),
}

/// Returns a number of variable length.
pub fn varint(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

/// Returns a field that is a number.
pub fn number(field: u64, value: u64) -> Vec<u8> {
    [varint(field << 3), varint(value)].concat()
}

/// Returns a field that is text, bytes or a message.
pub fn bytes(field: u64, payload: &[u8]) -> Vec<u8> {
    [varint(field << 3 | 2), varint(payload.len() as u64), payload.to_vec()].concat()
}

/// Returns an input (field 11 of a graph) or output (12) that is an FP32 tensor with these dimensions.
pub fn port(field: u64, name: &str, dims: &[Dim<'_>]) -> Vec<u8> {
    let dim = |dim: &Dim<'_>| match *dim {
        Dim::Free(name) => bytes(1, &bytes(2, name.as_bytes())),
        Dim::Fixed(size) => bytes(1, &number(1, size)),
    };
    let dims: Vec<_> = dims.iter().flat_map(dim).collect();
    let kind = bytes(1, &[number(1, 1), bytes(2, &dims)].concat());
    bytes(field, &[bytes(1, name.as_bytes()), bytes(2, &kind)].concat())
}
