//! Which `/score` bodies are equivalent, and how others are refused.

use super::*;
use drisse_core::{Data, DataType, Dim, Port, TensorType, ValueType};

fn signature(inputs: &[(&str, usize)]) -> Signature {
    let port = |&(name, rank): &(&str, usize)| Port {
        name: name.to_owned(),
        kind: ValueType::Tensor(TensorType {
            datatype: DataType::Fp32,
            shape: Some(vec![Dim::Free(None); rank]),
        }),
        optional: false,
    };
    Signature { inputs: inputs.iter().map(port).collect(), outputs: vec![] }
}

fn floats(inputs: &Inputs, index: usize) -> (Vec<i64>, Vec<f32>) {
    let tensor = inputs.get(index).expect("given");
    let Data::Raw(buffer) = &tensor.data else { panic!("strings") };
    (tensor.shape.to_vec(), buffer.elements().to_vec())
}

#[test]
fn one_input_can_be_sent_in_every_well_known_form() {
    let one = signature(&[("X", 2)]);
    for body in [
        r#"{"data": [[1,2],[3,4]]}"#,
        r#"{"data": {"X": [[1,2],[3,4]]}, "method": "predict"}"#,
        r#"{"inputs": [[1,2],[3,4]]}"#,
        r#"{"inputs": {"X": [[1,2],[3,4]]}}"#,
        r#"{"inputs": [{"name":"X","datatype":"FP32","shape":[2,2],"data":[1,2,3,4]}]}"#,
        r#"{"signature_name": "s", "instances": [[1,2],[3,4]]}"#,
        r#"{"instances": [{"X": [1,2]},{"X": [3,4]}]}"#,
        r#"{"dataframe_split": {"columns": ["a","b"], "index": [0,1], "data": [[1,2],[3,4]]}}"#,
        r#"{"dataframe_split": {"data": [[1,2],[3,4]], "columns": [0,1]}}"#,
        r#"{"dataframe_records": [{"a":1,"b":2},{"b":4,"a":3}]}"#,
        r#"{"inputs": [{"a":1,"b":2},{"b":4,"a":3}]}"#,
        r#"{"inputs": {"a": [1,3], "b": [2,4]}}"#,
        r#"{"data": [{"a":1,"b":2},{"b":4,"a":3}]}"#,
        r#"{"input_data": [[1,2],[3,4]], "params": {}}"#,
        r#"{"input_data": {"X": [[1,2],[3,4]]}}"#,
        r#"{"input_data": {"data": [[1,2],[3,4]]}}"#,
        r#"{"input_data": {"index": [0,1], "data": [[1,2],[3,4]]}}"#,
        r#"{"input_data": {"a": [1,3], "b": [2,4]}}"#,
        r#"{"input_data": {"columns": ["a","b"], "index": [0,1], "data": [[1,2],[3,4]]}}"#,
        r#"{"Inputs": {"data": [[1,2],[3,4]]}, "GlobalParameters": {"method": "predict"}}"#,
        r#"{"Inputs": {"data": [{"a":1,"b":2},{"a":3,"b":4}]}, "GlobalParameters": 1.0}"#,
        r#"{"Inputs": {"input1": [{"a":1,"b":2},{"a":3,"b":4}]}}"#,
        r#"{"Inputs": {"WebServiceInput0": {"columns": ["a","b"], "data": [[1,2],[3,4]]}}}"#,
        r#"{"Inputs": {"X": [[1,2],[3,4]]}}"#,
        r#"{"Inputs": {"a": [1,3], "b": [2,4]}}"#,
        r#"{"Inputs": [[1,2],[3,4]]}"#,
    ] {
        let inputs = decode(body.as_bytes(), &one).expect(body);
        assert_eq!(floats(&inputs, 0), (vec![2, 2], vec![1.0, 2.0, 3.0, 4.0]), "{body}");
    }
}

