"""Tests with unchanged gRPC clients of other servers: Triton's, synchronous and asynchronous; gRPC's own health checks and
reflection; and with bytes that no client sends.

    python tests/conformance/clients_grpc.py target/release/drisse
"""

import asyncio
import json
import os
import pathlib
import queue
import struct
import subprocess
import sys
import tempfile
import threading

import grpc
import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from google.protobuf.descriptor_pool import DescriptorPool
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from clients import EXAMPLES, KINDS, MODELS, V2, rng, share_memory, some
from drisse import Server, run_tests

SERVICE = "/inference.GRPCInferenceService/"


def tensor(name, value, kind=None):
    datatype = "BYTES" if value.dtype == np.object_ else kind or triton._utils.np_to_triton_dtype(value.dtype)
    given = triton.InferInput(name, list(value.shape), datatype)
    given.set_data_from_numpy(value)
    return given


def refused(call, code, why):
    try:
        call()
    except grpc.RpcError as error:
        got, message = error.code(), error.details()
    except InferenceServerException as error:
        got, message = error.status(), error.message()
    else:
        raise AssertionError(f"taken, and not refused as {why}")
    assert code in str(got) and why in message, (got, message)


def test_servers_and_models_tell_what_they_are(client, _):
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("kinds", "1")
    assert not client.is_model_ready("nothing") and not client.is_model_ready("kinds", "2")
    assert client.get_server_metadata().name == "drisse"
    metadata = client.get_model_metadata("digits")
    assert metadata.inputs[0].datatype == "FP32" and list(metadata.inputs[0].shape) == [-1, 64]
    config = client.get_model_config("digits").config
    assert config.max_batch_size == 0 and list(config.input[0].dims) == [-1, 64]
    before = client.get_inference_statistics("echo").model_stats[0].inference_count
    client.infer("echo", [tensor("x", np.ones(2, np.float32))])
    after = client.get_inference_statistics("echo").model_stats[0]
    assert after.inference_count == before + 1 and after.inference_stats.success.ns > 0
    assert len(client.get_inference_statistics().model_stats) == 4
    refused(lambda: client.get_model_metadata("nothing"), "NOT_FOUND", "there is no model `nothing`")


def test_every_datatype_goes_raw_in_and_out_bit_for_bit(client, _):
    values = {f"in_{kind}": some(kind, (2, 3)) for kind in KINDS}
    answer = client.infer("kinds", [tensor(name, value, V2.get(name[3:], name[3:])) for name, value in values.items()])
    for name, value in values.items():
        got = answer.as_numpy("out_" + name[3:])
        assert got.shape == value.shape and (got.tobytes() == value.tobytes() or (got == value).all()), name


def test_every_datatype_that_has_a_field_goes_as_a_list_and_comes_as_bytes(_, stub):
    fields = {
        "BOOL": "bool", "INT8": "int", "INT16": "int", "INT32": "int", "INT64": "int64", "UINT8": "uint",
        "UINT16": "uint", "UINT32": "uint", "UINT64": "uint64", "FP32": "fp32", "FP64": "fp64", "BYTES": "bytes",
    }

    contents = service_pb2.InferTensorContents(fp32_contents=[1.5, -2])
    x = service_pb2.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=[2], contents=contents)
    answer = stub.ModelInfer(service_pb2.ModelInferRequest(model_name="echo", inputs=[x]))
    assert answer.raw_output_contents[0] == struct.pack("<2f", 1.5, -2) and not answer.outputs[0].HasField("contents")
    whole = service_pb2.ModelInferRequest(model_name="kinds")
    for datatype, field in fields.items():
        name = {"FP32": "FLOAT", "FP64": "DOUBLE", "BYTES": "STRING"}.get(datatype, datatype)
        value = some(name, (2, 2)).reshape(-1)
        data = value.tolist()
        given = whole.inputs.add(name=f"in_{name}", datatype=datatype, shape=[len(data)])
        getattr(given.contents, f"{field}_contents").extend(data)
    for name, datatype in [("FLOAT16", "FP16"), ("BFLOAT16", "BF16")]:
        whole.inputs.add(name=f"in_{name}", datatype=datatype, shape=[0])
    answer = stub.ModelInfer(whole)
    assert len(answer.raw_output_contents) == len(answer.outputs) == len(fields) + 2
    for given in whole.inputs:
        place = next(i for i, output in enumerate(answer.outputs) if output.name == "out_" + given.name[3:])
        if given.datatype in ("FP32", "FP64", "INT64"):
            kind = {"FP32": np.float32, "FP64": np.float64, "INT64": np.int64}[given.datatype]
            field = getattr(given.contents, f"{fields[given.datatype]}_contents")
            assert answer.raw_output_contents[place] == np.array(list(field), kind).tobytes()
    next(given for given in whole.inputs if given.datatype == "INT8").contents.int_contents[0] = 300
    refused(lambda: stub.ModelInfer(whole), "INVALID_ARGUMENT", "300 is out of range for INT8")


