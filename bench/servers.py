"""Starts the measured servers, each with a model, and checks that their outputs equal ONNX Runtime's."""

import contextlib
import dataclasses
import os
import pathlib
import secrets
import sys
import tempfile
import time
import urllib.request

import grpc

from processes import Running, free_port
from protocols import ask, encode, post

HERE = pathlib.Path(__file__).parent
PATIENCE = 90


@dataclasses.dataclass
class Server:
    running: Running
    http: int
    grpc: int
    headers: dict
    admin: int = 0  # port of the admin listener, for Drisse only

    def tells(self, path):
        """Returns what the admin listener answers to a GET."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}{path}", timeout=60) as answer:
            return answer.read().decode()

    def metric(self, series):
        lines = self.tells("/metrics").splitlines()
        return float(next(line for line in lines if line.startswith(series + " ")).split()[1])


class Unavailable(Exception):
    """The reason why another server cannot be measured."""


class Contestants(contextlib.ExitStack):
    """Starts servers, and ends all of them on exit."""

    def __init__(self, folder, triton_python):
        super().__init__()
        self.drisse_binary, self.probe_binary = f"{folder}/drisse", f"{folder}/probe"
        self.device_binary, self.flood_binary = f"{folder}/device", f"{folder}/flood"
        self.triton_python = triton_python
        self.folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))

    def start(self, name, model, *options, **environment):
        """Starts the server that the method called `name` below describes, for this model. The second port is for gRPC or
        for the admin listener."""
        http, second = free_port(), free_port()
        command, port, headers, patience = getattr(self, name.replace("-", "_"))(model, http, second, *options)
        running = Running(command, environment=environment)
        self.callback(running.stop, patience)
        server = Server(running, http, port, headers, second)
        self.check(name, server, model)
        return server

    def check(self, name, server, model):
        """Waits until the server is ready and checks its outputs in every protocol that it is measured with."""
        deadline = time.monotonic() + PATIENCE
        for protocol in ["json", "binary", "grpc"] if server.grpc else ["json"]:
            while True:
                try:
                    right = post(protocol, server, model)[1] == encode(protocol, model)[0] if name == "echo" \
                        else model.same(ask(protocol, server, model))
                    break
                except (OSError, grpc.RpcError) as error:
                    if server.running.ended() or time.monotonic() > deadline:
                        raise Unavailable(f"{server.running.complaint()} ({protocol}: {str(error)[:200]})") from error
                    time.sleep(0.05)
            assert right, f"the {protocol} response of {name} differs from ONNX Runtime's outputs"

    def probe(self, model, http, _):
        return [self.probe_binary, "http", model.file, http], None, {}, 0

    def echo(self, model, http, _):
        return [self.probe_binary, "echo", http], None, {}, 0

    def drisse(self, model, http, admin, *options):
        """With keys and metrics, as for a server that other machines can reach; IDs and limits are always on."""
        key = secrets.token_urlsafe(32)
        keys = self.folder / f"keys-{http}"
        keys.write_text(key + "\n")
        command = [self.drisse_binary, "serve", f"{model.name}={model.file}", "--listen", f"127.0.0.1:{http}",
                   "--admin", f"127.0.0.1:{admin}", "--keys", keys, *options]
        return command, http, {"authorization": f"Bearer {key}"}, 0

    def device(self, _, http, admin, *options):
        return [self.device_binary, http, admin, *options], None, {}, 0

    def fastapi(self, model, http, _, *how):
        return [sys.executable, HERE / "fastapi_server.py", model.file, http, *how], None, {}, 10

    def fastapi_tuned(self, model, http, _):
        return self.fastapi(model, http, _, "tuned")

    def triton(self, model, http, grpc_port, *backend):
        if not self.triton_python:
            raise Unavailable("its Python package is not installed")
        folder = self.folder / f"triton-{http}"
        folder.mkdir()
        arguments = [model.file, model.name, http, grpc_port, model.threads, folder, *backend]
        return [self.triton_python, HERE / "triton_server.py", *arguments], grpc_port, {}, 20

    def triton_cpp(self, model, http, grpc_port):
        if "TRITON_ONNXRUNTIME" not in os.environ:
            raise Unavailable("TRITON_ONNXRUNTIME, the folder of its backend, is not set")
        return self.triton(model, http, grpc_port, os.environ["TRITON_ONNXRUNTIME"])
