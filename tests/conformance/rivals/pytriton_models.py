"""Serves the models of `drisse conformance` with Triton, from NVIDIA's Python package.

    python pytriton_models.py HTTP_PORT GRPC_PORT
"""

import sys

import numpy as np
from pytriton.model_config import ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig, TritonSecurityConfig

DATATYPES = {
    "BOOL": np.bool_, "UINT8": np.uint8, "UINT16": np.uint16, "UINT32": np.uint32, "UINT64": np.uint64,
    "INT8": np.int8, "INT16": np.int16, "INT32": np.int32, "INT64": np.int64,
    "FP16": np.float16, "FP32": np.float32, "FP64": np.float64, "BYTES": np.bytes_,
}


def identity(requests):
    return [{"y": request["x"]} for request in requests]


def add_sub(requests):
    return [{"sum": request["a"] + request["b"], "difference": request["a"] - request["b"]} for request in requests]


def tensor(name, kind, columns):
    return Tensor(name=name, dtype=kind, shape=(-1, columns))


if __name__ == "__main__":
    http, grpc = map(int, sys.argv[1:])
    config = TritonConfig(
        http_port=http, grpc_port=grpc, http_address="127.0.0.1", grpc_address="127.0.0.1", allow_metrics=False
    )
    whole_shapes = ModelConfig(batching=False)
    # No endpoint requires a token, as with Triton itself.
    open_to_all = TritonSecurityConfig(restricted_endpoints=[])
    with Triton(config=config, security_config=open_to_all) as triton:
        for name, kind in DATATYPES.items():
            ports = {"inputs": [tensor("x", kind, 2)], "outputs": [tensor("y", kind, 2)]}
            triton.bind(f"identity-{name.lower()}", identity, **ports, config=whole_shapes)
        inputs = [tensor(name, np.int32, 4) for name in ("a", "b")]
        outputs = [tensor(name, np.int32, 4) for name in ("sum", "difference")]
        triton.bind("add-sub", add_sub, inputs=inputs, outputs=outputs, config=whole_shapes)
        triton.serve()