def test_a_stream_answers_each_request_in_its_order_and_outlives_errors(client, _):
    answers = queue.Queue()
    client.start_stream(callback=lambda result, error: answers.put((result, error)))
    for nth in range(20):
        client.async_stream_infer("echo" if nth % 5 else "nothing", [tensor("x", np.full(3, nth, np.float32))], request_id=str(nth))
    for nth in range(20):
        result, error = answers.get(timeout=20)
        if nth % 5:
            assert error is None and result.get_response().id == str(nth) and (result.as_numpy("y") == nth).all()
        else:
            assert "there is no model" in error.message()
    client.stop_stream()


def test_messages_are_compressed_both_ways(client, _):
    rows = np.zeros((500, 64), np.float32)
    plain = client.infer("digits", [tensor("X", rows)])
    for coding in ("gzip", "deflate"):
        packed = client.infer("digits", [tensor("X", rows)], compression_algorithm=coding)
        for output in plain.get_response().outputs:
            assert (packed.as_numpy(output.name) == plain.as_numpy(output.name)).all()


def test_a_client_s_timeout_ends_the_run(client, _):
    steps = np.array([2**40])
    try:
        client.infer("slow", [tensor("steps", steps)], client_timeout=0.3)
        raise AssertionError("an endless run has ended")
    except InferenceServerException as error:
        assert "DEADLINE" in str(error.status()).upper() or "Deadline" in error.message(), error
    # The worker of the ended run is free again.
    for _ in range(4):
        client.infer("slow", [tensor("steps", np.array([3]))], client_timeout=20)


def test_classification_and_requested_outputs(client, _):
    sample = np.array(json.loads((EXAMPLES / "digits/sample.json").read_text())["data"], np.float32)
    name = next(output.name for output in client.get_model_metadata("digits").outputs if output.datatype == "FP32")
    wanted = [triton.InferRequestedOutput(name, class_count=2)]
    answer = client.infer("digits", [tensor("X", sample)], outputs=wanted)
    values = client.infer("digits", [tensor("X", sample)]).as_numpy(name)[0]
    first = answer.as_numpy(name)[0][0].decode()
    assert len(answer.get_response().outputs) == 1 and int(first.split(":")[1]) == int(values.argmax())


def test_models_are_unloaded_and_loaded_again(client, _):
    client.unload_model("echo")
    assert not client.is_model_ready("echo")
    states = {model.name: model.state for model in client.get_model_repository_index().models}
    assert states["echo"] == "UNAVAILABLE" and states["digits"] == "READY"
    client.load_model("echo")
    assert client.is_model_ready("echo")
    refused(lambda: client.load_model("nothing"), "NOT_FOUND", "started without a model `nothing`")
    refused(lambda: client.load_model("echo", config="{}"), "INVALID_ARGUMENT", "`config` is not accepted")


