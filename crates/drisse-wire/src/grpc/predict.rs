//! TensorFlow Serving's `Predict`, and its messages that describe models.
//!
//! Source: <https://github.com/tensorflow/serving/tree/master/tensorflow_serving/apis>

use super::tensorflow::serving::{
    Any, GetModelMetadataResponse, GetModelStatusResponse, Int64Value, ModelSpec, ModelVersionStatus,
    PredictRequest, PredictResponse, SignatureDefMap, StatusProto, model_spec::VersionChoice,
    model_version_status::State,
};
use super::tensorflow::{
    DataType as Dtype, SignatureDef, TensorInfo, TensorProto, TensorShapeProto, tensor_shape_proto::Dim,
};
use crate::documents::{Model, carried_outputs, has_any_rank, v2_tensor};
use crate::raw;
use crate::v2::{Wanted, all_outputs, indexes, known_input, known_output, wanted_datatype};
use drisse_core::{
    Buffer, Data, DataType, DataView, Element, Error, Inputs, Port, Result, Shape, Signature, Sink, Strings,
    Tensor, TensorView, ValueView, element_count,
};
use half::{bf16, f16};
use prost::Message;
use std::fmt;

/// The name of a model's only signature.
const SIGNATURE: &str = "serving_default";

/// Returns the name of the model that a request is for, and the version if the request has one.
///
/// # Errors
/// Returns an error if the request names no model, a signature other than `serving_default`, or a version label.
pub fn model(spec: Option<&ModelSpec>) -> Result<(&str, Option<String>)> {
    let missing = || Error::invalid("the request has no `model_spec` with a model's name");
    let spec = spec.filter(|spec| !spec.name.is_empty()).ok_or_else(missing)?;
    if !matches!(&*spec.signature_name, "" | SIGNATURE) {
        let name = &spec.signature_name[..spec.signature_name.floor_char_boundary(80)];
        let message = format!("unknown signature `{name}`: the only signature is `{SIGNATURE}`");
        return Err(Error::invalid(message));
    }
    let version = match &spec.version_choice {
        None => None,
        Some(VersionChoice::Version(version)) => Some(version.value.to_string()),
        Some(VersionChoice::VersionLabel(label)) => {
            let label = &label[..label.floor_char_boundary(80)];
            let message = format!("unknown version label `{label}`: send the version's number");
            return Err(Error::invalid(message));
        }
    };
    Ok((&spec.name, version))
}

/// Decodes a request: its inputs, and the requested outputs; none if all are.
///
/// # Errors
/// Returns an error that names the input or output that does not fit the signature.
pub fn decode(request: PredictRequest, signature: &Signature) -> Result<(Inputs, Vec<Wanted>)> {
    let mut inputs = Inputs::new(signature);
    for (name, tensor) in request.inputs {
        let (index, port) = known_input(signature, &name)?;
        let what = format_args!("input \"{name}\"");
        let datatype = datatype(tensor.dtype(), what)?;
        wanted_datatype(port, datatype.name())?;
        inputs.set(signature, index, read(datatype, tensor, what)?)?;
    }
    let mut outputs = Vec::new();
    for name in request.output_filter {
        let wanted = known_output(signature, &name)?;
        if outputs.contains(&wanted) {
            return Err(Error::invalid(format!("output \"{name}\" is requested twice")));
        }
        outputs.push(wanted);
    }
    Ok((inputs, outputs))
}

/// Returns the indexes in the signature of the outputs that the model must compute.
pub fn outputs(wanted: &[Wanted], signature: &Signature) -> Vec<usize> {
    if wanted.is_empty() { all_outputs(signature) } else { indexes(wanted.iter().copied()) }
}

fn datatype(dtype: Dtype, what: fmt::Arguments<'_>) -> Result<DataType> {
    Ok(match dtype {
        Dtype::DtFloat => DataType::Fp32,
        Dtype::DtDouble => DataType::Fp64,
        Dtype::DtInt32 => DataType::Int32,
        Dtype::DtUint8 => DataType::Uint8,
        Dtype::DtInt16 => DataType::Int16,
        Dtype::DtInt8 => DataType::Int8,
        Dtype::DtString => DataType::Bytes,
        Dtype::DtInt64 => DataType::Int64,
        Dtype::DtBool => DataType::Bool,
        Dtype::DtBfloat16 => DataType::Bf16,
        Dtype::DtUint16 => DataType::Uint16,
        Dtype::DtHalf => DataType::Fp16,
        Dtype::DtUint32 => DataType::Uint32,
        Dtype::DtUint64 => DataType::Uint64,
        Dtype::DtInvalid => {
            return Err(Error::invalid(format!("{what}: its `dtype` is missing or not supported")));
        }
    })
}

