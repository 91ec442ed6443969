"""Compares Drisse with baselines and with other servers, interleaved, as medians of several rounds: start time and
memory, then requests per second, server CPU per request and latency percentiles. Prints tables, and writes them and a
chart to docs/performance.md.

    cargo xtask bench            (or: python bench/bench.py target/release [triton=PYTHON] [digits] [trees] …)

Triton's C++ backend of ONNX Runtime is measured only if TRITON_ONNXRUNTIME names its folder. ROUNDS and SECONDS_EACH
set the number and length of rounds. Results are saved only if all models are measured.
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
ABOUT = """The raw limit is a loop over ONNX Runtime's `Run`. The probe (`bench/src`) is a minimal hyper server that calls ONNX
Runtime inline, without the keys, limits, checks, IDs and metrics that Drisse has turned on; the echo is the same server
without a model. FastAPI is `bench/fastapi_server.py` with a process per core, both as documented and tuned; Triton is the
one in the package nvidia-pytriton (`bench/triton_server.py`). CPU is the time of all processes of the server per request."""


def raw(probe, model, processes):
    with tempfile.NamedTemporaryFile() as file:
        model.value.tofile(file.name)
        command = [probe, "loop", model.file, file.name, SECONDS, processes, model.threads]
        output = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=True).stdout
    rate, used = map(float, output.split())
    return Load(rate, used, 0, 0)


def measure(folder, triton_python, make, cases):
    """Returns the model, and for each case the median loads by server."""
    model = make()
    with Contestants(folder, triton_python) as contestants:
        servers = {}
        for name in dict.fromkeys(name for _, _, names in cases for name in names):
            try:
                servers[name] = contestants.start(name, model)
            except Unavailable as why:
                if name not in RIVALS:
                    raise
                print(f"{model.name}: {NAMES[name]} is left out: {why}", flush=True)
        loops = {RAW: 1} if model.threads > 1 else {RAW: 1, RAW_ALL: CORES}
        limits, rows = {name: [] for name in loops}, {}
        for _ in range(ROUNDS):
            for name, processes in loops.items():
                limits[name].append(raw(contestants.probe_binary, model, processes))
            rate = limits[name][-1].rate
            # If runs are slow, send a fixed number of requests (as many as the raw limit does in this time), so that
            # every request is answered.
            requests = round(rate * SECONDS) if rate < 2000 else 0
            for protocol, connections, names in cases:
                for name in filter(servers.get, names):
                    found = load(servers[name], model, protocol, connections, SECONDS, requests)
                    rows.setdefault((protocol, connections), {}).setdefault(name, []).append(found)
    return model, {case: {name: middle(loads) for name, loads in {**limits, **row}.items()} for case, row in rows.items()}


def main(folder, *arguments):
    # Raises SystemExit, so that the servers are ended when this script is.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))
    onnxruntime_library()
    folder = pathlib.Path(folder).resolve()
    triton_python = next((word.split("=", 1)[1] for word in arguments if word.startswith("triton=")), None)
    wanted = [word for word in arguments if "=" not in word]
    scoring = Report("The scoring server", ABOUT)
    large = Report("Large inputs by each protocol", """A model with the layers of ResNet-50 and random weights; one
connection; each run uses all cores. The servers are described above.""")
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
        # Without raw limits of hundreds of thousands of runs per second, next to which the other bars would be
        # invisible.
        bars = [(NAMES.get(name, name), load.rate) for name, load in found[case].items() if load.p50 or load.rate < 2000]
        panels.append((f"{title(model, *case)}: requests/s", bars))
    if not wanted:
        plot(panels)
        scoring.save("requests per second of each server, by model")
        large.save()


if __name__ == "__main__":
    main(*sys.argv[1:])
