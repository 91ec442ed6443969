"""Creates the small models of the engine's tests. Run `pip install onnx==1.18.0`, then this script."""

import pathlib

import numpy as np
import onnx
from onnx import TensorProto as T, helper as h, numpy_helper as nh

HERE = pathlib.Path(__file__).parent
KINDS = ["BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64",
         "FLOAT16", "BFLOAT16", "FLOAT", "DOUBLE", "STRING"]


def save(name, nodes, inputs, outputs, initializers=(), ml=False, check=True):
    graph = h.make_graph(nodes, name, inputs, outputs, list(initializers))
    opsets = [h.make_opsetid("", 18)] + ([h.make_opsetid("ai.onnx.ml", 3)] if ml else [])
    model = h.make_model(graph, producer_name="drisse-tests", ir_version=9, opset_imports=opsets)
    if check:
        onnx.checker.check_model(model)
    onnx.save(model, HERE / f"{name}.onnx")


def tensor(name, kind, shape):
    return h.make_tensor_value_info(name, kind, shape)


save("echo", [h.make_node("Identity", ["x"], ["y"])], [tensor("x", T.FLOAT, ["n"])], [tensor("y", T.FLOAT, ["n"])])

body = h.make_graph(
    [h.make_node("Identity", ["go"], ["go_on"]), h.make_node("Add", ["v", "one"], ["w"])],
    "body", [tensor("i", T.INT64, []), tensor("go", T.BOOL, []), tensor("v", T.INT64, [])],
    [tensor("go_on", T.BOOL, []), tensor("w", T.INT64, [])], [nh.from_array(np.int64(1), "one")])
save("slow", [h.make_node("Squeeze", ["steps"], ["n"]),
              h.make_node("Loop", ["n", "", "zero"], ["count"], "endless", body=body)],
     [tensor("steps", T.INT64, [1])], [tensor("count", T.INT64, [])], [nh.from_array(np.int64(0), "zero")])

save("unknown_operator", [h.make_node("Nope", ["x"], ["y"], "bad_node")],
     [tensor("x", T.FLOAT, ["n"])], [tensor("y", T.FLOAT, ["n"])], check=False)

save("kinds", [h.make_node("Identity", [f"in_{k}"], [f"out_{k}"]) for k in KINDS],
     [tensor(f"in_{k}", getattr(T, k), None) for k in KINDS], [tensor(f"out_{k}", getattr(T, k), None) for k in KINDS],
     check=False)

maps = h.make_tensor_sequence_value_info("maps", T.FLOAT, None)
maps.type.sequence_type.elem_type.map_type.key_type = T.STRING
maps.type.sequence_type.elem_type.map_type.value_type.tensor_type.elem_type = T.FLOAT
save("zipmap", [h.make_node("ZipMap", ["p"], ["maps"], domain="ai.onnx.ml", classlabels_strings=["no", "yes"])],
     [tensor("p", T.FLOAT, ["n", 2])], [maps], ml=True, check=False)

save("sequence", [h.make_node("SplitToSequence", ["x", "one"], ["parts"], axis=0, keepdims=0)],
     [tensor("x", T.FLOAT, ["n", 2])], [h.make_tensor_sequence_value_info("parts", T.FLOAT, [2])],
     [nh.from_array(np.int64(1), "one")])

save("default_input", [h.make_node("Mul", ["x", "factor"], ["y"])],
     [tensor("x", T.FLOAT, ["n"]), tensor("factor", T.FLOAT, [1])], [tensor("y", T.FLOAT, ["n"])],
     [nh.from_array(np.array([2], np.float32), "factor")])

save("gather", [h.make_node("Gather", ["table", "index"], ["y"], "pick")],
     [tensor("index", T.INT64, ["n"])], [tensor("y", T.FLOAT, ["n"])],
     [nh.from_array(np.arange(3, dtype=np.float32), "table")])

save("accumulate", [h.make_node("Add", ["x", "state"], ["next"]), h.make_node("ReduceSum", ["next"], ["y"], keepdims=0)],
     [tensor("x", T.FLOAT, ["n"]), tensor("state", T.FLOAT, ["n"])],
     [tensor("y", T.FLOAT, []), tensor("next", T.FLOAT, ["n"])])

rng = np.random.default_rng(7)
save("mlp", [h.make_node("MatMul", ["x", "w1"], ["a"]), h.make_node("Relu", ["a"], ["b"]),
             h.make_node("MatMul", ["b", "w2"], ["c"]), h.make_node("Softmax", ["c"], ["y"])],
     [tensor("x", T.FLOAT, ["batch", "time", 16])], [tensor("y", T.FLOAT, ["batch", "time", 8])],
     [nh.from_array(rng.standard_normal((16, 32), np.float32), "w1"),
      nh.from_array(rng.standard_normal((32, 8), np.float32), "w2")])

save("fill", [h.make_node("ConstantOfShape", ["shape"], ["y"], "fill")],
     [tensor("shape", T.INT64, ["rank"])], [tensor("y", T.FLOAT, None)], check=False)

# ONNX Runtime's LSTM divides its batch among threads.
save("recurrent", [h.make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
                   h.make_node("LSTM", ["t", "w", "r"], ["", "h"], hidden_size=3),
                   h.make_node("Squeeze", ["h", "zero"], ["y"])],
     [tensor("x", T.FLOAT, ["n", "time", 2])], [tensor("y", T.FLOAT, ["n", 3])],
     [nh.from_array(np.ones((1, 12, 2), np.float32), "w"), nh.from_array(np.ones((1, 12, 3), np.float32), "r"),
      nh.from_array(np.array([0]), "zero")])

save("lowercase", [h.make_node("StringNormalizer", ["text"], ["lower"], case_change_action="LOWER")],
     [tensor("text", T.STRING, ["n"])], [tensor("lower", T.STRING, ["n"])])
