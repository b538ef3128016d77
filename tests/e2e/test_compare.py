"""`qtools compare` on two real runs of the small network: itself, another method, and planted changes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from ai_edge_litert.interpreter import Interpreter

from exporters._tflite import flatbuffer
from exporters._tflite.tensors import read

pytestmark = pytest.mark.e2e

ASKED = ("quantize", "--builder", "user_network:build", "--data", "calibration", "--eval", "held_out", "--json")


@pytest.fixture(scope="module")
def runs(tmp_path_factory, qtools, album) -> Path:
    """Three run folders, and the pictures they were made from."""
    folder = album.furnish(tmp_path_factory.mktemp("compare"))
    for name, *words in (
        ("peak", "--method", "minmax"),
        ("least", "--method", "mse", "--weight-bits", "6", "--io", "float32"),
        ("onnx", "--method", "minmax", "--target", "onnx"),
    ):
        ended = qtools(folder, *ASKED, *words, "--out", name)
        assert ended.code in (0, 1), ended.err
    return folder


@pytest.fixture
def compared(runs, qtools) -> Callable[..., dict[str, Any]]:
    def call(*words: str | Path) -> dict[str, Any]:
        ended = qtools(runs, "compare", *words, "--json")
        assert ended.code == 0, ended.err
        assert json.loads(ended.out)["schema_version"] == 1
        return json.loads(ended.out)

    return call


def changes(found: dict[str, Any]) -> dict[str, list[dict[str, str]]]:
    """Sections in which something changed."""
    return {section["title"]: section["changes"] for section in found["sections"] if section["changes"]}


@pytest.mark.parametrize("name", ["peak", "onnx"])
def test_a_run_is_equal_to_itself(compared, runs, name) -> None:
    found = compared(name, name)
    assert changes(found) == {} and not found["differs"]
    assert all(section["compared"] > 0 for section in found["sections"])
    assert (found["predictions"]["n"], found["predictions"]["equal"]) == (4, 4)
    artifact = next((runs / name).glob("model.*"))
    bare = compared(artifact, shutil.copy(artifact, runs / f"elsewhere{artifact.suffix}"))
    assert not bare["differs"] and "bare artifact" in bare["sections"][0]["note"]


def test_two_ways_of_quantizing_differ_where_they_should(compared, runs) -> None:
    found = compared("peak", "least", "--data", "held_out")
    said = changes(found)
    assert {c["name"] for c in said["made from"]} == {"scheme", "method", "command", "sha256 of contract"}
    plans = [json.loads((runs / name / "plan.json").read_text())["values"] for name in ("peak", "least")]
    grids = {n for n in plans[0] if plans[0][n]["params"] != plans[1][n]["params"]}
    assert {c["name"] for c in said["plan"] if c["field"] not in ("origin", "reason")} == grids
    widths = [c for c in said["plan"] if c["field"] == "bits"]
    assert widths and all((c["before"], c["after"]) == ("8", "6") for c in widths)
    # float ends put a QUANTIZE in front and a DEQUANTIZE behind
    assert {c["name"] for c in said["operations"]} == {"QUANTIZE", "DEQUANTIZE"}
    answers = found["predictions"]
    assert answers["n"] == 60 and answers["equal"] < 60 and answers["accuracy"]["agreement"] > 80
    tops = [json.loads((runs / n / "report.json").read_text())["ledger"] for n in ("peak", "least")]
    shipped = [next(row for row in rows if row["stage"] == "artifact, XNNPACK")["accuracy"] for rows in tops]
    assert answers["accuracy"]["top1_reference"] == pytest.approx(shipped[0]["top1"])
    assert answers["accuracy"]["top1"] == pytest.approx(shipped[1]["top1"])


def test_golden_vectors_are_not_replayed_into_other_inputs(compared) -> None:
    found = compared("peak", "least")["predictions"]
    assert found["n"] == 0 and "inputs differ" in found["note"]


def test_two_formats_of_one_network(compared) -> None:
    found = compared("peak", "onnx", "--data", "held_out", "--evaluation", "20")
    sections = {section["title"]: section for section in found["sections"]}
    assert sections["tensors"]["compared"] == 0 and "formats" in sections["tensors"]["note"]
    assert found["predictions"]["n"] == 20 and found["predictions"]["accuracy"]["agreement"] >= 90


def test_one_planted_scale_is_named_and_nothing_else(compared, runs) -> None:
    shutil.copytree(runs / "peak", runs / "scaled")
    path = runs / "scaled" / "plan.json"
    plan = json.loads(path.read_text())
    value = next(n for n, v in plan["values"].items() if v["params"] and len(v["params"]["scale"]) == 16)
    old = plan["values"][value]["params"]["scale"][3]
    plan["values"][value]["params"]["scale"][3] = 2 * old
    path.write_text(json.dumps(plan))
    said = changes(compared("peak", "scaled"))
    ((title, (change,)),) = said.items()
    assert (title, change["name"], change["field"]) == ("plan", value, "scale, 1 of 16, most at 3")
    assert (float(change["before"]), float(change["after"])) == pytest.approx((old, 2 * old), rel=1e-8)


def test_one_planted_code_is_named_and_nothing_else(compared, runs) -> None:
    shutil.copytree(runs / "peak", runs / "coded")
    path = runs / "coded" / "model.tflite"
    tensors = read(path)
    name = next(n for n, t in tensors.items() if t.codes is not None and t.dtype == "int8" and t.codes.size >= 256)
    codes = tensors[name].codes
    assert codes is not None
    data = bytearray(path.read_bytes())
    at = data.find(codes.tobytes())
    data[at + 100] = int(np.uint8(np.int8(0 if codes[100] else 5).view(np.uint8)))
    path.write_bytes(data)
    found = compared("peak", "coded")
    ((title, (change,)),) = changes(found).items()
    assert (title, change["name"], change["field"]) == ("tensors", name, f"1 of {codes.size} numbers, most at 100")
    assert (change["before"], change["after"]) == (str(codes[100]), str(0 if codes[100] else 5))
    assert found["differs"] and found["before"]["sha256"] != found["after"]["sha256"]


def test_one_planted_number_in_onnx(compared, runs) -> None:
    shutil.copytree(runs / "onnx", runs / "other_onnx")
    path = runs / "other_onnx" / "model.onnx"
    model = onnx.load(path)
    tensor = next(t for t in model.graph.initializer if t.data_type == onnx.TensorProto.INT8 and len(t.raw_data) > 99)
    raw = bytearray(tensor.raw_data)
    raw[7] ^= 2
    tensor.raw_data = bytes(raw)
    onnx.save(model, path)
    ((title, (change,)),) = changes(compared("onnx", "other_onnx")).items()
    assert (title, change["name"]) == ("tensors", tensor.name) and change["field"].endswith("numbers, most at 7")


def test_tensors_are_those_that_litert_shows(runs) -> None:
    path = runs / "peak" / "model.tflite"
    interpreter = Interpreter(model_path=str(path), experimental_preserve_all_tensors=True)
    interpreter.allocate_tensors()
    found = read(path)
    details = {d["name"]: d for d in interpreter.get_tensor_details() if d["name"] in found}
    assert len(details) > 0.9 * len(found)
    for name, detail in details.items():
        tensor = found[name]
        scales, zeros = (detail["quantization_parameters"][k] for k in ("scales", "zero_points"))
        assert tensor.shape == tuple(detail["shape"]) and np.dtype(tensor.dtype) == detail["dtype"]
        if len(scales):
            assert tensor.grid is not None
            assert tensor.grid.scales == tuple(scales.tolist()) and tensor.grid.zero_points == tuple(zeros.tolist())
        if tensor.codes is not None:
            assert np.array_equal(interpreter.get_tensor(detail["index"]).reshape(-1), tensor.codes)


def test_node_data_finds_its_tensors(qtools, runs) -> None:
    ended = qtools(runs, "report", "peak", "--format", "model_explorer")
    keys = json.loads(ended.out)["results"].keys()
    names = flatbuffer.tensor_names((runs / "peak" / "model.tflite").read_bytes())
    assert keys <= names, f"no tensor is called {keys - names}"


def test_words_and_exit_codes(qtools, runs) -> None:
    same = qtools(runs, "compare", "peak", "peak", "--strict")
    assert same.code == 0 and "Nothing differs." in same.out and same.err == ""
    other = qtools(runs, "compare", "peak", "least", "--strict")
    assert other.code == 1 and "Nothing differs." not in other.out and "not a phone" in other.out
    cases: list[tuple[tuple[str, ...], str]] = [
        (("peak", "none"), "does not exist"),
        (("peak", "calibration"), "folder without report.json"),
        (("peak", "user_network.py"), "cannot tell the format"),
        (("peak", "peak", "--evaluation", "0"), "at least one image"),
    ]
    for words, said in cases:
        ended = qtools(runs, "compare", *words)
        assert (ended.code, ended.out) == (2, "") and said in ended.err, ended.err


def test_a_foreign_file_has_no_preprocessing(qtools, runs) -> None:
    import onnx.helper as helper

    ends = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1, 4]) for n in ("a", "b")]
    graph = helper.make_graph([helper.make_node("Relu", ["a"], ["b"])], "tiny", ends[:1], ends[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), runs / "tiny.onnx")
    ended = qtools(runs, "compare", "tiny.onnx", "tiny.onnx")
    assert ended.code == 0 and "no golden vectors" in " ".join(ended.out.split())
    ended = qtools(runs, "compare", "tiny.onnx", "tiny.onnx", "--data", "held_out")
    assert ended.code == 2 and "does not say how its input is made" in ended.err


def test_both_are_timed_in_turns(compared) -> None:
    """Two formats of one network: the ratio is that of the two medians, as far as its own interval says."""
    found = compared("peak", "onnx", "--time")["timed"]
    (before, after), (lo, hi) = found["medians_ms"], found["interval"]
    assert min(before, after) > 0 and lo <= found["ratio"] <= hi and found["rounds"] >= 6 and not found["note"]
    assert lo / 2 < after / before < 2 * hi
    assert compared("peak", "onnx")["timed"] is None