#[test]
fn a_table_with_a_column_per_input_fills_each() {
    let two = signature(&[("age", 2), ("income", 1)]);
    for body in [
        r#"{"dataframe_split": {"columns": ["income","age"], "data": [[1,2],[3,4]]}}"#,
        r#"{"dataframe_records": [{"income":1,"age":2},{"age":4,"income":3}]}"#,
        r#"{"instances": [{"income":1,"age":2},{"age":4,"income":3}]}"#,
        r#"{"data": {"income":[1,3],"age":[[2],[4]]}}"#,
        r#"{"input_data": {"income":[1,3],"age":[[2],[4]]}}"#,
        r#"{"Inputs": {"data": [{"income":1,"age":2},{"age":4,"income":3}]}}"#,
    ] {
        let inputs = decode(body.as_bytes(), &two).expect(body);
        assert_eq!(floats(&inputs, 0), (vec![2, 1], vec![2.0, 4.0]), "{body}");
        assert_eq!(floats(&inputs, 1), (vec![2], vec![1.0, 3.0]), "{body}");
    }
}

fn with_dims(mut signature: Signature, index: usize, dims: &[Dim]) -> Signature {
    let ValueType::Tensor(tensor) = &mut signature.inputs[index].kind else { unreachable!() };
    tensor.shape = Some(dims.to_vec());
    signature
}

#[test]
fn columns_that_the_model_does_not_have_are_ignored_if_all_that_it_needs_are_there() {
    let column = [Dim::Free(None), Dim::Fixed(1)];
    let two = signature(&[("age", 1), ("income", 1)]);
    let one = with_dims(signature(&[("age", 2)]), 0, &column);
    for (signature, shape) in [(&two, vec![2]), (&one, vec![2, 1])] {
        for body in [
            r#"{"dataframe_split": {"columns": ["id","age","income","id 2"], "data": [["a",1,2,{}],["b",3,4,[]]]}}"#,
            r#"{"dataframe_records": [{"id":1,"age":1,"income":2},{"age":3,"id 2":null,"income":4}]}"#,
            r#"{"inputs": {"id":["a","b"],"age":[1,3],"income":[2,4],"id 2":0}}"#,
            r#"{"input_data": [{"id":1,"age":1,"income":2},{"age":3,"id 2":null,"income":4}]}"#,
        ] {
            let decoded = decode_body(body.as_bytes(), signature).expect(body);
            assert_eq!(floats(&decoded.inputs, 0), (shape.clone(), vec![1.0, 3.0]), "{body}");
            let names = if signature.inputs.len() == 2 { "id, id%202" } else { "id, income, id%202" };
            assert_eq!(decoded.ignored.header(), names, "{body}");
        }
    }
    // Rows of the only input are lists, so that a column beside them is none of its elements.
    let matrix = signature(&[("X", 2)]);
    for body in [
        r#"{"dataframe_split": {"columns": ["X","id"], "data": [[[1,2],0],[[3,4],0]]}}"#,
        r#"{"dataframe_records": [{"X":[1,2],"id":0},{"X":[3,4],"id":0}]}"#,
        r#"{"inputs": {"X":[[1,2],[3,4]],"id":[0,0]}}"#,
    ] {
        let decoded = decode_body(body.as_bytes(), &matrix).expect(body);
        assert_eq!(floats(&decoded.inputs, 0), (vec![2, 2], vec![1.0, 2.0, 3.0, 4.0]), "{body}");
        assert_eq!(decoded.ignored.header(), "id", "{body}");
    }
    // Columns that have the width of the only input are its rows, whatever their names.
    for body in [
        r#"{"dataframe_split": {"columns": ["X","id"], "data": [[1,2],[3,4]]}}"#,
        r#"{"inputs": {"X":[1,3],"id":[2,4]}}"#,
    ] {
        let decoded = decode_body(body.as_bytes(), &matrix).expect(body);
        assert_eq!((floats(&decoded.inputs, 0).0, decoded.ignored.is_empty()), (vec![2, 2], true), "{body}");
    }
}

