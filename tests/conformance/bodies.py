"""Tests of the bodies that clients of Azure ML and MLflow send to `/score` and `/invocations`, and of what is ignored or
guessed in them.

    python tests/conformance/bodies.py target/release/drisse
"""

import base64
import pathlib
import sys
import tempfile

import onnx
import requests
from onnx import TensorProto as T, helper as h

from drisse import Server, run_tests


def save(folder, name, nodes, inputs, outputs):
    def info(name, kind, shape):
        return h.make_tensor_value_info(name, kind, shape)

    graph = h.make_graph(nodes, name, [info(*one) for one in inputs], [info(*one) for one in outputs])
    path = pathlib.Path(folder) / f"{name}.onnx"
    onnx.save(h.make_model(graph, ir_version=9, opset_imports=[h.make_opsetid("", 18)]), path)
    return str(path)


def models(folder):
    node = h.make_node
    matrix = save(folder, "matrix", [node("Identity", ["x"], ["y"])], [("x", T.FLOAT, ["n", 3])], [("y", T.FLOAT, ["n", 3])])
    inputs = [("age", T.FLOAT, ["n", 1]), ("city", T.STRING, ["n"]), ("factor", T.FLOAT, [1])]
    nodes = [node("Mul", ["age", "factor"], ["product"]), node("Identity", ["city"], ["same"])]
    table = save(folder, "table", nodes, inputs, [("product", T.FLOAT, ["n", 1]), ("same", T.STRING, ["n"])])
    return matrix, table


def post(server, path, body, **more):
    answer = requests.post(server.ready["url"] + path, **({"data": body} if isinstance(body, (str, bytes)) else {"json": body}), **more)
    assert answer.status_code == 200, (body, answer.text)
    return answer


def test_azure_ml_s_bodies_are_read_on_score(matrix):
    rows = [[1, 2, 3], [4, 5, 6]]
    columns, index = ["a", "b", "c"], [0, 1]
    records = [dict(zip(columns, row)) for row in rows]
    split = {"columns": columns, "index": index, "data": rows}
    lists = {name: [row[nth] for row in rows] for nth, name in enumerate(columns)}
    for body in [
        {"data": rows}, {"data": {"x": rows}}, {"data": records},
        {"input_data": rows}, {"input_data": {"x": rows}}, {"input_data": split, "params": {}}, {"input_data": lists},
        {"input_data": records}, {"Inputs": {"data": records}, "GlobalParameters": {"method": "predict"}},
        {"Inputs": {"data": rows}, "GlobalParameters": 0}, {"Inputs": {"input1": records}, "GlobalParameters": {}},
        {"Inputs": {"WebServiceInput0": split}}, {"Inputs": {"x": rows}}, {"Inputs": rows}, {"Inputs": lists},
    ]:
        assert post(matrix, "/score", body).json() == {"y": rows}, body


def test_columns_that_the_model_does_not_have_are_named_and_counted(table):
    columns, rows = ["id", "age", "city", "factor", "née,\n"], [[7, 1, "Bern", 2, 0], [8, 3, None, 2, 0]]
    records = [dict(zip(columns, row)) for row in rows]
    named = [{"product": [2], "same": "Bern"}, {"product": [6], "same": ""}]
    for body in [{"dataframe_split": {"columns": columns, "data": rows}}, {"dataframe_records": records}, {"inputs": records}]:
        answer = post(table, "/invocations", body)
        assert answer.json() == {"predictions": named}, answer.text
        assert answer.headers["x-drisse-ignored-columns"] == "id, n%C3%A9e%2C%0A", answer.headers
    csv = post(table, "/invocations", "id,age,city,factor\n7,1,Bern,2\n8,3,,2\n", headers={"content-type": "text/csv"})
    assert csv.json() == {"predictions": named} and csv.headers["x-drisse-ignored-columns"] == "id"
    whole = {"age": [1, 3], "city": ["Bern", None], "factor": 2}
    answer = post(table, "/invocations", {"inputs": whole | {"id": [7, 8]}})
    assert answer.json() == {"predictions": {"product": [[2], [6]], "same": ["Bern", ""]}}, answer.text
    assert answer.headers["x-drisse-ignored-columns"] == "id"
    assert "x-drisse-ignored-columns" not in post(table, "/invocations", {"inputs": whole}).headers
    answer = requests.post(f"{table.ready['url']}/invocations", json={"inputs": {"age": [1], "town": ["Bern"], "factor": 2}})
    assert answer.status_code == 400 and '"town" is not an input' in answer.json()["message"], answer.text


def test_one_value_for_all_rows_is_a_scalar_on_every_protocol(table):
    whole = {"age": [1, 3], "city": ["a", "b"]}
    rows = [{"age": 1, "city": "a"}, {"age": 3, "city": "b"}]
    for factor in (2, [2]):
        assert post(table, "/score", {"data": whole | {"factor": factor}}).json() == {"product": [[2], [6]], "same": ["a", "b"]}
        predictions = post(table, "/v1/models/table:predict", {"instances": [row | {"factor": factor} for row in rows]}).json()
        assert predictions == {"predictions": [{"product": [2], "same": "a"}, {"product": [6], "same": "b"}]}, predictions
    different = {"instances": [row | {"factor": row["age"]} for row in rows]}
    answer = requests.post(f"{table.ready['url']}/v1/models/table:predict", json=different)
    assert answer.status_code == 400 and "one value for all rows" in answer.text, answer.text


def test_base64_has_any_alphabet_padding_and_line_ends(table):
    value = bytes(range(32, 127)) * 2 + "ÿ".encode() + b"?>~"
    standard, url = base64.b64encode(value).decode(), base64.urlsafe_b64encode(value).decode()
    lines = base64.encodebytes(value).decode()
    for text in (standard, url, standard.rstrip("="), url.rstrip("="), lines, lines.replace("\n", "\r\n"), lines.rstrip("=\n")):
        body = {"data": {"age": [1], "city": [{"b64": text}], "factor": 1}}
        assert post(table, "/score", body).json()["same"] == [value.decode()], text


def test_empty_lists_have_the_shape_that_the_model_says(matrix):
    for path, key in (("/score", "data"), ("/score", "input_data"), ("/v1/models/matrix:predict", "instances"), ("/invocations", "inputs")):
        assert [*post(matrix, path, {key: []}).json().values()][0] in ([], {"y": []}), (path, key)
        answer = requests.post(matrix.ready["url"] + path, json={key: [[], []]})
        assert answer.status_code == 400 and "shape [2, 0] does not match" in answer.text, answer.text


def main(binary):
    with tempfile.TemporaryDirectory() as folder:
        matrix, table = (Server(binary, [path], listen=True) for path in models(folder))
        servers = {"matrix": matrix, "table": table}
        failed = run_tests(sys.modules[__name__], lambda _, test: test(servers[test.__code__.co_varnames[0]]))
        matrix.close()
        table.close()
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]) > 0)
