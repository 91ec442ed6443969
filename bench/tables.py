"""Prints results as tables, with the limits of each."""

from processes import CORES

RAW, RAW_ALL = "raw limit, 1 process", f"raw limit, {CORES} processes"
NAMES = {
    "probe": "bare hyper + ONNX Runtime (probe)",
    "echo": "bare hyper, no model (echo)",
    "drisse": "Drisse",
    "fastapi": "FastAPI + ONNX Runtime, as documented",
    "fastapi-tuned": "FastAPI + ONNX Runtime, tuned",
    "triton": "Triton, Python backend",
    "triton-cpp": "Triton, ONNX Runtime backend",
}
PROTOCOLS = {"json": "JSON", "binary": "binary", "grpc": "gRPC"}

# Ratios: label, column, numerator, denominator, and the limit ("" for none).
FULL = [
    ("requests/s vs. probe", "rate", "drisse", "probe", ">= 0.90"),
    ("requests/s vs. echo", "rate", "drisse", "echo", ">= 0.50"),
    ("CPU per request vs. probe", "cpu", "drisse", "probe", "<= 1.10"),
    ("requests/s vs. FastAPI, as documented", "rate", "drisse", "fastapi", ">= 12"),
    ("requests/s vs. FastAPI, tuned", "rate", "drisse", "fastapi-tuned", ""),
    ("requests/s vs. Triton, Python backend", "rate", "drisse", "triton", ">= 2.5"),
    ("requests/s vs. Triton, ONNX Runtime backend", "rate", "drisse", "triton-cpp", ">= 2.5"),
]
ONE = [
    ("p50 vs. probe", "p50", "drisse", "probe", "<= 1.10"),
    ("p50 vs. FastAPI, as documented", "p50", "drisse", "fastapi", "<= 0.15"),
    ("p50 vs. FastAPI, tuned", "p50", "drisse", "fastapi-tuned", ""),
]
BESIDE_TRITON = [
    ("requests/s vs. Triton, Python backend", "rate", "drisse", "triton", ""),
    ("requests/s vs. Triton, ONNX Runtime backend", "rate", "drisse", "triton-cpp", ""),
]


def of_raw(raw, limit):
    return [("raw limit's CPU per run vs. CPU per request", "cpu", raw, "drisse", limit), *BESIDE_TRITON]


LIMITS = {
    ("digits", "json", 16): FULL, ("digits", "json", 1): ONE, ("trees", "json", 16): FULL, ("trees", "json", 1): ONE,
    ("digits", "binary", 16): BESIDE_TRITON, ("digits", "grpc", 16): BESIDE_TRITON,
    # Compared with a raw limit that uses all cores, as Drisse does.
    ("magika", "json", 16): [("requests/s vs. raw limit", "rate", "drisse", RAW_ALL, ""), *of_raw(RAW_ALL, ">= 0.98")],
    ("resnet50", "json", 1): of_raw(RAW, ">= 0.95"),
    ("resnet50", "binary", 1): of_raw(RAW, ">= 0.98"), ("resnet50", "grpc", 1): of_raw(RAW, ">= 0.98"),
}


def title(model, protocol, connections):
    return f"{model.name} ({model.about}), {PROTOCOLS[protocol]}, {connections} connection{'s' if connections > 1 else ''}"


def holds(value, limit):
    bound = float(limit.split()[1])
    return value >= bound if limit.startswith(">=") else value <= bound


def verdict(value, limit):
    """Returns the text after a value: its limit, and MISSED if the value misses it."""
    return f"{limit:>10}{'' if not limit or holds(value, limit) else '  MISSED'}"


def table(say, model, protocol, connections, found):
    say(f"\n{title(model, protocol, connections)}\n")
    say(f"{'':48}{'requests/s':>12}{'CPU, µs':>12}{'p50, ms':>10}{'p99, ms':>10}")
    for name, load in found.items():
        times = f"{load.p50:10.3f}{load.p99:10.3f}" if load.p50 else ""
        rate = 0 if load.rate >= 1000 else 1
        say(f"{NAMES.get(name, name):48}{load.rate:12,.{rate}f}{load.cpu:12,.1f}{times}")
    for what, column, top, bottom, limit in LIMITS[model.name, protocol, connections]:
        if top in found and bottom in found:
            ratio = getattr(found[top], column) / getattr(found[bottom], column)
            say(f"  {what:46}{ratio:12.{2 if ratio >= 2 else 3}f}{verdict(ratio, limit)}".rstrip())
