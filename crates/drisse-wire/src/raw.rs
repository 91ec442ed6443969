//! Tensors as bytes, for V2's binary tensors and gRPC's raw contents: row-major, little-endian, without padding. A
//! `BYTES` element is its length in four bytes, followed by its bytes.
//!
//! Source: <https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md>

use drisse_core::{
    Buffer, Data, DataType, DataView, Error, ErrorKind, Result, Shape, Strings, Tensor, TensorView,
    element_count,
};
use std::fmt;

/// The size in bytes of a string's length.
const LENGTH: usize = size_of::<u32>();

/// Reads a tensor, copying the bytes once into an aligned buffer; `what` names the tensor in errors.
pub(crate) fn read(
    datatype: DataType,
    shape: Shape,
    bytes: &[u8],
    what: fmt::Arguments<'_>,
) -> Result<Tensor> {
    if datatype == DataType::Bytes {
        let elements = elements(datatype, &shape, what)?;
        let data = Data::Strings(strings(bytes, elements, what)?);
        return Ok(Tensor { datatype, shape, data });
    }
    read_with(datatype, shape, bytes.len(), what, |into| {
        into.copy_from_slice(bytes);
        Ok(())
    })
}

/// Reads a tensor of `given` bytes, which `fill` copies into the buffer.
pub(crate) fn read_with(
    datatype: DataType,
    shape: Shape,
    given: usize,
    what: fmt::Arguments<'_>,
    fill: impl FnOnce(&mut [u8]) -> Result<()>,
) -> Result<Tensor> {
    let elements = elements(datatype, &shape, what)?;
    if datatype == DataType::Bytes {
        let mut bytes = vec![0; given];
        fill(&mut bytes)?;
        let data = Data::Strings(strings(&bytes, elements, what)?);
        return Ok(Tensor { datatype, shape, data });
    }
    let wanted = datatype.byte_size(elements).ok_or_else(|| too_large(&shape, what))?;
    if given != wanted {
        let message = format!("{what}: {datatype} {shape:?} takes {wanted} bytes, {given} were sent");
        return Err(Error::invalid(message));
    }
    let mut buffer = Buffer::zeroed(wanted);
    fill(buffer.bytes_mut())?;
    // With any other value, the behavior of an engine is undefined.
    if datatype == DataType::Bool && buffer.bytes().iter().any(|&byte| byte > 1) {
        return Err(Error::invalid(format!("{what}: each BOOL must be a byte of 0 or 1")));
    }
    Ok(Tensor { datatype, shape, data: Data::Raw(buffer) })
}

fn elements(datatype: DataType, shape: &Shape, what: fmt::Arguments<'_>) -> Result<usize> {
    if !datatype.has_json_form() {
        return Err(Error::invalid(format!("{what}: {datatype} elements cannot be sent as bytes")));
    }
    element_count(shape).ok_or_else(|| too_large(shape, what))
}

fn too_large(shape: &Shape, what: fmt::Arguments<'_>) -> Error {
    Error::invalid(format!("{what}: shape {shape:?} is negative or too large"))
}

fn strings(bytes: &[u8], elements: usize, what: fmt::Arguments<'_>) -> Result<Strings> {
    // Checked before memory is allocated.
    if elements > bytes.len() / LENGTH {
        let given = bytes.len();
        return Err(Error::invalid(format!(
            "{what}: {elements} strings do not fit in the {given} bytes sent"
        )));
    }
    let mut all = Vec::with_capacity(bytes.len() - elements * LENGTH);
    let mut ends = Vec::with_capacity(elements);
    let mut rest = bytes;
    for nth in 0..elements {
        let cut = || Error::invalid(format!("{what}: string {nth} is longer than the bytes sent for it"));
        let (length, behind) = rest.split_first_chunk().ok_or_else(cut)?;
        let (string, behind) =
            behind.split_at_checked(u32::from_le_bytes(*length) as usize).ok_or_else(cut)?;
        all.extend_from_slice(string);
        ends.push(all.len());
        rest = behind;
    }
    if !rest.is_empty() {
        let more = rest.len();
        return Err(Error::invalid(format!("{what}: {more} bytes are left after its {elements} strings")));
    }
    Ok(Strings::from_parts(all, ends))
}

