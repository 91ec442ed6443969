"""Tests with unchanged clients of other servers: Triton's HTTP client, and plain requests in the formats of KServe,
TensorFlow Serving, MLflow, SageMaker and Azure ML.

    python tests/conformance/clients.py target/release/drisse
"""

import base64
import gzip
import json
import os
import pathlib
import sys
import uuid
import zlib

import ml_dtypes
import numpy as np
import requests
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException, shared_memory

from drisse import Server, run_tests

ROOT = pathlib.Path(__file__).parent.parent.parent
MODELS = ROOT / "crates/drisse-engines/tests/models"
EXAMPLES = ROOT / "examples"
KINDS = {
    "BOOL": np.bool_, "UINT8": np.uint8, "UINT16": np.uint16, "UINT32": np.uint32, "UINT64": np.uint64,
    "INT8": np.int8, "INT16": np.int16, "INT32": np.int32, "INT64": np.int64, "FLOAT16": np.float16,
    "BFLOAT16": ml_dtypes.bfloat16, "FLOAT": np.float32, "DOUBLE": np.float64, "STRING": np.object_,
}
FLOATS = ("FLOAT16", "BFLOAT16", "FLOAT", "DOUBLE")
V2 = {"FLOAT16": "FP16", "BFLOAT16": "BF16", "FLOAT": "FP32", "DOUBLE": "FP64", "STRING": "BYTES"}
rng = np.random.default_rng(6)


def some(kind, shape):
    """Returns random values of a datatype, including its extremes."""
    if kind == "STRING":
        return np.array([b"", b"\xff\x00", "é".encode(), b"x" * 300] * 2, np.object_).reshape(2, 4)[:, : shape[1]]
    if kind == "BOOL":
        return rng.random(shape) < 0.5
    if kind in FLOATS:
        values = rng.standard_normal(shape).astype(KINDS[kind])
        values.flat[0], values.flat[1] = np.nan, -np.inf
        return values
    bounds = np.iinfo(KINDS[kind])
    values = rng.integers(bounds.min, bounds.max, shape, KINDS[kind], endpoint=True)
    values.flat[0], values.flat[1] = bounds.min, bounds.max
    return values


def test_metadata_readiness_config_and_statistics_are_as_triton_reports_them(client, _):
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("kinds", "1")
    assert not client.is_model_ready("nothing")
    extensions = client.get_server_metadata()["extensions"]
    assert {"binary_tensor_data", "classification", "statistics", "model_configuration"} <= set(extensions)
    metadata = client.get_model_metadata("digits")
    assert metadata["inputs"][0]["datatype"] == "FP32" and metadata["inputs"][0]["shape"] == [-1, 64]
    config = client.get_model_config("digits")
    assert config["max_batch_size"] == 0 and config["input"][0]["data_type"] == "TYPE_FP32"
    before = client.get_inference_statistics("digits")["model_stats"][0]
    sample = json.loads((EXAMPLES / "digits/sample.json").read_text())["data"]
    infer(client, "digits", {"X": np.array(sample, np.float32)})
    after = client.get_inference_statistics("digits")["model_stats"][0]
    assert after["inference_count"] == before["inference_count"] + 1
    assert after["inference_stats"]["success"]["ns"] > before["inference_stats"]["success"]["ns"]
    assert len(client.get_inference_statistics()["model_stats"]) >= 3


def infer(client, model, inputs, outputs=None, binary=True, module=triton, **options):
    tensors = []
    for name, value in inputs.items():
        datatype = "BYTES" if value.dtype == np.object_ else None
        datatype = datatype or triton.np_to_triton_dtype(value.dtype)
        tensor = module.InferInput(name, list(value.shape), datatype)
        tensor.set_data_from_numpy(value, **({"binary_data": binary} if module is triton else {}))
        tensors.append(tensor)
    return client.infer(model, tensors, outputs=outputs, **options)