def test_what_lies_is_refused_with_its_reason(client, stub):
    request = service_pb2.ModelInferRequest
    x = request.InferInputTensor(name="x", datatype="FP32", shape=[2])
    typed = request.InferInputTensor(name="x", datatype="FP32", shape=[2], contents=service_pb2.InferTensorContents(fp32_contents=[1, 2]))
    wrong = request.InferInputTensor(name="x", datatype="FP32", shape=[2], contents=service_pb2.InferTensorContents(fp64_contents=[1, 2]))
    many = request.InferInputTensor(name="x", datatype="FP32", shape=[2**62, 2], contents=service_pb2.InferTensorContents(fp32_contents=[1]))
    y = request.InferRequestedOutputTensor(name="y")
    eight = struct.pack("<2f", 1, 2)
    for asked, why in [
        (request(inputs=[x]), "neither contents nor raw_input_contents"),
        (request(inputs=[x], raw_input_contents=[b"1234567"]), "takes 8 bytes, 7 were sent"),
        (request(inputs=[x], raw_input_contents=[eight, eight]), "2 tensors for 1 inputs"),
        (request(inputs=[typed], raw_input_contents=[eight]), "both contents and raw_input_contents"),
        (request(inputs=[wrong]), "in a field that is not the one for FP32"),
        (request(inputs=[many]), "holds 9223372036854775808 elements, contents has 1"),
        (request(inputs=[x, x], raw_input_contents=[eight, eight]), "given twice"),
        (request(inputs=[typed], outputs=[y, y]), "requested twice"),
        (request(inputs=[typed], outputs=[request.InferRequestedOutputTensor(name="z")]), "no output \"z\""),
    ]:
        asked.model_name = "echo"
        refused(lambda asked=asked: stub.ModelInfer(asked), "INVALID_ARGUMENT", why)
    refused(lambda: stub.ModelInfer(request(model_name="echo", model_version="2")), "NOT_FOUND", "no version `2`")
    refused(lambda: stub.TraceSetting(service_pb2.TraceSettingRequest()), "UNIMPLEMENTED", "there is no method")


def test_bytes_that_are_no_messages_and_bombs_are_refused(_, stub, channel):
    def send(message, method="ModelInfer"):
        call = channel.unary_unary(SERVICE + method, request_serializer=lambda given: given, response_deserializer=lambda given: given)
        return call(message, timeout=30)

    refused(lambda: send(b"\xff" * 40), "INVALID_ARGUMENT", "cannot be read")
    # Each field takes two bytes in the message and hundreds in memory.
    refused(lambda: send(b"\x2a\x00" * (1 << 21)), "RESOURCE_EXHAUSTED", "fields")
    refused(lambda: send(b"", "Nothing"), "UNIMPLEMENTED", "there is no method")
    refused(lambda: send(b"\0" * (101 << 20)), "RESOURCE_EXHAUSTED", "over the limit")
    bomb = channel.unary_unary(SERVICE + "ModelInfer", request_serializer=lambda given: given, response_deserializer=lambda given: given)
    refused(lambda: bomb(b"\0" * (300 << 20), timeout=60, compression=grpc.Compression.Gzip), "RESOURCE_EXHAUSTED", "once unpacked")


def test_health_and_reflection_are_grpc_s_own(_, __, channel):
    health = health_pb2_grpc.HealthStub(channel)
    serving = health_pb2.HealthCheckResponse.SERVING
    for service in ("", "inference.GRPCInferenceService", "digits"):
        assert health.Check(health_pb2.HealthCheckRequest(service=service)).status == serving
    refused(lambda: health.Check(health_pb2.HealthCheckRequest(service="nothing")), "NOT_FOUND", "nothing")
    watched = health.Watch(health_pb2.HealthCheckRequest(service="echo"), timeout=20)
    assert next(watched).status == serving
    watched.cancel()
    database = ProtoReflectionDescriptorDatabase(channel)
    assert "inference.GRPCInferenceService" in database.get_services()
    methods = DescriptorPool(database).FindServiceByName("inference.GRPCInferenceService").methods_by_name
    assert methods["ModelStreamInfer"].client_streaming and "ModelInfer" in methods


