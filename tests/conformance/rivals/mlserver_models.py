"""Serves the models of `drisse conformance` with MLServer, as its documentation describes custom runtimes.

    python mlserver_models.py HTTP_PORT GRPC_PORT
"""

import asyncio
import sys

import mlserver
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.types import InferenceResponse, MetadataTensor

DATATYPES = ["BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64", "BYTES"]


def codec(tensor):
    return StringCodec if tensor.datatype == "BYTES" else NumpyCodec


class Identity(mlserver.MLModel):
    async def load(self):
        return True

    async def predict(self, payload):
        tensor = payload.inputs[0]
        value = codec(tensor).decode_input(tensor)
        if tensor.datatype == "BYTES":
            output = StringCodec.encode_output("y", value)
            output.shape = tensor.shape
        else:
            output = NumpyCodec.encode_output("y", value)
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=[output])


class AddSub(mlserver.MLModel):
    async def load(self):
        return True

    async def predict(self, payload):
        values = {tensor.name: NumpyCodec.decode_input(tensor) for tensor in payload.inputs}
        results = {"sum": values["a"] + values["b"], "difference": values["a"] - values["b"]}
        outputs = [NumpyCodec.encode_output(name, value) for name, value in results.items()]
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=outputs)


def tensor(name, datatype, columns):
    return MetadataTensor(name=name, datatype=datatype, shape=[-1, columns])


def settings():
    for datatype in DATATYPES:
        ports = {"inputs": [tensor("x", datatype, 2)], "outputs": [tensor("y", datatype, 2)]}
        yield mlserver.ModelSettings(name=f"identity-{datatype.lower()}", implementation=Identity, **ports)
    inputs = [tensor(name, "INT32", 4) for name in ("a", "b")]
    outputs = [tensor(name, "INT32", 4) for name in ("sum", "difference")]
    yield mlserver.ModelSettings(name="add-sub", implementation=AddSub, inputs=inputs, outputs=outputs)


if __name__ == "__main__":
    http, grpc = map(int, sys.argv[1:])
    server = mlserver.MLServer(
        mlserver.Settings(host="127.0.0.1", http_port=http, grpc_port=grpc, parallel_workers=0, metrics_endpoint=None)
    )
    asyncio.run(server.start(list(settings())))