fn dtype(datatype: DataType) -> Dtype {
    match datatype {
        DataType::Fp32 => Dtype::DtFloat,
        DataType::Fp64 => Dtype::DtDouble,
        DataType::Int32 => Dtype::DtInt32,
        DataType::Uint8 => Dtype::DtUint8,
        DataType::Int16 => Dtype::DtInt16,
        DataType::Int8 => Dtype::DtInt8,
        DataType::Bytes => Dtype::DtString,
        DataType::Int64 => Dtype::DtInt64,
        DataType::Bool => Dtype::DtBool,
        DataType::Bf16 => Dtype::DtBfloat16,
        DataType::Uint16 => Dtype::DtUint16,
        DataType::Fp16 => Dtype::DtHalf,
        DataType::Uint32 => Dtype::DtUint32,
        DataType::Uint64 => Dtype::DtUint64,
        _ => Dtype::DtInvalid,
    }
}

/// Reads a tensor from its bytes, or from the field of its datatype.
fn read(datatype: DataType, tensor: TensorProto, what: fmt::Arguments<'_>) -> Result<Tensor> {
    let shape: Shape = tensor.tensor_shape.iter().flat_map(|shape| &shape.dim).map(|dim| dim.size).collect();
    if !tensor.tensor_content.is_empty() {
        if datatype == DataType::Bytes {
            return Err(Error::invalid(format!(
                "{what}: strings must be sent in `string_val`, not in `tensor_content`"
            )));
        }
        return raw::read(datatype, shape, &tensor.tensor_content, what);
    }
    let too_large = || Error::invalid(format!("{what}: shape {shape:?} is negative or too large"));
    let count = element_count(&shape).ok_or_else(too_large)?;
    let list = List { count, what };
    let data = match datatype {
        DataType::Fp32 => list.numbers(tensor.float_val.into_iter().map(Some)),
        DataType::Fp64 => list.numbers(tensor.double_val.into_iter().map(Some)),
        DataType::Int64 => list.numbers(tensor.int64_val.into_iter().map(Some)),
        DataType::Uint32 => list.numbers(tensor.uint32_val.into_iter().map(Some)),
        DataType::Uint64 => list.numbers(tensor.uint64_val.into_iter().map(Some)),
        DataType::Bool => list.numbers(tensor.bool_val.into_iter().map(|value| Some(u8::from(value)))),
        DataType::Int32 => list.numbers(tensor.int_val.into_iter().map(Some)),
        DataType::Int16 => list.numbers(tensor.int_val.into_iter().map(|value| i16::try_from(value).ok())),
        DataType::Int8 => list.numbers(tensor.int_val.into_iter().map(|value| i8::try_from(value).ok())),
        DataType::Uint16 => list.numbers(tensor.int_val.into_iter().map(|value| u16::try_from(value).ok())),
        DataType::Uint8 => list.numbers(tensor.int_val.into_iter().map(|value| u8::try_from(value).ok())),
        DataType::Fp16 => {
            let bits = |value| u16::try_from(value).ok().map(f16::from_bits);
            list.numbers(tensor.half_val.into_iter().map(bits))
        }
        DataType::Bf16 => {
            let bits = |value| u16::try_from(value).ok().map(bf16::from_bits);
            list.numbers(tensor.half_val.into_iter().map(bits))
        }
        _ => list.strings(&tensor.string_val),
    }?;
    Ok(Tensor { datatype, shape, data })
}

/// The number of elements that a tensor's field must provide.
struct List<'a> {
    count: usize,
    what: fmt::Arguments<'a>,
}

/// The most elements that a single value may be repeated for.
const MAX_REPEATED: usize = 1 << 20;

impl List<'_> {
    fn numbers<T: Element>(&self, values: impl ExactSizeIterator<Item = Option<T>>) -> Result<Data> {
        let repeated = self.check(values.len())?;
        let mut buffer = Buffer::new();
        for value in values {
            let out_of_range =
                || Error::invalid(format!("{}: a value is out of its datatype's range", self.what));
            let value = value.ok_or_else(out_of_range)?;
            (0..repeated).for_each(|_| buffer.push(value));
        }
        Ok(Data::Raw(buffer))
    }

    fn strings(&self, values: &[Vec<u8>]) -> Result<Data> {
        let repeated = self.check(values.len())?;
        let mut strings = Strings::default();
        values.iter().for_each(|value| (0..repeated).for_each(|_| strings.push(value)));
        Ok(Data::Strings(strings))
    }

    /// Returns how often each of the given values is repeated: once, or a single value for all elements.
    fn check(&self, given: usize) -> Result<usize> {
        match given {
            given if given == self.count => Ok(1),
            1 if self.count <= MAX_REPEATED => Ok(self.count),
            given => {
                let (what, count) = (self.what, self.count);
                Err(Error::invalid(format!(
                    "{what}: its shape holds {count} elements, but {given} values were sent"
                )))
            }
        }
    }
}