#[test]
fn a_scalar_beside_rows_may_be_a_scalar_or_the_same_in_each_row() {
    let x = signature(&[("X", 2), ("t", 0)]);
    for (signature, shape) in [(&x, vec![]), (&with_dims(x.clone(), 1, &[Dim::Fixed(1)]), vec![1])] {
        for body in [
            r#"{"data": {"X": [[1,2],[3,4]], "t": 0.5}}"#,
            r#"{"inputs": {"X": [[1,2],[3,4]], "t": 0.5}}"#,
            r#"{"instances": [{"X": [1,2], "t": 0.5},{"X": [3,4], "t": 0.5}]}"#,
            r#"{"dataframe_split": {"columns": ["X","t"], "data": [[[1,2],0.5],[[3,4],0.5]]}}"#,
        ] {
            let inputs = decode(body.as_bytes(), signature).expect(body);
            assert_eq!(floats(&inputs, 1), (shape.clone(), vec![0.5]), "{body}");
            assert_eq!(inputs.row_count(signature), Some(2), "{body}");
            inputs.check(signature).expect(body);
        }
        let body = br#"{"instances": [{"X": [1,2], "t": 0.5},{"X": [3,4], "t": 0.25}]}"#;
        let error = decode(body, signature).unwrap_err();
        assert!(error.message().contains("input \"t\": it takes one value for all rows"), "{error}");
    }
}

#[test]
fn empty_lists_have_the_dimensions_that_the_signature_says() {
    let (free, three) = (Dim::Free(None), Dim::Fixed(3));
    for (dims, body, shape) in [
        (&[free.clone(), three.clone()][..], "[]", &[0, 3][..]),
        (&[free.clone(), free.clone()], "[]", &[0, 0]),
        (&[free.clone(), free.clone()], "[[]]", &[1, 0]),
        (&[free.clone(), free.clone()], "[[],[]]", &[2, 0]),
        (&[free.clone(), three.clone()], "[[],[]]", &[2, 0]),
        (&[free.clone(), free.clone(), three.clone()], "[[],[]]", &[2, 0, 3]),
        (&[free.clone(), free.clone(), three.clone()], "[]", &[0, 0, 3]),
        (std::slice::from_ref(&free), "[]", &[0]),
        (std::slice::from_ref(&free), "[[]]", &[1, 0]),
        (&[], "[]", &[0]),
        (&[free.clone(), Dim::Fixed(1)], "[]", &[0, 1]),
    ] {
        let signature = with_dims(signature(&[("X", 0)]), 0, dims);
        let rows = body.strip_prefix('[').and_then(|body| body.strip_suffix(']')).unwrap();
        let rows = rows.replace("[]", "{\"X\":[]}");
        let mut bodies = vec![format!("{{\"data\":{body}}}"), format!("{{\"input_data\":{{\"X\":{body}}}}}")];
        // A list of rows has a dimension more than each.
        if !dims.is_empty() {
            bodies
                .extend([format!("{{\"instances\":{body}}}"), format!("{{\"dataframe_records\":[{rows}]}}")]);
        }
        for body in bodies {
            let inputs = decode(body.as_bytes(), &signature).expect(&body);
            assert_eq!(floats(&inputs, 0), (shape.to_vec(), vec![]), "{body} as {dims:?}");
            let fits = dims.len() == shape.len()
                && dims
                    .iter()
                    .zip(shape)
                    .all(|(dim, &length)| !matches!(dim, Dim::Fixed(fixed) if *fixed != length));
            assert_eq!(inputs.check(&signature).is_ok(), fits, "{body} as {dims:?}");
        }
    }
}

#[test]
fn rows_without_columns_are_no_empty_batch_and_a_value_for_all_rows_needs_a_row() {
    let x = with_dims(signature(&[("X", 2), ("t", 0)]), 0, &[Dim::Free(None), Dim::Fixed(3)]);
    let missing = |body: &str| {
        let inputs = decode(body.as_bytes(), &x).expect(body);
        inputs.check(&x).expect_err(body).message().to_owned()
    };
    for body in [
        r#"{"instances": [{}]}"#,
        r#"{"dataframe_records": [{},{}]}"#,
        r#"{"dataframe_split": {"columns": [], "data": [[]]}}"#,
    ] {
        assert_eq!(missing(body), "input `X` is missing: the model requires FP32 [?, 3]", "{body}");
    }
    for body in [r#"{"instances": []}"#, r#"{"dataframe_split": {"columns": ["X","t"], "data": []}}"#] {
        assert_eq!(missing(body), "input `t` is missing: the model requires FP32 []", "{body}");
    }
}

