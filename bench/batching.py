"""Measures batching: a server that batches requests, compared with the same server without batching, for several models,
from a small one to one on a simulated GPU.

    cargo xtask bench            (or: python bench/batching.py target/release [digits] [device] …)

ROUNDS and SECONDS_EACH set the number and length of rounds. Results are saved only if all models are measured.
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
# Batching must not make a model slower. Two runs of the same server differ by a few percent.
NEVER_SLOWER = ">= 0.97"
CASES = {
    "digits": (models.digits, "json", 16, DRISSE, NEVER_SLOWER),
    "trees": (models.trees, "json", 16, DRISSE, NEVER_SLOWER),
    "magika": (models.file_types, "json", 16, DRISSE, NEVER_SLOWER),
    "mlp": (models.mlp, "binary", 16, DRISSE, NEVER_SLOWER),
    # With more connections, requests would wait longer than `--max-wait` allows.
    "resnet50": (models.resnet, "binary", 4, DRISSE, NEVER_SLOWER),
    "device": (models.device, "json", 16, DEVICE, ">= 5"),
}
ABOUT = """Drisse with default options (batched) compared with `--max-batch 1` (unbatched); the limit applies to the ratio of
requests per second. The device (`bench/src/device.rs`) is Drisse's scoring server with an engine that does one run at a time,
each taking 5 ms plus 50 µs per row. The smallest models run inline: they have no queue, and so no batches."""


def measure(folder, make, protocol, connections, contestant, _):
    """Returns the model, and by variant the median loads and the mean number of requests per run."""
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
        say(f"{'':34}{'unbatched':>10}{'batched':>10}{'ratio':>10}{'limit':>10}")
        alone, shared = found["alone"], found["shared"]
        ratio = shared.rate / alone.rate
        say(f"{'requests/s':34}{alone.rate:10,.0f}{shared.rate:10,.0f}{ratio:10.3f}{verdict(ratio, limit)}")
        for what, column in (("CPU per request, µs", "cpu"), ("p50, ms", "p50"), ("p99, ms", "p99")):
            one, other = getattr(alone, column), getattr(shared, column)
            places = 1 if column == "cpu" else 3
            say(f"{what:34}{one:10,.{places}f}{other:10,.{places}f}{other / one:10.3f}")
        say(f"{'requests per run':34}{sizes['alone']:10.2f}{sizes['shared']:10.2f}")
    if not wanted:
        say.save()


if __name__ == "__main__":
    main(*sys.argv[1:])
