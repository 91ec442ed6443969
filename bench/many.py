"""Compares a server of a hundred small models with a server of one: speed (with requests to all in turn) and memory.

    cargo xtask bench            (or: python bench/many.py target/release)

ROUNDS and SECONDS_EACH set the number and length of rounds, MODELS the number of models.
"""

import os
import pathlib
import subprocess
import sys
import time

import models
from load import load, middle
from processes import CORES, Running, onnxruntime_library, proportional
from protocols import ask, path
from report import Report
from servers import Contestants
from tables import verdict

ROUNDS = int(os.environ.get("ROUNDS", 5))
SECONDS = int(os.environ.get("SECONDS_EACH", 2))
MODELS = int(os.environ.get("MODELS", 100))
ABOUT = """Copies of the digits model, each with different weights, get requests in turn (sent by the same wrk script as for
one model). PSS is a process's memory, with a proportional part of what it shares with other processes. `probe load`
(sessions) only loads the same models with ONNX Runtime's C API and runs each once."""
BEYOND = 25


def in_turn(asked):
    """Returns a Lua script for wrk that sends requests to these models in turn, prepared before the first is sent."""
    paths = ", ".join(f'"{path("json", model)}"' for model in asked)
    return f"""
local paths, requests, nth = {{{paths}}}, {{}}, 0
function init()
  for place, path in ipairs(paths) do requests[place] = wrk.format(nil, path) end
end
function request()
  nth = nth % #requests + 1
  return requests[nth]
end"""


def sessions(contestants, files):
    """Returns the PSS of a process with nothing but ONNX Runtime's sessions of these models, in MiB."""
    running = Running([contestants.probe_binary, "load", *files], subprocess.PIPE)
    try:
        assert running.process.stdout.readline(), running.complaint()
        time.sleep(0.3)
        return proportional(running.pid)
    finally:
        running.stop()


def held(server):
    time.sleep(0.3)
    return proportional(server.running.pid)


def main(folder):
    onnxruntime_library()
    folder = pathlib.Path(folder).resolve()
    say = Report("Many models", ABOUT)
    with Contestants(folder, None) as contestants:
        first, *others = each = list(models.copies(models.digits(), MODELS, contestants.folder))
        alone = sessions(contestants, [model.file for model in each])
        began = time.perf_counter()
        many = contestants.start("drisse", first, *(f"{model.name}={model.file}" for model in others))
        # Waits for the last model: the first is served while the others are still loading.
        contestants.check("drisse", many, each[-1])
        took = time.perf_counter() - began
        assert all(model.same(ask("json", many, model)) for model in each), "a model's response differs from ONNX Runtime's"
        idle = held(many)
        rows = {"one": [], "many": []}
        with Contestants(folder, None) as more:
            one = more.start("drisse", first)
            for _ in range(ROUNDS):
                for name, server, asked in (("one", one, [first]), ("many", many, each)):
                    rows[name].append(load(server, first, "json", 16, SECONDS, lua=in_turn(asked)))
        loaded = held(many)
    one, all_of_them = (middle(rows[name]) for name in ("one", "many"))
    say(f"{MODELS} models, JSON, 16 connections; medians of {ROUNDS} interleaved rounds of {SECONDS} s, {CORES} cores, load generator on the same machine\n")
    say(f"{'':34}{'one':>10}{'many':>10}{'ratio':>10}{'limit':>10}")
    ratio = all_of_them.rate / one.rate
    say(f"{'requests/s':34}{one.rate:10,.0f}{all_of_them.rate:10,.0f}{ratio:10.3f}{verdict(ratio, '>= 0.95')}")
    for what, column in (("CPU per request, µs", "cpu"), ("p50, ms", "p50"), ("p99, ms", "p99")):
        before, after = (getattr(load, column) for load in (one, all_of_them))
        say(f"{what:34}{before:10.3f}{after:10.3f}{after / before:10.3f}")
    say(f"\n{'':34}{'sessions':>10}{'drisse':>10}{'overhead':>10}{'limit':>10}")
    for what, value in (("PSS after one request each, MiB", idle), ("PSS after the load, MiB", loaded)):
        say(f"{what:34}{alone:10.1f}{value:10.1f}{value - alone:10.1f}{verdict(value - alone, f'<= {BEYOND}')}")
    say(f"{'start until all are served, s':34}{'':10}{took:10.2f}")
    say.save()


if __name__ == "__main__":
    main(sys.argv[1])
