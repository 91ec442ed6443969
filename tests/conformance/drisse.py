"""Starts `drisse serve` and sends requests to it, for the Python tests."""

import http.client
import json
import math
import os
import subprocess
import tempfile

import numpy as np

# V2 datatypes by their numpy names; bfloat16 is from ml_dtypes.
V2 = {
    "bool": "BOOL", "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64",
    "int8": "INT8", "int16": "INT16", "int32": "INT32", "int64": "INT64",
    "float16": "FP16", "bfloat16": "BF16", "float32": "FP32", "float64": "FP64", "object": "BYTES",
}


class Server:
    """A scoring server on a Unix socket, ready once constructed; with `listen` also on a TCP port of loopback."""

    def __init__(self, binary, models, listen=False):
        self.folder = tempfile.TemporaryDirectory()
        self.socket = os.path.join(self.folder.name, "s")
        port = ["--listen", "127.0.0.1:0"] if listen else []
        # One thread per run, like the sessions it is compared with: the number of threads affects the order of sums.
        arguments = [binary, "serve", "--output", "json", "--threads", "1", "--unix", self.socket, *port, *models]
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=self.log, text=True)
        # The server prints one document: its addresses when it is ready, or the error that ended it.
        decoder, text = json.JSONDecoder(), ""
        while line := self.process.stdout.readline():
            text += line
            try:
                self.ready = decoder.decode(text)
                break
            except json.JSONDecodeError:
                continue
        else:
            raise RuntimeError(f"drisse ended without output: {self.errors()}")
        self.connection = None

    def errors(self):
        self.log.seek(0)
        return self.log.read().decode(errors="replace")[-2000:]

    def request(self, method, path, body=None):
        """Sends a request and returns the status and the parsed body."""
        if self.connection is None:
            self.connection = UnixConnection(self.socket)
        headers = {"content-type": "application/json"} if body is not None else {}
        self.connection.request(method, path, body=body, headers=headers)
        answer = self.connection.getresponse()
        text = answer.read()
        return answer.status, json.loads(text) if text.startswith(b"{") else text.decode()

    def infer(self, model, inputs):
        """Sends a V2 infer request with numpy inputs by name. Returns numpy outputs by name, or the text of an error."""
        tensors = [encode(name, value) for name, value in inputs.items()]
        status, answer = self.request("POST", f"/v2/models/{model}/infer", json.dumps({"inputs": tensors}))
        if status != 200:
            return f"{status}: {answer.get('error')}"
        return {output["name"]: decode(output) for output in answer["outputs"]}

    def close(self):
        self.process.terminate()
        code = self.process.wait(60)
        assert code == 0, f"drisse ended with {code}: {self.errors()}"


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost")
        self.path = path

    def connect(self):
        import socket

        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.path)


def encode(name, value):
    kind = str(value.dtype) if value.dtype.kind not in "OUS" else "object"
    data = value.reshape(-1)
    if kind == "object":
        data = [item.decode() if isinstance(item, bytes) else str(item) for item in data]
    elif kind in ("float16", "bfloat16"):
        data = data.astype(np.float32).tolist()
    else:
        data = data.tolist()
    return {"name": name, "datatype": V2[kind], "shape": list(value.shape), "data": data}


def decode(output):
    kind = next(numpy for numpy, v2 in V2.items() if v2 == output["datatype"])
    if kind == "bfloat16":
        import ml_dtypes

        kind = ml_dtypes.bfloat16
    data = [math.nan if item is None else item for item in output["data"]]
    return np.array(data, dtype=kind).reshape(output["shape"])


def run_tests(module, call):
    """Calls `call(name, test)` for each `test_…` of a module, prints the failures, and returns their number."""
    tests = [(name, test) for name, test in vars(module).items() if name.startswith("test_")]
    failed = 0
    for name, test in tests:
        try:
            call(name, test)
        except Exception as error:  # noqa: BLE001: printed and counted; the next test runs
            failed += 1
            print(f"FAILED {name[5:].replace('_', ' ')}: {type(error).__name__}: {str(error)[:600]}")
    print(f"{len(tests) - failed} passed, {failed} failed")
    return failed
