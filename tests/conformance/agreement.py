"""Compares the answers of every protocol on generated models whose outputs do and do not have one entry per row: rows,
constants, targets first, sequences of tensors and of maps, time steps first, a fixed number of rows, no input. Each
number says which row it is from.

    python tests/conformance/agreement.py target/release/drisse [SEED]
"""

import collections
import json
import pathlib
import sys
import tempfile
import time

import grpc
import numpy as np
import onnx
from google.protobuf import descriptor_pool, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from onnx import TensorProto, helper, numpy_helper

from drisse import Server

MODELS = 150
ROWS = (1, 2, 3, 7)
WIDTH = 3
FLOAT = TensorProto.FLOAT


class Model:
    """A model with random outputs. Element values are `100 * row + something`, so that a mixed row is seen."""

    def __init__(self, rng, folder, nth):
        self.name = f"m{nth}"
        self.rules = collections.Counter()
        self.nodes, self.constants, self.outputs, self.sequences = [], [], [], []
        self.fixed = int(rng.choice(ROWS)) if rng.random() < 0.2 else None
        self.steps = int(rng.choice([1, 2, 3, 7])) if rng.random() < 0.3 else None
        self.inputs = rng.random() > 0.2
        names = {"rows": ["n", None, "unk__1"], "steps": ["t", None, "unk__2"]}
        self.rows = self.fixed or rng.choice(names["rows"])
        steps = rng.choice(names["steps"])
        dims = [self.rows, steps, WIDTH] if self.steps else [self.rows, WIDTH]
        self.kinds = ["constant", "shaped constant"]
        if self.inputs:
            self.kinds += ["rows", "column", "targets first", "sequence", "maps", "largest"]
            self.kinds += ["steps first"] * 3 if self.steps else []
        count = int(rng.integers(1, 4))
        for index, kind in enumerate(rng.choice(self.kinds, count)):
            self.add(rng, str(kind), f"y{index}", steps)
        if self.fixed and self.inputs:
            self.rules["fixed first dimension"] += 1
        if not self.inputs:
            self.rules["no input"] += 1
        inputs = [helper.make_tensor_value_info("x", FLOAT, dims)] if self.inputs else []
        graph = helper.make_graph(self.nodes, "g", inputs, self.outputs, self.constants)
        imports = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
        self.path = pathlib.Path(folder) / f"{self.name}.onnx"
        onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8), self.path)

    def constant(self, name, value):
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def node(self, operator, inputs, output, **attributes):
        self.nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def table(self, name):
        """A value of rows and columns made from the input."""
        axes = self.constant(f"{name}_at", np.array([0]))
        return self.node("Gather", ["x", axes], f"{name}_t", axis=1) if self.steps else "x"

    def flat(self, name):
        if not self.steps:
            return "x"
        axes = self.constant(f"{name}_axes", np.array([1]))
        return self.node("Squeeze", [self.table(name), axes], f"{name}_f")

    def add(self, rng, kind, name, steps):
        self.rules[kind] += 1
        declared = rng.choice([self.rows if not self.fixed else self.fixed, None])
        if self.fixed and rng.random() < 0.5:
            declared = self.fixed
        info = helper.make_tensor_value_info
        if kind == "constant":
            length = int(rng.choice(ROWS))
            self.node("Identity", [self.constant(f"{name}_c", np.arange(length, dtype=np.float32))], name)
            self.outputs.append(info(name, FLOAT, [rng.choice([length, None])]))
        elif kind == "shaped constant":
            value = np.arange(6, dtype=np.float32).reshape(2, 3)
            self.node("Identity", [self.constant(f"{name}_c", value)], name)
            self.outputs.append(info(name, FLOAT, None))
        elif kind == "rows":
            self.node("Identity", [self.flat(name)], name)
            self.outputs.append(info(name, FLOAT, [declared, WIDTH]))
        elif kind == "column":
            self.node("ReduceMax", [self.flat(name)], name, axes=[1], keepdims=0)
            self.outputs.append(info(name, FLOAT, [declared]))
        elif kind == "largest":
            self.node("ReduceMax", [self.flat(name)], name, keepdims=int(rng.random() < 0.5))
            self.outputs.append(info(name, FLOAT, None))
        elif kind in ("targets first", "sequence"):
            targets = int(rng.choice([2, 3]))
            parts = []
            for target in range(targets):
                more = self.constant(f"{name}_c{target}", np.float32(10 * target))
                parts.append(self.node("Add", [self.flat(f"{name}{target}"), more], f"{name}_p{target}"))
            if kind == "sequence":
                self.node("SequenceConstruct", parts, name)
                self.sequences.append(name)
                self.outputs.append(helper.make_tensor_sequence_value_info(name, FLOAT, None))
            else:
                axes = self.constant(f"{name}_axis", np.array([0]))
                parts = [self.node("Unsqueeze", [part, axes], f"{part}_u") for part in parts]
                self.node("Concat", parts, name, axis=0)
                self.outputs.append(info(name, FLOAT, [rng.choice([targets, None]), declared, WIDTH]))
        elif kind == "maps":
            self.node("ZipMap", [self.flat(name)], name, domain="ai.onnx.ml", classlabels_int64s=[1, 2, 3])
            value = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(FLOAT, []))
            self.outputs.append(helper.make_value_info(name, helper.make_sequence_type_proto(value)))
        elif kind == "steps first":
            self.node("Transpose", ["x"], name, perm=[1, 0, 2])
            self.outputs.append(info(name, FLOAT, [rng.choice([steps, None]), declared, WIDTH]))

    def x(self, rows):
        shape = (rows, self.steps, WIDTH) if self.steps else (rows, WIDTH)
        x = np.zeros(shape, np.float32) + np.arange(WIDTH, dtype=np.float32)
        return x + 100 * np.arange(1, rows + 1, dtype=np.float32).reshape(-1, *[1] * (len(shape) - 1))


