//! How much a message takes once it is read. Two bytes of a message can be a field of a hundred: what a client may send
//! must be bounded by its fields as well as by its bytes.

use super::peek::varint;
use drisse_core::{Error, ErrorKind, Result};

/// Fields of one request, those within fields counted: a hundred bytes each at most.
const MAX_FIELDS: usize = 1 << 20;

/// How deep fields are looked into: inputs, and their contents.
const DEPTH: u32 = 2;

/// A refusal of a message with more fields than any client has use for.
pub(super) fn check(message: &[u8]) -> Result<()> {
    let mut fields = 0;
    // What cannot be read is for the decoder to refuse.
    let _ = walk(message, DEPTH, &mut fields);
    if fields <= MAX_FIELDS {
        return Ok(());
    }
    let message = format!(
        "the message has over {MAX_FIELDS} fields: send lists of numbers packed, and tensors of many strings in \
         raw_input_contents"
    );
    Err(Error::new(ErrorKind::TooLarge, message))
}

/// Counts the fields of a message; `None` where it is none. What may be bytes or a message is looked into all the
/// same: bytes that look like fields count as such, within the bytes' own length.
fn walk(mut bytes: &[u8], depth: u32, fields: &mut usize) -> Option<()> {
    while !bytes.is_empty() && *fields <= MAX_FIELDS {
        *fields += 1;
        let key = varint(&mut bytes)?;
        let length = match key & 7 {
            0 => {
                varint(&mut bytes)?;
                0
            }
            1 => 8,
            5 => 4,
            2 => usize::try_from(varint(&mut bytes)?).ok()?,
            _ => return None,
        };
        let (value, rest) = bytes.split_at_checked(length)?;
        // Tensors themselves (field 7 of a request, 1 to 7 of contents) are no messages.
        if key & 7 == 2 && depth > 0 && matches!(key >> 3, 4..=6) {
            let _ = walk(value, depth - 1, fields);
        }
        bytes = rest;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::inference::{
        InferTensorContents, ModelInferRequest, model_infer_request::InferInputTensor,
    };
    use prost::Message;

    #[test]
    fn a_message_of_many_fields_is_refused_and_one_of_many_numbers_is_not() {
        let request = |contents| {
            let input = InferInputTensor { contents: Some(contents), ..InferInputTensor::default() };
            ModelInferRequest { inputs: vec![input], ..ModelInferRequest::default() }.encode_to_vec()
        };
        let numbers =
            InferTensorContents { fp32_contents: vec![1.0; 3 << 20], ..InferTensorContents::default() };
        check(&request(numbers)).unwrap();
        let strings =
            InferTensorContents { bytes_contents: vec![vec![]; 2 << 20], ..InferTensorContents::default() };
        assert!(check(&request(strings)).is_err());
        let inputs = vec![InferInputTensor::default(); 2 << 20];
        assert!(
            check(&ModelInferRequest { inputs, ..ModelInferRequest::default() }.encode_to_vec()).is_err()
        );
        assert!(check(&[0xff; 32]).is_ok() && check(&[]).is_ok());
    }
}
