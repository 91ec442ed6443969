//! Compares Drisse's JSON code with two fast libraries: parses a V2 request with 150,528 floats and prints a response
//! with the same floats, on one core, interleaved. The libraries parse into and print from the same plain structs.

use drisse_core::{
    Buffer, Data, DataType, Dim, Element, Port, Shape, Signature, Sink, Tensor, TensorType, Value, ValueType,
    ValueView,
};
use drisse_wire::shared_memory::NoRegions;
use drisse_wire::v2::{AnswerParts, AnswerSink, decode};
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::hint::black_box;
use std::time::Instant;

/// The number of values in an image of 224 × 224 pixels with three color channels.
const FLOATS: usize = 3 * 224 * 224;
const ROUNDS: usize = 21;

#[derive(Serialize, Deserialize)]
struct Tensors<T, V> {
    name: T,
    datatype: T,
    shape: Vec<usize>,
    data: Vec<V>,
}

#[derive(Serialize, Deserialize)]
struct Request<T> {
    inputs: Vec<Tensors<T, f32>>,
}

#[derive(Serialize)]
struct Answer<V> {
    model_name: &'static str,
    model_version: &'static str,
    outputs: Vec<Tensors<&'static str, V>>,
}

fn main() {
    let values = normal();
    // `long` is as Python prints an array of float32: each value as a double, with all digits of that.
    let mut long = String::new();
    let mut short = String::new();
    for (nth, value) in values.iter().enumerate() {
        let comma = if nth > 0 { ", " } else { "" };
        let _ = write!(long, "{comma}{}", f64::from(*value));
        let _ = write!(short, "{comma}{value}");
    }
    println!("{FLOATS} floats, one core, medians of {ROUNDS} interleaved rounds, GB of text per second\n");
    println!("{:44}{:>8}{:>12}{:>12}{:>8}", "", "drisse", "sonic-rs", "simd-json", "limit");
    for (what, data) in [("parse: as Python prints floats", long), ("parse: fewest digits", short)] {
        let text = format!(
            r#"{{"inputs": [{{"name": "x", "shape": [1, 3, 224, 224], "datatype": "FP32", "data": [{data}]}}]}}"#
        );
        let what = format!("{what}, {:.1} MB", text.len() as f64 / 1e6);
        row(
            &what,
            text.len(),
            &mut [&mut || ours(&text, &values), &mut || sonic(&text), &mut || simd(&text)],
        );
    }
    // Printed as doubles, the same values give the same text as Python.
    let wide: Vec<f64> = values.iter().map(|value| f64::from(*value)).collect();
    printing("as Python prints floats", DataType::Fp64, wide);
    printing("fewest digits", DataType::Fp32, values);
}

fn printing<T: Element + Serialize>(how: &str, datatype: DataType, values: Vec<T>) {
    let tensor = tensor(datatype, &values);
    let parts = AnswerParts::new("m", "1", &signature());
    let outputs =
        vec![Tensors { name: "y", datatype: datatype.name(), shape: vec![1, 3, 224, 224], data: values }];
    let answer = Answer { model_name: "m", model_version: "1", outputs };
    let length = print(&parts, &tensor);
    let what = format!("print: {how}, {:.1} MB", length as f64 / 1e6);
    let mut ways: [&mut dyn FnMut(); 3] = [
        &mut || _ = black_box(print(&parts, &tensor)),
        &mut || _ = black_box(sonic_rs::to_vec(&answer).expect("JSON can represent the value").len()),
        &mut || _ = black_box(simd_json::to_vec(&answer).expect("JSON can represent the value").len()),
    ];
    row(&what, length, &mut ways);
}

/// Measures all ways, interleaved, and prints a row of the table.
fn row(what: &str, bytes: usize, ways: &mut [&mut dyn FnMut()]) {
    let mut times = vec![Vec::new(); ways.len()];
    for _ in 0..ROUNDS {
        for (way, times) in ways.iter_mut().zip(&mut times) {
            let began = Instant::now();
            way();
            times.push(began.elapsed().as_secs_f64());
        }
    }
    let speed = |times: &mut Vec<f64>| {
        times.sort_by(f64::total_cmp);
        bytes as f64 / times[times.len() / 2] / 1e9
    };
    let speeds: Vec<_> = times.iter_mut().map(speed).collect();
    println!("{what:44}{:8.2}{:12.2}{:12.2}{:>8}", speeds[0], speeds[1], speeds[2], "1.00");
}

fn ours(text: &str, values: &[f32]) {
    let request = decode(text.as_bytes(), &[], &NoRegions, &signature()).expect("a request");
    let (_, tensor) = request.inputs.given().next().expect("an input");
    let Data::Raw(buffer) = &tensor.data else { panic!("FP32 is raw") };
    assert_eq!(black_box(buffer.elements::<f32>()).len(), values.len());
}

fn sonic(text: &str) {
    let request: Request<&str> = sonic_rs::from_str(text).expect("a request");
    assert_eq!(black_box(request).inputs[0].data.len(), FLOATS);
}

/// simd-json modifies its input, so parsing a received body includes a copy.
fn simd(text: &str) {
    let mut bytes = text.as_bytes().to_vec();
    let request: Request<&str> = simd_json::from_slice(&mut bytes).expect("a request");
    assert_eq!(black_box(request).inputs[0].data.len(), FLOATS);
}

fn print(parts: &AnswerParts, tensor: &Value) -> usize {
    let mut sink = AnswerSink::new(Parts(parts), None, Vec::new());
    sink.output(0, ValueView::Other(tensor)).expect("JSON can represent the value");
    sink.finish().body.len()
}

struct Parts<'a>(&'a AnswerParts);

impl AsRef<AnswerParts> for Parts<'_> {
    fn as_ref(&self) -> &AnswerParts {
        self.0
    }
}

fn signature() -> Signature {
    let dims = [1, 3, 224, 224].map(Dim::Fixed).to_vec();
    let kind = ValueType::Tensor(TensorType { datatype: DataType::Fp32, shape: Some(dims) });
    let port = |name: &str| Port { name: name.to_owned(), kind: kind.clone(), optional: false };
    Signature { inputs: vec![port("x")], outputs: vec![port("y")] }
}

fn tensor<T: Element>(datatype: DataType, values: &[T]) -> Value {
    let mut buffer = Buffer::new();
    values.iter().for_each(|value| buffer.push(*value));
    let shape = Shape::from_slice(&[1, 3, 224, 224]);
    Value::Tensor(Tensor { datatype, shape, data: Data::Raw(buffer) })
}

/// Values with an approximately normal distribution, like a normalized image; the same in each run.
fn normal() -> Vec<f32> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut uniform = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1_u64 << 53) as f64
    };
    (0..FLOATS).map(|_| ((0..12).map(|_| uniform()).sum::<f64>() - 6.0) as f32).collect()
}
