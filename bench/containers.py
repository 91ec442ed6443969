"""Measures containers: the time from a model to a response, compared with a start by the engine alone, with an image
build, and with the same server outside a container.

    cargo xtask bench            (or: python bench/containers.py target/release)

Uses podman with new, separate folders: nothing is cached, and containers and images of the user are not touched.
"""

import concurrent.futures
import copy
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import types

import models
from deploy import MODEL, Unix, Workspace
from load import load, middle
from processes import onnxruntime_library, proportional
from report import Report

ROUNDS = int(os.environ.get("ROUNDS", 5))
SECONDS = int(os.environ.get("SECONDS_EACH", 3))
GROUPS = int(os.environ.get("GROUPS", 20))
ABOUT = f"""With podman and empty folders; medians of {ROUNDS} rounds. A start by the engine alone is `podman run` of the same image
until the server is ready; a build is `podman build` of the same content, followed by such a start."""
median = statistics.median


class Engine:
    def __init__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp())
        self.command = ["podman", "--root", self.folder / "root", "--runroot", self.folder / "run", "--runtime", "runc"]
        self.host = f"unix://{self.folder}/podman.sock"
        self.service = subprocess.Popen([*self.command, "system", "service", "--time=0", self.host], stderr=subprocess.DEVNULL)
        while not (self.folder / "podman.sock").exists():
            time.sleep(0.01)

    def run(self, *arguments):
        return subprocess.run([*self.command, *arguments], check=True, capture_output=True, text=True).stdout

    def start(self, image, file):
        """Starts a container of an image with the engine's own command. Returns the seconds until it is ready."""
        folder = pathlib.Path(tempfile.mkdtemp(dir=self.folder))
        folder.chmod(0o777)
        began = time.perf_counter()
        name = self.run("run", "--detach", "--network", "none", "--read-only", "--cap-drop", "all", "--ulimit", "nofile=4096:4096",
                        "--ulimit", "nproc=4096:4096", "--volume", f"{folder}:/run/x", "--entrypoint", '["/usr/lib/drisse/drisse"]', image,
                        "serve", file, "--unix", "/run/x/s", "--admin", "unix:/run/x/a").strip()
        while True:
            try:
                Unix(folder / "a").ask("GET", "/ready")
                break
            except (OSError, AssertionError):
                time.sleep(0.003)
        took = time.perf_counter() - began
        self.run("rm", "--force", "--time", "0", name)
        return took

    def close(self):
        self.run("rm", "--all", "--force", "--time", "0")
        self.run("rmi", "--all", "--force")
        self.service.kill()
        self.service.wait()
        shutil.rmtree(self.folder)


def timed(work):
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def replica(service):
    """Returns the process ID of a service's only replica."""
    for line in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = line.read_bytes().split(b"\0")
        except OSError:  # the process has just ended
            continue
        if b"serve" in words and any(f"/{service}/".encode() in word for word in words):
            return int(line.parent.name)
    raise LookupError(service)


def from_nothing(drisse, say):
    took = []
    for _ in range(ROUNDS):
        engine, cache = Engine(), tempfile.mkdtemp()
        workspace = Workspace(drisse, DOCKER_HOST=engine.host, XDG_CACHE_HOME=cache)
        took.append(timed(lambda: workspace.run("deploy", str(MODEL), "--target", "container")))
        workspace.close()
        engine.close()
        shutil.rmtree(cache)
    say(f"{'deploy of a model file, nothing cached, s':52}{median(took):10.2f}{'<= 10':>12}")


def present(engine, workspace, say):
    workspace.run("models", "register", str(MODEL))
    deploy = lambda name: workspace.run("deploy", "digits:1", "--name", name, "--target", "container")
    deploy("first")
    image = engine.run("images", "--quiet").split()[0]
    ours, own = [], []
    for nth in range(ROUNDS):
        own.append(engine.start(image, "x=/models/digits/digits.onnx"))
        ours.append(timed(lambda: deploy(f"s{nth}")))
        workspace.run("delete", f"s{nth}")
    say(f"{'image present: deploy until the first score, s':52}{median(ours):10.2f}{'<= 1.0':>12}")
    say(f"{'  start by the engine alone, until ready, s':52}{median(own):10.2f}")
    say(f"{'  deploy minus that start, s':52}{median(ours) - median(own):10.2f}{'<= 0.5':>12}")
    workspace.run("delete", "first")


