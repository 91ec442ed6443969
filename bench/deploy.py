"""Measures the time from a model file to a response, the cost of the gateway, and the control plane at scale.

    cargo xtask bench            (or: python bench/deploy.py target/release)

The gateway is compared with haproxy as a proxy from TCP to the same Unix socket, interleaved, as medians of several
rounds.
"""

import concurrent.futures
import http.client
import json
import os
import pathlib
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time

from processes import cpu, onnxruntime_library, resident
from report import ROOT, Report

DEPLOYS = int(os.environ.get("DEPLOYS", 20))
ROUNDS = int(os.environ.get("ROUNDS", 7))
SECONDS = int(os.environ.get("SECONDS_EACH", 4))
MODELS = int(os.environ.get("MODELS", 10_000))
SERVICES = int(os.environ.get("SERVICES", 1_000))
MODEL = ROOT / "examples/digits/digits.onnx"
BODY = (ROOT / "examples/digits/sample.json").read_text()
median = statistics.median


class Unix(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path):
        super().__init__("localhost", timeout=60)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(str(self.path))

    def ask(self, method, path, body=None):
        # A new connection each time, because the server closes connections that are idle for long.
        self.close()
        self.request(method, path, None if body is None else json.dumps(body), {"content-type": "application/json"})
        answer = self.getresponse()
        text = answer.read()
        assert answer.status < 400, text
        return json.loads(text) if text.startswith((b"{", b"[")) else text


class Workspace:
    def __init__(self, drisse, **environment):
        self.drisse, self.folder = drisse, tempfile.mkdtemp()
        self.environment = {**os.environ, "DRISSE_WORKSPACE": f"{self.folder}/ws", **environment}

    def run(self, *arguments):
        output = subprocess.run([self.drisse, "--output", "json", *arguments], env=self.environment, capture_output=True, text=True)
        assert output.returncode == 0, output.stdout + output.stderr
        return json.loads(output.stdout), output.stderr

    def control(self):
        """Returns a client of the control API and the control plane's process ID. Finds the socket among those that the
        process has open."""
        pid = self.run("status")[0]["control"]["pid"]
        listening = pathlib.Path("/proc/net/unix").read_text().splitlines()
        inodes = {os.readlink(fd)[8:-1] for fd in pathlib.Path(f"/proc/{pid}/fd").iterdir() if os.readlink(fd).startswith("socket:")}
        path = next(line.split()[7] for line in listening if line.endswith("/control") and line.split()[6] in inodes) \
            if any(line.endswith("/control") for line in listening) else None
        if path is None:  # the socket was bound under a temporary name and then renamed
            bound = next(line.split()[7] for line in listening if "/control." in line and line.split()[6] in inodes)
            path = bound.rsplit(".", 1)[0]
        return Unix(path), pid

    def variant(self, nth):
        """Returns a digits model with other bytes: it has an additional doc_string."""
        folder = pathlib.Path(self.folder) / f"v{nth}"
        folder.mkdir()
        text = f"variant {nth}".encode()
        (folder / "digits.onnx").write_bytes(MODEL.read_bytes() + bytes([0x32, len(text)]) + text)
        return folder / "digits.onnx"

    def close(self):
        self.run("down")
        shutil.rmtree(self.folder)


def deploys(drisse, say):
    cold, warm, parts = [], [], {}
    for _ in range(DEPLOYS):
        workspace = Workspace(drisse)
        began = time.perf_counter()
        workspace.run("deploy", str(MODEL))
        cold.append((time.perf_counter() - began) * 1e3)
        workspace.close()
    workspace = Workspace(drisse)
    workspace.run("deploy", str(MODEL), "--name", "first")
    for nth in range(DEPLOYS):
        model = workspace.variant(nth)
        began = time.perf_counter()
        document, _ = workspace.run("deploy", str(model), "--name", f"s{nth}")
        warm.append((time.perf_counter() - began) * 1e3)
        assert document["answer"]["label"], document
        control, _ = workspace.control()
        control.request("GET", f"/v1/operations/{document['operation']}/events")
        events = [json.loads(line[5:]) for line in control.getresponse().read().decode().splitlines() if line.startswith("data:")]
        operation = control.ask("GET", f"/v1/operations/{document['operation']}")
        at = lambda text: float(text[17:-1])
        times = [at(operation["created_at"]), *(at(event["at"]) for event in events), at(operation["finished_at"])]
        names = ["register", "record the desired state", "start a process", "load, warm up, become ready, route", "finish"]
        for name, begin, end in zip(names, times, times[1:]):
            parts.setdefault(name, []).append((end - begin) % 60 * 1e3)
    workspace.close()
    say(f"from a model file to the first scored response (digits), medians of {DEPLOYS}\n")
    say(f"{'':44}{'ms':>10}{'limit':>10}")
    say(f"{'control plane running':44}{median(warm):10.1f}{300:10}")
    for name, values in parts.items():
        say(f"{'  ' + name:44}{median(values):10.1f}")
    say(f"{'nothing running':44}{median(cold):10.1f}{1000:10}")