def test_the_asynchronous_client_works_as_well(_, __, ___, url):
    async def ask():
        async with triton_aio.InferenceServerClient(url) as client:
            values = [np.full(4, nth, np.float32) for nth in range(50)]
            answers = await asyncio.gather(*(client.infer("echo", [tensor("x", value)]) for value in values))
            assert all((answer.as_numpy("y") == value).all() for answer, value in zip(answers, values))

            async def requests():
                for nth in range(5):
                    yield {"model_name": "echo", "inputs": [tensor("x", values[nth])], "request_id": str(nth)}

            got = [result.get_response().id async for result, error in client.stream_infer(requests()) if error is None]
            assert got == [str(nth) for nth in range(5)], got

    asyncio.run(ask())


def test_operators_load_and_unload_models_on_the_admin_listener(binary):
    # A separate loopback address, so that no other test uses the port.
    admin = f"127.{os.getpid() % 250 + 1}.{os.getpid() // 250 % 250}.7:4791"
    server = Server(binary, [str(MODELS / "echo.onnx"), "--admin", admin], listen=True)
    client = triton.InferenceServerClient(server.ready["url"].removeprefix("http://"))
    operator = triton.InferenceServerClient(admin)
    assert [(model.name, model.state) for model in operator.get_model_repository_index().models] == [("echo", "READY")]
    operator.unload_model("echo")
    assert not client.is_model_ready("echo")
    operator.load_model("echo")
    x = [tensor("x", np.ones(1, np.float32))]
    assert client.infer("echo", x).as_numpy("y")[0] == 1
    refused(lambda: operator.load_model("nothing"), "NOT_FOUND", "nothing")
    refused(lambda: operator.infer("echo", x), "UNIMPLEMENTED", "ModelInfer")
    with grpc.insecure_channel(admin) as channel:
        health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert health.status == health_pb2.HealthCheckResponse.SERVING
    operator.close()
    client.close()
    server.close()


def test_keys_open_grpc_and_nothing_else_does(binary):
    with tempfile.NamedTemporaryFile("w") as keys:
        keys.write("k" * 32)
        keys.flush()
        server = Server(binary, [str(MODELS / "echo.onnx"), "--keys", keys.name], listen=True)
        client = triton.InferenceServerClient(server.ready["url"].removeprefix("http://"))
        x = [tensor("x", np.ones(1, np.float32))]
        assert client.is_server_live() and client.is_model_ready("echo")
        refused(lambda: client.infer("echo", x), "UNAUTHENTICATED", "the key is missing or wrong")
        refused(lambda: client.get_model_metadata("echo", headers={"authorization": "Bearer x"}), "UNAUTHENTICATED", "key")
        headers = {"authorization": "Bearer " + "k" * 32}
        assert client.infer("echo", x, headers=headers).as_numpy("y")[0] == 1
        for change in (client.load_model, client.unload_model):
            refused(lambda change=change: change("echo", headers=headers), "PERMISSION_DENIED", "--model-control")
        client.close()
        server.close()


class Workspace:
    """A context manager: a workspace with its control plane and gateway."""

    def __init__(self, binary):
        self.binary, self.folder = binary, tempfile.TemporaryDirectory()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.run("down")
        self.folder.cleanup()

    def run(self, *arguments):
        environment = {**os.environ, "DRISSE_WORKSPACE": f"{self.folder.name}/workspace"}
        done = subprocess.run([self.binary, "--output", "json", *arguments], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout or "null")


