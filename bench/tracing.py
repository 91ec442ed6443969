"""Measures the cost of tracing: Drisse with one request in a hundred traced, compared with Drisse without traces.

    cargo xtask bench            (or: python bench/tracing.py target/release)

ROUNDS and SECONDS_EACH set the number and length of rounds.
"""

import contextlib
import http.server
import os
import pathlib
import sys
import threading

import models
from load import load, middle
from processes import CORES, free_port, onnxruntime_library
from report import Report
from servers import Contestants
from tables import verdict

ROUNDS = int(os.environ.get("ROUNDS", 9))
SECONDS = int(os.environ.get("SECONDS_EACH", 2))
LIMIT = "<= 1.02"
ABOUT = """One request in a hundred is traced (`OTEL_TRACES_SAMPLER_ARG=0.01`), and its spans are sent to a collector that answers
at once. The second server without traces (off again) shows how much equal servers differ on this machine. Histograms of
requests and of their phases are on in all servers: they cannot be turned off."""


class Collector(http.server.BaseHTTPRequestHandler):
    """Receives and counts messages of OTLP over HTTP."""

    protocol_version = "HTTP/1.1"
    posts = length = 0

    def do_POST(self):
        length = int(self.headers.get("content-length", 0))
        self.rfile.read(length)
        Collector.posts += 1
        Collector.length += length
        self.send_response(200 if self.path == "/v1/traces" else 404)
        self.send_header("content-type", "application/x-protobuf")
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def collecting():
    """Runs a collector and yields its port."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", free_port()), Collector)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


def main(folder):
    onnxruntime_library()
    say, model = Report("Tracing", ABOUT), models.digits()
    with collecting() as port, Contestants(pathlib.Path(folder).resolve(), None) as contestants:
        traced = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
                  "OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.01"}
        ways = {"none": {}, "none again": {}, "traced": traced}
        servers = {way: contestants.start("drisse", model, **environment) for way, environment in ways.items()}
        rows = {way: [] for way in servers}
        for nth in range(ROUNDS):
            # Rotates the order: the first server of a round may find a cooler machine.
            order = list(servers)[nth % len(servers):] + list(servers)[:nth % len(servers)]
            for way in order:
                rows[way].append(load(servers[way], model, "json", 16, SECONDS))
    none, again, traced = (middle(loads) for loads in rows.values())
    say(f"{model.name}, JSON, 16 connections; medians of {ROUNDS} interleaved rounds of {SECONDS} s, {CORES} cores, load generator on the same machine\n")
    say(f"{'':34}{'off':>10}{'off again':>10}{'1 in 100':>10}{'ratio':>10}{'limit':>10}")
    for what, column, limit in (("CPU per request, µs", "cpu", LIMIT), ("requests/s", "rate", ""), ("p50, ms", "p50", ""), ("p99, ms", "p99", "")):
        one, other, last = (getattr(load, column) for load in (none, again, traced))
        places, ratio = 0 if column == "rate" else 3, last / one
        say(f"{what:34}{one:10,.{places}f}{other:10,.{places}f}{last:10,.{places}f}{ratio:10.3f}{verdict(ratio, limit)}".rstrip())
    sent = f"{Collector.posts} messages with {Collector.length:,} bytes in total reached the collector"
    say(f"\n{sent if Collector.posts else 'no traces reached the collector'}")
    say.save()


if __name__ == "__main__":
    main(sys.argv[1])
