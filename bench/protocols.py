"""Measures what carrying a large input costs: server CPU per request to a model of ResNet-50's size, by each protocol,
beside ONNX Runtime's own CPU per run of the same model with the same threads.

    cargo xtask bench            (or: python bench/protocols.py target/release)
"""

import http.client
import json
import os
import statistics
import struct
import subprocess
import sys
import tempfile

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bench import Report, Running, cpu

ROUNDS = int(os.environ.get("ROUNDS", 5))
REQUESTS = int(os.environ.get("REQUESTS", 60))
THREADS = os.cpu_count()
SHAPE = (1, 3, 224, 224)
PORT = 18110
LIMIT = 1.03
rng = np.random.default_rng(50)


def resnet50(path):
    """ResNet-50's layers with made-up weights: He et al., 2015, table 1. Normalisation is folded into the weights."""
    nodes, weights = [], []

    def convolution(x, inputs, outputs, size, stride, activate=True):
        name = f"w{len(weights)}"
        values = rng.standard_normal((outputs, inputs, size, size), np.float32) * np.float32((2 / (inputs * size * size)) ** 0.5)
        weights.append(numpy_helper.from_array(values, name))
        y = f"{name}_out"
        pad = size // 2
        nodes.append(helper.make_node("Conv", [x, name], [y], strides=[stride] * 2, pads=[pad] * 4, kernel_shape=[size] * 2))
        if activate:
            nodes.append(helper.make_node("Relu", [y], [f"{y}_r"]))
            y += "_r"
        return y

    x = convolution("image", 3, 64, 7, 2)
    nodes.append(helper.make_node("MaxPool", [x], ["pooled"], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4))
    x, channels = "pooled", 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        width = 64 << stage
        for block in range(blocks):
            stride = 2 if stage > 0 and block == 0 else 1
            y = convolution(x, channels, width, 1, 1)
            y = convolution(y, width, width, 3, stride)
            y = convolution(y, width, 4 * width, 1, 1, activate=False)
            shortcut = convolution(x, channels, 4 * width, 1, stride, activate=False) if block == 0 else x
            nodes.append(helper.make_node("Add", [y, shortcut], [f"{y}_s"]))
            nodes.append(helper.make_node("Relu", [f"{y}_s"], [f"{y}_b"]))
            x, channels = f"{y}_b", 4 * width
    weights.append(numpy_helper.from_array(rng.standard_normal((2048, 1000), np.float32) * np.float32(0.02), "fc"))
    nodes.append(helper.make_node("GlobalAveragePool", [x], ["averaged"]))
    nodes.append(helper.make_node("Flatten", ["averaged"], ["flat"]))
    nodes.append(helper.make_node("MatMul", ["flat", "fc"], ["classes"]))
    tensor = helper.make_tensor_value_info
    graph = helper.make_graph(nodes, "resnet50", [tensor("image", TensorProto.FLOAT, ["batch", *SHAPE[1:]])],
                              [tensor("classes", TensorProto.FLOAT, ["batch", 1000])], weights)
    onnx.save(helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 17)]), path)


def varint(value):
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def field(number, value):
    return varint(number << 3 | 2) + varint(len(value)) + value


def call(image):
    """A ModelInfer request in its frame."""
    shape = b"".join(varint(size) for size in SHAPE)
    tensor = field(1, b"image") + field(2, b"FP32") + field(3, shape)
    message = field(1, b"resnet50") + field(5, tensor) + field(7, image.tobytes())
    return b"\0" + struct.pack(">I", len(message)) + message


def onnxruntime_alone(model):
    """CPU a run, in ms, and the answer: in a process of its own."""
    code = f"""
import resource, sys, numpy as np, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = {THREADS}
options.add_session_config_entry("session.intra_op.allow_spinning", "0")
session = onnxruntime.InferenceSession({str(model)!r}, options, providers=["CPUExecutionProvider"])
image = np.load({str(model)!r} + ".npy")
answer = session.run(None, {{"image": image}})[0]
for _ in range(5): session.run(None, {{"image": image}})
before = resource.getrusage(resource.RUSAGE_SELF)
for _ in range({REQUESTS}): session.run(None, {{"image": image}})
after = resource.getrusage(resource.RUSAGE_SELF)
print((after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / {REQUESTS} * 1e3, float(answer[0, 0]))
"""
    used, first = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    return float(used), float(first)


