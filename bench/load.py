"""Puts load on a server and measures its CPU: with `wrk` for a time, or with `h2load` for a number of requests.

A run for a time ends while requests are in flight: their CPU is counted, but they are not. If each takes milliseconds,
the error is about a percent. A run for a number of requests waits for every response.
"""

import pathlib
import statistics
import subprocess
import tempfile
import typing

from processes import cpu
from protocols import encode, path


class Load(typing.NamedTuple):
    rate: float  # requests per second
    cpu: float  # of the server per request, in µs
    p50: float  # ms
    p99: float


def middle(loads):
    """Returns the median of each field."""
    return type(loads[0])(*map(statistics.median, zip(*loads)))


def load(server, model, protocol, connections, seconds, requests=0, lua=""):
    """Loads a server for `seconds`, or with `requests` requests if that is not 0. `lua` is more code for wrk's script."""
    with tempfile.TemporaryDirectory() as folder:
        body, headers = encode(protocol, model)
        file = pathlib.Path(folder) / "body"
        file.write_bytes(body)
        headers = {**headers, **server.headers}
        before = cpu(server.running.pid)
        if protocol == "grpc" or requests:
            amount = ["-n", max(requests, 2 * connections)] if requests else ["-D", seconds]
            port, http = (server.grpc, []) if protocol == "grpc" else (server.http, ["--h1"])
            least = 0 if http else sum(output.nbytes for output in model.outputs.values())
            url = f"http://127.0.0.1:{port}{path(protocol, model)}"
            answered, rate, p50, p99 = h2load(url, file, headers, connections, [*http, *amount], least)
        else:
            url = f"http://127.0.0.1:{server.http}{path(protocol, model)}"
            answered, rate, p50, p99 = wrk(url, file, headers, connections, seconds, lua)
        return Load(rate, (cpu(server.running.pid) - before) / answered * 1e6, p50, p99)


def wrk(url, body, headers, connections, seconds, lua):
    script = body.with_suffix(".lua")
    lines = [f'wrk.headers["{name}"] = "{value}"' for name, value in headers.items()]
    script.write_text("\n".join(lines) + f"""
wrk.method = "POST"
wrk.body = io.open("{body}", "rb"):read("*a")
function done(summary, latency, requests)
  local errors = summary.errors.status + summary.errors.connect + summary.errors.read + summary.errors.timeout
  io.write(string.format("@ %d %d %f %f %f\\n", summary.requests, errors, summary.duration,
    latency:percentile(50), latency:percentile(99)))
end
{lua}""")
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s", "-s", str(script), url]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    line = next(line for line in output.splitlines() if line.startswith("@"))
    requests, errors, microseconds, p50, p99 = (float(word) for word in line.split()[1:])
    assert errors == 0 and requests > 0, output
    return requests, requests / microseconds * 1e6, p50 / 1e3, p99 / 1e3


def h2load(url, body, headers, connections, arguments, least):
    """`least` is the minimum size of a response in bytes, which detects errors that are sent with the status 200."""
    log = body.with_suffix(".log")
    arguments = [*arguments, "-c", connections, "-m1", "-w22", "-W24", "-d", body, "--log-file", log]
    for name, value in headers.items():
        arguments += ["-H", f"{name}: {value}"]
    command = ["h2load", *map(str, arguments), url]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    # The status and the time (in µs) of each request.
    rows = [line.split()[1:3] for line in log.read_text().splitlines()]
    times = sorted(int(time) for status, time in rows if status == "200")
    assert times and len(times) == len(rows) and " 0 failed, 0 errored, 0 timeout" in output, output
    data = int(output.split("traffic: ")[1].split(" data")[0].rsplit("(", 1)[1].rstrip(")"))
    assert data >= least * len(times), output
    took = output.split("finished in ")[1].split(",")[0]
    scale = next(scale for unit, scale in (("us", 1e-6), ("ms", 1e-3), ("s", 1)) if took.endswith(unit))
    rate = len(times) / (float(took.rstrip("mus")) * scale)
    return len(times), rate, times[len(times) // 2] / 1e3, times[len(times) * 99 // 100] / 1e3
