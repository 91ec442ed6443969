"""Tests both servers against their OpenAPI documents: schemathesis sends valid and invalid requests. No response may be a
5xx, and every response must be as documented.

    python tests/conformance/schemas.py target/release/drisse [CASES]
"""

import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).parent
EXAMPLES = HERE.parent.parent / "examples"
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"

# `follow` is off, because followed logs never end. A version that exists is given, because generated ones do not exist.
CONFIG = """
[parameters]
"query.follow" = "false"

[[operations]]
include-path = "/v1/models/{name}/versions/{version}"
parameters = { "path.name" = "iris", "path.version" = "1" }
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def check(name, document, url, cases, folder, *more):
    """Tests one server, prints the numbers of passed and failed cases, and returns that of failed ones."""
    config = pathlib.Path(folder) / "schemathesis.toml"
    config.write_text(CONFIG)
    st = [str(pathlib.Path(sys.executable).parent / "st"), "--config-file", str(config), "run", str(document)]
    # Deterministic: every run has the same cases, and none are reused from earlier runs.
    st += ["--url", url, "--checks", CHECKS, "--generation-deterministic", "--max-examples", str(cases)]
    st += ["--request-timeout", "30", "--warnings", "off", "--no-color", *more]
    run = subprocess.run(st, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    generated = re.search(r"^ +(\d+) generated(?:, (\d+) found)?", run.stdout, re.MULTILINE)
    total, failed = (int(number or 0) for number in generated.groups()) if generated else (0, 1)
    failed = max(failed, 1) if run.returncode else failed
    if failed:
        print(run.stdout)
    print(f"schemas, {name}: {max(total - failed, 0)} passed, {failed} failed", flush=True)
    return failed


def scoring(drisse, cases, folder):
    port = free_port()
    models = [str(EXAMPLES / name) for name in ("digits", "wine", "glyph", "iris")]
    command = [drisse, "serve", "--output", "json", "--listen", f"127.0.0.1:{port}", *models]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        # The server prints its addresses once it is ready. The rest of the output fits into the pipe's buffer.
        assert server.stdout.readline(), "drisse serve ended without output"
        url = f"http://127.0.0.1:{port}"
        return check("scoring server", f"{url}/swagger.json", url, cases, folder)
    finally:
        server.terminate()
        server.wait(60)


def control(drisse, cases, folder):
    port = free_port()
    environment = {**os.environ, "DRISSE_WORKSPACE": str(pathlib.Path(folder) / "workspace")}

    def call(*arguments):
        done = subprocess.run([drisse, *arguments, "--output", "json"], env=environment, stdout=subprocess.PIPE, check=True)
        return json.loads(done.stdout)

    try:
        call("up", "--control", f"127.0.0.1:{port}", "--gateway", f"127.0.0.1:{free_port()}")
        call("models", "register", str(EXAMPLES / "iris"))
        call("deploy", str(EXAMPLES / "digits"))
        token = (pathlib.Path(environment["DRISSE_WORKSPACE"]) / "control.token").read_text().strip()
        # Without shutdown, which would end the test.
        rest = ["--header", f"Authorization: Bearer {token}", "--exclude-path", "/v1/shutdown"]
        document, url = HERE.parent.parent / "docs/control-api.json", f"http://127.0.0.1:{port}"
        # First without deleting, so that requests find existing models and services.
        failed = check("control API", document, url, cases, folder, *rest, "--exclude-method", "DELETE")
        return failed + check("control API, deleting", document, url, cases, folder, *rest)
    finally:
        call("down")


def main(drisse, cases="10"):
    with tempfile.TemporaryDirectory() as folder:
        failed = scoring(drisse, int(cases), folder) + control(drisse, int(cases), folder)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