class Client:
    def __init__(self, server, image, folder):
        self.server = server
        self.connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=60)
        tensor = {"name": "image", "shape": SHAPE, "datatype": "FP32"}
        self.json = json.dumps({"inputs": [{**tensor, "data": image.reshape(-1).tolist()}]}).encode()
        binary = {**tensor, "parameters": {"binary_data_size": image.nbytes}}
        head = json.dumps({"inputs": [binary], "parameters": {"binary_data_output": True}}).encode()
        self.binary, self.length = head + image.tobytes(), str(len(head))
        self.frame = f"{folder}/frame"
        with open(self.frame, "wb") as file:
            file.write(call(image))

    def post(self, body, headers):
        self.connection.request("POST", "/v2/models/resnet50/infer", body, headers)
        answer = self.connection.getresponse()
        content = answer.read()
        assert answer.status == 200, content[:300]
        return answer, content

    def by_json(self):
        for _ in range(REQUESTS):
            _, content = self.post(self.json, {"content-type": "application/json"})
        return json.loads(content)["outputs"][0]["data"][0]

    def by_binary(self):
        for _ in range(REQUESTS):
            answer, content = self.post(self.binary, {"inference-header-content-length": self.length})
        return struct.unpack_from("<f", content, int(answer.getheader("inference-header-content-length")))[0]

    def by_grpc(self):
        command = ["h2load", "-n", str(REQUESTS), "-c", "1", "-m", "1", "-w", "22", "-W", "24", "-d", self.frame,
                   "-H", "content-type: application/grpc", "-H", "te: trailers",
                   f"http://127.0.0.1:{PORT}/inference.GRPCInferenceService/ModelInfer"]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert f"{REQUESTS} succeeded" in output, output
        # An error has no message: 4,000 bytes a request came back.
        received = float(output.split("traffic: ")[1].split("(")[1].split(")")[0])
        assert received > 4000 * REQUESTS, output
        return None

    def cost(self, way):
        """Server CPU a request, in ms, and the answer."""
        before = cpu(self.server.pid)
        answer = way()
        return (cpu(self.server.pid) - before) / REQUESTS * 1e3, answer


def main(folder):
    say = Report("Large inputs by each protocol", "A model of ResNet-50's layers with made-up weights, one connection.")
    with tempfile.TemporaryDirectory() as work:
        model = f"{work}/resnet50.onnx"
        resnet50(model)
        image = rng.standard_normal(SHAPE, np.float32)
        np.save(model + ".npy", image)
        server = Running([f"{folder}/drisse", "serve", model, "--listen", f"127.0.0.1:{PORT}"])
        client = Client(server, image, work)
        while True:
            try:
                client.by_binary()
                break
            except (ConnectionError, AssertionError):
                client.connection.close()
        rows = {"ONNX Runtime alone": [], "V2 binary": [], "V2 gRPC": [], "V2 JSON, 3 MB": []}
        for _ in range(ROUNDS):
            alone, first = onnxruntime_alone(model)
            rows["ONNX Runtime alone"].append(alone)
            for name, way in (("V2 binary", client.by_binary), ("V2 gRPC", client.by_grpc), ("V2 JSON, 3 MB", client.by_json)):
                used, answer = client.cost(way)
                assert answer is None or abs(answer - first) < 1e-4 * max(1, abs(first)), (name, answer, first)
                rows[name].append(used)
        server.stop()
    alone = statistics.median(rows["ONNX Runtime alone"])
    say(f"medians of {ROUNDS} interleaved rounds of {REQUESTS} requests, {os.cpu_count()} cores; 150,528 floats each\n")
    say(f"{'':34}{'CPU a request, ms':>20}{'ratio':>10}{'limit':>10}")
    for name, values in rows.items():
        used = statistics.median(values)
        limit = LIMIT if name in ("V2 binary", "V2 gRPC") else ""
        say(f"{name:34}{used:20.2f}{used / alone:10.3f}{limit:>10}")
    say.save()


if __name__ == "__main__":
    main(sys.argv[1])
