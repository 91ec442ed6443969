"""The benchmark's models, with an input for each and ONNX Runtime's own output for it."""

import dataclasses
import json
import os
import pathlib
import warnings

import magika
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from processes import CORES
from report import ROOT

# Models are cached by name: a change in how they are made requires another folder name.
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "drisse/bench-models-1"


@dataclasses.dataclass
class Model:
    name: str
    about: str
    file: pathlib.Path
    value: np.ndarray  # the input of each request
    threads: int = 1  # per run

    def __post_init__(self):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(self.file, options, providers=["CPUExecutionProvider"])
        self.input = session.get_inputs()[0].name
        names = [output.name for output in session.get_outputs()]
        self.outputs = dict(zip(names, session.run(names, {self.input: self.value})))

    def same(self, answer):
        """Returns whether a server's outputs equal ONNX Runtime's. Shapes may differ: Triton adds a dimension to labels."""
        return answer.keys() == self.outputs.keys() and all(
            values.size == mine.size and values.dtype == mine.dtype and np.allclose(values.ravel(), mine.ravel(), 1e-4, 1e-6)
            for values, mine in ((answer[name], self.outputs[name]) for name in answer))


def kept(name, make):
    """Returns the path of the cached model, and makes it atomically if it does not exist."""
    path = CACHE / name
    if not path.exists():
        print(f"making {path} (once)", flush=True)
        CACHE.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}")
        onnx.save(make(), part)
        part.rename(path)
    return path


def digits():
    value = json.loads((ROOT / "examples/digits/sample.json").read_text())["data"][0]
    return Model("digits", "an MLP on 64 pixels", ROOT / "examples/digits/digits.onnx", np.array([value], np.float32))


def trees():
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer()

    def train():
        import lightgbm
        from onnxmltools import convert_lightgbm
        from onnxmltools.convert.common.data_types import FloatTensorType

        warnings.filterwarnings("ignore")
        classifier = lightgbm.LGBMClassifier(n_estimators=300, random_state=0, n_jobs=1, verbose=-1)
        classifier.fit(data.data, data.target)
        assert classifier.booster_.num_trees() == 300
        return convert_lightgbm(classifier, initial_types=[("X", FloatTensorType([None, 30]))], zipmap=False)

    return Model("trees", "300 trees of LightGBM on 30 features", kept("trees.onnx", train), data.data[:1].astype(np.float32))


def file_types():
    """Magika's model, from its Python package, with the bytes of a text as input."""
    path = next(pathlib.Path(magika.__file__).parent.glob("models/*/model.onnx"))
    text = np.frombuffer((ROOT / "ARCHITECTURE.md").read_bytes(), np.uint8)
    value = np.concatenate([text[:1024], text[-1024:]]).astype(np.int32)[None]
    return Model("magika", "2,048 bytes of a file, INT32", path, value)


def mlp():
    value = np.random.default_rng(100).standard_normal((1, 1024), np.float32)
    return Model("mlp", "96 MiB of weights, 1,024 floats", kept("mlp.onnx", layers), value)


def layers():
    """Makes a model of three layers that is bound by memory bandwidth: reading the weights takes longer than the arithmetic."""
    random, sizes, weights, nodes = np.random.default_rng(100), (1024, 4096, 4096, 1024), [], []
    for nth, (inputs, outputs) in enumerate(zip(sizes, sizes[1:])):
        values = random.standard_normal((inputs, outputs), np.float32) * np.float32((2 / inputs) ** 0.5)
        weights.append(numpy_helper.from_array(values, f"w{nth}"))
        nodes.append(helper.make_node("MatMul", [f"x{nth}", f"w{nth}"], [f"y{nth}"]))
        nodes.append(helper.make_node("Relu", [f"y{nth}"], [f"x{nth + 1}"]))
    tensor = helper.make_tensor_value_info
    graph = helper.make_graph(nodes, "mlp", [tensor("x0", TensorProto.FLOAT, ["batch", sizes[0]])],
                              [tensor("x3", TensorProto.FLOAT, ["batch", sizes[-1]])], weights)
    return helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 17)])


class Echo(Model):
    """A model that returns its input; it has no file."""

    def __post_init__(self):
        self.input, self.outputs = "X", {"X": self.value}


def device():
    return Echo("device", "a fake: 5 ms, 50 µs a row", None, np.arange(64, dtype=np.float32)[None])


def copies(model, count, folder):
    """Yields `count` copies of the model, each with slightly different weights."""
    random, source = np.random.default_rng(count), onnx.load(model.file)
    for nth in range(count):
        copy = onnx.ModelProto()
        copy.CopyFrom(source)
        for weight in copy.graph.initializer:
            values = numpy_helper.to_array(weight)
            if values.dtype == np.float32:
                changed = values * random.uniform(0.9, 1.1, values.shape).astype(np.float32)
                weight.CopyFrom(numpy_helper.from_array(changed, weight.name))
        file = folder / f"{model.name}-{nth}.onnx"
        onnx.save(copy, file)
        yield dataclasses.replace(model, name=file.stem, file=file)


def resnet():
    value = np.random.default_rng(50).standard_normal((1, 3, 224, 224), np.float32)
    return Model("resnet50", "ResNet-50's layers, 150,528 floats", kept("resnet50.onnx", resnet50), value, CORES)


def resnet50():
    """Makes a model with the layers of ResNet-50 (He et al., 2015, table 1; normalization is folded into the weights) and
    random weights."""
    random = np.random.default_rng(50)
    nodes, weights = [], []

    def convolution(x, inputs, outputs, size, stride, activate=True):
        name = f"w{len(weights)}"
        values = random.standard_normal((outputs, inputs, size, size), np.float32) * np.float32((2 / (inputs * size * size)) ** 0.5)
        weights.append(numpy_helper.from_array(values, name))
        y = f"{name}_out"
        pad = size // 2
        nodes.append(helper.make_node("Conv", [x, name], [y], strides=[stride] * 2, pads=[pad] * 4, kernel_shape=[size] * 2))
        if activate:
            nodes.append(helper.make_node("Relu", [y], [f"{y}_r"]))
            y += "_r"
        return y

    x = convolution("image", 3, 64, 7, 2)
    nodes.append(helper.make_node("MaxPool", [x], ["pooled"], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4))
    x, channels = "pooled", 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        width = 64 << stage
        for block in range(blocks):
            stride = 2 if stage > 0 and block == 0 else 1
            y = convolution(x, channels, width, 1, 1)
            y = convolution(y, width, width, 3, stride)
            y = convolution(y, width, 4 * width, 1, 1, activate=False)
            shortcut = convolution(x, channels, 4 * width, 1, stride, activate=False) if block == 0 else x
            nodes.append(helper.make_node("Add", [y, shortcut], [f"{y}_s"]))
            nodes.append(helper.make_node("Relu", [f"{y}_s"], [f"{y}_b"]))
            x, channels = f"{y}_b", 4 * width
    weights.append(numpy_helper.from_array(random.standard_normal((2048, 1000), np.float32) * np.float32(0.02), "fc"))
    nodes.append(helper.make_node("GlobalAveragePool", [x], ["averaged"]))
    nodes.append(helper.make_node("Flatten", ["averaged"], ["flat"]))
    nodes.append(helper.make_node("MatMul", ["flat", "fc"], ["classes"]))
    tensor = helper.make_tensor_value_info
    graph = helper.make_graph(nodes, "resnet50", [tensor("image", TensorProto.FLOAT, ["batch", 3, 224, 224])],
                              [tensor("classes", TensorProto.FLOAT, ["batch", 1000])], weights)
    return helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 17)])
