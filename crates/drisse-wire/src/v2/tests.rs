//! Tests of V2: which requests are accepted, with which messages others are refused, and the form of responses.

use super::*;
use crate::shared_memory::{NoRegions, Part};
use drisse_core::{Buffer, Data, Sink, TensorType, Value, ValueType, ValueView};
use std::sync::{Arc, Mutex};

fn port(name: &str, datatype: DataType, dims: &[Dim]) -> Port {
    let kind = ValueType::Tensor(TensorType { datatype, shape: Some(dims.to_vec()) });
    Port { name: name.to_owned(), kind, optional: false }
}

fn signature() -> Signature {
    let batch = Dim::Free(Some("batch".to_owned()));
    Signature {
        inputs: vec![
            port("X", DataType::Fp32, &[batch.clone(), Dim::Fixed(2)]),
            port("s", DataType::Bytes, std::slice::from_ref(&batch)),
        ],
        outputs: vec![
            port("Y", DataType::Int64, std::slice::from_ref(&batch)),
            port("Z", DataType::Fp32, &[batch]),
        ],
    }
}

fn refusal(body: &str) -> String {
    decode(body.as_bytes(), &[], &NoRegions, &signature()).expect_err(body).to_string()
}

#[test]
fn fields_may_come_in_any_order_and_data_flat_or_nested() {
    let body = r#"{"outputs":[{"name":"Z","parameters":{"binary_data":false}}],"id":"7","x":{},
        "inputs":[{"data":[1,2.5],"shape":[1,2],"name":"X","datatype":"FP32"},
                  {"name":"s","shape":[1],"datatype":"BYTES","data":["é"],"parameters":{}}]}"#;
    let request = decode(body.as_bytes(), &[], &NoRegions, &signature()).unwrap();
    assert_eq!(request.id.as_deref(), Some("7"));
    assert_eq!(request.outputs, [1]);
    let Data::Raw(x) = &request.inputs.get(0).unwrap().data else { panic!("strings") };
    assert_eq!(x.elements::<f32>(), [1.0, 2.5]);
    let nested = body.replace("[1,2.5]", "[[1,2.5]]");
    assert_eq!(decode(nested.as_bytes(), &[], &NoRegions, &signature()).unwrap().inputs, request.inputs);
}

