"""Tests with an unchanged gRPC client of TensorFlow Serving (`min-tfs-client`). It has a separate Python environment,
because its generated messages need a protobuf version from 2020.

    python tests/conformance/clients_tfs.py target/release/drisse
"""

import pathlib
import sys

import grpc
import numpy as np
from min_tfs_client.requests import TensorServingClient
from min_tfs_client.tensors import tensor_proto_to_ndarray
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef  # noqa: F401: registers the message that metadata contains
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2, model_service_pb2_grpc
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from drisse import Server, run_tests

ROOT = pathlib.Path(__file__).parent.parent.parent
MODELS = ROOT / "crates/drisse-engines/tests/models"


def refused(call, code, why):
    try:
        call()
    except grpc.RpcError as error:
        assert error.code() == code and why in error.details(), error
    else:
        raise AssertionError(f"accepted, but should be refused: {why}")


def test_tensors_go_in_and_come_out(client, _):
    values = np.array([1.5, -2, np.inf], np.float32)
    answer = client.predict_request("echo", {"x": values}, model_version=1)
    assert (tensor_proto_to_ndarray(answer.outputs["y"]) == values).all() and answer.model_spec.name == "echo"
    rows = np.linspace(0, 1, 192, dtype=np.float32).reshape(3, 64)
    answer = client.predict_request("digits", {"X": rows})
    assert all(tensor_proto_to_ndarray(output).shape[0] == 3 for output in answer.outputs.values()), answer


def test_every_datatype_comes_back_as_it_went_in_bytes(_, channel):
    kinds = {
        "BOOL": np.bool_, "UINT8": np.uint8, "UINT16": np.uint16, "UINT32": np.uint32, "UINT64": np.uint64,
        "INT8": np.int8, "INT16": np.int16, "INT32": np.int32, "INT64": np.int64, "FLOAT": np.float32,
        "DOUBLE": np.float64, "FLOAT16": np.float16,
    }
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "kinds"
    for kind, numpy in kinds.items():
        given = request.inputs[f"in_{kind}"]
        given.dtype = getattr(types_pb2, "DT_HALF" if kind == "FLOAT16" else f"DT_{kind}")
        given.tensor_shape.dim.add().size = 3
        given.tensor_content = np.array([0, 1, 1], numpy).tobytes()
    given = request.inputs["in_STRING"]
    given.dtype, given.string_val[:] = types_pb2.DT_STRING, [b"\xff", b"", b"text"]
    given.tensor_shape.dim.add().size = 3
    given = request.inputs["in_BFLOAT16"]
    given.dtype, given.half_val[:] = types_pb2.DT_BFLOAT16, [0x3F80]
    given.tensor_shape.dim.add().size = 1
    answer = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request)
    fields = {
        "BOOL": "bool_val", "UINT8": "int_val", "UINT16": "int_val", "UINT32": "uint32_val", "UINT64": "uint64_val",
        "INT8": "int_val", "INT16": "int_val", "INT32": "int_val", "INT64": "int64_val", "FLOAT": "float_val",
        "DOUBLE": "double_val",
    }
    for kind, field in fields.items():
        assert list(getattr(answer.outputs[f"out_{kind}"], field)) == [0, 1, 1], kind
    assert list(answer.outputs["out_STRING"].string_val) == [b"\xff", b"", b"text"]
    assert list(answer.outputs["out_FLOAT16"].half_val) == [0, 0x3C00, 0x3C00]
    assert list(answer.outputs["out_BFLOAT16"].half_val) == [0x3F80]


def test_metadata_and_status_are_as_tensorflow_serving_reports_them(_, channel):
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "digits"
    answer = stub.GetModelMetadata(request)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert answer.metadata["signature_def"].Unpack(signatures)
    x = signatures.signature_def["serving_default"].inputs["X"]
    assert x.dtype == types_pb2.DT_FLOAT and [dim.size for dim in x.tensor_shape.dim] == [-1, 64]
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "digits"
    status = model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus(request).model_version_status[0]
    assert (status.version, status.state) == (1, get_model_status_pb2.ModelVersionStatus.AVAILABLE)


def test_what_is_wrong_is_refused_with_its_reason(client, channel):
    x = np.zeros(2, np.float32)
    refused(lambda: client.predict_request("nothing", {"x": x}), grpc.StatusCode.NOT_FOUND, "there is no model `nothing`")
    refused(lambda: client.predict_request("echo", {"x": x}, model_version=7), grpc.StatusCode.NOT_FOUND, "no version `7`")
    refused(lambda: client.predict_request("echo", {"z": x}), grpc.StatusCode.INVALID_ARGUMENT, "no input \"z\"")
    refused(lambda: client.predict_request("echo", {"x": x.astype(np.int64)}), grpc.StatusCode.INVALID_ARGUMENT, "INT64 does not match")
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    request = predict_pb2.PredictRequest()
    refused(lambda: stub.Predict(request), grpc.StatusCode.INVALID_ARGUMENT, "model_spec")
    request.model_spec.name, request.model_spec.signature_name = "echo", "other"
    refused(lambda: stub.Predict(request), grpc.StatusCode.INVALID_ARGUMENT, "unknown signature `other`")


def main(binary):
    models = [MODELS / "echo.onnx", MODELS / "kinds.onnx", ROOT / "examples/digits"]
    server = Server(binary, [*map(str, models)], listen=True)
    host, port = server.ready["url"].removeprefix("http://").split(":")
    client = TensorServingClient(host, int(port))
    channel = grpc.insecure_channel(f"{host}:{port}")
    failed = run_tests(sys.modules[__name__], lambda _, test: test(client, channel))
    channel.close()
    server.close()
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]) > 0)