class Grpc:
    """Calls gRPC methods with messages that the server describes."""

    def __init__(self, socket):
        self.channel = grpc.insecure_channel(f"unix:{socket}", [("grpc.default_authority", "localhost")])
        pool = descriptor_pool.DescriptorPool(ProtoReflectionDescriptorDatabase(self.channel))
        self.methods = {}
        for service, method in (("inference.GRPCInferenceService", "ModelInfer"), ("tensorflow.serving.PredictionService", "Predict")):
            found = pool.FindServiceByName(service).FindMethodByName(method)
            request, answer = (message_factory.GetMessageClass(kind) for kind in (found.input_type, found.output_type))
            call = self.channel.unary_unary(f"/{service}/{method}", request.SerializeToString, answer.FromString)
            self.methods[method] = (request, call)

    def infer(self, model, x, outputs):
        request, call = self.methods["ModelInfer"]
        request = request(model_name=model)
        for name in outputs:
            request.outputs.add(name=name)
        if x is not None:
            request.inputs.add(name="x", datatype="FP32", shape=x.shape)
            request.raw_input_contents.append(x.tobytes())
        answer = call(request)
        raw = zip(answer.outputs, answer.raw_output_contents)
        return {output.name: np.frombuffer(data, np.float32).reshape(output.shape) for output, data in raw}

    def predict(self, model, x, outputs):
        request, call = self.methods["Predict"]
        request = request(output_filter=outputs)
        request.model_spec.name = model
        if x is not None:
            tensor = request.inputs["x"]
            tensor.dtype = 1
            tensor.tensor_content = x.tobytes()
            for size in x.shape:
                tensor.tensor_shape.dim.add(size=size)
        answer = call(request)
        return {
            name: np.frombuffer(tensor.tensor_content, np.float32) if tensor.tensor_content else np.array(tensor.float_val)
            for name, tensor in answer.outputs.items()
        }


def numbers(value):
    """The numbers of nested lists and maps, in order."""
    if isinstance(value, dict):
        value = list(value.values())
    return [number for item in value for number in numbers(item)] if isinstance(value, list) else [value]


def fits(described, output):
    """Whether an output has the datatype and a shape of the metadata, where V2 writes [-1] for any number of dimensions."""
    shape, declared = output["shape"], described["shape"]
    alike = len(shape) == len(declared) and all(want in (-1, got) for want, got in zip(declared, shape))
    return output["datatype"] == described["datatype"] and (alike or set(declared) == {-1})


