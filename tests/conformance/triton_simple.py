"""The calls that Triton's Python examples `simple_*` make, written anew with its unchanged clients, on models of ours that
compute what those of the examples do. What Drisse does not have (models with a state, several answers to a request,
another configuration of a loaded model, GPUs) must be refused in words that say so.

    python tests/conformance/triton_simple.py target/release/drisse

Source: <https://github.com/triton-inference-server/client/tree/main/src/python/examples>
"""

import asyncio
import queue
import sys
import tempfile
import uuid

import grpc
import numpy as np
import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
import tritonclient.http.aio
import tritonclient.utils as utils
from onnx import TensorProto as T, helper as h
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException, shared_memory

from carried import save
from drisse import Server, run_tests

HTTP, GRPC = tritonclient.http, tritonclient.grpc
ONES = np.ones((1, 16), np.int32)
COUNT = np.arange(16, dtype=np.int32).reshape(1, 16)


def models(folder):
    def tensors(kind, *names):
        return [h.make_tensor_value_info(name, kind, ["batch", 16]) for name in names]

    def sums(name, kind):
        nodes = [h.make_node("Add", ["INPUT0", "INPUT1"], ["OUTPUT0"]), h.make_node("Sub", ["INPUT0", "INPUT1"], ["OUTPUT1"])]
        return save(folder, name, nodes, tensors(kind, "INPUT0", "INPUT1"), tensors(kind, "OUTPUT0", "OUTPUT1"))

    strings = [h.make_node("Cast", [f"INPUT{n}"], [f"i{n}"], to=T.INT32) for n in (0, 1)]
    strings += [h.make_node("Add", ["i0", "i1"], ["sum"]), h.make_node("Sub", ["i0", "i1"], ["difference"])]
    strings += [h.make_node("Cast", [given], [f"OUTPUT{n}"], to=T.STRING) for n, given in ((0, "sum"), (1, "difference"))]
    same = [h.make_node("Identity", ["INPUT0"], ["OUTPUT0"])]
    sequence = [h.make_node("Identity", ["INPUT"], ["OUTPUT"])]
    return [
        sums("simple", T.INT32),
        sums("simple_int8", T.INT8),
        save(folder, "simple_string", strings, tensors(T.STRING, "INPUT0", "INPUT1"), tensors(T.STRING, "OUTPUT0", "OUTPUT1")),
        save(folder, "simple_identity", same, tensors(T.STRING, "INPUT0"), tensors(T.STRING, "OUTPUT0")),
        save(folder, "simple_sequence", sequence, *[[h.make_tensor_value_info(name, T.INT32, ["batch", 1])] for name in ("INPUT", "OUTPUT")]),
    ]


def inputs(module, one=COUNT, other=ONES, binary=(True, True)):
    given = []
    for name, value, in_binary in (("INPUT0", one, binary[0]), ("INPUT1", other, binary[1])):
        given.append(module.InferInput(name, list(value.shape), utils.np_to_triton_dtype(value.dtype)))
        given[-1].set_data_from_numpy(value, **({"binary_data": in_binary} if module in (HTTP, HTTP.aio) else {}))
    return given


def outputs(module, binary=(True, False)):
    options = [{"binary_data": form} if module in (HTTP, HTTP.aio) else {} for form in binary]
    return [module.InferRequestedOutput(f"OUTPUT{nth}", **option) for nth, option in enumerate(options)]


def check(result, one=COUNT, other=ONES):
    assert (result.as_numpy("OUTPUT0") == one + other).all() and (result.as_numpy("OUTPUT1") == one - other).all()


def refused(call, why):
    try:
        call()
    except InferenceServerException as error:
        assert why in error.message(), error
        return error
    raise AssertionError(f"accepted, but should be refused: {why}")


def test_http_infer(http, _):
    minus = -ONES
    for coding in (None, "gzip", "deflate"):
        options = {"request_compression_algorithm": coding, "response_compression_algorithm": coding, "query_params": {"a": 1}}
        for wanted in (outputs(HTTP), None):
            check(http.infer("simple", inputs(HTTP, other=minus, binary=(False, True)), outputs=wanted, **options), other=minus)
    assert len(http.get_inference_statistics("simple")["model_stats"]) == 1
    error = refused(lambda: http.infer("wrong_model_name", inputs(HTTP)), "is not found")
    assert error.message().startswith("Request for unknown model"), error


