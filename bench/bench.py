"""Measures Drisse beside its limits, interleaved, medians of several rounds.

    cargo xtask bench            (or: python bench/bench.py target/release)

Start and memory: against ONNX Runtime's C API alone. Throughput and CPU per request: the digits model,
JSON V2, 16 connections (`wrk`), against a bare hyper with ONNX Runtime inline.
"""

import http.client
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parent.parent
MODEL = ROOT / "examples/digits/digits.onnx"
ROUNDS = int(os.environ.get("ROUNDS", 7))
SECONDS = int(os.environ.get("SECONDS_EACH", 4))
TICKS = os.sysconf("SC_CLK_TCK")
LIMITS = {"start": 60.0, "memory": 25.0, "cpu": 1.3}

sample = json.loads((ROOT / "examples/digits/sample.json").read_text())["data"][0]
BODY = json.dumps({"inputs": [{"name": "X", "shape": [1, 64], "datatype": "FP32", "data": sample}]}, separators=(",", ":"))


def cpu(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def resident(pid):
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024


def ask(port, path):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request("POST", path, BODY, {"content-type": "application/json"})
    answer = json.loads(connection.getresponse().read())
    return answer["outputs"][0]["data"]


def until_answered(port, path):
    while True:
        try:
            return ask(port, path)
        except (ConnectionError, KeyError):
            time.sleep(0.0005)


class Running:
    def __init__(self, command):
        self.started = time.perf_counter()
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self.pid = self.process.pid

    def stop(self):
        self.process.kill()
        self.process.wait()


def start_and_memory(drisse, probe):
    times, memory = {"probe": [], "drisse": []}, {"probe": [], "drisse": []}
    for _ in range(ROUNDS):
        running = Running([probe, "load", str(MODEL)])
        running.process.stdout.readline()
        times["probe"].append((time.perf_counter() - running.started) * 1e3)
        time.sleep(0.3)
        memory["probe"].append(resident(running.pid))
        running.stop()
        running = Running([drisse, "serve", str(MODEL), "--listen", "127.0.0.1:18101"])
        until_answered(18101, "/v2/models/digits/infer")
        times["drisse"].append((time.perf_counter() - running.started) * 1e3)
        time.sleep(0.3)
        memory["drisse"].append(resident(running.pid))
        running.stop()
    return times, memory


def load(running, port, path, connections):
    """Requests a second, server CPU a request in µs, p50 and p99 in ms."""
    script = tempfile.NamedTemporaryFile("w", suffix=".lua")
    script.write(f"""wrk.method = "POST"; wrk.body = [[{BODY}]]; wrk.headers["Content-Type"] = "application/json"
function done(summary, latency) io.write(string.format("@ %d %d %f %f\\n", summary.requests,
  summary.errors.status + summary.errors.connect + summary.errors.read + summary.errors.timeout,
  latency:percentile(50) / 1000, latency:percentile(99) / 1000)) end""")
    script.flush()
    before = cpu(running.pid)
    command = ["wrk", "-t1", f"-c{connections}", f"-d{SECONDS}s", "-s", script.name, f"http://127.0.0.1:{port}{path}"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    used = cpu(running.pid) - before
    requests, errors, p50, p99 = (float(x) for x in next(l for l in output.splitlines() if l.startswith("@")).split()[1:])
    assert errors == 0, f"{errors} failed requests"
    return requests / SECONDS, used / requests * 1e6, p50, p99


class Report:
    """What is printed, and kept in docs/performance.md: a section per script."""

    def __init__(self, title, about):
        self.title, self.about, self.lines = title, about, []

    def __call__(self, text):
        print(text, flush=True)
        self.lines.append(text)

    def save(self):
        commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
        text = "\n".join(self.lines)
        section = f"## {self.title}\n\nAt {commit.stdout.strip()}. {self.about}\n\n```\n{text}\n```\n"
        path = ROOT / "docs/performance.md"
        head, *sections = path.read_text().split("\n## ")
        sections = [f"## {old.strip()}\n" for old in sections if not old.startswith(self.title)]
        place = 0 if self.title.startswith("The scoring server") else len(sections)
        sections.insert(place, section)
        path.write_text("\n".join([head.strip() + "\n", *sections]))


def main(folder):
    drisse, probe = f"{folder}/drisse", f"{folder}/probe"
    if "DRISSE_ONNXRUNTIME" not in os.environ:
        cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "drisse/onnxruntime"
        os.environ["DRISSE_ONNXRUNTIME"] = str(next(cache.glob("*/libonnxruntime.so*")))
    times, memory = start_and_memory(drisse, probe)
    median = statistics.median
    start = median(times["drisse"]) - median(times["probe"])
    more = median(memory["drisse"]) - median(memory["probe"])
    say = Report("The scoring server", """The probe (`bench/src/probe.rs`) is the limit: for the first table ONNX
Runtime's C API alone, for the others a bare hyper with ONNX Runtime inline, without keys, limits, checks, ids or metrics.""")
    say(f"medians of {ROUNDS} interleaved rounds, {os.cpu_count()} cores, load generator on the same machine\n")
    say(f"{'':34}{'probe':>10}{'drisse':>10}{'beyond':>10}{'limit':>10}")
    say(f"{'start to first answer, ms':34}{median(times['probe']):10.1f}{median(times['drisse']):10.1f}{start:10.1f}{LIMITS['start']:10.1f}")
    say(f"{'idle resident memory, MiB':34}{median(memory['probe']):10.1f}{median(memory['drisse']):10.1f}{more:10.1f}{LIMITS['memory']:10.1f}")

    path = "/v2/models/digits/infer"
    bare = Running([probe, "http", str(MODEL), "18102"])
    ours = Running([drisse, "serve", str(MODEL), "--listen", "127.0.0.1:18103", "--admin", "127.0.0.1:18104"])
    assert until_answered(18102, path) == until_answered(18103, path), "the answers differ"
    for connections in (16, 1):
        rows = {"probe": [], "drisse": []}
        for _ in range(ROUNDS):
            rows["probe"].append(load(bare, 18102, path, connections))
            rows["drisse"].append(load(ours, 18103, path, connections))
        table = {name: [median(column) for column in zip(*results)] for name, results in rows.items()}
        say(f"\ndigits, JSON V2, {connections} connections{'probe':>{19 - len(str(connections))}}{'drisse':>10}{'ratio':>10}{'limit':>10}")
        for nth, (what, limit) in enumerate((("requests/s", ""), ("server CPU per request, µs", LIMITS["cpu"]), ("p50, ms", ""), ("p99, ms", ""))):
            theirs, mine = table["probe"][nth], table["drisse"][nth]
            digits = 0 if nth == 0 else 3 if nth > 1 else 1
            say(f"{what:34}{theirs:10.{digits}f}{mine:10.{digits}f}{mine / theirs:10.2f}{limit:>10}")
    bare.stop()
    ours.stop()
    say.save()


if __name__ == "__main__":
    main(sys.argv[1])
