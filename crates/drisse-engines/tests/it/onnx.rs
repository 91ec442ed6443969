//! Tests of ONNX Runtime's engine beyond the conformance suite, with real models.

use crate::support::{floats, load, tensor};
use drisse_core::{Data, DataType, ErrorKind, Shape, Strings, Tensor, Value, element_count};
use drisse_engines::onnx::{LibraryError, find, probe};

#[test]
fn every_datatype_comes_back_as_it_went_in() {
    let model = load("kinds");
    for shape in [&[][..], &[3], &[0], &[2, 0, 2], &[2, 1, 2]] {
        let count = element_count(shape).unwrap();
        let inputs: Vec<Tensor> = model
            .package
            .signature
            .inputs
            .iter()
            .map(|port| {
                let datatype = port.tensor().unwrap().datatype;
                let data = match datatype.byte_size(count) {
                    // A BOOL must be 0 or 1; for the other datatypes every byte pattern is valid.
                    Some(bytes) => {
                        let mut tensor = Tensor::zeros(datatype, shape.into()).unwrap();
                        let Data::Raw(buffer) = &mut tensor.data else { unreachable!() };
                        let pattern = if datatype == DataType::Bool { 2 } else { 251 };
                        (0..bytes).for_each(|i| buffer.bytes_mut()[i] = (i * 7 % pattern) as u8);
                        tensor.data
                    }
                    None => Data::Strings((0..count).map(|i| format!("é\0{i}")).collect()),
                };
                Tensor { datatype, shape: shape.into(), data }
            })
            .collect();
        let outputs = model.run(inputs.clone()).unwrap();
        for (input, output) in inputs.into_iter().zip(outputs) {
            assert_eq!(output, Value::Tensor(input), "shape {shape:?}");
        }
    }
}

#[test]
fn zipmap_gives_a_sequence_of_maps() {
    let outputs = load("zipmap").run([floats(&[2, 2], &[0.25, 0.75, 1.0, 0.0])]).unwrap();
    let keys: Strings = ["no", "yes"].into_iter().collect();
    let map = |values: &[f32]| Value::Map {
        keys: Tensor {
            datatype: DataType::Bytes,
            shape: Shape::from_slice(&[2]),
            data: Data::Strings(keys.clone()),
        },
        values: floats(&[2], values),
    };
    assert_eq!(outputs, [Value::Sequence(vec![map(&[0.25, 0.75]), map(&[1.0, 0.0])])]);
}

#[test]
fn a_sequence_of_tensors_comes_out_whole() {
    let outputs = load("sequence").run([floats(&[2, 2], &[1.0, 2.0, 3.0, 4.0])]).unwrap();
    let part = |values: &[f32]| Value::Tensor(floats(&[2], values));
    assert_eq!(outputs, [Value::Sequence(vec![part(&[1.0, 2.0]), part(&[3.0, 4.0])])]);
}

#[test]
fn an_input_with_a_default_may_be_left_out() {
    let model = load("default_input");
    assert!(model.package.signature.inputs[1].optional);
    let x = || floats(&[2], &[1.0, 2.0]);
    assert_eq!(model.run([x()]).unwrap(), [Value::Tensor(floats(&[2], &[2.0, 4.0]))]);
    assert_eq!(
        model.run([x(), floats(&[1], &[10.0])]).unwrap(),
        [Value::Tensor(floats(&[2], &[10.0, 20.0]))]
    );
}

#[test]
fn state_goes_in_and_comes_out() {
    let model = load("accumulate");
    let mut state = floats(&[2], &[0.0, 0.0]);
    for step in 1..=3 {
        let outputs = model.run([floats(&[2], &[1.0, 2.0]), state]).unwrap();
        let [Value::Tensor(sum), Value::Tensor(next)] = &*outputs else { panic!("{outputs:?}") };
        assert_eq!(*sum, floats(&[], &[3.0 * step as f32]));
        state = next.clone();
    }
}

#[test]
fn a_run_that_fails_names_the_node() {
    let error = load("gather").run([tensor(DataType::Int64, &[1], &[5_i64])]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Rejected);
    assert!(error.message().contains("node `pick` (Gather): indices element out of data bounds"), "{error}");
    assert!(!error.message().contains("onnxruntime_src"), "{error}");
}

#[test]
fn thousands_of_runs_at_once_equal_the_sequential_answers() {
    const RUNS: usize = 4000;
    let model = load("mlp");
    let input = |run: usize| {
        let (batch, time) = (run % 5, run % 7 + 1);
        let values: Vec<f32> =
            (0..batch * time * 16).map(|i| ((i * 37 + run * 11) % 101) as f32 / 50.0 - 1.0).collect();
        floats(&[batch as i64, time as i64, 16], &values)
    };
    let expected: Vec<_> = (0..RUNS).map(|run| model.run([input(run)]).unwrap()).collect();
    let next = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                loop {
                    let run = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    if run >= RUNS {
                        break;
                    }
                    assert_eq!(model.run([input(run)]).unwrap(), expected[run], "run {run}");
                }
            });
        }
    });
}

#[test]
fn a_library_that_is_none_is_refused_before_anything_of_it_is_used() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "not a library").unwrap();
    assert!(matches!(probe(file.path()), Err(LibraryError::Refused { .. })));
    let missing = find(Some("/nowhere/libonnxruntime.so".as_ref()), "/nowhere".as_ref());
    assert!(matches!(missing, Err(LibraryError::Missing { .. })));
}

#[test]
fn a_library_that_others_can_write_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("libonnxruntime.so");
    std::fs::write(&path, "").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
    assert!(matches!(find(Some(&path), folder.path()), Err(LibraryError::Untrusted { .. })));
}

#[test]
fn a_tensor_larger_than_the_machine_is_refused_and_the_model_lives() {
    let model = load("fill");
    for length in [1_i64 << 38, 1 << 50, i64::MAX] {
        let error = model.run([tensor(DataType::Int64, &[1], &[length])]).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::TooLarge | ErrorKind::Rejected), "{error:?}");
    }
    assert_eq!(
        model.run([tensor(DataType::Int64, &[1], &[2_i64])]).unwrap(),
        [Value::Tensor(floats(&[2], &[0.0, 0.0]))]
    );
}

#[test]
fn what_an_unusual_run_took_is_given_back() {
    let resident = || -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().split(' ').next().unwrap().parse().unwrap()
    };
    let model = load("fill");
    let before = resident();
    let outputs = model.run([tensor(DataType::Int64, &[1], &[64_i64 << 20])]).unwrap();
    let during = resident();
    drop(outputs);
    let after = resident();
    assert!(during > before + (250 << 10), "the output is in memory: {before} to {during} KiB");
    // Tests beside this one take memory of the same process: half of the output's 256 MiB is enough to see.
    assert!(after + (128 << 10) < during, "before {before} KiB, during {during} KiB, after {after} KiB");
}

#[test]
fn a_recurrent_model_refuses_inputs_without_elements_and_lives() {
    let model = load("recurrent");
    for shape in [[0, 0, 2], [0, 5, 2], [2, 0, 2]] {
        let error = model.run([floats(&shape, &[])]).unwrap_err();
        assert!(error.kind() == ErrorKind::Rejected && error.message().contains("LSTM"), "{error}");
    }
    assert_eq!(model.run([floats(&[1, 1, 2], &[1.0, 1.0])]).unwrap().len(), 1);
}