def test_http_async_infer(http, _):
    calls = [http.async_infer("simple", inputs(HTTP)) for _ in range(5)]
    for call in calls:
        check(call.get_result())
    refused(lambda: http.async_infer("wrong", inputs(HTTP)).get_result(), "Request for unknown model: 'wrong' is not found")


def test_http_aio_infer(_, url):
    async def ask():
        async with HTTP.aio.InferenceServerClient(url) as client:
            both = outputs(HTTP.aio), None
            for result in await asyncio.gather(*(client.infer("simple", inputs(HTTP.aio), outputs=wanted) for wanted in both)):
                check(result)
            assert len((await client.get_inference_statistics("simple"))["model_stats"]) == 1
            try:
                await client.infer("wrong", inputs(HTTP.aio))
                raise AssertionError("a model that does not exist answered")
            except InferenceServerException as error:
                assert error.message().startswith("Request for unknown model"), error

    asyncio.run(ask())


def test_grpc_infer_with_keepalive_custom_arguments_and_compression(_, url):
    keepalive = GRPC.KeepAliveOptions(keepalive_time_ms=2**31 - 1, keepalive_timeout_ms=20_000, http2_max_pings_without_data=2)
    arguments = [("grpc.max_send_message_length", 1 << 20), ("grpc.http2.max_pings_without_data", 2)]
    for options in ({}, {"keepalive_options": keepalive}, {"channel_args": arguments}):
        with GRPC.InferenceServerClient(url, **options) as client:
            for coding in (None, "gzip", "deflate"):
                check(client.infer("simple", inputs(GRPC), outputs=outputs(GRPC), headers={"test": "1"}, compression_algorithm=coding))
            check(client.infer("simple", inputs(GRPC), client_timeout=20))
            assert len(client.get_inference_statistics("simple").model_stats) == 1


def test_grpc_async_infer(_, url):
    answers = queue.Queue()
    with GRPC.InferenceServerClient(url) as client:
        for _ in range(2):
            client.async_infer("simple", inputs(GRPC), callback=lambda result, error: answers.put((result, error)))
        for _ in range(2):
            result, error = answers.get(timeout=20)
            assert error is None, error
            check(result)


def test_grpc_aio_infer(_, url):
    async def ask():
        async with GRPC.aio.InferenceServerClient(url) as client:
            check(await client.infer("simple", inputs(GRPC.aio), outputs=outputs(GRPC.aio)))
            check(await client.infer("simple", inputs(GRPC.aio)))

    asyncio.run(ask())


def test_health_and_metadata(http, url):
    with GRPC.InferenceServerClient(url) as client:
        for one, headers in ((http, {"query_params": {"a": 1}}), (client, {"headers": {"test": "1"}})):
            assert one.is_server_live(**headers) and one.is_server_ready() and one.is_model_ready("simple")
            metadata = one.get_model_metadata("simple", **headers)
            assert (metadata["name"] if one is http else metadata.name) == "simple"
            for call in (one.get_model_metadata, one.get_model_config, one.get_inference_statistics):
                refused(lambda call=call: call("wrong"), "Request for unknown model: 'wrong' is not found")
            refused(lambda one=one: one.get_model_metadata("simple", "7"), "Request for unknown model: 'simple' version 7 is not found")
        assert client.get_model_config("simple").config.name == "simple"


def test_the_configuration_has_the_keys_that_triton_prints(http, url):
    config = http.get_model_config("simple")
    defaults = {
        "runtime", "version_policy", "batch_input", "batch_output", "optimization", "instance_group", "cc_model_filenames",
        "metric_tags", "parameters", "model_warmup", "backend", "platform", "max_batch_size", "default_model_filename",
    }
    assert defaults <= set(config), defaults - set(config)
    assert config["input"][0]["format"] == "FORMAT_NONE" and config["output"][0]["label_filename"] == ""
    with GRPC.InferenceServerClient(url) as client:
        # Triton's own message reads the JSON.
        text = client.get_model_config("simple", as_json=True)["config"]
    for port in ("input", "output"):
        assert [one["name"] for one in text[port]] == [one["name"] for one in config[port]]
        assert all(set(mine) >= set(theirs) for mine, theirs in zip(config[port], text[port]))


def strings(value):
    return np.array([str(number).encode() for number in value.flatten()], np.object_).reshape(value.shape)


def numbers(result, name):
    return np.vectorize(int)(result.as_numpy(name))


