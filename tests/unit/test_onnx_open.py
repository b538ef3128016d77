"""ONNX files that nobody should trust."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from exporters._onnx import functions, model, storage
from exporters._onnx.model import parse
from exporters._onnx.run import OrtRunner
from qtools.core.errors import InputError
from qtools.core.ports import Ports

ENDS = Ports(("image",), ((1, 3, 2, 2),)), Ports(("logits",), ((1, 4, 2, 2),))


def network(shape: list[Any], weight: onnx.TensorProto | None = None) -> onnx.ModelProto:
    weight = weight or numpy_helper.from_array(np.ones((4, 3, 1, 1), np.float32), "weight")
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "weight"], ["logits"])],
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [shape[0], 4, *shape[2:]])],
        [weight],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def saved(folder: Path, made: onnx.ModelProto) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(made.SerializeToString())
    return path


def test_a_foreign_float_model_runs(tmp_path: Path) -> None:
    runner = OrtRunner(saved(tmp_path, network([1, 3, 2, 2])), "ort", 1, {}, ENDS)
    codes = runner.codes(np.ones((2, 3, 2, 2), np.float32))
    assert codes.shape == (2, 4, 2, 2)  # a map stays one
    assert (codes == 3).all()
    assert (runner.logits(codes) == codes).all()


@pytest.mark.parametrize("keep", [0, 1, 20, 60, 120])
def test_a_truncated_file_is_refused(tmp_path: Path, keep: int) -> None:
    path = saved(tmp_path, network([1, 3, 2, 2]))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match="model.onnx is no ONNX model|has no graph") as caught:
        parse(path)
    assert caught.value.next_step


@pytest.mark.parametrize("garbage", [b"not a model", b"\x00" * 64, b"PK\x03\x04", bytes(range(256))])
def test_garbage_is_refused(tmp_path: Path, garbage: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(garbage)
    with pytest.raises(InputError):
        parse(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read"):
        parse(tmp_path / "absent.onnx")


@pytest.mark.parametrize("location", ["../outside.bin", "/etc/hostname", "beside.bin"])
def test_data_outside_the_file_is_refused(tmp_path: Path, location: str) -> None:
    (tmp_path / "beside.bin").write_bytes(bytes(48))
    weight = TensorProto(name="weight", data_type=TensorProto.FLOAT, dims=[4, 3, 1, 1])
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value=location)
    with pytest.raises(InputError, match=r"keeps 1 tensor\(s\) in other files") as caught:
        OrtRunner(saved(tmp_path, network([1, 3, 2, 2], weight)), "ort", 1, {}, ENDS)
    assert location in str(caught.value)


def test_data_outside_the_file_is_found_inside_nodes(tmp_path: Path) -> None:
    model = network([1, 3, 2, 2])
    value = TensorProto(name="value", data_type=TensorProto.FLOAT, dims=[4])
    value.data_location = TensorProto.EXTERNAL
    value.external_data.add(key="location", value="../outside.bin")
    model.graph.node.append(helper.make_node("Constant", [], ["unused"], value=value))
    with pytest.raises(InputError, match="outside.bin"):
        parse(saved(tmp_path, model))


@pytest.mark.parametrize("shape", [["batch", 3, 2, 2], [1, 3, None, None], [1, 3, "height", 2]])
def test_dynamic_shapes_are_refused(tmp_path: Path, shape: list[Any]) -> None:
    with pytest.raises(InputError, match="dynamic shape at 'image'") as caught:
        parse(saved(tmp_path, network(shape)))
    assert "make_dynamic_shape_fixed" in caught.value.next_step


def test_an_operator_the_runtime_lacks_is_named(tmp_path: Path) -> None:
    model = network([1, 3, 2, 2])
    model.graph.node[0].op_type = "Convoluted"
    with pytest.raises(InputError, match="Convoluted"):
        OrtRunner(saved(tmp_path, model), "ort", 1, {}, ENDS)


def calling(graph: list[list[int]]) -> onnx.ModelProto:
    """A model of functions, each a list of those it calls one after the other; calls of the next number are a Relu."""
    made = network([1, 3, 4, 4])
    kinds = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    for number, callees in enumerate(graph):
        steps = [
            helper.make_node(*(("Relu",) if each == len(graph) else (f"f{each}",)), [f"v{at}"], [f"v{at + 1}"])
            for at, each in enumerate(callees)
        ]
        for step in steps:
            step.domain = "" if step.op_type == "Relu" else "own"
        made.functions.append(helper.make_function("own", f"f{number}", ["v0"], [f"v{len(callees)}"], steps, kinds))
    made.graph.node.append(helper.make_node("f0", ["image"], ["called"], domain="own"))
    return made


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_file_is_as_long_as_its_functions_written_out(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 6))
    graph = [data.draw(st.lists(st.integers(at + 1, count), min_size=1, max_size=3)) for at in range(count)]
    made = calling(graph)

    def written(at: int) -> int:
        """By writing out: every call, and what it stands for."""
        return 1 if at == count else 1 + sum(map(written, graph[at]))

    whole = len(made.graph.node) - 1 + written(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(functions, "MOST", whole)
        functions.check(made, Path("m.onnx"))
        patch.setattr(functions, "MOST", whole - 1)
        with pytest.raises(InputError, match=r"m\.onnx unfolds to more than"):
            functions.check(made, Path("m.onnx"))


@pytest.mark.parametrize(
    ("graph", "said"),
    [
        ([[at + 1, at + 1] for at in range(60)], "unfolds to more than 1,000,000 operations"),
        ([[at + 1] * 3 for at in range(4_000)], "unfolds to more than 1,000,000 operations"),
        ([[0]], "a function that calls itself"),
        ([[1], [2], [0]], "a function that calls itself"),
    ],
    ids=["a page", "a long chain", "itself", "in a circle"],
)
def test_functions_without_an_end_are_refused_before_a_runtime_sees_them(
    tmp_path: Path, graph: list[list[int]], said: str
) -> None:
    path = saved(tmp_path, calling(graph))
    with pytest.raises(InputError, match=said):
        storage.check(model.read(path), path)
