"""Requests that may share runs beside the same server where each runs by itself, by model: from a small one to one on
something like a GPU.

    cargo xtask bench            (or: python bench/batching.py target/release [digits] [device] …)

ROUNDS and SECONDS_EACH say how often and how long. A run of only some models is not written down.
"""

import os
import pathlib
import sys

import models
from load import load, middle
from processes import CORES, onnxruntime_library
from report import Report
from servers import Contestants
from tables import title, verdict

ROUNDS = int(os.environ.get("ROUNDS", 5))
SECONDS = int(os.environ.get("SECONDS_EACH", 2))
DRISSE = "drisse", {"shared": [], "alone": ["--max-batch", "1"]}
DEVICE = "device", {"shared": [256], "alone": [1]}
# Beside itself, a server differs by a few percent from one run to the next.
NEVER_SLOWER = ">= 0.97"
CASES = {
    "digits": (models.digits, "json", 16, DRISSE, NEVER_SLOWER),
    "trees": (models.trees, "json", 16, DRISSE, NEVER_SLOWER),
    "magika": (models.file_types, "json", 16, DRISSE, NEVER_SLOWER),
    "mlp": (models.mlp, "binary", 16, DRISSE, NEVER_SLOWER),
    # More at once would wait for longer than they may.
    "resnet50": (models.resnet, "binary", 4, DRISSE, NEVER_SLOWER),
    "device": (models.device, "json", 16, DEVICE, ">= 5"),
}
ABOUT = """Drisse as it starts beside Drisse with `--max-batch 1`; what of it is held to a limit is the ratio of their requests
a second. The device (`bench/src/device.rs`) is Drisse's scoring server with an engine that does one run at a time, of 5 ms
and 50 µs a row. Models that run inline, as the smallest do, have no queue where requests could meet."""


def measure(folder, make, protocol, connections, contestant, _):
    """The model; by contestant the medians, and how many requests a run had."""
    model, (name, options) = make(), contestant
    with Contestants(folder, None) as contestants:
        servers = {way: contestants.start(name, model, *more) for way, more in options.items()}
        rows = {way: [] for way in servers}
        counts = [f'drisse_batch_requests_{what}{{model="{model.name}"}}' for what in ("sum", "count")]
        count = lambda: {way: [server.metric(series) for series in counts] for way, server in servers.items()}  # noqa: E731
        before = count()
        for _ in range(ROUNDS):
            for way, server in servers.items():
                rows[way].append(load(server, model, protocol, connections, SECONDS))
        after = count()
    sizes = {way: [new - old for new, old in zip(after[way], before[way])] for way in servers}
    return model, {way: middle(loads) for way, loads in rows.items()}, {way: requests / max(runs, 1) for way, (requests, runs) in sizes.items()}


def main(folder, *wanted):
    onnxruntime_library()
    folder = pathlib.Path(folder).resolve()
    say = Report("Batching", ABOUT)
    say(f"medians of {ROUNDS} interleaved rounds of {SECONDS} s, {CORES} cores, load generator on the same machine")
    for name in wanted or CASES:
        _, protocol, connections, _, limit = CASES[name]
        model, found, sizes = measure(folder, *CASES[name])
        say(f"\n{title(model, protocol, connections)}\n")
        say(f"{'':34}{'alone':>10}{'shared':>10}{'ratio':>10}{'limit':>10}")
        alone, shared = found["alone"], found["shared"]
        ratio = shared.rate / alone.rate
        say(f"{'requests/s':34}{alone.rate:10,.0f}{shared.rate:10,.0f}{ratio:10.3f}{verdict(ratio, limit)}")
        for what, column in (("CPU per request, µs", "cpu"), ("p50, ms", "p50"), ("p99, ms", "p99")):
            one, other = getattr(alone, column), getattr(shared, column)
            places = 1 if column == "cpu" else 3
            say(f"{what:34}{one:10,.{places}f}{other:10,.{places}f}{other / one:10.3f}")
        say(f"{'requests a run':34}{sizes['alone']:10.2f}{sizes['shared']:10.2f}")
    if not wanted:
        say.save()


if __name__ == "__main__":
    main(*sys.argv[1:])
