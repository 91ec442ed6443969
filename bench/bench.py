"""Measures Drisse beside its limits and beside rivals, interleaved, medians of several rounds: start and memory, then
requests a second, server CPU per request and percentiles. Prints tables, and writes docs/performance.md and its picture.

    cargo xtask bench            (or: python bench/bench.py target/release [triton=PYTHON] [digits] [trees] …)

Without the C++ backend of ONNX Runtime for Triton, unless TRITON_ONNXRUNTIME is the folder that has it. ROUNDS and
SECONDS_EACH say how often and how long. A run of only some models is not written down.
"""

import os
import pathlib
import signal
import subprocess
import sys
import tempfile

import models
import start
from load import Load, load, middle
from processes import CORES, onnxruntime_library
from report import Report, plot
from servers import Contestants, Unavailable
from tables import NAMES, RAW, RAW_ALL, table, title

ROUNDS = int(os.environ.get("ROUNDS", 5))
SECONDS = int(os.environ.get("SECONDS_EACH", 2))
TRITONS = ["triton", "triton-cpp"]
RIVALS = ["fastapi", "fastapi-tuned", *TRITONS]
ALL, ONE = ["probe", "echo", "drisse", *RIVALS], ["probe", "drisse", *RIVALS]
CASES = {
    "digits": (models.digits, [("json", 16, ALL), ("json", 1, ONE),
                               ("binary", 16, ["drisse", *TRITONS]), ("grpc", 16, ["drisse", *TRITONS])]),
    "trees": (models.trees, [("json", 16, ALL), ("json", 1, ONE)]),
    "magika": (models.file_types, [("json", 16, ["probe", "drisse", "fastapi", *TRITONS])]),
    "resnet50": (models.resnet, [(protocol, 1, ["drisse", *TRITONS]) for protocol in ("json", "binary", "grpc")]),
}
ABOUT = """The raw limit is a loop over ONNX Runtime's `Run`. The probe (`bench/src`) is a bare hyper with ONNX
Runtime inline, without keys, limits, checks, ids or metrics, which are on at Drisse; the echo is the same without a
model. FastAPI is `bench/fastapi_server.py`, a process per core, as its documentation has it and tuned; Triton is the one
in the package nvidia-pytriton (`bench/triton_server.py`). CPU is the server's own, with all its processes."""


def raw(probe, model, processes):
    with tempfile.NamedTemporaryFile() as file:
        model.value.tofile(file.name)
        command = [probe, "loop", model.file, file.name, SECONDS, processes, model.threads]
        output = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=True).stdout
    rate, used = map(float, output.split())
    return Load(rate, used, 0, 0)


def measure(folder, triton_python, make, cases):
    """The model, and of each case the medians by name."""
    model = make()
    with Contestants(folder, triton_python) as contestants:
        servers = {}
        for name in dict.fromkeys(name for _, _, names in cases for name in names):
            try:
                servers[name] = contestants.start(name, model)
            except Unavailable as why:
                if name not in RIVALS:
                    raise
                print(f"{model.name}: without {NAMES[name]}: {why}", flush=True)
        loops = {RAW: 1} if model.threads > 1 else {RAW: 1, RAW_ALL: CORES}
        limits, rows = {name: [] for name in loops}, {}
        for _ in range(ROUNDS):
            for name, processes in loops.items():
                limits[name].append(raw(contestants.probe_binary, model, processes))
            rate = limits[name][-1].rate
            # Where a run takes long, as many requests as the limit does in the time, each answered.
            requests = round(rate * SECONDS) if rate < 2000 else 0
            for protocol, connections, names in cases:
                for name in filter(servers.get, names):
                    found = load(servers[name], model, protocol, connections, SECONDS, requests)
                    rows.setdefault((protocol, connections), {}).setdefault(name, []).append(found)
    return model, {case: {name: middle(loads) for name, loads in {**limits, **row}.items()} for case, row in rows.items()}


def main(folder, *arguments):
    # What was started is ended too where this is.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))
    onnxruntime_library()
    folder = pathlib.Path(folder).resolve()
    triton_python = next((word.split("=", 1)[1] for word in arguments if word.startswith("triton=")), None)
    wanted = [word for word in arguments if "=" not in word]
    scoring = Report("The scoring server", ABOUT)
    large = Report("Large inputs by each protocol", """A model of ResNet-50's layers with made-up weights, all cores for
each run, one connection; the others are told of above.""")
    about = f"medians of {ROUNDS} interleaved rounds of {SECONDS} s, {CORES} cores, load generator on the same machine"
    if not wanted:
        scoring(about + "\n")
        with Contestants(folder, None) as contestants:
            start.measure(contestants, models.digits(), ROUNDS, scoring)
    panels = []
    for name in wanted or CASES:
        model, found = measure(folder, triton_python, *CASES[name])
        say = scoring if model.threads == 1 else large
        if say is large:
            say(about)
        for case, loads in found.items():
            table(say, model, *case, loads)
        case = next(iter(found))
        # Beside hundreds of thousands of runs a second the rest would be as good as nothing.
        bars = [(NAMES.get(name, name), load.rate) for name, load in found[case].items() if load.p50 or load.rate < 2000]
        panels.append((f"{title(model, *case)}: requests/s", bars))
    if not wanted:
        plot(panels)
        scoring.save("requests a second of each, by model")
        large.save()


if __name__ == "__main__":
    main(*sys.argv[1:])
