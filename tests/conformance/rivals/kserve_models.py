"""Serves the models of `drisse conformance` with KServe's Python server, as its documentation describes custom models.

    python kserve_models.py HTTP_PORT GRPC_PORT
"""

import sys

import numpy as np
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer
from kserve.utils.utils import generate_uuid

DATATYPES = ["BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64", "BYTES"]
NUMPY = {"BOOL": np.bool_, "FP16": np.float16, "FP32": np.float32, "FP64": np.float64, "BYTES": np.object_}


class Custom(Model):
    """A model that runs a function of named numpy arrays, in both protocols."""

    def __init__(self, name, inputs, outputs, run):
        super().__init__(name)
        self.inputs, self.outputs, self.run = inputs, outputs, run
        self.ready = True

    def load(self):
        return self.ready

    async def get_input_types(self):
        return self.inputs

    async def get_output_types(self):
        return self.outputs

    def predict(self, payload, headers=None, response_headers=None):
        if isinstance(payload, InferRequest):
            results = self.run({tensor.name: tensor.as_numpy() for tensor in payload.inputs})
            outputs = []
            for port in self.outputs:
                value = results[port["name"]]
                output = InferOutput(port["name"], list(value.shape), port["datatype"])
                output.set_data_from_numpy(value, binary_data=bool(payload.use_binary_outputs))
                outputs.append(output)
            return InferResponse(response_id=payload.id or generate_uuid(), model_name=self.name, infer_outputs=outputs)
        instances = payload["instances"] if "instances" in payload else payload["inputs"]
        names = [port["name"] for port in self.inputs]
        rows = [row if isinstance(row, dict) else {names[0]: row} for row in instances]
        values = {
            port["name"]: np.array([row[port["name"]] for row in rows], numpy_type(port["datatype"])) for port in self.inputs
        }
        results = {name: value.tolist() for name, value in self.run(values).items()}
        if len(results) == 1:
            return {"predictions": next(iter(results.values()))}
        return {"predictions": [dict(zip(results, row)) for row in zip(*results.values())]}


def numpy_type(datatype):
    return NUMPY.get(datatype) or getattr(np, datatype.lower())


def port(name, datatype, columns):
    return {"name": name, "datatype": datatype, "shape": [-1, columns]}


def models():
    for datatype in DATATYPES:
        ports = [port("x", datatype, 2)], [port("y", datatype, 2)]
        yield Custom(f"identity-{datatype.lower()}", *ports, lambda values: {"y": values["x"]})
    ports = [port(name, "INT32", 4) for name in ("a", "b", "sum", "difference")]
    run = lambda values: {"sum": values["a"] + values["b"], "difference": values["a"] - values["b"]}  # noqa: E731
    yield Custom("add-sub", ports[:2], ports[2:], run)


if __name__ == "__main__":
    http, grpc = map(int, sys.argv[1:])
    ModelServer(http_port=http, grpc_port=grpc, workers=1, enable_grpc=True).start(list(models()))