def new_version(engine, workspace, say):
    """Measures new versions of the 96 MiB MLP, each with other bytes: updated by Drisse, or built and run by podman."""
    original = models.mlp().file.read_bytes()
    folder = pathlib.Path(workspace.folder) / "mlp"
    folder.mkdir()
    file = folder / "mlp.onnx"

    def variant(nth):
        text = f"variant {nth}".encode()
        file.write_bytes(original + bytes([0x32, len(text)]) + text)

    variant("first")
    workspace.run("deploy", str(file), "--target", "container")
    base = engine.run("images", "--format", "{{.Repository}}:{{.Tag}}").split()[0]
    engine.run("tag", base, "localhost/base:1")
    (folder / "Containerfile").write_text("FROM localhost/base:1\nCOPY mlp.onnx /models/mlp/mlp.onnx\n")
    ours, builds = [], []

    def build(nth):
        engine.run("build", "--pull=never", "--quiet", "--tag", f"localhost/built:{nth}", str(folder))
        engine.start(f"localhost/built:{nth}", "x=/models/mlp/mlp.onnx")

    for nth in range(ROUNDS):
        variant(2 * nth)
        ours.append(timed(lambda: workspace.run("update", "mlp", str(file))))
        variant(2 * nth + 1)
        builds.append(timed(lambda: build(nth)))
    ratio = median(ours) / median(builds)
    say(f"{'update to a new version of a 96 MiB model, s':52}{median(ours):10.2f}")
    say(f"{'  podman build and run of the same content, s':52}{median(builds):10.2f}")
    say(f"{'  ratio':52}{ratio:10.2f}{'<= 0.25':>12}{'' if ratio <= 0.25 else '  MISSED'}")
    workspace.run("delete", "mlp")


def scoring(workspace, say):
    digits, servers = models.digits(), {}
    for target in ("local", "container"):
        name = f"digits-{target}"
        document, _ = workspace.run("deploy", str(MODEL), "--name", name, "--target", target)
        model = copy.copy(digits)
        model.name = name
        port = int(document["scoring_uri"].split(":")[2].split("/")[0])
        headers = {"authorization": f"Bearer {document['primary_key']}"}
        running = types.SimpleNamespace(pid=replica(name))
        servers[target] = types.SimpleNamespace(running=running, http=port, headers=headers), model
    rounds = {target: [] for target in servers}
    for _ in range(ROUNDS):
        for target, (server, model) in servers.items():
            rounds[target].append(load(server, model, "json", 16, SECONDS))
    inside, outside = (middle(rounds[target]).cpu for target in ("container", "local"))
    say(f"{'scoring in a container, CPU per request, µs':52}{inside:10.1f}")
    say(f"{'  the same server outside, CPU per request, µs':52}{outside:10.1f}")
    say(f"{'  ratio':52}{inside / outside:10.3f}{'<= 1.05':>12}{'' if inside <= 1.05 * outside else '  MISSED'}")
    for target in servers:
        workspace.run("delete", f"digits-{target}")


def groups(workspace, say):
    names = [f"g{nth}" for nth in range(GROUPS)]
    deploy = lambda name: workspace.run("deploy", "digits:1", "--name", name, "--target", "container")
    deploy(names[0])
    one = proportional(replica(names[0]))
    workspace.run("delete", names[0])
    with concurrent.futures.ThreadPoolExecutor(GROUPS) as pool:
        took = timed(lambda: list(pool.map(deploy, names)))
    memory = sum(proportional(replica(name)) for name in names)
    most = one + (GROUPS - 1) * 25e6 / 2**20
    say(f"{f'{GROUPS} services at once, until all are ready, s':52}{took:10.1f}{'<= 30':>12}")
    say(f"{'  PSS of all, MiB':52}{memory:10.0f}{f'<= {most:.0f}':>12}")
    for name in names:
        workspace.run("delete", name)


def main():
    release = pathlib.Path(sys.argv[1]).resolve()
    drisse = release / "drisse"
    onnxruntime_library()
    say = Report("Containers", ABOUT)
    from_nothing(drisse, say)
    engine, cache = Engine(), tempfile.mkdtemp()
    workspace = Workspace(drisse, DOCKER_HOST=engine.host, XDG_CACHE_HOME=cache)
    built, _ = workspace.run("image", "build", str(MODEL), "-o", f"oci-archive:{workspace.folder}/digits.tar")
    say(f"{'image without the model, compressed, MB':52}{built['runtime']['size'] / 1e6:10.1f}{'<= 28':>12}")
    present(engine, workspace, say)
    new_version(engine, workspace, say)
    scoring(workspace, say)
    groups(workspace, say)
    workspace.close()
    engine.close()
    shutil.rmtree(cache)
    say.save()


if __name__ == "__main__":
    main()
