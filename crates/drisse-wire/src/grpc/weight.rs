//! Bounds the memory that a decoded message takes. A field of two bytes can take a hundred bytes once decoded, so
//! messages are limited by their number of fields as well as by their length.

use super::peek::varint;
use drisse_core::{Error, ErrorKind, Result};

/// The most fields of one request, including nested fields: at most about 100 bytes each.
const MAX_FIELDS: usize = 1 << 20;

/// The numbers of the fields that are messages themselves, and how deeply messages are nested.
#[derive(Clone, Copy)]
pub(super) struct Nested {
    pub(super) fields: &'static [u64],
    pub(super) depth: u32,
}

impl Nested {
    /// A V2 request: parameters, inputs, outputs, and the contents of inputs. Tensor data (field 7 of a request, all
    /// fields of contents) is not nested.
    pub(super) const V2: Self = Self { fields: &[4, 5, 6], depth: 2 };

    /// A request of TensorFlow Serving: the entries of the map of inputs, their tensors, and the tensors' shapes.
    pub(super) const PREDICT: Self = Self { fields: &[2], depth: 3 };
}

/// Refuses a message with more than [`MAX_FIELDS`] fields.
pub(super) fn check(message: &[u8], nested: Nested) -> Result<()> {
    let mut fields = 0;
    // The decoder reports messages that cannot be read.
    let _ = walk(message, nested, &mut fields);
    if fields <= MAX_FIELDS {
        return Ok(());
    }
    let message = format!(
        "the message has over {MAX_FIELDS} fields: use packed encoding for lists of numbers, and send many strings in \
         raw_input_contents"
    );
    Err(Error::new(ErrorKind::TooLarge, message))
}

/// Counts the fields of a message; `None` if the bytes are not a message. The type of a field is not known here, so
/// bytes that look like fields are counted as fields too.
fn walk(mut bytes: &[u8], nested: Nested, fields: &mut usize) -> Option<()> {
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
        if key & 7 == 2 && nested.depth > 0 && nested.fields.contains(&(key >> 3)) {
            let _ = walk(value, Nested { depth: nested.depth - 1, ..nested }, fields);
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
    use crate::grpc::tensorflow::{
        TensorProto, TensorShapeProto, serving::PredictRequest, tensor_shape_proto::Dim,
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
        check(&request(numbers), Nested::V2).unwrap();
        let strings =
            InferTensorContents { bytes_contents: vec![vec![]; 2 << 20], ..InferTensorContents::default() };
        assert!(check(&request(strings), Nested::V2).is_err());
        let inputs = vec![InferInputTensor::default(); 2 << 20];
        let request = ModelInferRequest { inputs, ..ModelInferRequest::default() };
        assert!(check(&request.encode_to_vec(), Nested::V2).is_err());
        assert!(check(&[0xff; 32], Nested::V2).is_ok() && check(&[], Nested::V2).is_ok());
        let predict = |tensor| {
            PredictRequest { inputs: [("x".to_owned(), tensor)].into(), ..PredictRequest::default() }
                .encode_to_vec()
        };
        let tensor_shape = Some(TensorShapeProto { dim: vec![Dim::default(); 2 << 20], unknown_rank: false });
        assert!(
            check(&predict(TensorProto { tensor_shape, ..TensorProto::default() }), Nested::PREDICT).is_err()
        );
        let numbers = TensorProto { float_val: vec![1.0; 3 << 20], ..TensorProto::default() };
        check(&predict(numbers), Nested::PREDICT).unwrap();
    }
}
