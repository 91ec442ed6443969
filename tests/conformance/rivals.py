"""Runs `drisse conformance` against Drisse and against other servers with the same models: an independent check of the
cases. Prints the comparison; with WRITE_DOCS=1 writes docs/conformance.md.

    python tests/conformance/rivals.py target/release/drisse mlserver=PYTHON kserve=PYTHON pytriton=PYTHON
"""

import collections
import glob
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

HERE = pathlib.Path(__file__).parent
PROTOCOLS = ["v2", "v2-binary", "v2-extensions", "grpc", "v1"]
# The limit for the start of a server on a busy machine, in seconds.
PATIENCE = 180


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Running:
    """A ready server with its models. `close` ends it and all its processes."""

    def __init__(self, command, log):
        self.ports = free_port(), free_port()
        arguments = [word.format(http=self.ports[0], grpc=self.ports[1]) for word in command]
        self.process = subprocess.Popen(arguments, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + PATIENCE
        while not self.is_ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                log.seek(0)
                raise RuntimeError(f"{arguments} does not start: {log.read().decode(errors='replace')[-3000:]}")
            time.sleep(0.1)

    def is_ready(self):
        base = f"http://127.0.0.1:{self.ports[0]}/v2"
        try:
            # `add-sub` is the model that is loaded last.
            for path in ("/health/ready", "/models/add-sub/ready"):
                urllib.request.urlopen(base + path, timeout=5).close()
        except OSError:
            return False
        return True

    def close(self):
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            pass
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()


def check(drisse, command, same_port):
    """Returns the report of each protocol. A server that crashes is started again for the next protocol."""
    running, reports = None, {}
    with tempfile.TemporaryFile() as log:
        try:
            for protocol in PROTOCOLS:
                if running is None or running.process.poll() is not None or not running.is_ready():
                    if running:
                        running.close()
                    running = Running(command, log)
                http, grpc = running.ports
                where = [f"http://127.0.0.1:{http}", "--grpc", f"http://127.0.0.1:{http if same_port else grpc}"]
                arguments = [drisse, "conformance", *where, "--protocol", protocol, "--output", "json"]
                ran = subprocess.run(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=900)
                report = json.loads(ran.stdout)
                if "cases" not in report:
                    raise RuntimeError(f"{command}: {report}")
                reports[protocol] = report
        finally:
            if running:
                running.close()
    return reports


def counts(report):
    found = collections.Counter(case["outcome"] for case in report["cases"])
    if found["skipped"] == len(report["cases"]):
        return "not supported" if "speak" in report["cases"][0]["why"] else "not announced"
    # Not "passed" and "failed", which `cargo xtask test` counts as results of tests.
    words = [("passed", "pass"), ("failed", "fail"), ("warned", "warnings"), ("skipped", "skipped")]
    parts = [f"{found[word]} {says}" for word, says in words if found[word]]
    return ", ".join(parts)


def fact(name):
    """Returns a case's name without its datatype, model and parameters."""
    name = re.sub(r"^(BOOL|U?INT\d+|B?FP\d+|BF16|BYTES): ", "", name)
    return re.sub(r" \(.*\)?$", "", re.sub(r"identity-\w+", "a model", name))


def link(address):
    """Returns a Markdown link with the document's name and the line or section."""
    name = address.split("/")[-1]
    name = name.replace("#L", " line ").replace("#section-", ", section ")
    return f"[{name}]({address})"


def markdown(servers):
    names = list(servers)
    about = lambda reports: next(report["server"] for report in reports.values() if report["server"]["name"])  # noqa: E731
    lines = [
        "# Conformance", "",
        "The results of `drisse conformance` for Drisse and for other servers with the same models, each set up as its",
        "documentation says. Written by `tests/conformance/rivals.py`, which `cargo xtask prove rivals` runs.", "",
        "A case fails if the response contradicts the specification, or if the server answers an error of the client with a",
        "5xx. It is a warning if the response differs only from a recommendation, or has an unusual status. A case is skipped",
        "if the server does not announce the extension, has no model for it, or was ended by an earlier case. MLServer and",
        "KServe leave the validation of inputs to the model's code; the results for unvalidated inputs are counted, because",
        "clients see these responses. Triton is the one in the package nvidia-pytriton.", "",
        "To test your own server, serve the same models (tiny ONNX files, or equivalent functions):", "",
        "```sh",
        "drisse conformance --models DIR        # writes the models: identity-fp32.onnx, …, add-sub.onnx",
        "drisse conformance http://HOST:PORT    # --grpc URL if gRPC has another address, --junit FILE, --output json",
        "```", "",
        "| | " + " | ".join(f"{name} {about(servers[name])['version']}" for name in names) + " |",
        "| --- |" + " --- |" * len(names),
    ]
    for protocol in PROTOCOLS:
        lines.append(f"| {protocol} | " + " | ".join(counts(servers[name][protocol]) for name in names) + " |")
    for name in names:
        groups = collections.OrderedDict()
        for protocol in PROTOCOLS:
            for case in servers[name][protocol]["cases"]:
                if case["outcome"] == "failed":
                    groups.setdefault((protocol, fact(case["name"])), []).append(case)
        if not groups:
            continue
        lines += ["", f"## Deviations of {name} {about(servers[name])['version']} from the specification", ""]
        lines += ["| protocol | requirement | cases | response | source |", "| --- | --- | --- | --- | --- |"]
        for (protocol, what), cases in groups.items():
            # Shows the response of a case that ended the server, if there is one.
            came = next((case["why"] for case in cases if case["why"].endswith("is gone")), cases[0]["why"])
            gone = " **The server is gone.**" if any(case["why"].endswith("the server is gone") for case in cases) else ""
            answered = re.search(r" \(answered (.*)\)", came)
            came = answered.group(1) if answered else came.split(": ")[-1]
            came = re.sub(r"[|`<>]", "", re.sub(r"/[\w./-]*/site-packages/", "", came))[:110]
            where = ", ".join(link(cite) for cite in cases[0]["cites"])
            lines.append(f"| {protocol} | {what} | {len(cases)} | `{came}`{gone} | {where} |")
    return "\n".join(lines) + "\n"


def main():
    drisse, *rivals = sys.argv[1:]
    servers = {}
    with tempfile.TemporaryDirectory() as models:
        subprocess.run([drisse, "conformance", "--models", models], check=True, stdout=subprocess.DEVNULL)
        ours = [drisse, "serve", "--listen", "127.0.0.1:{http}", "--model-control", "--shared-memory", "drisse-*", *sorted(glob.glob(models + "/*"))[::-1]]
        servers["Drisse"] = check(drisse, ours, same_port=True)
    titles = {"mlserver": "MLServer", "kserve": "KServe", "pytriton": "Triton"}
    for rival in rivals:
        name, python = rival.split("=", 1)
        command = [python, str(HERE / "rivals" / f"{name}_models.py"), "{http}", "{grpc}"]
        try:
            servers[titles[name]] = check(drisse, command, same_port=False)
        except RuntimeError as error:
            # NVIDIA builds Triton for one distribution only.
            if name != "pytriton":
                raise
            print(f"Triton does not run on this machine: {error}")
    text = markdown(servers)
    if os.environ.get("WRITE_DOCS"):
        (HERE.parent.parent / "docs/conformance.md").write_text(text)
    print(text.split("\n## ")[0])
    passed = failed = 0
    for name, reports in servers.items():
        outcomes = collections.Counter(case["outcome"] for report in reports.values() for case in report["cases"])
        if name == "Drisse":
            passed, failed = outcomes["passed"], outcomes["failed"] + outcomes["warned"] + outcomes["skipped"]
        elif outcomes["passed"] < 200:
            # If other servers fail almost everything, the cases are probably wrong.
            print(f"FAILED: {name} passes only {outcomes['passed']} cases: are the cases wrong?")
            failed += 1
    print(f"{passed} passed, {failed} failed")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
