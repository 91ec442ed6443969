"""Serves an ONNX model with Triton, from NVIDIA's Python package.

    python bench/triton_server.py MODEL NAME HTTP_PORT GRPC_PORT THREADS FOLDER [BACKEND]

Uses Triton's Python backend, which calls ONNX Runtime's Python API; or, if BACKEND is the folder of Triton's C++ backend
of ONNX Runtime, the same `tritonserver` with that backend.
"""

import os
import pathlib
import sys

import numpy as np
import onnxruntime
import pytriton
from pytriton.decorators import batch
from pytriton.model_config import ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig, TritonSecurityConfig

DATATYPES = {"tensor(float)": np.float32, "tensor(int32)": np.int32, "tensor(int64)": np.int64}
LOCAL = "127.0.0.1"
# The number of connections of the load generator: faster than pytriton's default of 4, and much faster than no batches.
BATCH = 16


def tensor(port):
    """Describes an input or output for Triton: without the batch dimension, and with at least one other dimension."""
    shape = tuple(size if isinstance(size, int) else -1 for size in port.shape[1:])
    return Tensor(name=port.name, dtype=DATATYPES[port.type], shape=shape or (1,))


def by_python(model, name, http, grpc, threads, folder):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    outputs = session.get_outputs()

    @batch
    def infer(**inputs):
        values = session.run(None, inputs)
        return {port.name: value.reshape(len(value), -1) if value.ndim == 1 else value for port, value in zip(outputs, values)}

    config = TritonConfig(http_port=http, grpc_port=grpc, http_address=LOCAL, grpc_address=LOCAL, allow_metrics=False)
    # No endpoint requires a token, as with Triton itself.
    open_to_all = TritonSecurityConfig(restricted_endpoints=[])
    with Triton(config=config, security_config=open_to_all, workspace=f"{folder}/work") as triton:
        instances = [infer] * max(1, os.cpu_count() // threads)
        ports = {"inputs": [tensor(port) for port in session.get_inputs()], "outputs": [tensor(port) for port in outputs]}
        triton.bind(name, instances, **ports, config=ModelConfig(max_batch_size=BATCH))
        triton.serve()


def by_onnxruntime(model, name, http, grpc, threads, folder, backend):
    version = pathlib.Path(folder, "models", name, "1")
    version.mkdir(parents=True)
    (version / "model.onnx").symlink_to(pathlib.Path(model).resolve())
    instances = max(1, os.cpu_count() // threads)
    (version.parent / "config.pbtxt").write_text(f"""
backend: "onnxruntime"
max_batch_size: 0
instance_group [{{ kind: KIND_CPU, count: {instances} }}]
parameters {{ key: "intra_op_thread_count" value: {{ string_value: "{threads}" }} }}
""")
    backends = pathlib.Path(folder, "backends")
    backends.mkdir()
    (backends / "onnxruntime").symlink_to(pathlib.Path(backend).resolve())
    server = str(pathlib.Path(pytriton.__file__).parent / "tritonserver/bin/tritonserver")
    os.execv(server, [server, f"--model-repository={folder}/models", f"--backend-directory={backends}", "--allow-metrics=false",
                      f"--http-address={LOCAL}", f"--http-port={http}", f"--grpc-address={LOCAL}", f"--grpc-port={grpc}"])


if __name__ == "__main__":
    model, name, http, grpc, threads, folder, *backend = sys.argv[1:]
    arguments = model, name, int(http), int(grpc), int(threads), folder
    by_onnxruntime(*arguments, *backend) if backend else by_python(*arguments)
