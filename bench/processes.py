"""Starts and ends the measured processes, and reads their CPU time and memory."""

import contextlib
import itertools
import os
import pathlib
import socket
import subprocess
import tempfile
import time

TICKS = os.sysconf("SC_CLK_TCK")
CORES = os.cpu_count()


# Below the ephemeral ports, so that no outgoing connection takes the port of a server that starts slowly.
PORTS = itertools.count(18100)


def free_port():
    for port in PORTS:
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


def tree(pid):
    """Returns the CPU time of the process and of each of its descendants, in clock ticks by process ID."""
    used, children = {}, {}
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(") ", 1)[1].split()
        except (OSError, IndexError):  # the process has just ended
            continue
        number = int(stat.parent.name)
        used[number] = int(fields[11]) + int(fields[12])
        children.setdefault(int(fields[1]), []).append(number)
    found = [pid]
    for each in found:
        found += children.get(each, [])
    return {each: used[each] for each in found if each in used}


def cpu(pid):
    """Returns the CPU time of a process and its descendants, in seconds."""
    return sum(tree(pid).values()) / TICKS


def resident(pid):
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024


def proportional(pid):
    """Returns the PSS of a process in MiB: its memory, with a proportional part of what it shares."""
    rollup = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(next(line for line in rollup.splitlines() if line.startswith("Pss:")).split()[1]) / 1024


def onnxruntime_library():
    """Sets DRISSE_ONNXRUNTIME for started processes to the library that `drisse` has in its cache."""
    if "DRISSE_ONNXRUNTIME" not in os.environ:
        cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "drisse/onnxruntime"
        os.environ["DRISSE_ONNXRUNTIME"] = str(next(cache.glob("*/libonnxruntime.so*")))


class Running:
    """A process in a new session, whose stderr is kept. `stop` ends it and its descendants."""

    def __init__(self, command, stdout=subprocess.DEVNULL, environment=None):
        self.stderr = tempfile.TemporaryFile()
        self.started = time.perf_counter()
        self.process = subprocess.Popen([str(word) for word in command], stdout=stdout, stderr=self.stderr,
                                        start_new_session=True, env={**os.environ, **(environment or {})})
        self.pid = self.process.pid

    def ended(self):
        return self.process.poll() is not None

    def complaint(self):
        self.stderr.seek(0)
        lines = self.stderr.read().decode(errors="replace").splitlines()
        return next((line.strip() for line in reversed(lines) if len(line) > 10), "stderr is empty")

    def stop(self, patience=0):
        below = {pid: os.getsid(pid) for pid in list(tree(self.pid))[1:]}
        self.process.terminate() if patience else self.process.kill()
        try:
            self.process.wait(patience or None)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for pid, session in below.items():
            try:
                # If the ID now belongs to an unrelated process, that has another session.
                if os.getsid(pid) == session:
                    os.kill(pid, 9)
            except ProcessLookupError:
                pass
        if self.process.stdout:
            self.process.stdout.close()
        self.stderr.close()