def check(server, calls, model, rows, forms):
    """Compares the protocols for one request, and returns the number of answers. `forms` has the form of each answer for
    other numbers of rows."""
    x = model.x(rows) if model.inputs else None
    data = x.tolist() if model.inputs else {}
    status, score = server.request("POST", f"/score/{model.name}", json.dumps({"data": data}))
    assert status == 200, f"{status} {score}"
    v2 = {"inputs": [{"name": "x", "datatype": "FP32", "shape": list(x.shape), "data": x.reshape(-1).tolist()}] if model.inputs else []}
    # Elements of sequences have names of their own, also in another order and beside the whole sequence.
    elements = [f"{name}.{nth}" for name in model.sequences for nth in reversed(range(len(score[name])))]
    values = {name: numbers(value) for name, value in score.items()}
    values |= {name: numbers(score[name.rpartition(".")[0]][int(name.rpartition(".")[2])]) for name in elements}
    answers = 1
    for named in [[], [*elements, *score]] if elements else [[]]:
        wanted = sorted(named or score)
        status, answer = server.request("POST", f"/v2/models/{model.name}/infer", json.dumps(v2 | {"outputs": [{"name": name} for name in named]}))
        assert status == 200, f"{status} {answer}"
        carried = {output["name"]: output for output in answer["outputs"]}
        assert sorted(carried) == wanted, f"V2: {[*carried]}"
        for name, output in carried.items():
            assert output["data"] == values[name], f"V2, {name}: {output['data']} for {score}"
            assert name in elements or fits(model.metadata[name], output), f"V2: {output} for {model.metadata[name]}"
        answers += 1
        for protocol, call in (("gRPC", calls.infer), ("TF Serving", calls.predict)):
            outputs = call(model.name, x, named)
            assert sorted(outputs) == wanted, f"{protocol}: {[*outputs]}"
            answers += 1
            for name, output in outputs.items():
                assert output.reshape(-1).tolist() == values[name], f"{protocol}, {name}: {output} for {score}"
                assert protocol != "gRPC" or [*output.shape] == carried[name]["shape"], f"{name}: {output.shape}"
    bodies = [("instances", data), ("inputs", data), ("inputs", {"x": data})] if model.inputs else [("inputs", {})]
    if model.inputs and not model.steps:
        bodies += [("dataframe_split", {"data": data}), ("dataframe_records", [dict(zip("abc", row)) for row in data])]
    for key, value in bodies:
        for path in (f"/v1/models/{model.name}:predict", "/invocations"):
            if path.startswith("/v1") and key.startswith("dataframe"):
                continue
            status, answer = server.request("POST", path, json.dumps({key: value}))
            assert status == 200, f"{path} {key}: {status} {answer}"
            answers += 1
            for part in answer:
                what = (path.split("/")[1], key, isinstance(value, dict), part)
                compare(score, answer[part], rows, what, forms)
    return answers


def compare(score, got, rows, what, forms):
    """Checks `predictions` or `outputs`: rows, or whole outputs by name, or the whole only output."""
    only = next(iter(score.values())) if len(score) == 1 else None
    if isinstance(got, dict):
        assert got == score, f"{what}: {got} for {score}"
        form = "object"
        # MLflow's tensors are always answered so, if the model has several outputs.
    elif what[0] == "invocations" and not what[1].startswith("dataframe") and only is None:
        raise AssertionError(f"{what}: {got} for {score}")
    elif got == only and what[3] == "outputs":
        form = "whole"
    else:
        form = "rows"
        assert len(got) == rows, f"{what}: {len(got)} rows for {rows}"
        for nth, row in enumerate(got):
            values = row if only is None else {next(iter(score)): row}
            for name, value in values.items():
                assert value == score[name][nth], f"{what}: {value} for {score[name]}"
                # One row, and a whole output with one entry, look alike.
                its = got == only and rows == 1 or all(int(number) // 100 == nth + 1 for number in numbers(value))
                assert its, f"{what}: row {nth} has {value}"
    assert forms.setdefault(what, form) == form, f"{what}: {form} for {rows} rows, {forms[what]} for others"


def main(binary, seed=None):
    seed = int(seed) if seed else time.time_ns() % 1_000_000
    rng = np.random.default_rng(seed)
    counted, failed, passed = collections.Counter(), 0, 0
    with tempfile.TemporaryDirectory() as folder:
        for nth in range(MODELS):
            model = Model(rng, folder, nth)
            # `/invocations` names no model, so each has a server of its own.
            server = Server(binary, [str(model.path)])
            calls, forms = Grpc(server.socket), {}
            status, metadata = server.request("GET", f"/v2/models/{model.name}")
            model.metadata = {output["name"]: output for output in metadata["outputs"]}
            # The form of the first answer must hold for the others, in whatever order they come.
            for rows in [model.fixed] if model.fixed or not model.inputs else rng.permutation(ROWS).tolist():
                try:
                    answers = check(server, calls, model, rows or 0, forms)
                    counted.update({rule: count * answers for rule, count in model.rules.items()})
                    passed += answers
                except AssertionError as error:
                    failed += 1
                    print(f"FAILED {model.name} with {dict(model.rules)}, {rows} rows: {str(error)[:500]}")
            calls.channel.close()
            server.close()
    print(f"agreement, seed {seed}: answers compared on {MODELS} models by rule: {dict(sorted(counted.items()))}")
    assert min(counted.values()) >= 100, "a rule was hardly tried"
    print(f"agreement: {passed} passed, {failed} failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
