"""Tests that answers carry what a model returned, or say that they cannot: bytes that are not UTF-8, on every protocol.

    python tests/conformance/carried.py target/release/drisse
"""

import base64
import pathlib
import sys
import tempfile

import numpy as np
import onnx
import requests
import tritonclient.grpc
import tritonclient.http
from onnx import TensorProto as T, helper as h
from tritonclient.utils import InferenceServerException

from agreement import Grpc
from drisse import Server, run_tests

BYTES = [b"text", b"\xff\xfe", "é".encode(), b"", b"nul\0", b"\xc3", b"\xed\xa0\x80"]


def save(folder, name, nodes, inputs, outputs, ml=False):
    imports = [h.make_opsetid("", 18)] + ([h.make_opsetid("ai.onnx.ml", 3)] if ml else [])
    graph = h.make_graph(nodes, name, inputs, outputs)
    path = pathlib.Path(folder) / f"{name}.onnx"
    onnx.save(h.make_model(graph, ir_version=9, opset_imports=imports), path)
    return str(path)


def models(folder):
    def text(name):
        return h.make_tensor_value_info(name, T.STRING, ["n"])

    def echo(name, output):
        return save(folder, name, [h.make_node("Identity", ["x"], [output])], [text("x")], [text(output)])

    both = [h.make_node("Identity", ["x"], ["y"]), h.make_node("Identity", ["x"], ["z"])]
    return [echo("plain", "y"), echo("marked", "y_bytes"), save(folder, "both", both, [text("x")], [text("y"), text("z")])]


def in_base64(values):
    return [{"b64": base64.b64encode(value).decode()} for value in values]


def shown(value):
    """The form of an element in answers that have base64 for bytes that are not UTF-8."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return in_base64([value])[0]


def v2(url, model, values, **more):
    tensor = {"name": "x", "datatype": "BYTES", "shape": [len(values)], "data": in_base64(values)}
    return requests.post(f"{url}/v2/models/{model}/infer", json={"inputs": [tensor], **more})


def test_json_without_base64_refuses_bytes_that_are_not_utf_8_and_names_the_binary_form(server):
    url = server.ready["url"]
    score = requests.post(f"{url}/score/plain", json={"data": in_base64(BYTES)})
    assert score.status_code == 406 and "binary_data_output" in score.json()["message"], score.text
    answer = v2(url, "plain", BYTES)
    assert answer.status_code == 406, answer.text
    assert 'output "y"' in answer.json()["error"] and "`binary_data`" in answer.json()["error"], answer.text
    text = [value for value in BYTES if isinstance(shown(value), str)]
    assert requests.post(f"{url}/score/plain", json={"data": in_base64(text)}).json() == {"y": [t.decode() for t in text]}
    assert v2(url, "plain", text).json()["outputs"][0]["data"] == [value.decode() for value in text]
    # Only the output that is wanted as text is in the way.
    wanted = [{"name": "y", "parameters": {"binary_data": True}}]
    assert v2(url, "both", BYTES, outputs=wanted).status_code == 200
    assert v2(url, "both", BYTES, outputs=[*wanted, {"name": "z"}]).status_code == 406


def test_tensorflow_serving_and_invocations_answer_with_base64(server):
    url = server.ready["url"]
    wanted = [shown(value) for value in BYTES]
    for key, name in (("instances", "predictions"), ("inputs", "outputs")):
        answer = requests.post(f"{url}/v1/models/plain:predict", json={key: in_base64(BYTES)})
        assert answer.json()[name] == wanted, answer.text
        answer = requests.post(f"{url}/v1/models/marked:predict", json={key: in_base64(BYTES)})
        assert answer.json()[name] == in_base64(BYTES), answer.text
    answer = requests.post(f"{url}/v1/models/both:predict", json={"instances": in_base64(BYTES)})
    assert answer.json()["predictions"] == [{"y": value, "z": value} for value in wanted], answer.text


def test_binary_tensors_and_grpc_are_exact(server):
    url = server.ready["url"].removeprefix("http://")
    value = np.array(BYTES, np.object_)
    for module in (tritonclient.http, tritonclient.grpc):
        with module.InferenceServerClient(url) as client:
            tensor = module.InferInput("x", [len(value)], "BYTES")
            tensor.set_data_from_numpy(value)
            assert client.infer("plain", [tensor]).as_numpy("y").tolist() == BYTES, module
    with tritonclient.http.InferenceServerClient(url) as client:
        try:
            client.infer("plain", [tensor_of(value)], outputs=[tritonclient.http.InferRequestedOutput("y", binary_data=False)])
            raise AssertionError("bytes that are not UTF-8 were sent as JSON")
        except InferenceServerException as error:
            assert error.status() == "406", error
    calls = Grpc(server.socket)
    request, call = calls.methods["Predict"]
    request = request()
    request.model_spec.name = "plain"
    tensor = request.inputs["x"]
    tensor.dtype = 7
    tensor.string_val.extend(BYTES)
    tensor.tensor_shape.dim.add(size=len(BYTES))
    assert list(call(request).outputs["y"].string_val) == BYTES
    calls.channel.close()


def tensor_of(value):
    tensor = tritonclient.http.InferInput("x", [len(value)], "BYTES")
    tensor.set_data_from_numpy(value)
    return tensor


def test_requests_that_are_not_utf_8_are_refused_with_their_place(server):
    url = server.ready["url"]
    cases = [
        ("/score/plain", b'{"data": ["caf\xe9"]}', "application/json", "message"),
        ("/score/plain", b'{"da\xffta": ["x"]}', "application/json", "message"),
        ("/v1/models/plain:predict", b'{"instances": ["caf\xe9"]}', "application/json", "error"),
        ("/v2/models/plain/infer", b'{"id": "\xff", "inputs": []}', "application/json", "error"),
        ("/v2/models/plain/infer", b'{"inputs": [{"name": "x", "datatype": "BYTES", "shape": [1], "data": ["\xe9"]}]}', "application/json", "error"),
        ("/score/plain", '{"data": ["x"]}'.encode("utf-16"), "application/json", "message"),
    ]
    for path, body, kind, key in cases:
        answer = requests.post(url + path, data=body, headers={"content-type": kind})
        assert answer.status_code == 400 and "line 1, column" in answer.json()[key], (path, body, answer.text)
        assert "\ufffd" not in answer.text
    answer = requests.post(f"{url}/score/plain", json={"data": ["x"]}, headers={"content-type": b"text/\xe9"})
    assert answer.status_code == 415 and "\\xe9" in answer.json()["message"], answer.text


def test_csv_that_is_not_utf_8_is_refused_with_its_line(alone):
    answer = requests.post(f"{alone.ready['url']}/invocations", data=b"ok\ncaf\xe9\n", headers={"content-type": "text/csv"})
    assert answer.status_code == 400 and "line" in answer.json()["message"], answer.text
    answer = requests.post(f"{alone.ready['url']}/invocations", json={"inputs": in_base64(BYTES)})
    assert answer.json()["predictions"] == [shown(value) for value in BYTES], answer.text


def main(binary):
    with tempfile.TemporaryDirectory() as folder:
        paths = models(folder)
        server, alone = Server(binary, paths, listen=True), Server(binary, paths[:1], listen=True)

        def call(_, test):
            test({"server": server, "alone": alone}[test.__code__.co_varnames[0]])

        failed = run_tests(sys.modules[__name__], call)
        alone.close()
        server.close()
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]) > 0)
