"""Trains the example models on data that scikit-learn ships, and writes them as ONNX.

    python3 -m venv /tmp/examples && /tmp/examples/bin/pip install -r examples/requirements.txt
    /tmp/examples/bin/python examples/make.py

Each folder gets a model and a `sample.json`, which is a `/score` request for it. The files are
committed: run this only to change them.
"""

import json
import pathlib

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from skl2onnx import convert_sklearn
from skl2onnx.common.data_types import FloatTensorType
from sklearn.datasets import load_digits, load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

HERE = pathlib.Path(__file__).parent
SEED = 2018


def save(name, model, sample, accuracy):
    """Checks a model with ONNX and writes it; its free first dimension is named `batch`."""
    for value in [*model.graph.input, *model.graph.output]:
        shape = value.type.tensor_type.shape
        if value.type.HasField("tensor_type") and shape.dim and not shape.dim[0].dim_value:
            shape.dim[0].dim_param = "batch"
    onnx.checker.check_model(model)
    folder = HERE / name
    folder.mkdir(exist_ok=True)
    onnx.save(model, folder / f"{name}.onnx")
    (folder / "sample.json").write_text(json.dumps(sample) + "\n")
    size = (folder / f"{name}.onnx").stat().st_size
    print(f"{name:8} {size / 1024:7.1f} KiB  accuracy on held-out rows {accuracy:.3f}")


def digits():
    """8x8 gray digits -> class: a multi-layer perceptron whose outputs are tensors."""
    x, y = load_digits(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(x, y, random_state=SEED)
    model = MLPClassifier((64,), max_iter=600, random_state=SEED).fit(x_train, y_train)
    onnx_model = convert_sklearn(
        model, "digits", [("X", FloatTensorType([None, 64]))], options={"zipmap": False}, target_opset=17
    )
    save("digits", onnx_model, {"data": x_test[:1].tolist()}, model.score(x_test, y_test))


def iris():
    """Flower measurements -> species: a logistic regression whose probabilities are maps (ZipMap)."""
    data = load_iris()
    names = np.array(data.target_names)[data.target]
    x_train, x_test, y_train, y_test = train_test_split(data.data, names, random_state=SEED)
    model = LogisticRegression(max_iter=500).fit(x_train, y_train)
    onnx_model = convert_sklearn(model, "iris", [("X", FloatTensorType([None, 4]))], target_opset=17)
    save("iris", onnx_model, {"data": x_test[:2].tolist()}, model.score(x_test, y_test))


def wine():
    """Wine chemistry with missing values -> cultivar: gradient-boosted trees (LightGBM)."""
    from lightgbm import LGBMClassifier
    from onnxmltools import convert_lightgbm
    from onnxmltools.convert.common.data_types import FloatTensorType as LgbFloat
    from sklearn.datasets import load_wine

    x, y = load_wine(return_X_y=True)
    x[np.random.default_rng(SEED).random(x.shape) < 0.1] = np.nan
    x_train, x_test, y_train, y_test = train_test_split(x, y, random_state=SEED)
    model = LGBMClassifier(n_estimators=40, num_leaves=8, random_state=SEED, verbose=-1).fit(x_train, y_train)
    onnx_model = convert_lightgbm(
        model, "wine", [("features", LgbFloat([None, x.shape[1]]))], zipmap=False, target_opset=15
    )
    row = next(r for r in x_test if np.isnan(r).any())
    sample = {"data": [[None if np.isnan(v) else v for v in row.tolist()]]}
    save("wine", onnx_model, sample, model.score(x_test, y_test))


def glyph():
    """A gray picture of any size -> digit: a convolutional network with three free dimensions."""
    import jax
    import jax.numpy as jnp

    x, y = load_digits(return_X_y=True)
    x = (x * 255 / 16).astype(np.uint8).reshape(-1, 8, 8)
    x_train, x_test, y_train, y_test = train_test_split(x, y, random_state=SEED)
    rng = np.random.default_rng(SEED)

    def he(*shape):
        return (rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))).astype(np.float32)

    params = {"w1": he(16, 1, 3, 3), "b1": np.zeros(16, np.float32), "w2": he(32, 16, 3, 3),
              "b2": np.zeros(32, np.float32), "w3": he(10, 32), "b3": np.zeros(10, np.float32)}

    def forward(p, images):
        h = images[:, None].astype(jnp.float32) / 255
        h = jax.nn.relu(jax.lax.conv(h, p["w1"], (1, 1), "SAME") + p["b1"][:, None, None])
        h = jax.nn.relu(jax.lax.conv(h, p["w2"], (2, 2), "VALID") + p["b2"][:, None, None])
        return h.mean((2, 3)) @ p["w3"].T + p["b3"]

    def loss(p, images, labels):
        return -jax.nn.log_softmax(forward(p, images))[jnp.arange(len(labels)), labels].mean()

    step = jax.jit(jax.grad(loss))
    mean = {k: np.zeros_like(v) for k, v in params.items()}
    square = {k: np.zeros_like(v) for k, v in params.items()}
    for i in range(1, 3001):  # Adam, batches of 64
        rows = rng.integers(0, len(x_train), 64)
        grads = step(params, x_train[rows], y_train[rows])
        for k, g in grads.items():
            g = np.asarray(g)
            mean[k] = 0.9 * mean[k] + 0.1 * g
            square[k] = 0.999 * square[k] + 0.001 * g * g
            params[k] = params[k] - 3e-3 * (mean[k] / (1 - 0.9**i)) / (np.sqrt(square[k] / (1 - 0.999**i)) + 1e-8)
    accuracy = float((np.asarray(forward(params, x_test)).argmax(1) == y_test).mean())

    constants = {**{k: np.asarray(v, np.float32) for k, v in params.items()},
                 "scale": np.array(255, np.float32), "axis": np.array([1], np.int64),
                 "sizes": np.array([8, 8], np.int64)}
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Div", ["float", "scale"], ["unit"], "scale_to_unit"),
        helper.make_node("Unsqueeze", ["unit", "axis"], ["channel"], "add_channel"),
        helper.make_node("Resize", ["channel", "", "", "sizes"], ["small"], "resize",
                         axes=[2, 3], mode="linear", antialias=1),
        helper.make_node("Conv", ["small", "w1", "b1"], ["c1"], "conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"], "relu1"),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], "conv2", strides=[2, 2]),
        helper.make_node("Relu", ["c2"], ["r2"], "relu2"),
        helper.make_node("GlobalAveragePool", ["r2"], ["pool"], "pool"),
        helper.make_node("Flatten", ["pool"], ["flat"], "flatten"),
        helper.make_node("Gemm", ["flat", "w3", "b3"], ["logits"], "head", transB=1),
        helper.make_node("Softmax", ["logits"], ["probabilities"], "softmax"),
    ]
    graph = helper.make_graph(
        nodes, "glyph",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", "height", "width"])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(v, k) for k, v in constants.items()],
    )
    model = helper.make_model(graph, producer_name="drisse-examples", ir_version=9,
                              opset_imports=[helper.make_opsetid("", 18)])
    save("glyph", model, {"data": x_test[:1].tolist()}, accuracy)


if __name__ == "__main__":
    for make in (digits, iris, wine, glyph):
        make()