#[test]
fn null_is_as_good_as_not_given_and_an_id_may_be_a_number() {
    let body = r#"{"id":null,"parameters":null,"outputs":null,"inputs":[
        {"name":"X","datatype":"FP32","shape":[1,2],"data":[1,null],"parameters":null},
        {"name":"s","shape":[1],"datatype":"BYTES","data":["é"],"parameters":{"binary_data_size":null}}]}"#;
    let request = decode(body.as_bytes(), &[], &NoRegions, &signature()).unwrap();
    assert_eq!((request.id, &*request.outputs), (None, &[0, 1][..]));
    let Data::Raw(x) = &request.inputs.get(0).unwrap().data else { panic!("strings") };
    assert!(x.elements::<f32>()[1].is_nan(), "null is NaN in the data of a tensor");
    let outputs = r#""id":-7.5,"outputs":[{"name":"Z","parameters":null},
        {"name":"Y","parameters":{"classification":null,"binary_data":null}}]"#;
    let body = body.replace(r#""id":null"#, outputs).replace(r#","outputs":null"#, "");
    let request = decode(body.as_bytes(), &[], &NoRegions, &signature()).unwrap();
    assert_eq!((request.id.as_deref(), &*request.outputs), (Some("-7.5"), &[1, 0][..]));
    assert!(request.forms.is_empty());
    for (body, why) in [
        (r#"{"inputs":null}"#, "the request has no `inputs`"),
        (r#"{"inputs":[{"name":"X","shape":null}]}"#, "`datatype` is missing"),
        (r#"{"parameters": 7,"inputs":[]}"#, "expected an object for `parameters`, found a number"),
        (r#"{"inputs":[null]}"#, "expected an object, found null"),
    ] {
        assert!(refusal(body).contains(why), "{body}: {}", refusal(body));
    }
}

#[test]
fn a_refusal_names_the_field_what_was_given_and_what_is_wanted() {
    let x = |rest: &str| refusal(&format!(r#"{{"inputs":[{{"name":"X",{rest}}}]}}"#));
    for (given, wanted) in [
        (refusal("{}"), "the request has no `inputs`"),
        (refusal(r#"{"inputs":[{}]}"#), "an input has no `name`"),
        (refusal(r#"{"inputs":[{"name":"Q"}]}"#), "the model has no input \"Q\"; its inputs are `X`, `s`"),
        (x(r#""shape":[1,2],"data":[1,2]"#), "input \"X\": `datatype` is missing"),
        (x(r#""datatype":"FP32","data":[1,2]"#), "input \"X\": `shape` is missing"),
        (x(r#""datatype":"FP32","shape":[1,2]"#), "input \"X\": `data` is missing"),
        (
            x(r#""datatype":"FP64","shape":[1,2],"data":[1,2]"#),
            "input \"X\": datatype FP64 does not match FP32",
        ),
        (x(r#""datatype":"FP33","shape":[1,2],"data":[1,2]"#), "input \"X\": unknown datatype \"FP33\""),
        (x(r#""datatype":"FP32","shape":[1,2],"data":[1]"#), "shape [1, 2] holds 2 elements, data has 1"),
        (x(r#""datatype":"FP32","shape":[-1,2],"data":[1,2]"#), "shape [-1, 2] is negative or too large"),
        (x(r#""datatype":"FP32","shape":[9223372036854775807,9],"data":[1]"#), "is negative or too large"),
        (x(r#""datatype":"FP32","shape":[9223372036854775808],"data":[1]"#), "out of range for INT64"),
        (
            x(r#""datatype":"FP32","shape":[2,1],"data":[[1,2]]"#),
            "data is nested as [1, 2], not as shape [2, 1]",
        ),
        (x(r#""datatype":"FP32","shape":2,"data":[1,2]"#), "`shape` must be a list of up to 64 integers"),
        (x(r#""datatype":"FP32","shape":[1,2],"data":["a"]"#), "input \"X\": invalid JSON at line 1"),
        (
            refusal(r#"{"inputs":[],"outputs":[{"name":"W"}]}"#),
            "the model has no output \"W\"; its outputs are",
        ),
        (
            refusal(r#"{"inputs":[],"outputs":[{"name":"Y"},{"name":"Y"}]}"#),
            "output \"Y\" is requested twice",
        ),
        (refusal(r#"{"inputs":[]} x"#), "unexpected characters after the end"),
    ] {
        assert!(given.contains(wanted), "`{given}` does not say `{wanted}`");
    }
    let twice = r#"{"name":"X","shape":[1,2],"datatype":"FP32","data":[1,2]}"#;
    assert_eq!(refusal(&format!(r#"{{"inputs":[{twice},{twice}]}}"#)), "input `X` is given twice");
}

#[test]
fn an_answer_has_the_model_the_id_and_each_output() {
    let parts = Box::new(AnswerParts::new("m\"", "1", &signature()));
    let mut sink = AnswerSink::new(parts, Some("a"), Vec::new());
    let data = Data::Raw(Buffer::copy_from(&7_i64.to_le_bytes()));
    let y = Tensor { datatype: DataType::Int64, shape: Shape::from_slice(&[1]), data };
    sink.output(0, ValueView::Tensor(y.view())).unwrap();
    let z = Tensor {
        datatype: DataType::Fp32,
        shape: Shape::from_slice(&[1]),
        data: Data::Raw(Buffer::copy_from(&f32::NAN.to_le_bytes())),
    };
    sink.output(1, ValueView::Other(&Value::Sequence(vec![Value::Map { keys: y.clone(), values: z }])))
        .unwrap();
    let Answer { body, json_len, not_finite } = sink.finish();
    assert_eq!(
        String::from_utf8(body).unwrap(),
        r#"{"model_name":"m\"","model_version":"1","id":"a","outputs":[{"name":"Y","datatype":"INT64","shape":[1],"data":[7]},{"name":"Z","datatype":"FP32","shape":[1,1],"parameters":{"keys":"[7]"},"data":[null]}]}"#
    );
    assert_eq!((json_len, not_finite), (None, 1));
}

#[test]
fn tensors_stand_behind_the_json_in_the_order_of_the_inputs() {
    let json = br#"{"parameters":{"binary_data_output":true},"outputs":[{"name":"Z"},
        {"name":"Y","parameters":{"binary_data":false,"classification":2}}],
        "inputs":[{"name":"s","shape":[1],"datatype":"BYTES","parameters":{"binary_data_size":5}},
                  {"name":"X","shape":[1,2],"datatype":"FP32","parameters":{"binary_data_size":8}}]}"#;
    let mut binary = b"\x01\0\0\0a".to_vec();
    binary.extend([1.0_f32, 2.5].iter().flat_map(|value| value.to_le_bytes()));
    let request = decode(json, &binary, &NoRegions, &signature()).unwrap();
    let Data::Raw(x) = &request.inputs.get(0).unwrap().data else { panic!("strings") };
    assert_eq!(x.elements::<f32>(), [1.0, 2.5]);
    assert_eq!(request.outputs, [1, 0]);
    let forms: Vec<_> = request.forms.iter().map(|form| (form.binary, form.classes)).collect();
    assert_eq!(forms, [(true, 0), (false, 2)]);
    for (cut, why) in [
        (&binary[..12], "`binary_data_size` is 8, but 7 bytes are left"),
        (&[binary.clone(), vec![0]].concat(), "1 bytes are left after"),
    ] {
        let error = decode(json, cut, &NoRegions, &signature()).unwrap_err();
        assert!(error.message().contains(why), "{error}");
    }
}

#[test]
fn outputs_asked_for_in_binary_stand_behind_the_answer() {
    let parts = Box::new(AnswerParts::new("m", "1", &signature()));
    let z = Form { wanted: Wanted { index: 1, element: None }, ..Form::default() };
    let forms = vec![Form { binary: true, ..Form::default() }, z];
    let mut sink = AnswerSink::new(parts, None, forms);
    let data = Data::Raw(Buffer::copy_from(&7_i64.to_le_bytes()));
    let y = Tensor { datatype: DataType::Int64, shape: Shape::from_slice(&[1]), data };
    sink.output(0, ValueView::Tensor(y.view())).unwrap();
    sink.output(1, ValueView::Tensor(y.view())).unwrap();
    let Answer { body, json_len, .. } = sink.finish();
    let (json, binary) = body.split_at(json_len.unwrap());
    assert_eq!(
        std::str::from_utf8(json).unwrap(),
        r#"{"model_name":"m","model_version":"1","outputs":[{"name":"Y","datatype":"INT64","shape":[1],"parameters":{"binary_data_size":8}},{"name":"Z","datatype":"INT64","shape":[1],"data":[7]}]}"#
    );
    assert_eq!(binary, 7_i64.to_le_bytes());
}

#[test]
fn a_body_of_bytes_alone_is_the_only_input() {
    let only = Signature { inputs: vec![signature().inputs[0].clone()], ..signature() };
    let request = decode_raw(&[0; 24], &only).unwrap();
    assert_eq!(request.inputs.get(0).unwrap().shape.as_slice(), [3, 2]);
    assert!(request.forms.iter().all(|form| form.binary) && request.outputs == [0, 1]);
    assert!(decode_raw(&[0; 23], &only).unwrap_err().message().contains("takes 16 bytes, 23 were sent"));
    assert!(decode_raw(&[0; 24], &signature()).unwrap_err().message().contains("models with one input"));
}

/// A region of sixteen bytes.
#[derive(Clone, Debug, Default)]
struct Memory(Arc<Mutex<[u8; 16]>>);

impl Regions for Memory {
    fn part(&self, region: &str, offset: usize, len: usize) -> Result<Arc<dyn Part>> {
        assert_eq!(offset, 0);
        if region == "r" && len <= 16 { Ok(Arc::new(self.clone())) } else { Err(Error::invalid("beyond")) }
    }
}

impl Part for Memory {
    fn read(&self, into: &mut [u8]) -> Result<()> {
        into.copy_from_slice(&self.0.lock().unwrap()[..into.len()]);
        Ok(())
    }

    fn write(&self, bytes: &[u8]) -> Result<()> {
        self.0.lock().unwrap()[..bytes.len()].copy_from_slice(bytes);
        Ok(())
    }
}

#[test]
fn a_request_may_say_how_long_it_has() {
    let timeout = |given: &str| {
        let inputs = r#"[{"name":"s","shape":[1],"datatype":"BYTES","data":["a"]}]"#;
        let body = format!(r#"{{"parameters":{{"timeout":{given}}},"inputs":{inputs}}}"#);
        decode(body.as_bytes(), &[], &NoRegions, &signature()).map(|request| request.timeout)
    };
    assert_eq!(timeout("1500").unwrap(), Some(Duration::from_micros(1500)));
    assert_eq!(timeout("0").unwrap(), None);
    assert!(timeout("-1").is_err() && timeout("\"1s\"").is_err());
}

#[test]
fn tensors_in_shared_memory_are_read_there_and_written_there() {
    let memory = Memory::default();
    memory.0.lock().unwrap()[..8].copy_from_slice(bytemuck::cast_slice(&[1.5f32, -2.0]));
    let x = r#"{"name":"X","shape":[1,2],"datatype":"FP32","parameters":{"shared_memory_region":"r","shared_memory_byte_size":8}}"#;
    let s = r#"{"name":"s","shape":[1],"datatype":"BYTES","data":["a"]}"#;
    let y = r#"{"name":"Y","parameters":{"binary_data":true,"shared_memory_byte_size":16,"shared_memory_region":"r"}}"#;
    let body = format!(r#"{{"inputs":[{x},{s}],"outputs":[{y}]}}"#);
    let request = decode(body.as_bytes(), &[], &memory, &signature()).unwrap();
    let (_, tensor) = request.inputs.given().next().unwrap();
    let Data::Raw(buffer) = &tensor.data else { panic!("{tensor:?}") };
    assert_eq!(buffer.elements::<f32>(), [1.5, -2.0]);
    let parts = Box::new(AnswerParts::new("m", "1", &signature()));
    let mut sink = AnswerSink::new(parts, None, request.forms);
    let mut buffer = Buffer::new();
    buffer.push(7i64);
    let tensor =
        Tensor { datatype: DataType::Int64, shape: Shape::from_slice(&[1]), data: Data::Raw(buffer) };
    sink.output(0, ValueView::Other(&Value::Tensor(tensor))).unwrap();
    let answer = sink.finish();
    assert_eq!(answer.json_len, None);
    let text = String::from_utf8(answer.body).unwrap();
    let parameters = r#"{"shared_memory_region":"r","shared_memory_offset":0,"shared_memory_byte_size":8}"#;
    assert!(text.contains(&format!(r#""shape":[1],"parameters":{parameters}}}]}}"#)), "{text}");
    assert_eq!(memory.0.lock().unwrap()[..8], 7i64.to_le_bytes());
    for (parameters, why) in [
        (r#"{"shared_memory_region":"r"}"#, "it has `shared_memory_region` but no `shared_memory_byte_size`"),
        (
            r#"{"shared_memory_byte_size":8}"#,
            "it has `shared_memory_byte_size` but no `shared_memory_region`",
        ),
        (r#"{"shared_memory_region":"r","shared_memory_byte_size":17}"#, "input \"X\": beyond"),
        (r#"{"shared_memory_region":"r","shared_memory_byte_size":12}"#, "takes 8 bytes, 12 were sent"),
        (r#"{"shared_memory_region":"r","shared_memory_byte_size":8},"data":[1,2]"#, "must not have `data`"),
        (r#"{"shared_memory_region":1}"#, "expected a string"),
    ] {
        let input = format!(r#"{{"name":"X","shape":[1,2],"datatype":"FP32","parameters":{parameters}}}"#);
        let body = format!(r#"{{"inputs":[{input}]}}"#);
        let error = decode(body.as_bytes(), &[], &memory, &signature()).unwrap_err();
        assert!(error.message().contains(why), "{error}");
    }
    let error = decode(body.as_bytes(), &[], &NoRegions, &signature()).unwrap_err();
    assert!(error.message().contains("shared memory is not allowed here"), "{error}");
}