def test_every_datatype_goes_in_and_out_in_binary_bit_for_bit(client, _):
    inputs = {f"in_{kind}": some(kind, (2, 3)) for kind in KINDS}
    tensors = []
    for name, value in inputs.items():
        kind = name[3:]
        tensor = triton.InferInput(name, list(value.shape), V2.get(kind, kind))
        tensor.set_data_from_numpy(value)
        tensors.append(tensor)
    answer = client.infer("kinds", tensors)
    for name, value in inputs.items():
        got = answer.as_numpy("out_" + name[3:])
        assert got.shape == value.shape and got.tobytes() == value.tobytes() or (got == value).all(), name


def test_json_and_binary_are_mixed_in_and_out(client, _):
    # Finite floats only: JSON has no others.
    values = {f"in_{kind}": some(kind, (2, 2)) for kind in KINDS if kind not in (*FLOATS, "STRING")}
    values |= {f"in_{kind}": np.array([[0.5, -2.0]], KINDS[kind]) for kind in FLOATS}
    values |= {"in_STRING": np.array([[b"a", "é".encode()]], np.object_)}
    tensors = []
    for nth, (name, value) in enumerate(values.items()):
        kind = name[3:]
        tensor = triton.InferInput(name, list(value.shape), V2.get(kind, kind))
        tensor.set_data_from_numpy(value, binary_data=nth % 2 == 0 or kind in ("FLOAT16", "BFLOAT16"))
        tensors.append(tensor)
    outputs = [
        triton.InferRequestedOutput("out_" + name[3:], binary_data=nth % 3 == 0 or "FLOAT16" in name)
        for nth, name in enumerate(reversed(values))
    ]
    answer = client.infer("kinds", tensors, outputs=outputs, request_id="mixed")
    response = answer.get_response()
    assert response["id"] == "mixed"
    assert [output["name"] for output in response["outputs"]] == ["out_" + name[3:] for name in reversed(values)]
    for name, value in values.items():
        got = answer.as_numpy("out_" + name[3:])
        if value.dtype == np.object_:
            got = np.array([[item.encode() if isinstance(item, str) else item for item in row] for row in got], np.object_)
        assert (got == value).all(), (name, got, value)


def test_a_classification_is_the_highest_values_with_their_places(client, _):
    sample = np.array(json.loads((EXAMPLES / "digits/sample.json").read_text())["data"], np.float32)
    name = next(output["name"] for output in client.get_model_metadata("digits")["outputs"] if output["datatype"] == "FP32")
    for binary in (True, False):
        wanted = [triton.InferRequestedOutput(name, binary_data=binary, class_count=3)]
        classes = infer(client, "digits", {"X": sample}, wanted).as_numpy(name)
        values = infer(client, "digits", {"X": sample}).as_numpy(name)[0]
        text = [item.decode() if isinstance(item, bytes) else item for item in classes[0]]
        assert [int(item.split(":")[1]) for item in text] == list(np.argsort(-values, kind="stable")[:3]), text
        assert abs(float(text[0].split(":")[0]) - values.max()) < 1e-5


def test_bodies_are_compressed_both_ways(client, url):
    rows = rng.standard_normal((50, 64)).astype(np.float32)
    plain = infer(client, "digits", {"X": rows})
    for coding in ("gzip", "deflate"):
        options = {"request_compression_algorithm": coding, "response_compression_algorithm": coding}
        packed = infer(client, "digits", {"X": rows}, **options)
        for output in plain.get_response()["outputs"]:
            assert (packed.as_numpy(output["name"]) == plain.as_numpy(output["name"])).all()
    bomb = gzip.compress(b'{"data": [' + b" " * (200 << 20) + b"]}")
    answer = requests.post(f"{url}/score/digits", data=bomb, headers={"content-encoding": "gzip"})
    assert answer.status_code == 413 and "once unpacked" in answer.json()["message"]
    for broken in (b"not gzip", gzip.compress(b"{}" * 500)[:-20]):
        answer = requests.post(f"{url}/score/digits", data=broken, headers={"content-encoding": "gzip"})
        assert answer.status_code == 400 and "unpacked" in answer.json()["message"], answer.text
    answer = requests.post(f"{url}/score/digits", data=zlib.compress(b'{"data": [[' + b"1," * 63 + b"1]]}"), headers={"content-encoding": "deflate"})
    assert answer.status_code == 200, answer.text


