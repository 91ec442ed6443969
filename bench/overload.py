"""Measures overload with five times the requests that a server can handle: admitted requests should be answered in time,
others refused at once, and the throughput should not drop.

    cargo xtask bench            (or: python bench/overload.py target/release)

Each round measures one connection, then sixteen without a deadline (the capacity), then the overload. ROUNDS and
SECONDS_EACH set the number and length of rounds.
"""

import json
import math
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

import models
from load import middle
from processes import CORES, onnxruntime_library
from protocols import encode, path
from report import Report
from servers import Contestants
from tables import verdict
from typing import NamedTuple

ROUNDS = int(os.environ.get("ROUNDS", 5))
SECONDS = int(os.environ.get("SECONDS_EACH", 2))
TIMES = 5
ABOUT = f"""An open-loop generator (`bench/src/flood.rs`) sends requests evenly at {TIMES} × capacity, over as many connections as
that takes. The deadline of each (`x-request-timeout-ms`) is twice the unloaded p50 plus one service time at capacity
(`concurrency` divided by the capacity). Times count from when a request was sent; the sending delay is the time from when
it was due. A 503 is a refusal; a 504 counts as admitted but late. The generator uses CPU of the same cores, more at overload
than at capacity: the last row compares goodput with the capacity scaled by the CPU that the generator left to the server at
overload, relative to what it left at capacity."""


class Flood(NamedTuple):
    used: float  # CPU of the generator, in cores
    seconds: float
    rows: list  # status, sending delay in ms, response time in ms

    def took(self, *statuses):
        return sorted(took for status, _, took in self.rows if status in statuses)


class Round(NamedTuple):
    alone: float
    capacity: float
    deadline: float
    offered: float
    answered: float
    good: float
    refused: float
    late: float
    admitted_p50: float
    admitted_p99: float
    refused_p50: float
    refused_p99: float
    lag_p50: float
    lag_p99: float
    used_then: float
    used_now: float
    plain: float
    fair: float


def quantile(times, of):
    return times[int((len(times) - 1) * of)] if times else 0.0


def flood(binary, server, model, seconds, *how, **headers):
    body, more = encode("json", model)
    headers = {**more, **server.headers, **{name.replace("_", "-"): value for name, value in headers.items()}}
    with tempfile.NamedTemporaryFile() as file:
        pathlib.Path(file.name).write_bytes(body)
        command = [binary, server.http, path("json", model), file.name, seconds, *how,
                   *(f"{name}: {value}" for name, value in headers.items())]
        output = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=True, timeout=60 + seconds).stdout
    head, *lines = output.splitlines()
    used, took = map(float, head.split())
    rows = [(int(status), int(late) / 1e3, int(took) / 1e3) for status, late, took in (line.split() for line in lines)]
    return Flood(used / took, took, rows)


def measured(binary, server, model, concurrency):
    alone = flood(binary, server, model, min(SECONDS, 1), "closed", 1)
    full = flood(binary, server, model, SECONDS, "closed", 16)
    assert all(status == 200 for status, _, _ in alone.rows + full.rows), "a request without a deadline failed"
    unloaded, capacity = quantile(alone.took(200), 0.5), len(full.rows) / full.seconds
    deadline = math.ceil(2 * unloaded + concurrency / capacity * 1e3)
    over = flood(binary, server, model, 2 * SECONDS, "open", TIMES * capacity, x_request_timeout_ms=deadline)
    answered, admitted, refused = over.took(200), over.took(200, 504), over.took(503)
    others = {status for status, _, _ in over.rows} - {200, 503, 504}
    assert not others, f"unexpected statuses: {others}"
    good = sum(took <= deadline for took in answered) / over.seconds
    left = (CORES - over.used) / (CORES - full.used)
    lag = sorted(late for _, late, _ in over.rows)
    each = lambda rows: len(rows) / over.seconds  # noqa: E731
    return Round(unloaded, capacity, deadline, each(over.rows), each(answered), good, each(refused),
                 each(admitted) - each(answered), quantile(admitted, 0.5), quantile(admitted, 0.99), quantile(refused, 0.5),
                 quantile(refused, 0.99), quantile(lag, 0.5), quantile(lag, 0.99), full.used, over.used, good / capacity,
                 good / capacity / left)


def main(folder):
    onnxruntime_library()
    say, model = Report("Overload", ABOUT), models.file_types()
    with Contestants(pathlib.Path(folder).resolve(), None) as contestants:
        server = contestants.start("drisse", model)
        concurrency = json.loads(server.tells("/identity"))["models"][0]["concurrency"]
        found = middle([measured(contestants.flood_binary, server, model, concurrency) for _ in range(ROUNDS)])
    say(f"{model.name} ({model.about}), JSON; medians of {ROUNDS} rounds of {2 * SECONDS} s, {CORES} cores, load generator on the same machine\n")
    rows = [
        ("one connection, p50, ms", found.alone), ("capacity: 16 connections, requests/s", found.capacity),
        ("deadline of a request, ms", found.deadline), ("offered, requests/s", found.offered),
        ("  answered (200)", found.answered), ("  admitted, but late (504)", found.late), ("  refused (503)", found.refused),
        ("admitted, p50, ms", found.admitted_p50), ("admitted, p99, ms", found.admitted_p99, f"<= {found.deadline:.0f}"),
        ("refused, p50, ms", found.refused_p50), ("refused, p99, ms", found.refused_p99, "<= 5"),
        ("sending delay, p50, ms", found.lag_p50), ("sending delay, p99, ms", found.lag_p99),
        ("generator at capacity, cores", found.used_then), ("generator at overload, cores", found.used_now),
        ("goodput: answered in time, requests/s", found.good), ("goodput / capacity", found.plain),
        ("goodput / capacity, scaled by the CPU left", found.fair, ">= 0.95"),
    ]
    for what, value, *limit in rows:
        say(f"{what:50}{value:12,.{0 if value >= 100 else 2 if value >= 2 else 3}f}{verdict(value, *limit or [''])}".rstrip())
    say.save()


if __name__ == "__main__":
    main(sys.argv[1])
