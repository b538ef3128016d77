"""An .onnx: its checks before onnxruntime sees it, its operations, its tensors, and what it keeps in other files."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from exporters._onnx import inspect, model, tensors
from qtools.core.errors import InputError
from qtools.core.inspection import Placement

# onnxruntime itself runs in a process apart, which thousands of inputs a second cannot wait for.
inspect._placement = lambda _path: (Placement("not asked"), {}, {})


def SEEDS() -> list[bytes]:  # noqa: N802 - what run.py asks for
    """A convolution between Q and DQ with a subgraph; and one whose weight lies in weights.bin."""
    weight = numpy_helper.from_array(np.ones((2, 3, 1, 1), np.int8), "w")
    grid = [numpy_helper.from_array(np.float32(0.1), "s"), numpy_helper.from_array(np.int8(0), "z")]
    inner = helper.make_graph(
        [helper.make_node("Identity", ["d"], ["i"])], "inner", [], [helper.make_tensor_value_info("i", 1, None)]
    )
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["image", "s", "z"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
            helper.make_node("DequantizeLinear", ["w", "s", "z"], ["wd"], axis=0),
            helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.array([True]), "t")),
            helper.make_node("If", ["c"], ["b"], then_branch=inner, else_branch=inner),
            helper.make_node("Conv", ["b", "wd"], ["logits"], pads=[0, 0, 0, 0]),
        ],
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 4, 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 2, 4, 4])],
        [weight, *grid],
    )
    whole = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.helper.set_model_props(whole, {"qtools": '{"io": "int8"}'})
    apart = onnx.ModelProto()
    apart.CopyFrom(whole)
    outside = apart.graph.initializer[0]
    outside.ClearField("raw_data")
    outside.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "weights.bin"), ("offset", "0"), ("length", "6")):
        outside.external_data.add(key=key, value=value)
    return [whole.SerializeToString(), apart.SerializeToString()]


def read(data: bytes, folder: Path) -> None:
    """As qtools inspect and compare read it, and as it is opened to be run."""
    (folder / "weights.bin").write_bytes(bytes(8))
    path = folder / "model.onnx"
    path.write_bytes(data)
    inspect.inspect(path)
    tensors.read(path)
    with contextlib.suppress(InputError):  # not every model that can be described can be run
        model.parse(path)