def test_binary_that_lies_is_refused(client, url):
    def infer(document, binary, length=None):
        text = json.dumps(document).encode()
        headers = {"Inference-Header-Content-Length": str(len(text) if length is None else length)}
        answer = requests.post(f"{url}/v2/models/echo/infer", data=text + binary, headers=headers)
        return answer.status_code, answer.json()["error"]

    def x(size, shape=(2,), **more):
        return {"inputs": [{"name": "x", "datatype": "FP32", "shape": list(shape), "parameters": {"binary_data_size": size}, **more}]}

    for case, why in [
        (infer(x(8), b"1234567"), "`binary_data_size` is 8, but 7 bytes are left"),
        (infer(x(8), b"123456789"), "1 bytes are left after the last binary input"),
        (infer(x(4), b"1234"), "FP32 [2] takes 8 bytes, 4 were sent"),
        (infer(x(-1), b""), "a non-negative integer"),
        (infer(x(2**70), b""), "a non-negative integer"),
        (infer(x(2**62, (2**60,)), b""), "but 0 bytes are left"),
        (infer(x(8, data=[1, 2]), b"12345678"), "both `data` and `binary_data_size`"),
        (infer(x(8), b"12345678", 10**9), "not a length within the body"),
        (infer(x(8), b"12345678", -1), "not a length within the body"),
        (infer(x(8), b"12345678", 3), "invalid JSON"),
    ]:
        assert case[0] == 400 and why in case[1], (case, why)


def test_a_body_of_one_tensor_needs_no_json(client, url):
    values = np.array([1.5, -2.5, np.inf], np.float32)
    answer = requests.post(f"{url}/v2/models/echo/infer", data=values.tobytes(), headers={"Inference-Header-Content-Length": "0"})
    length = int(answer.headers["Inference-Header-Content-Length"])
    assert answer.content[length:] == values.tobytes(), answer.text
    answer = requests.post(f"{url}/v2/models/kinds/infer", data=b"", headers={"Inference-Header-Content-Length": "0"})
    assert answer.status_code == 400 and "models with one input" in answer.json()["error"]


def test_errors_reach_triton_s_client_as_its_own(client, _):
    for model, inputs, why in [
        ("nothing", {"x": np.zeros(1, np.float32)}, "there is no model `nothing`"),
        ("echo", {"y": np.zeros(1, np.float32)}, "no input \"y\""),
        ("echo", {"x": np.zeros(1, np.int64)}, "datatype INT64 does not match FP32"),
    ]:
        try:
            infer(client, model, inputs)
            raise AssertionError(f"{model} took {inputs}")
        except InferenceServerException as error:
            assert why in error.message(), error


def test_models_are_unloaded_and_loaded_again(client, url):
    assert {entry["name"]: entry["state"] for entry in client.get_model_repository_index()}["echo"] == "READY"
    client.unload_model("echo")
    assert not client.is_model_ready("echo")
    states = {entry["name"]: entry["state"] for entry in client.get_model_repository_index()}
    assert states["echo"] == "UNAVAILABLE" and states["digits"] == "READY"
    client.load_model("echo")
    assert client.is_model_ready("echo")
    for name, overrides in [("nothing", {}), ("echo", {"config": "{}"})]:
        try:
            client.load_model(name, **overrides)
            raise AssertionError(f"{name} was loaded with {overrides}")
        except InferenceServerException:
            pass