#[test]
fn a_table_may_leave_out_what_a_request_may() {
    let mut two = signature(&[("a", 1), ("b", 1)]);
    two.inputs[1].kind = ValueType::Optional(Box::new(two.inputs[1].kind.clone()));
    let decoded = decode_body(br#"{"dataframe_records":[{"a":1,"c":2}]}"#, &two).unwrap();
    assert_eq!((decoded.ignored.header().as_str(), decoded.inputs.get(1)), ("c", None));
}

#[test]
fn a_missing_value_in_a_column_of_text_is_empty() {
    let mut text = signature(&[("city", 1)]);
    let ValueType::Tensor(tensor) = &mut text.inputs[0].kind else { unreachable!() };
    tensor.datatype = DataType::Bytes;
    for body in [
        r#"{"dataframe_split": {"columns": ["city"], "data": [["Bern"],[null]]}}"#,
        r#"{"dataframe_records": [{"city":"Bern"},{"city":null}]}"#,
        r#"{"inputs": {"city": ["Bern", null]}}"#,
        r#"{"instances": ["Bern", null]}"#,
    ] {
        let inputs = decode(body.as_bytes(), &text).expect(body);
        let Data::Strings(cities) = &inputs.get(0).unwrap().data else { panic!("numbers") };
        assert_eq!(cities.iter().collect::<Vec<_>>(), [&b"Bern"[..], b""], "{body}");
    }
    let v2 = br#"{"inputs": [{"name":"city","datatype":"BYTES","shape":[1],"data":[null]}]}"#;
    assert!(
        decode(v2, &text).unwrap_err().message().contains("expected a string"),
        "V2 has no missing values"
    );
}

#[test]
fn no_rows_are_an_empty_batch() {
    let mut x = signature(&[("X", 2)]);
    let ValueType::Tensor(tensor) = &mut x.inputs[0].kind else { unreachable!() };
    tensor.shape = Some(vec![Dim::Free(None), Dim::Fixed(4)]);
    for body in [
        r#"{"data":[]}"#,
        r#"{"instances":[]}"#,
        r#"{"dataframe_records":[]}"#,
        r#"{"dataframe_split":{"columns":["a","b"],"data":[]}}"#,
    ] {
        let inputs = decode(body.as_bytes(), &x).expect(body);
        assert_eq!(floats(&inputs, 0), (vec![0, 4], vec![]), "{body}");
    }
}

#[test]
fn columns_without_rows_are_empty_whatever_shape_the_model_takes() {
    let mut x = signature(&[("X", 0)]);
    let ValueType::Tensor(tensor) = &mut x.inputs[0].kind else { unreachable!() };
    tensor.shape = None;
    let inputs = decode(br#"{"dataframe_split":{"columns":["X"],"data":[]}}"#, &x).unwrap();
    assert_eq!(floats(&inputs, 0), (vec![0], vec![]));
}

#[test]
fn a_column_may_be_a_plain_list_and_an_optional_input_null() {
    let mut two = signature(&[("age", 2), ("k", 1)]);
    let ValueType::Tensor(tensor) = &mut two.inputs[0].kind else { unreachable!() };
    tensor.shape = Some(vec![Dim::Free(None), Dim::Fixed(1)]);
    two.inputs[1].optional = true;
    let inputs = decode(br#"{"data":{"age":[20,30],"k":null}}"#, &two).unwrap();
    assert_eq!(floats(&inputs, 0), (vec![2, 1], vec![20.0, 30.0]));
    assert_eq!(inputs.get(1), None);
}

#[test]
fn a_model_without_inputs_needs_no_data() {
    let none = signature(&[]);
    for body in ["{}", r#"{"data":{}}"#] {
        assert!(decode(body.as_bytes(), &none).is_ok(), "{body}");
    }
    assert!(decode(br#"{"data":[]}"#, &none).unwrap_err().message().contains("takes no inputs"));
}

#[test]
fn a_refusal_says_what_to_send() {
    let one = signature(&[("X", 2)]);
    let two = signature(&[("a", 1), ("b", 1)]);
    for (signature, body, why) in [
        (&one, "", "expected an object (send {\"data\": …}"),
        (&one, "[[1]]", "found a list"),
        (&one, "{}", "the body has no `data`"),
        (&one, r#"{"data":[[1]],"instances":[[1]]}"#, "both `data` and `instances`"),
        (&one, r#"{"data":[[1],[2,3]]}"#, "input \"X\": invalid JSON"),
        (&one, r#"{"data":{"Y":[1]}}"#, "the model has no input \"Y\"; its inputs are `X`"),
        (&two, r#"{"data":[1]}"#, "the model has several inputs: send an object with `a`, `b`"),
        (&two, r#"{"instances":[{"a":1,"b":2},{"a":1}]}"#, "rows have different inputs"),
        (&two, r#"{"instances":[{"a":1},{"a":1,"b":2}]}"#, "input \"b\" is missing in the first row"),
        (&two, r#"{"instances":[{"a":1,"a":2,"b":1},{"a":1,"b":2}]}"#, "rows"),
        (&two, r#"{"dataframe_split":{"columns":["a","b"],"data":[[1]]}}"#, "shorter than `columns`"),
        (
            &two,
            r#"{"dataframe_split":{"columns":["a","c"],"data":[[1,2]]}}"#,
            "column \"c\" is not an input of the model",
        ),
        (&two, r#"{"dataframe_records":[{"a":1,"c":3}]}"#, "column \"c\" is not an input of the model"),
        (&one, r#"{"dataframe_records":[{"p":1,"q":2},{"p":1,"r":2}]}"#, "a record has no \"q\""),
        (&one, r#"{"input_data":{"p":[1,2],"q":[1]}}"#, "column \"q\" is shorter than others"),
        (&one, r#"{"input_data":{"p":[1,[2]],"q":[1,2]}}"#, "nested to different depths"),
        (
            &one,
            r#"{"inputs":{"x":[[1,2]]}}"#,
            "column \"x\" is not an input of the model; its inputs are `X`",
        ),
        (
            &one,
            r#"{"inputs":[{"x":[1,2]}]}"#,
            "column \"x\" is not an input of the model; its inputs are `X`",
        ),
        (&two, r#"{"Inputs":{"input1":[{"a":1,"c":2}]}}"#, "column \"c\" is not an input of the model"),
        (&two, r#"{"data":{"a":[1],"b":[1],"c":[1]}}"#, "the model has no input \"c\""),
        (&one, r#"{"input_data":[[1]],"data":[[1]]}"#, "both `input_data` and `data`"),
        (&one, r#"{"inputs":[{"name":"X","datatype":"FP32","data":[1]}]}"#, "`shape` is missing"),
    ] {
        let error = decode(body.as_bytes(), signature).expect_err(body);
        assert!(error.message().contains(why), "{body}: {error}");
    }
}

#[test]
fn what_is_encoded_decodes_to_the_same() {
    for signature in [signature(&[("X", 3)]), signature(&[("a", 0), ("b\"", 2)])] {
        let inputs = Inputs::smallest(&signature, 1 << 20).unwrap();
        let body = encode(&signature, &inputs).unwrap();
        assert_eq!(decode(body.as_bytes(), &signature).unwrap(), inputs, "{body}");
    }
}

proptest::proptest! {
    #[test]
    fn never_panics(body in "\\{\"(data|inputs|input_data|Inputs|instances|dataframe_split|dataframe_records)\":[\\[\\]{}\":,0-9Xdatcolumns]{0,40}\\}?") {
        let _ = decode(body.as_bytes(), &signature(&[("X", 2)]));
        let _ = decode(body.as_bytes(), &signature(&[("X", 1), ("d", 2)]));
    }
}
