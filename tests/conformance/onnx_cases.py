"""Runs ONNX's own test cases against `drisse serve`: every case that ONNX Runtime's Python API passes must pass.

    python tests/conformance/onnx_cases.py target/release/drisse
"""

import collections
import glob
import os
import sys
import tempfile

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper
from onnx.backend.test.loader import load_model_tests

from drisse import V2, Server

PER_PROCESS = 500
CARRIED = set(V2)


def cases(folder):
    """Yields each case with its model's path and its data sets: pairs of inputs and outputs, in the model's order."""
    for kind in ("node", "simple", "light"):
        for case in load_model_tests(kind=kind):
            if case.model is not None:
                path = os.path.join(folder, f"{case.name}.onnx")
                onnx.save(case.model, path)
                yield case, path, case.data_sets
            elif os.path.exists(os.path.join(case.model_dir, "model.onnx")):
                path = os.path.join(case.model_dir, "model.onnx")
                yield case, path, stored(path, case.model_dir)


def stored(path, folder):
    """Yields the data sets that are stored in files; a value that is not a tensor is None."""
    graph = onnx.load(path, load_external_data=False).graph
    for data in sorted(glob.glob(os.path.join(folder, "test_data_set_*"))):
        yield [
            [value(os.path.join(data, f"{prefix}_{nth}.pb"), port) for nth, port in enumerate(ports)]
            for prefix, ports in (("input", graph.input), ("output", graph.output))
        ]


def value(path, port):
    if not port.type.HasField("tensor_type") or not os.path.exists(path):
        return None
    with open(path, "rb") as file:
        return numpy_helper.to_array(onnx.TensorProto.FromString(file.read()))


def plain(values):
    """Returns values as numpy arrays, or None if one is not a tensor."""
    values = [numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value for value in values]
    values = [np.array(value) if isinstance(value, np.generic) else value for value in values]
    return values if all(isinstance(value, np.ndarray) for value in values) else None


def same(got, wanted, case):
    if isinstance(got, str):
        return got
    for (name, ours), theirs in zip(got.items(), wanted):
        try:
            if theirs.dtype.kind in "OUS":
                theirs = np.array([x.decode() if isinstance(x, bytes) else x for x in theirs.reshape(-1)], dtype=object)
                np.testing.assert_array_equal(ours.reshape(-1), theirs)
                continue
            assert ours.shape == theirs.shape, f"shape {ours.shape}, not {theirs.shape}"
            assert ours.dtype == theirs.dtype, f"datatype {ours.dtype}, not {theirs.dtype}"
            if theirs.dtype.name in ("bfloat16", "float16"):
                ours, theirs = ours.astype(np.float32), theirs.astype(np.float32)
            np.testing.assert_allclose(ours, theirs, rtol=case.rtol, atol=case.atol)
        except AssertionError as error:
            return f"{name}: " + " ".join(str(error).split())[:160]
    return None


def load(case, path, data_sets):
    """Returns the data sets if V2's JSON can carry them, or the reason why the case is left out."""
    try:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception:
        return "left out: ONNX Runtime cannot load the model"
    model = onnx.load(path, load_external_data=False)
    initial = {tensor.name for tensor in model.graph.initializer} if model.ir_version < 4 else set()
    inputs = [port for port in model.graph.input if port.name not in initial]
    sets = []
    for given, wanted in data_sets:
        given, wanted = plain(given), plain(wanted)
        if given is None or wanted is None:
            return "left out: V2 has no sequences, maps or optionals"
        for value in [*given, *wanted]:
            if value.dtype.kind not in "OUS" and str(value.dtype) not in CARRIED:
                return f"left out: V2 has no datatype for {value.dtype}"
        named = {port.name: value for port, value in zip(inputs, given)}
        for value in wanted:
            if value.dtype.kind == "f" and np.isinf(value.astype(np.float32)).any():
                return "left out: V2's JSON cannot represent an infinite output"
        sets.append((named, wanted))
    if not sets:
        return "left out: the case has no data"
    for named, wanted in sets:
        try:
            got = dict(zip([port.name for port in session.get_outputs()], session.run(None, named)))
        except Exception:
            return "left out: ONNX Runtime's Python API fails the case"
        if same(got, wanted, case):
            return "left out: ONNX Runtime's Python API fails the case"
    return sets


def main(binary):
    outcomes = collections.Counter()
    ready, failures = [], []
    folder = tempfile.TemporaryDirectory()
    for case, path, data_sets in cases(folder.name):
        sets = load(case, path, data_sets)
        if isinstance(sets, str):
            outcomes[sets] += 1
        else:
            ready.append((case, path, sets))
    print(f"{sum(outcomes.values()) + len(ready)} cases, {len(ready)} to be served", flush=True)
    for start in range(0, len(ready), PER_PROCESS):
        part = ready[start : start + PER_PROCESS]
        server = Server(binary, [f"{case.name}={path}" for case, path, _ in part])
        if "error" in server.ready:
            sys.exit(f"FAILED to start: {server.ready}")
        for case, _, sets in part:
            trouble = None
            for named, wanted in sets:
                trouble = trouble or same(server.infer(case.name, named), wanted, case)
            outcomes["passes"] += trouble is None
            if trouble:
                failures.append(f"{case.name}: {trouble}")
        server.close()
    for what, count in outcomes.most_common():
        print(f"{count:6} {what}")
    for failure in failures:
        print(f"FAILED {failure}")
    print(f"onnx: {outcomes['passes']} passed, {len(failures)} failed")
    return 1 if failures or not outcomes["passes"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