def test_v1_speaks_kserve_and_tensorflow_serving(_, url):
    sample = json.loads((EXAMPLES / "digits/sample.json").read_text())["data"]
    status = requests.get(f"{url}/v1/models/digits").json()
    assert status["name"] == "digits" and status["ready"] is True
    assert status["model_version_status"][0] == {
        "version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""},
    }
    assert "digits" in requests.get(f"{url}/v1/models").json()["models"]
    signature = requests.get(f"{url}/v1/models/digits/metadata").json()["metadata"]["signature_def"]["signature_def"]
    assert signature["serving_default"]["inputs"]["X"]["dtype"] == "DT_FLOAT"
    rows = requests.post(f"{url}/v1/models/digits:predict", json={"instances": sample * 2}).json()["predictions"]
    columns = requests.post(f"{url}/v1/models/digits/versions/1:predict", json={"inputs": {"X": sample * 2}}).json()["outputs"]
    assert len(rows) == 2 and rows[0] == {name: values[0] for name, values in columns.items()}
    echoed = requests.post(f"{url}/v1/models/echo:predict", json={"instances": [1, 2.5]}).json()
    assert echoed == {"predictions": [1, 2.5]}, echoed
    refused = requests.post(f"{url}/v1/models/digits:predict", json={"rows": []})
    assert refused.status_code == 400 and "error" in refused.json()
    assert requests.post(f"{url}/v1/models/digits:classify", json={}).status_code == 404


def test_invocations_take_pandas_tables_tensors_and_csv(_, url):
    rows = rng.standard_normal((3, 4)).round(3).tolist()
    names = [f"feature_{nth}" for nth in range(4)]
    csv = "\n".join([",".join(names)] + [",".join(map(str, row)) for row in rows])
    bodies = [
        ({"dataframe_split": {"columns": names, "data": rows}}, "application/json"),
        ({"dataframe_records": [dict(zip(names, row)) for row in rows]}, "application/json"),
        ({"instances": rows}, "application/json"),
        ({"inputs": rows}, "application/json"),
        ({"columns": names, "data": rows}, "application/json; format=pandas-split"),
        ([dict(zip(names, row)) for row in rows], "application/json; format=pandas-records"),
        (csv, "text/csv"),
        (csv.split("\n", 1)[1], "text/csv"),
    ]
    answers = []
    for body, content_type in bodies:
        text = body if isinstance(body, str) else json.dumps(body)
        answer = requests.post(f"{url}/invocations", data=text, headers={"content-type": content_type})
        assert answer.status_code == 200, (content_type, answer.text)
        answers.append(answer.json())
    # As MLflow does it: a table is answered with records, tensors (the third and the fourth) with whole outputs by name.
    tables = answers[:2] + answers[4:]
    assert all(answer == tables[0] for answer in tables) and len(tables[0]["predictions"]) == 3, answers
    named = {name: [row[name] for row in tables[0]["predictions"]] for name in tables[0]["predictions"][0]}
    assert answers[2] == answers[3] == {"predictions": named}, answers
    refused = requests.post(f"{url}/invocations", data="x", headers={"content-type": "application/json"})
    assert refused.status_code == 400 and refused.json()["error_code"] == "BAD_REQUEST"
    assert requests.get(f"{url}/ping").status_code == 200 and requests.get(f"{url}/version").text