def test_through_the_gateway_calls_find_their_service_and_streams_stay_streams(binary):
    with Workspace(binary) as workspace:
        echo = workspace.run("deploy", str(MODELS / "echo.onnx"))
        digits = workspace.run("deploy", str(EXAMPLES / "digits"))
        client = triton.InferenceServerClient(echo["scoring_uri"].split("/")[2])
        key = {"authorization": f"Bearer {echo['primary_key']}"}
        large = rng.random(400_000).astype(np.float32)
        assert client.is_server_ready() and client.is_model_ready("echo") and client.get_server_metadata().name == "drisse"
        assert (client.infer("echo", [tensor("x", large)], headers=key).as_numpy("y") == large).all()
        assert client.get_model_metadata("echo", headers=key).inputs[0].name == "x"
        small = [tensor("x", large[:3])]
        refused(lambda: client.infer("echo", small), "UNAUTHENTICATED", "the key is missing or wrong")
        refused(lambda: client.infer("digits", small, headers=key), "UNAUTHENTICATED", "drisse keys digits")
        refused(lambda: client.infer("nothing", small, headers=key), "NOT_FOUND", "there is no service `nothing`")
        refused(lambda: client.get_model_repository_index(headers=key), "INVALID_ARGUMENT", "drisse-service")
        # The gateway finds the model's name in compressed messages too.
        packed = {"headers": key, "compression_algorithm": "gzip"}
        assert (client.infer("echo", [tensor("x", large)], **packed).as_numpy("y") == large).all()
        packed["headers"] = {**key, "drisse-service": "echo"}
        assert (client.infer("echo", [tensor("x", large)], **packed).as_numpy("y") == large).all()
        answers = queue.Queue()
        client.start_stream(callback=lambda result, error: answers.put((result, error)), headers=key)
        for nth in range(10):
            client.async_stream_infer("echo", small, request_id=str(nth))
            # Each request is answered before the next is sent: responses do not wait for the end of the stream.
            assert answers.get(timeout=20)[0].get_response().id == str(nth)
        client.stop_stream()
        channel = grpc.insecure_channel(echo["scoring_uri"].split("/")[2])
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", "echo", "digits"):
            assert health.Check(health_pb2.HealthCheckRequest(service=service)).status == 1
        refused(lambda: health.Check(health_pb2.HealthCheckRequest(service="x")), "NOT_FOUND", "no service `x`")
        channel.close()
        client.close()
        assert digits["state"] == "Ready"


def test_through_the_gateway_an_update_fails_no_call(binary):
    with Workspace(binary) as workspace:
        echo = workspace.run("deploy", str(MODELS / "echo.onnx"))
        url, key = echo["scoring_uri"].split("/")[2], {"authorization": f"Bearer {echo['primary_key']}"}
        stop, failures, calls = threading.Event(), [], [0]

        def call():
            with triton.InferenceServerClient(url) as client:
                while not stop.is_set():
                    try:
                        client.infer("echo", [tensor("x", np.ones(3, np.float32))], headers=key)
                        calls[0] += 1
                    except InferenceServerException as error:
                        failures.append(str(error))

        threads = [threading.Thread(target=call) for _ in range(4)]
        for thread in threads:
            thread.start()
        model = (MODELS / "echo.onnx").read_bytes()
        for nth in range(4):
            # Changes the model's bytes, so that each update makes a new revision.
            changed = pathlib.Path(workspace.folder.name) / "echo.onnx"
            changed.write_bytes(model.replace(b"drisse-tests", b"drisse-test%d" % nth))
            updated = workspace.run("update", "echo", str(changed), "--replicas", str(1 + nth % 2))
            assert updated["revision"] == nth + 2, updated
        stop.set()
        for thread in threads:
            thread.join()
        assert not failures and calls[0] > 100, (calls, failures[:3])


def test_tensors_stay_in_shared_memory_where_that_is_allowed(client, _):
    share_memory(client, triton)


def main(binary):
    models = [MODELS / "kinds.onnx", MODELS / "echo.onnx", MODELS / "slow.onnx", EXAMPLES / "digits"]
    server = Server(binary, ["--model-control", "--shared-memory", "drisse-test-*", *map(str, models)], listen=True)
    url = server.ready["url"].removeprefix("http://")
    client = triton.InferenceServerClient(url)
    large = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    channel = grpc.insecure_channel(url, large)
    stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)

    def call(_, test):
        count = test.__code__.co_argcount
        test(*((binary,) if count == 1 else (client, stub, channel, url)[:count]))

    failed = run_tests(sys.modules[__name__], call)
    client.close()
    channel.close()
    server.close()
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]) > 0)