def gateway(drisse, say):
    folder = pathlib.Path(tempfile.mkdtemp())
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    port = listener.getsockname()[1]
    replica = subprocess.Popen([drisse, "serve", f"digits={MODEL}", "--unix", f"{folder}/s", "--listen", f"127.0.0.1:{port - 1}", "--admin", f"unix:{folder}/a"],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    routed = subprocess.Popen([drisse, "gateway", "--gateway", "bench/0123456789ab", "--admin", f"{folder}/g", "--pass", f"{folder}/p",
                               "--routes", f"{folder}/routes", "--log-file", f"{folder}/log"], stdin=listener)
    while not (folder / "g").exists() or not (folder / "s").exists():
        time.sleep(0.01)
    identity = {}
    while not identity.get("ready"):
        identity = Unix(folder / "a").ask("GET", "/identity")
    Unix(folder / "g").ask("PUT", "/routes/digits", {
        "service": "digits", "generation": 1, "keys": [], "max_wait_ms": 500, "scoring_timeout_ms": 60000,
        "revisions": [{"revision": 1, "weight": 1, "replicas": [
            {"id": "r", "address": f"unix:{folder}/s", "concurrency": identity["models"][0]["concurrency"]}]}]})
    proxy_port = port + 1 if port < 65000 else port - 1
    (folder / "haproxy.cfg").write_text(f"""
global
  nbthread {os.cpu_count()}
  maxconn 1000
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  http-reuse always
frontend f
  bind 127.0.0.1:{proxy_port}
  http-request set-path /score
  default_backend b
backend b
  server s unix@{folder}/s
""")
    proxy = subprocess.Popen(["haproxy", "-f", f"{folder}/haproxy.cfg"], stderr=subprocess.DEVNULL)
    (folder / "body").write_text(BODY)
    path = "/api/v1/service/digits/score"
    ways = {
        "direct": (replica.pid, [f"http://127.0.0.1:{port - 1}/score"]),
        "gateway": (routed.pid, [f"http://127.0.0.1:{port}{path}"]),
        "haproxy": (proxy.pid, [f"http://127.0.0.1:{proxy_port}{path}"]),
    }
    ask = Unix(folder / "s").ask("POST", "/score", json.loads(BODY))
    for where in (port, proxy_port):
        for _ in range(200):
            connection = http.client.HTTPConnection("127.0.0.1", where)
            try:
                connection.request("POST", path, BODY)
                break
            except ConnectionRefusedError:
                time.sleep(0.01)
        assert json.loads(connection.getresponse().read()) == ask, "the responses differ"

    def paced(pid, arguments):
        log = folder / "requests"
        log.unlink(missing_ok=True)
        before = cpu(pid)
        output = subprocess.run(["h2load", "--h1", "--rps", "2000", "-c1", "-D", str(SECONDS), "-d", f"{folder}/body",
                                 "--log-file", str(log), *arguments], capture_output=True, text=True, check=True).stdout
        used = cpu(pid) - before
        assert " 0 failed" in output, output
        times = sorted(int(line.split()[2]) for line in log.read_text().splitlines())
        return times[len(times) // 2], times[len(times) * 99 // 100], used / len(times) * 1e6

    def full(pid, arguments):
        before = cpu(pid)
        output = subprocess.run(["h2load", "--h1", "-c16", "-D", str(SECONDS), "-d", f"{folder}/body", *arguments],
                                capture_output=True, text=True, check=True).stdout
        used = cpu(pid) - before
        assert " 0 failed" in output, output
        done = int(output.split("requests: ")[1].split(" total, ")[1].split("started, ")[1].split(" done")[0])
        return done / SECONDS, used / done * 1e6

    rows = {name: [] for name in ways}
    flat = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            rows[name].append(paced(*way))
        for name, way in ways.items():
            flat[name].append(full(*way))
    for process in (proxy, routed, replica):
        process.kill()
        process.wait()
    shutil.rmtree(folder)
    column = lambda table, nth: {name: median(row[nth] for row in values) for name, values in table.items()}
    p50, p99, used = (column(rows, nth) for nth in range(3))
    rate, used_full = (column(flat, nth) for nth in range(2))
    say(f"\nproxying (digits), medians of {ROUNDS}; direct: the same replica over TCP, without a proxy\n")
    say(f"{'':44}{'direct':>10}{'gateway':>10}{'haproxy':>10}{'':>12}{'limit':>8}")
    beyond = p50["gateway"] - p50["direct"]
    say(f"{'2,000 requests/s, p50, µs':44}{p50['direct']:10.0f}{p50['gateway']:10.0f}{p50['haproxy']:10.0f}{f'{beyond:+.0f}':>12}{'+60':>8}")
    beyond = p99["gateway"] - p99["direct"]
    say(f"{'2,000 requests/s, p99, µs':44}{p99['direct']:10.0f}{p99['gateway']:10.0f}{p99['haproxy']:10.0f}{f'{beyond:+.0f}':>12}{'+300':>8}")
    for what, table in (("2,000 requests/s", used), ("16 connections, full load", used_full)):
        ratio = table["gateway"] / table["haproxy"]
        name = f"{what}, CPU per request, µs"
        say(f"{name:44}{'':10}{table['gateway']:10.1f}{table['haproxy']:10.1f}{f'{ratio:.2f} x':>12}{'1.2 x':>8}")
    ratio = rate["gateway"] / rate["direct"]
    say(f"{'16 connections, requests/s':44}{rate['direct']:10.0f}{rate['gateway']:10.0f}{rate['haproxy']:10.0f}{f'{ratio:.2f} x':>12}{'0.5 x':>8}")


class Plane:
    """A control plane with this many models, and services on the fake target."""

    def __init__(self, drisse, models, services):
        self.workspace = Workspace(drisse, DRISSE_FAKE="1")
        self.workspace.run("up")
        self.control, self.pid = self.workspace.control()
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            list(pool.map(self.register, range(models)))
            # Each service gets another model, as far as there are enough models.
            list(pool.map(lambda nth: self.deploy(f"f{nth}", f"m{nth % (models // 10)}:1"), range(services)))

    def finish(self, connection, operation):
        connection.request("GET", f"/v1/operations/{operation['id']}/events")
        connection.getresponse().read()
        done = connection.ask("GET", f"/v1/operations/{operation['id']}")
        assert done["state"] == "Succeeded", done

    def register(self, nth):
        connection = Unix(self.control.path)
        body = {"path": str(self.workspace.variant(f"m{nth}")), "name": f"m{nth // 10}"}
        self.finish(connection, connection.ask("POST", "/v1/models", body))

    def deploy(self, name, model):
        connection = Unix(self.control.path)
        self.finish(connection, connection.ask("POST", "/v1/services", {"model": {"registered": model}, "name": name, "target": "fake"}))

    def measure(self, nth, times):
        for what in ("/v1/models?limit=50", "/v1/services/f5"):
            began = time.perf_counter()
            self.control.ask("GET", what)
            times[what].append((time.perf_counter() - began) * 1e3)
        began = time.perf_counter()
        self.deploy(f"x{nth}", "m0:1")
        times["deploy"].append((time.perf_counter() - began) * 1e3)
        self.finish(self.control, self.control.ask("DELETE", f"/v1/services/x{nth}"))


def scale(drisse, say):
    # At least 50 models in both, so that a page of 50 has the same length.
    few, many = Plane(drisse, 50, 10), Plane(drisse, MODELS, SERVICES)
    # Waits until the store's index has been written, which happens some time after the last change.
    time.sleep(5)
    whats = ("/v1/models?limit=50", "/v1/services/f5", "deploy")
    times = {plane: {what: [] for what in whats} for plane in (few, many)}
    for nth in range(5 * DEPLOYS):
        for plane in (few, many):
            plane.measure(nth, times[plane])
    time.sleep(15)
    before = cpu(many.pid)
    time.sleep(20)
    idle = (cpu(many.pid) - before) / 20
    memory = [resident(plane.pid) for plane in (few, many)]
    for plane in (few, many):
        plane.workspace.close()
    say(f"\nthe control plane with 50 models and 10 services (few), or {MODELS:,} and {SERVICES:,} (many), on the fake target; "
        f"medians of {5 * DEPLOYS}\n")
    say(f"{'':44}{'few':>10}{'many':>10}{'ratio':>12}{'limit':>8}")
    for what, name in zip(whats, ("a page of 50 models, ms", "show a service, ms", "deploy a service, ms")):
        one, other = (median(times[plane][what]) for plane in (few, many))
        say(f"{name:44}{one:10.2f}{other:10.2f}{other / one:12.2f}{1.1:8}")
    say(f"{'idle CPU, cores':44}{'':10}{idle:10.4f}")
    say(f"{'idle resident memory, MiB':44}{memory[0]:10.1f}{memory[1]:10.1f}{'':12}{40:8}")


def main(folder):
    drisse = f"{folder}/drisse"
    onnxruntime_library()
    say = Report("Deploying, the gateway, the control plane", "`haproxy` is a proxy from TCP to the same Unix socket.")
    wanted = sys.argv[2:] or ["deploys", "gateway", "scale"]
    for part in wanted:
        {"deploys": deploys, "gateway": gateway, "scale": scale}[part](drisse, say)
    if len(wanted) == 3:
        say.save()


if __name__ == "__main__":
    main(sys.argv[1])
