"""Encodes requests and decodes responses in each protocol: V2 JSON, V2 binary, V2 gRPC."""

import http.client
import json
import struct

import grpc
import numpy as np
from tritonclient.grpc import service_pb2

CALL = "/inference.GRPCInferenceService/ModelInfer"
DATATYPES = {"FP32": np.float32, "INT32": np.int32, "INT64": np.int64}
OF_ARRAY = {np.dtype(kind): name for name, kind in DATATYPES.items()}


def path(protocol, model):
    return CALL if protocol == "grpc" else f"/v2/models/{model.name}/infer"


def message(model):
    tensor = service_pb2.ModelInferRequest.InferInputTensor(
        name=model.input, datatype=OF_ARRAY[model.value.dtype], shape=model.value.shape)
    return service_pb2.ModelInferRequest(
        model_name=model.name, inputs=[tensor], raw_input_contents=[model.value.tobytes()])


def encode(protocol, model):
    """Returns the body and its headers; for gRPC, the body is the framed message."""
    if protocol == "grpc":
        text = message(model).SerializeToString()
        return b"\0" + struct.pack(">I", len(text)) + text, {"content-type": "application/grpc", "te": "trailers"}
    tensor = {"name": model.input, "shape": model.value.shape, "datatype": OF_ARRAY[model.value.dtype]}
    compact = (",", ":")
    if protocol == "json":
        body = {"inputs": [{**tensor, "data": model.value.reshape(-1).tolist()}]}
        return json.dumps(body, separators=compact).encode(), {"content-type": "application/json"}
    binary = {**tensor, "parameters": {"binary_data_size": model.value.nbytes}}
    head = {"inputs": [binary], "parameters": {"binary_data_output": True}}
    head = json.dumps(head, separators=compact).encode()
    headers = {"content-type": "application/octet-stream", "inference-header-content-length": str(len(head))}
    return head + model.value.tobytes(), headers


def post(protocol, server, model):
    """Sends a request over HTTP and returns the response's headers and body."""
    body, headers = encode(protocol, model)
    connection = http.client.HTTPConnection("127.0.0.1", server.http, timeout=60)
    connection.request("POST", path(protocol, model), body, {**headers, **server.headers})
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    if answer.status != 200:
        raise ConnectionError(f"{answer.status}: {content[:200]}")
    return answer.headers, content


def ask(protocol, server, model):
    """Sends a request and returns the outputs by name."""
    if protocol == "grpc":
        return call(server, model)
    headers, content = post(protocol, server, model)
    length = int(headers.get("inference-header-content-length", len(content)))
    values, rest = {}, content[length:]
    for output in json.loads(content[:length])["outputs"]:
        kind = DATATYPES[output["datatype"]]
        size = output.get("parameters", {}).get("binary_data_size")
        data = np.array(output["data"], kind) if size is None else np.frombuffer(rest[:size], kind)
        values[output["name"]] = data.reshape(output["shape"])
        rest = rest[size or 0:]
    return values


def call(server, model):
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc}", options) as channel:
        infer = channel.unary_unary(CALL, service_pb2.ModelInferRequest.SerializeToString,
                                    service_pb2.ModelInferResponse.FromString)
        # Raises if the status is not 0.
        answer = infer(message(model), timeout=60, metadata=list(server.headers.items()))
    pairs = zip(answer.outputs, answer.raw_output_contents, strict=True)
    return {tensor.name: np.frombuffer(data, DATATYPES[tensor.datatype]).reshape(tensor.shape) for tensor, data in pairs}