/// Returns the number of bytes that [`write`] appends.
pub(crate) fn byte_len(tensor: &TensorView<'_>) -> usize {
    match tensor.data {
        DataView::Raw(bytes) => bytes.len(),
        DataView::Strings(strings) => strings.byte_len() + strings.len() * LENGTH,
    }
}

/// Appends a tensor; fails for datatypes that V2 does not have, and for strings over 4 GiB.
pub(crate) fn write(tensor: &TensorView<'_>, out: &mut Vec<u8>) -> Result<()> {
    if !tensor.datatype.has_json_form() {
        let message = format!("{} elements cannot be sent as bytes", tensor.datatype);
        return Err(Error::invalid(message));
    }
    out.reserve(byte_len(tensor));
    match tensor.data {
        DataView::Raw(bytes) => out.extend_from_slice(bytes),
        DataView::Strings(strings) => {
            for string in strings.iter() {
                let too_long =
                    |_| Error::new(ErrorKind::TooLarge, "a string of over 4 GiB has no binary form");
                out.extend_from_slice(&u32::try_from(string.len()).map_err(too_long)?.to_le_bytes());
                out.extend_from_slice(string);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(datatype: DataType, shape: &[i64], bytes: &[u8]) -> Result<Tensor> {
        super::read(datatype, shape.into(), bytes, format_args!("x"))
    }

    #[test]
    fn numbers_are_little_endian_and_strings_follow_their_lengths() {
        let tensor = read(DataType::Fp16, &[2], &[0x00, 0x3c, 0x00, 0xc0]).unwrap();
        let Data::Raw(buffer) = &tensor.data else { panic!("strings") };
        assert_eq!(
            buffer.elements::<half::f16>().iter().map(|v| v.to_f32()).collect::<Vec<_>>(),
            [1.0, -2.0]
        );
        let tensor = read(DataType::Bytes, &[2], b"\x01\0\0\0a\0\0\0\0").unwrap();
        let Data::Strings(strings) = &tensor.data else { panic!("numbers") };
        assert_eq!(strings.iter().collect::<Vec<_>>(), [b"a" as &[u8], b""]);
    }

    #[test]
    fn bytes_that_do_not_fit_the_shape_are_refused_with_both_sizes() {
        for (datatype, shape, bytes, why) in [
            (DataType::Fp32, &[2_i64][..], &[0; 7][..], "FP32 [2] takes 8 bytes, 7 were sent"),
            (DataType::Fp32, &[-1], &[], "negative or too large"),
            (DataType::Fp64, &[i64::MAX, 2], &[], "negative or too large"),
            (DataType::Bool, &[1], &[2], "each BOOL must be a byte of 0 or 1"),
            (DataType::Int4, &[1], &[0], "INT4 elements cannot be sent as bytes"),
            (DataType::Bytes, &[1_000_000_000], &[0; 8], "1000000000 strings do not fit in the 8 bytes sent"),
            (DataType::Bytes, &[1], &[2, 0, 0, 0, b'a'], "string 0 is longer than the bytes sent for it"),
            (DataType::Bytes, &[1], &[1, 0, 0, 0, b'a', b'b'], "1 bytes are left after its 1 strings"),
            (DataType::Bytes, &[2], &[4, 0, 0, 0, 0, 0, 0, 0], "string 1 is longer"),
        ] {
            let error = read(datatype, shape, bytes).unwrap_err();
            assert!(error.message().contains(why), "{error}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(strings in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..9), 0..9)) {
            let tensor = Tensor {
                datatype: DataType::Bytes,
                shape: Shape::from_slice(&[strings.len() as i64]),
                data: Data::Strings(strings.iter().collect()),
            };
            let mut bytes = Vec::new();
            write(&tensor.view(), &mut bytes).unwrap();
            prop_assert_eq!(bytes.len(), byte_len(&tensor.view()));
            prop_assert_eq!(read(DataType::Bytes, &tensor.shape, &bytes).unwrap(), tensor);
        }

        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..40), dims in proptest::collection::vec(-1_i64..5, 0..4), which in 0..26_usize) {
            let _ = read(DataType::ALL[which], &dims, &bytes);
        }
    }
}
