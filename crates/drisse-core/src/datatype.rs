//! The element types of tensors, and the size of each.

use std::fmt;

/// An element type. The name is that of the Open Inference Protocol V2, or else of ONNX.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[expect(missing_docs, reason = "the names explain themselves")]
pub enum DataType {
    Bool,
    Uint8,
    Uint16,
    Uint32,
    Uint64,
    Int8,
    Int16,
    Int32,
    Int64,
    Fp16,
    Bf16,
    Fp32,
    Fp64,
    /// Strings: arbitrary bytes in the protocol, UTF-8 in most models.
    Bytes,
    Complex64,
    Complex128,
    Float8E4M3Fn,
    Float8E4M3FnUz,
    Float8E5M2,
    Float8E5M2FnUz,
    Float8E8M0,
    Float4E2M1,
    Uint4,
    Int4,
    Uint2,
    Int2,
}

impl DataType {
    /// All datatypes, in the order of the protocol and then of ONNX.
    pub const ALL: [Self; 26] = [
        Self::Bool,
        Self::Uint8,
        Self::Uint16,
        Self::Uint32,
        Self::Uint64,
        Self::Int8,
        Self::Int16,
        Self::Int32,
        Self::Int64,
        Self::Fp16,
        Self::Bf16,
        Self::Fp32,
        Self::Fp64,
        Self::Bytes,
        Self::Complex64,
        Self::Complex128,
        Self::Float8E4M3Fn,
        Self::Float8E4M3FnUz,
        Self::Float8E5M2,
        Self::Float8E5M2FnUz,
        Self::Float8E8M0,
        Self::Float4E2M1,
        Self::Uint4,
        Self::Int4,
        Self::Uint2,
        Self::Int2,
    ];

    /// Returns the name that users see, such as `FP32`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bool => "BOOL",
            Self::Uint8 => "UINT8",
            Self::Uint16 => "UINT16",
            Self::Uint32 => "UINT32",
            Self::Uint64 => "UINT64",
            Self::Int8 => "INT8",
            Self::Int16 => "INT16",
            Self::Int32 => "INT32",
            Self::Int64 => "INT64",
            Self::Fp16 => "FP16",
            Self::Bf16 => "BF16",
            Self::Fp32 => "FP32",
            Self::Fp64 => "FP64",
            Self::Bytes => "BYTES",
            Self::Complex64 => "COMPLEX64",
            Self::Complex128 => "COMPLEX128",
            Self::Float8E4M3Fn => "FLOAT8E4M3FN",
            Self::Float8E4M3FnUz => "FLOAT8E4M3FNUZ",
            Self::Float8E5M2 => "FLOAT8E5M2",
            Self::Float8E5M2FnUz => "FLOAT8E5M2FNUZ",
            Self::Float8E8M0 => "FLOAT8E8M0",
            Self::Float4E2M1 => "FLOAT4E2M1",
            Self::Uint4 => "UINT4",
            Self::Int4 => "INT4",
            Self::Uint2 => "UINT2",
            Self::Int2 => "INT2",
        }
    }

    /// Returns the datatype with this name; `None` if there is none.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|datatype| datatype.name() == name)
    }

    /// Returns the datatype with this number in ONNX's `TensorProto.DataType` (onnx.proto3, ONNX 1.20).
    pub fn from_onnx(code: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|datatype| datatype.onnx() == code)
    }

    /// Returns the datatype's number in ONNX's `TensorProto.DataType`.
    pub fn onnx(self) -> i32 {
        match self {
            Self::Fp32 => 1,
            Self::Uint8 => 2,
            Self::Int8 => 3,
            Self::Uint16 => 4,
            Self::Int16 => 5,
            Self::Int32 => 6,
            Self::Int64 => 7,
            Self::Bytes => 8,
            Self::Bool => 9,
            Self::Fp16 => 10,
            Self::Fp64 => 11,
            Self::Uint32 => 12,
            Self::Uint64 => 13,
            Self::Complex64 => 14,
            Self::Complex128 => 15,
            Self::Bf16 => 16,
            Self::Float8E4M3Fn => 17,
            Self::Float8E4M3FnUz => 18,
            Self::Float8E5M2 => 19,
            Self::Float8E5M2FnUz => 20,
            Self::Uint4 => 21,
            Self::Int4 => 22,
            Self::Float4E2M1 => 23,
            Self::Float8E8M0 => 24,
            Self::Uint2 => 25,
            Self::Int2 => 26,
        }
    }

    /// Returns whether each element starts at a byte boundary: true for strings, false for packed elements.
    pub(crate) fn is_whole_bytes(self) -> bool {
        self.bits().is_none_or(|bits| bits % 8 == 0)
    }

    /// Returns the size of one element in bits; `None` for strings.
    pub fn bits(self) -> Option<usize> {
        Some(match self {
            Self::Bytes => return None,
            Self::Uint2 | Self::Int2 => 2,
            Self::Uint4 | Self::Int4 | Self::Float4E2M1 => 4,
            Self::Bool | Self::Uint8 | Self::Int8 => 8,
            Self::Float8E4M3Fn | Self::Float8E4M3FnUz | Self::Float8E5M2 => 8,
            Self::Float8E5M2FnUz | Self::Float8E8M0 => 8,
            Self::Uint16 | Self::Int16 | Self::Fp16 | Self::Bf16 => 16,
            Self::Uint32 | Self::Int32 | Self::Fp32 => 32,
            Self::Uint64 | Self::Int64 | Self::Fp64 | Self::Complex64 => 64,
            Self::Complex128 => 128,
        })
    }

    /// Returns the size of `elements` packed elements in bytes; `None` for strings or if the product overflows.
    pub fn byte_size(self, elements: usize) -> Option<usize> {
        Some(elements.checked_mul(self.bits()?)?.div_ceil(8))
    }

    /// Returns whether JSON can represent the datatype: true for all datatypes of V2 and for BF16.
    pub fn has_json_form(self) -> bool {
        (self as usize) <= (Self::Bytes as usize)
    }

    /// Returns whether the JSON form is a number with a fraction.
    pub fn is_float(self) -> bool {
        matches!(self, Self::Fp16 | Self::Bf16 | Self::Fp32 | Self::Fp64)
    }
}

impl fmt::Display for DataType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_and_number_finds_its_own_datatype() {
        for datatype in DataType::ALL {
            assert_eq!(DataType::parse(datatype.name()), Some(datatype));
            assert_eq!(DataType::from_onnx(datatype.onnx()), Some(datatype));
        }
    }

    #[test]
    fn sizes_round_up_to_whole_bytes_and_never_overflow() {
        assert_eq!(DataType::Int4.byte_size(3), Some(2));
        assert_eq!(DataType::Fp64.byte_size(usize::MAX), None);
        assert_eq!(DataType::Bytes.byte_size(1), None);
    }
}