def test_strings_over_http_and_grpc(http, url):
    given = strings(COUNT), strings(ONES)
    answers = [http.infer("simple_string", inputs(HTTP, *given, binary=(True, False)), outputs=outputs(HTTP))]
    with GRPC.InferenceServerClient(url) as client:
        answers.append(client.infer("simple_string", inputs(GRPC, *given), outputs=outputs(GRPC)))
        same = np.array([b"he\0llo"] * 16, np.object_).reshape(1, 16), np.array([b"\0\1\2\3"] * 16, np.bytes_).reshape(1, 16)
        for value in same:
            for module, one, forms in ((HTTP, http, (True, False)), (GRPC, client, (True,))):
                for binary in forms:
                    form = {"binary_data": binary} if module is HTTP else {}
                    tensor = module.InferInput("INPUT0", list(value.shape), "BYTES")
                    tensor.set_data_from_numpy(value, **form)
                    got = one.infer("simple_identity", [tensor], outputs=[module.InferRequestedOutput("OUTPUT0", **form)])
                    got = [item if isinstance(item, bytes) else item.encode() for item in got.as_numpy("OUTPUT0").flatten()]
                    assert got == [bytes(item) for item in value.flatten().astype(object)], got
    for result in answers:
        assert (numbers(result, "OUTPUT0") == COUNT + ONES).all() and (numbers(result, "OUTPUT1") == COUNT - ONES).all()


def test_typed_contents_are_answered_with_raw_contents(_, url):
    with grpc.insecure_channel(url) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        for model, datatype, field, read in [
            ("simple", "INT32", "int_contents", lambda raw: np.frombuffer(raw, np.int32)),
            ("simple_int8", "INT8", "int_contents", lambda raw: np.frombuffer(raw, np.int8)),
            ("simple_string", "BYTES", "bytes_contents", lambda raw: utils.deserialize_bytes_tensor(raw).astype(int)),
        ]:
            request = service_pb2.ModelInferRequest(model_name=model)
            for name, values in (("INPUT0", range(16)), ("INPUT1", [1] * 16)):
                tensor = request.inputs.add(name=name, datatype=datatype, shape=[1, 16])
                getattr(tensor.contents, field).extend(str(value).encode() if datatype == "BYTES" else value for value in values)
            for wanted in ([], ["OUTPUT1", "OUTPUT0"]):
                del request.outputs[:]
                for name in wanted:
                    request.outputs.add(name=name)
                answer = stub.ModelInfer(request)
                got = {output.name: read(raw).tolist() for output, raw in zip(answer.outputs, answer.raw_output_contents)}
                assert got == {"OUTPUT0": [n + 1 for n in range(16)], "OUTPUT1": [n - 1 for n in range(16)]}, got
                assert not any(output.HasField("contents") for output in answer.outputs)


def share(client, module, model, values, sizes):
    """Sends and receives tensors in system shared memory, as the examples `shm` and `shm_string` do."""
    # To make sure that no regions are registered, also none of a GPU.
    client.unregister_system_shared_memory()
    client.unregister_cuda_shared_memory()
    regions = {}
    for (name, size), value in zip(sizes.items(), [*values, None, None]):
        key = f"/drisse-test-{uuid.uuid4().hex}"
        regions[name] = shared_memory.create_shared_memory_region(name, key, size)
        if value is not None:
            shared_memory.set_shared_memory_region(regions[name], [value])
        client.register_system_shared_memory(name, key, size)
    try:
        given, wanted = inputs(module, *[strings(v) if model == "simple_string" else v for v in (COUNT, ONES)]), outputs(module)
        for tensor, name in zip([*given, *wanted], sizes):
            tensor.set_shared_memory(name, sizes[name])
        answer = client.infer(model, given, outputs=wanted)
        got = []
        for name in ("OUTPUT0", "OUTPUT1"):
            output = answer.get_output(name)
            datatype, shape = (output["datatype"], output["shape"]) if module is HTTP else (output.datatype, output.shape)
            got.append(shared_memory.get_contents_as_numpy(regions[name], utils.triton_to_np_dtype(datatype), shape))
        assert (got[0].astype(int) == COUNT + ONES).all() and (got[1].astype(int) == COUNT - ONES).all(), got
        status = client.get_system_shared_memory_status()
        assert len(status if module is HTTP else status.regions) == 4, status
        assert not (client.get_cuda_shared_memory_status() if module is HTTP else client.get_cuda_shared_memory_status().regions)
    finally:
        client.unregister_system_shared_memory()
        for region in regions.values():
            shared_memory.destroy_shared_memory_region(region)


