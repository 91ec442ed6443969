"""`drisse conformance` at Drisse and at the servers it is compared with, each with the same models: an outside check of
the cases. Prints the comparison; with WRITE_DOCS=1 writes docs/conformance.md.

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
# A server that starts takes no longer than this, on a busy machine.
PATIENCE = 180


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Running:
    """A server with its models, ready; ended, with all it started, by `close`."""

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
            # The last model that is loaded.
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
    """The reports of each protocol. A server that does not outlive its cases is started again for the next."""
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
        return "not spoken" if "speak" in report["cases"][0]["why"] else "not announced"
    words = [("passed", "pass"), ("failed", "fail"), ("warned", "warned of"), ("skipped", "skipped")]
    parts = [f"{found[word]} {says}" for word, says in words if found[word]]
    return ", ".join(parts)


def fact(name):
    """A case's name without what it was said over."""
    name = re.sub(r"^(BOOL|U?INT\d+|B?FP\d+|BF16|BYTES): ", "", name)
    return re.sub(r" \(.*\)?$", "", re.sub(r"identity-\w+", "a model", name))


def place(address):
    """A link with the document's name and the line."""
    name = address.split("/")[-1]
    name = name.replace("#L", " line ").replace("#section-", ", section ")
    return f"[{name}]({address})"


def markdown(servers):
    names = list(servers)
    about = lambda reports: next(report["server"] for report in reports.values() if report["server"]["name"])  # noqa: E731
    lines = [
        "# Conformance", "",
        "What `drisse conformance` finds at Drisse and at the servers it is compared with, each with the same models, written",
        "as its own documentation says. Written by `tests/conformance/rivals.py`, which `cargo xtask test` runs.", "",
        "What contradicts the specification fails, and so does an error of the server's (5xx) where the client is wrong;",
        "warned of is what is only recommended, or another status than is typical. What a server does not announce among its",
        "extensions, or has no model for, is skipped, and so is what follows a case that ended the server. MLServer and KServe",
        "leave it to a model's own code whether its inputs fit; what they answer when it does not look is counted as theirs,",
        "because it is what their users' clients see. Triton is the one in the package nvidia-pytriton.", "",
        "On a server of yours, which serves the same models (tiny ONNX files, or functions that do the same):", "",
        "```sh",
        "drisse conformance --models DIR        # writes them: identity-fp32.onnx, …, add-sub.onnx",
        "drisse conformance http://HOST:PORT    # --grpc URL where gRPC is elsewhere, --junit FILE, --output json",
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
        lines += ["", f"## Where {name} {about(servers[name])['version']} is not as the specification says", ""]
        lines += ["| protocol | what is to be so | cases | what came | where it is written |", "| --- | --- | --- | --- | --- |"]
        for (protocol, what), cases in groups.items():
            # The one that ended the server is the one to tell of.
            came = next((case["why"] for case in cases if case["why"].endswith("is gone")), cases[0]["why"])
            gone = " **The server is gone.**" if any(case["why"].endswith("the server is gone") for case in cases) else ""
            answered = re.search(r" \(answered (.*)\)", came)
            came = answered.group(1) if answered else came.split(": ")[-1]
            came = re.sub(r"[|`<>]", "", re.sub(r"/[\w./-]*/site-packages/", "", came))[:110]
            where = ", ".join(place(cite) for cite in cases[0]["cites"])
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
            # NVIDIA builds it for one distribution.
            if name != "pytriton":
                raise
            print(f"Triton does not run here: {error}")
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
            # Cases that others' servers do not pass say nothing of ours.
            print(f"FAILED: {name} passes only {outcomes['passed']} cases: is it the cases that are wrong?")
            failed += 1
    print(f"{passed} passed, {failed} failed")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
