"""Compares real models served by `drisse serve` with ONNX Runtime's Python API on random inputs: text, audio with state,
detection with free dimensions, forests, probabilities as maps. Also checks each server's OpenAPI document with an
independent validator.

    python tests/conformance/models.py target/release/drisse
"""

import importlib.util
import json
import pathlib
import sys

import numpy as np
import onnxruntime
from openapi_spec_validator import validate

from drisse import Server

HERE = pathlib.Path(__file__).parent
EXAMPLES = HERE.parent.parent / "examples"
rng = np.random.default_rng(2018)


def package(name):
    return pathlib.Path(importlib.util.find_spec(name).submodule_search_locations[0])


def floats(*shape):
    return rng.standard_normal(shape, np.float32)


def inputs_of(name):
    """Returns random valid inputs of the model, of random size."""
    n = int(rng.integers(1, 4))
    if name == "standard_v3_3":
        return {"bytes": rng.integers(0, 257, (n, 2048), np.int32)}
    if name == "silero_vad":
        return {"input": floats(n, 576), "state": floats(2, n, 128), "sr": np.array(16000)}
    if name == "silero_vad_half":
        return {"input": floats(n, 576), "state": floats(2, n, 128)}
    if name == "silero_vad_16k_sequence":
        return {"input": floats(n, 576), "h": floats(1, 1, 128), "c": floats(1, 1, 128)}
    if name.startswith("ch_PP-OCRv4_det"):
        return {"x": floats(1, 3, 32 * n, 64)}
    if name.startswith("ch_PP-OCRv4_rec"):
        return {"x": floats(1, 3, 48, 64 * n)}
    if name.startswith("ch_ppocr_mobile"):
        return {"x": floats(n, 3, 48, 192)}
    return {
        "digits": {"X": floats(n, 64)},
        "iris": {"X": floats(n, 4)},
        "wine": {"features": np.where(rng.random((n, 13)) < 0.2, np.nan, floats(n, 13) * 10).astype(np.float32)},
        "glyph": {"image": rng.integers(0, 256, (n, 8 * n, 24), np.uint8)},
    }[name]


def agree(name, got, wanted):
    for output, theirs in wanted.items():
        if isinstance(theirs, list):  # maps are compared as a table of their values
            theirs = np.array([list(row.values()) for row in theirs], np.float32)
        ours = got[output]
        if theirs.dtype.kind in "OUS":
            assert [str(x) for x in ours.reshape(-1)] == [str(x) for x in theirs.reshape(-1)], name
        else:
            np.testing.assert_array_equal(ours, theirs, err_msg=f"{name}: {output}")


def main(binary):
    magika, rapidocr, silero = package("magika"), package("rapidocr_onnxruntime"), package("silero_vad")
    paths = [
        magika / "models/standard_v3_3/model.onnx",
        *sorted((rapidocr / "models").glob("*.onnx")),
        *(silero / f"data/{name}.onnx" for name in ("silero_vad", "silero_vad_half", "silero_vad_16k_sequence")),
        *(EXAMPLES / name / f"{name}.onnx" for name in ("digits", "iris", "wine", "glyph")),
    ]
    named = {path.parent.name if path.stem == "model" else path.stem: path for path in paths}
    server = Server(binary, [str(path) for path in paths])
    passed = 0
    for name, path in named.items():
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        outputs = [port.name for port in session.get_outputs()]
        for _ in range(5):
            given = inputs_of(name)
            got = server.infer(name, given)
            assert not isinstance(got, str), f"{name}: {got}"
            agree(name, got, dict(zip(outputs, session.run(None, given))))
        status, sample = server.request("GET", f"/sample/{name}")
        assert status == 200, f"{name} has no sample"
        status, answer = server.request("POST", f"/score/{name}", json.dumps(sample))
        # Some models refuse a generated sample (zeros of size 1): that is a 400, never a 5xx.
        assert status in (200, 400), f"{name}: {status} {answer}"
        print(f"  {name}: 5 random requests equal; its sample: {status}")
        passed += 1
    status, document = server.request("GET", "/swagger.json")
    assert status == 200
    validate(document)
    server.close()
    alone = Server(binary, [str(EXAMPLES / "iris")])
    validate(alone.request("GET", "/swagger.json")[1])
    alone.close()
    print(f"models: {passed + 2} passed, 0 failed")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