/// Builds a response output by output.
#[derive(Debug)]
pub struct AnswerSink<S> {
    signature: S,
    /// The requested outputs; none if all are.
    wanted: Vec<Wanted>,
    answer: PredictResponse,
}

impl<S: AsRef<Signature>> AnswerSink<S> {
    /// Starts the response of the model `name` at `version`, with the outputs that are `wanted`, or all.
    pub fn new(signature: S, name: &str, version: &str, wanted: Vec<Wanted>) -> Self {
        let answer = PredictResponse { model_spec: Some(spec(name, version)), ..PredictResponse::default() };
        Self { signature, wanted, answer }
    }

    /// Returns the whole response.
    pub fn finish(self) -> PredictResponse {
        self.answer
    }
}

fn spec(name: &str, version: &str) -> ModelSpec {
    // TensorFlow's versions are numbers; any other version is left out.
    let version = version.parse().ok().map(|value| VersionChoice::Version(Int64Value { value }));
    ModelSpec { name: name.to_owned(), version_choice: version, signature_name: SIGNATURE.to_owned() }
}

impl<S: AsRef<Signature>> Sink for AnswerSink<S> {
    fn output(&mut self, index: usize, value: ValueView<'_>) -> Result<()> {
        let port = &self.signature.as_ref().outputs[index];
        let whole = [Wanted { index, element: None }];
        let wanted = if self.wanted.is_empty() { &whole[..] } else { &self.wanted };
        for one in wanted.iter().filter(|wanted| wanted.index == index) {
            one.carry(port, value, |tensor, _| {
                self.answer.outputs.insert(one.name(port).into_owned(), write(tensor)?);
                Ok(())
            })?;
        }
        Ok(())
    }
}

fn write(tensor: &TensorView<'_>) -> Result<TensorProto> {
    let dim = |&size: &i64| Dim { size, name: String::new() };
    let shape = TensorShapeProto { dim: tensor.shape.iter().map(dim).collect(), unknown_rank: false };
    let mut proto = TensorProto {
        dtype: dtype(tensor.datatype).into(),
        tensor_shape: Some(shape),
        ..TensorProto::default()
    };
    let bytes = match tensor.data {
        DataView::Strings(strings) => {
            proto.string_val = strings.iter().map(<[u8]>::to_vec).collect();
            return Ok(proto);
        }
        DataView::Raw(bytes) => Buffer::copy_from(bytes),
    };
    // Uses the field of the datatype, as TensorFlow Serving itself does: some clients read nothing else.
    match tensor.datatype {
        DataType::Fp32 => proto.float_val = bytes.elements().to_vec(),
        DataType::Fp64 => proto.double_val = bytes.elements().to_vec(),
        DataType::Int64 => proto.int64_val = bytes.elements().to_vec(),
        DataType::Uint32 => proto.uint32_val = bytes.elements().to_vec(),
        DataType::Uint64 => proto.uint64_val = bytes.elements().to_vec(),
        DataType::Bool => proto.bool_val = bytes.bytes().iter().map(|&value| value != 0).collect(),
        DataType::Int32 => proto.int_val = bytes.elements().to_vec(),
        DataType::Int16 => {
            proto.int_val = bytes.elements::<i16>().iter().map(|&value| value.into()).collect()
        }
        DataType::Int8 => proto.int_val = bytes.elements::<i8>().iter().map(|&value| value.into()).collect(),
        DataType::Uint16 => {
            proto.int_val = bytes.elements::<u16>().iter().map(|&value| value.into()).collect()
        }
        DataType::Uint8 => proto.int_val = bytes.bytes().iter().map(|&value| value.into()).collect(),
        DataType::Fp16 | DataType::Bf16 => {
            proto.half_val = bytes.elements::<u16>().iter().map(|&bits| bits.into()).collect();
        }
        other => {
            return Err(Error::invalid(format!(
                "TensorFlow Serving's messages cannot carry {other} elements"
            )));
        }
    }
    Ok(proto)
}