def test_score_has_azure_s_headers_and_codes(_, url):
    sample = (EXAMPLES / "iris/sample.json").read_text()
    answer = requests.post(f"{url}/score", data=sample, headers={"x-ms-client-request-id": "c" * 100, "x-request-id": "r"})
    assert answer.status_code == 200 and answer.headers["x-ms-run-function-failed"] == "false"
    assert float(answer.headers["x-ms-run-fn-exec-ms"]) > 0
    assert answer.headers["x-ms-server-version"].startswith("drisse/")
    assert answer.headers["x-ms-client-request-id"] == "c" * 100 and answer.headers["x-request-id"] == "r"
    for path, body in (("/score", sample), ("/score", "broken"), ("/", None), ("/swagger.json", None)):
        ask = lambda headers: requests.request("POST" if body else "GET", url + path, data=body, headers=headers)
        for name in ("x-request-id", "x-ms-request-id", "x-ms-client-request-id"):
            refused = ask({name: "c" * 101})
            assert refused.status_code == 431 and name in refused.text and name not in refused.headers, (name, refused.headers)
        made = ask({}).headers
        assert str(uuid.UUID(made["x-request-id"])) == made["x-request-id"] == made["x-ms-request-id"], made
        given = ask({"x-ms-request-id": "m", "TraceId": "t"}).headers
        assert (given["x-ms-request-id"], given["x-ms-client-request-id"], given["traceid"]) == ("m", "m", "t"), given
    options = requests.options(f"{url}/score")
    assert options.status_code == 200 and options.text == "" and "x-ms-request-id" in options.headers
    versions = [requests.get(f"{url}/swagger.json{query}").json() for query in ("", "?version=3", "?version=3.1", "?version=2")]
    assert [document.get("openapi") or document["swagger"] for document in versions] == ["3.0.3", "3.0.3", "3.1.0", "2.0"]
    assert requests.get(f"{url}/swagger.json?version=4").status_code == 404


def test_bytes_that_are_no_text_travel_in_base64(_, url):
    strings = {"inputs": {f"in_{kind}": [] for kind in KINDS if kind != "STRING"}}
    strings["inputs"] |= {"in_BFLOAT16": [], "in_STRING": [{"b64": base64.b64encode(b"\xff\xfe").decode()}, "text"]}
    answer = requests.post(f"{url}/v2/models/kinds/infer", json={
        "inputs": [{"name": name, "datatype": V2.get(name[3:], name[3:]), "shape": [len(data)], "data": data}
                   for name, data in strings["inputs"].items()],
        "outputs": [{"name": "out_STRING", "parameters": {"binary_data": True}}],
    })
    length = int(answer.headers["Inference-Header-Content-Length"])
    assert answer.content[length:] == b"\x02\0\0\0\xff\xfe\x04\0\0\0text", answer.content


def test_clients_may_not_load_or_unload_models_unless_the_operator_allows_it(binary):
    server = Server(binary, [str(MODELS / "echo.onnx")], listen=True)
    client = triton.InferenceServerClient(server.ready["url"].removeprefix("http://"))
    for change in (client.load_model, client.unload_model):
        try:
            change("echo")
            raise AssertionError("a client without permission changed the models")
        except InferenceServerException as error:
            assert error.status() == "403", error
    assert client.is_model_ready("echo")
    client.close()
    server.close()


