"""Measures the time from the start of a process to its first response, and its memory then: Drisse compared with ONNX
Runtime's C API alone."""

import statistics
import subprocess
import time

from processes import Running, free_port, resident
from protocols import ask
from servers import Server

LIMITS = {"time": 60.0, "memory": 25.0}


def until_answered(server, model):
    while True:
        try:
            return ask("json", server, model)
        except OSError:
            time.sleep(0.0005)


def measure(contestants, model, rounds, say):
    times, memory = {"probe": [], "drisse": []}, {"probe": [], "drisse": []}

    def measured(name, command, ready):
        running = Running(command, subprocess.PIPE)
        try:
            ready(running)
            times[name].append((time.perf_counter() - running.started) * 1e3)
            time.sleep(0.3)
            memory[name].append(resident(running.pid))
        finally:
            running.stop()

    for _ in range(rounds):
        port = free_port()
        measured("probe", [contestants.probe_binary, "load", model.file], lambda running: running.process.stdout.readline())
        measured("drisse", [contestants.drisse_binary, "serve", model.file, "--listen", f"127.0.0.1:{port}"],
                 lambda running: until_answered(Server(running, port, port, {}), model))
    say(f"{'':34}{'probe':>10}{'drisse':>10}{'overhead':>10}{'limit':>10}")
    rows = (("start until the first response, ms", times, LIMITS["time"]), ("idle resident memory, MiB", memory, LIMITS["memory"]))
    for what, values, limit in rows:
        one, other = (statistics.median(values[name]) for name in ("probe", "drisse"))
        say(f"{what:34}{one:10.1f}{other:10.1f}{other - one:10.1f}{limit:10.1f}")