/// Returns the response of `GetModelMetadata`: the model's signature, the only metadata of TensorFlow Serving.
pub fn metadata(model: Model<'_>) -> GetModelMetadataResponse {
    let info = |port: &Port| {
        let (datatype, sizes) = v2_tensor(&port.kind);
        let unknown_rank = has_any_rank(&port.kind);
        let dim = sizes
            .into_iter()
            .filter(|_| !unknown_rank)
            .map(|size| Dim { size, name: String::new() })
            .collect();
        let tensor_shape = Some(TensorShapeProto { dim, unknown_rank });
        let info = TensorInfo { name: port.name.clone(), dtype: dtype(datatype).into(), tensor_shape };
        (port.name.clone(), info)
    };
    let signature = SignatureDef {
        inputs: model.signature.inputs.iter().map(info).collect(),
        outputs: carried_outputs(model.signature).map(info).collect(),
        method_name: "tensorflow/serving/predict".to_owned(),
    };
    let map = SignatureDefMap { signature_def: [(SIGNATURE.to_owned(), signature)].into() };
    let any = Any {
        type_url: "type.googleapis.com/tensorflow.serving.SignatureDefMap".to_owned(),
        value: map.encode_to_vec(),
    };
    let model_spec = Some(ModelSpec { signature_name: String::new(), ..spec(model.name, model.version) });
    GetModelMetadataResponse { model_spec, metadata: [("signature_def".to_owned(), any)].into() }
}

/// Returns the response of `GetModelStatus` for a model that is served.
pub fn status<'a>(versions: impl Iterator<Item = &'a str>) -> GetModelStatusResponse {
    let one = |version: &str| {
        let version = version.parse().unwrap_or_default();
        ModelVersionStatus { version, state: State::Available.into(), status: Some(StatusProto::default()) }
    };
    GetModelStatusResponse { model_version_status: versions.map(one).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use drisse_core::{Dim as D, TensorType, ValueType};

    fn signature(datatype: DataType) -> Box<Signature> {
        let kind = ValueType::Tensor(TensorType { datatype, shape: Some(vec![D::Free(None)]) });
        let port = |name: &str| Port { name: name.to_owned(), kind: kind.clone(), optional: false };
        Box::new(Signature { inputs: vec![port("x")], outputs: vec![port("y")] })
    }

    fn request(tensor: TensorProto) -> PredictRequest {
        PredictRequest { inputs: [("x".to_owned(), tensor)].into(), ..PredictRequest::default() }
    }

    #[test]
    fn what_is_written_in_fields_reads_back_for_every_datatype() {
        for datatype in DataType::ALL.into_iter().filter(|datatype| datatype.has_json_form()) {
            let mut tensor = Tensor::zeros(datatype, Shape::from_slice(&[3])).unwrap();
            if let Data::Raw(buffer) = &mut tensor.data {
                buffer.bytes_mut()[0] = 1;
            }
            let proto = write(&tensor.view()).unwrap();
            let (inputs, outputs) = decode(request(proto), &signature(datatype)).unwrap();
            assert_eq!((inputs.get(0), outputs), (Some(&tensor), vec![]), "{datatype}");
        }
    }

    #[test]
    fn one_value_stands_for_all_and_other_numbers_of_values_are_refused() {
        let floats = |size: i64, values: &[f32]| {
            let tensor_shape =
                TensorShapeProto { dim: vec![Dim { size, name: String::new() }], unknown_rank: false };
            request(TensorProto {
                dtype: Dtype::DtFloat.into(),
                tensor_shape: Some(tensor_shape),
                float_val: values.to_vec(),
                ..TensorProto::default()
            })
        };
        let (inputs, _) = decode(floats(3, &[2.0]), &signature(DataType::Fp32)).unwrap();
        let Data::Raw(buffer) = &inputs.get(0).unwrap().data else { panic!("strings") };
        assert_eq!(buffer.elements::<f32>(), [2.0; 3]);
        for (request, datatype, why) in [
            (floats(3, &[1.0, 2.0]), DataType::Fp32, "its shape holds 3 elements, but 2 values were sent"),
            (floats(i64::MAX, &[1.0]), DataType::Fp32, "but 1 values were sent"),
            (floats(-1, &[]), DataType::Fp32, "negative or too large"),
            (floats(1, &[1.0]), DataType::Int64, "datatype FP32 does not match INT64"),
            (request(TensorProto::default()), DataType::Fp32, "its `dtype` is missing or not supported"),
        ] {
            let error = decode(request, &signature(datatype)).unwrap_err();
            assert!(error.message().contains(why), "{error}");
        }
    }
}