def share_memory(client, module):
    """Sends tensors in shared memory as Triton's documentation describes, with either of its clients (`module`)."""
    sample = np.array(json.loads((EXAMPLES / "digits/sample.json").read_text())["data"], np.float32)
    own = f"/drisse-test-{os.getpid()}"
    given = shared_memory.create_shared_memory_region("given", own + "-given", sample.nbytes + 64)
    taken = shared_memory.create_shared_memory_region("taken", own + "-taken", 4096)
    try:
        shared_memory.set_shared_memory_region(given, [sample], offset=64)
        client.register_system_shared_memory("given", own + "-given", sample.nbytes + 64)
        client.register_system_shared_memory("taken", own + "-taken", 4096)
        status = client.get_system_shared_memory_status()
        names = {region["name"] for region in status} if isinstance(status, list) else set(status.regions)
        assert names == {"given", "taken"}, status

        def ask(size=sample.nbytes, offset=64, region="given", room=4096):
            tensor = module.InferInput("X", list(sample.shape), "FP32")
            tensor.set_shared_memory(region, size, offset)
            output = module.InferRequestedOutput("probabilities")
            output.set_shared_memory("taken", room)
            return client.infer("digits", [tensor], outputs=[output, module.InferRequestedOutput("label")])

        wanted = infer(client, "digits", {"X": sample}, module=module)
        answer = ask()
        probabilities = shared_memory.get_contents_as_numpy(taken, np.float32, [len(sample), 10])
        assert (probabilities == wanted.as_numpy("probabilities")).all()
        assert (answer.as_numpy("label") == wanted.as_numpy("label")).all()
        for change, why in [
            ({"offset": 65}, "not"), ({"size": sample.nbytes - 4}, "takes"), ({"region": "nothing"}, "registered"),
            ({"room": 8}, "does not fit"), ({"size": 1 << 62}, "not"),
        ]:
            refused(lambda change=change: ask(**change), why)
        # A client that shortens its shared memory makes its request fail, but does not crash the server.
        os.truncate("/dev/shm" + own + "-given", 16)
        refused(ask, "has changed since")
        register = client.register_system_shared_memory
        refused(lambda: register("given", own + "-taken", 8), "unregister it first")
        refused(lambda: register("more", own + "-taken", 5000), "has 4096 bytes")
        refused(lambda: register("more", own + "-nothing", 8), "No such file")
        refused(lambda: register("other", "/somebody-elses", 8), "may not use")
        refused(lambda: register("other", "/drisse-test-/../../etc/passwd", 8), "may not use")
        client.unregister_system_shared_memory("given")
        client.unregister_system_shared_memory("given")
        refused(ask, "registered")
        client.unregister_system_shared_memory()
        status = client.get_system_shared_memory_status()
        assert not (status if isinstance(status, list) else status.regions)
    finally:
        client.unregister_system_shared_memory()
        shared_memory.destroy_shared_memory_region(given)
        shared_memory.destroy_shared_memory_region(taken)


def refused(call, why):
    try:
        call()
    except InferenceServerException as error:
        assert why in error.message(), error
    else:
        raise AssertionError(f"accepted, but should be refused: {why}")


def test_tensors_stay_in_shared_memory_where_that_is_allowed(client, _):
    share_memory(client, triton)


def test_a_request_s_own_timeout_ends_it(binary):
    server = Server(binary, [str(MODELS / "slow.onnx")], listen=True)
    client = triton.InferenceServerClient(server.ready["url"].removeprefix("http://"))
    steps = {"steps": np.array([1 << 40])}
    try:
        infer(client, "slow", steps, timeout=200_000)
    except InferenceServerException as error:
        assert error.status() == "504", error
    else:
        raise AssertionError("an endless run has ended")
    infer(client, "slow", {"steps": np.array([3])}, timeout=20_000_000)
    client.close()
    server.close()


def test_shared_memory_is_off_unless_allowed(binary):
    server = Server(binary, [str(EXAMPLES / "digits")], listen=True)
    client = triton.InferenceServerClient(server.ready["url"].removeprefix("http://"))
    refused(lambda: client.register_system_shared_memory("a", "/drisse-test-a", 8), "--shared-memory")
    tensor = triton.InferInput("X", [1, 64], "FP32")
    tensor.set_shared_memory("a", 256)
    refused(lambda: client.infer("digits", [tensor]), "--shared-memory")
    assert "system_shared_memory" not in client.get_server_metadata()["extensions"]
    client.close()
    server.close()


def main(binary):
    models = [MODELS / "kinds.onnx", MODELS / "echo.onnx", EXAMPLES / "digits", EXAMPLES / "glyph"]
    several = Server(binary, ["--model-control", "--shared-memory", "drisse-test-*", *map(str, models)], listen=True)
    alone = Server(binary, [str(EXAMPLES / "iris")], listen=True)
    client = triton.InferenceServerClient(several.ready["url"].removeprefix("http://"), concurrency=2)
    needs_one = ("test_invocations_take_pandas_tables_tensors_and_csv", "test_score_has_azure_s_headers_and_codes")

    def call(name, test):
        served = alone if name in needs_one else several
        test(*((binary,) if test.__code__.co_argcount == 1 else (client, served.ready["url"])))

    failed = run_tests(sys.modules[__name__], call)
    client.close()
    several.close()
    alone.close()
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]) > 0)