def test_system_shared_memory(http, url):
    text = [utils.serialize_byte_tensor(strings(value)) for value in (COUNT, ONES)]
    sizes = [utils.serialized_byte_size(value) for value in text]
    room = {"INPUT0": sizes[0], "INPUT1": sizes[1], "OUTPUT0": 200, "OUTPUT1": 200}
    with GRPC.InferenceServerClient(url) as client:
        for one, module in ((http, HTTP), (client, GRPC)):
            share(one, module, "simple", (COUNT, ONES), dict.fromkeys(room, COUNT.nbytes))
            share(one, module, "simple_string", text, room)


def test_the_memory_of_gpus_is_refused_but_may_be_listed_and_unregistered(http, url):
    with GRPC.InferenceServerClient(url) as client:
        for one in (http, client):
            one.unregister_cuda_shared_memory()
            one.unregister_cuda_shared_memory("anything")
            refused(lambda one=one: one.register_cuda_shared_memory("a", b"aGFuZGxl", 0, 64), "uses no GPU")
            refused(lambda one=one: one.get_cuda_shared_memory_status("a"), "no CUDA shared memory region `a`")
        assert http.get_cuda_shared_memory_status() == [] and not client.get_cuda_shared_memory_status().regions


def test_memory_may_be_listed_and_unregistered_where_none_may_be_registered(binary):
    with tempfile.TemporaryDirectory() as folder:
        server = Server(binary, models(folder)[:1], listen=True)
        url = server.ready["url"].removeprefix("http://")
        with HTTP.InferenceServerClient(url) as http, GRPC.InferenceServerClient(url) as client:
            for one in (http, client):
                one.unregister_system_shared_memory()
                one.unregister_cuda_shared_memory()
            assert http.get_system_shared_memory_status() == [] and not client.get_system_shared_memory_status().regions
        server.close()


def test_a_sequence_is_refused_because_no_model_has_a_state(http, url):
    why = "the model keeps no state between requests"

    def tensors(module):
        given = module.InferInput("INPUT", [1, 1], "INT32")
        given.set_data_from_numpy(np.array([[11]], np.int32))
        return [given]

    with GRPC.InferenceServerClient(url) as client:
        for sequence in (1000, str(uuid.uuid4())):
            options = {"sequence_id": sequence, "sequence_start": True, "sequence_end": False}
            refused(lambda: http.infer("simple_sequence", tensors(HTTP), **options), why)
            refused(lambda: client.infer("simple_sequence", tensors(GRPC), **options), why)
            answers = queue.Queue()
            client.start_stream(callback=lambda result, error: answers.put((result, error)))
            client.async_stream_infer("simple_sequence", tensors(GRPC), **options)
            client.async_stream_infer("simple_sequence", tensors(GRPC))
            assert why in answers.get(timeout=20)[1].message()
            assert answers.get(timeout=20)[0].as_numpy("OUTPUT")[0][0] == 11
            client.stop_stream()
        for module, one in ((HTTP, http), (GRPC, client)):
            # Triton's own value of "no sequence".
            one.infer("simple_sequence", tensors(module), sequence_id=0, sequence_start=True)


def test_models_are_controlled_in_triton_s_words(http, url):
    with GRPC.InferenceServerClient(url) as client:
        assert len(http.get_model_repository_index()) == len(client.get_model_repository_index().models) == 5
        for one in (http, client):
            one.load_model("simple")
            assert one.is_model_ready("simple")
            refused(lambda one=one: one.load_model("simple", config='{"max_batch_size": "16"}'), "failed to load 'simple'")
            refused(lambda one=one: one.load_model("simple", config="{}", files={"file:1/model.onnx": b"a"}), "failed to load 'simple'")
            one.unload_model("simple")
            assert not one.is_model_ready("simple")
            refused(lambda one=one: one.load_model("wrong_model_name"), "failed to load 'wrong_model_name'")
            one.load_model("simple")


def main(binary):
    with tempfile.TemporaryDirectory() as folder:
        server = Server(binary, ["--model-control", "--shared-memory", "drisse-test-*", *models(folder)], listen=True)
        url = server.ready["url"].removeprefix("http://")
        http = HTTP.InferenceServerClient(url, concurrency=4)

        def call(_, test):
            test(*((binary,) if test.__code__.co_argcount == 1 else (http, url)))

        failed = run_tests(sys.modules[__name__], call)
        http.close()
        server.close()
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]) > 0)
