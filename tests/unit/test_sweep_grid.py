"""The file of a sweep: every combination and no other, names that are apart, and YAML without its traps."""

from __future__ import annotations

import dataclasses
import itertools
import json
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from qtools.core import files
from qtools.core.errors import InputError
from qtools.pipeline import config
from qtools.pipeline.sweep import grid
from qtools.pipeline.sweep.cell import Inputs, command
from qtools.pipeline.sweep.grid import Cell, named, parse

CHOICES: dict[str, list[Any]] = {
    "bits": [8, 6, 4],
    "target": ["tflite", "onnx", "coreml"],
    "method": ["auto", "minmax", "mse"],
    "clamp": [False, True],
    "int16": [[], ["add*"], ["add*", "mul*"]],
    "seed": [0, 1],
}


def cells(text: str) -> dict[str, Cell]:
    return named(parse(text.encode()))


def test_a_cell_has_every_option_of_quantize_and_no_other() -> None:
    options = set(config.Options.__annotations__) | {"model", "bits", "target", "data"}
    assert set(Cell.model_fields) == options - {"force", "cache"}, "where a run lies is the sweep's own business"
    own = {field.name for field in dataclasses.fields(config.RunConfig)} - {"images", "out", "command"}
    images = {field.name for field in dataclasses.fields(config.Images)}
    assert set(Cell.model_fields) == (own | images) - {"force", "cache"}


def test_a_cell_asks_for_what_it_says() -> None:
    said = {"model": "m1_1", "bits": 6, "data": "photos", "calibration": 7, "labels": "names.txt", "int16": ["a*"]}
    made = cells(json.dumps({"base": said}))["m1_1-w6a6-tflite-auto"].config()
    assert (made.model, made.bits, made.images.data, made.images.calibration) == ("m1_1", 6, Path("photos"), 7)
    assert (made.labels, tuple(made.int16), made.weights) == (Path("names.txt"), ("a*",), "auto")


@given(data=st.data())
def test_every_combination_less_the_excluded_ones_plus_the_single_ones(data: st.DataObject) -> None:
    names = data.draw(st.lists(st.sampled_from([*CHOICES]), min_size=1, max_size=4, unique=True))
    axes = {n: data.draw(st.lists(st.sampled_from(CHOICES[n]), min_size=1, max_size=3, unique_by=str)) for n in names}
    every = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    out = data.draw(st.lists(st.sampled_from(every), max_size=2))
    left = [cell for cell in every if cell not in out]
    document = {"base": {"model": "m1_1", "evaluation": 9}, "axes": axes, "exclude": out}
    single = {"model": "m0_9", "max_islands": 3}
    text = json.dumps(document | {"cells": [single]})
    found = [json.loads(json.dumps(cell.given)) for cell in cells(text).values()]
    wanted = [{"model": "m1_1", "evaluation": 9} | cell for cell in left] + [{"evaluation": 9} | single]
    key = json.JSONEncoder(sort_keys=True).encode
    assert sorted(map(key, found)) == sorted(map(key, wanted))


def test_an_entry_of_an_axis_may_set_several_options() -> None:
    text = "axes: {model: [m1_1, {model: m0_9, weights: mine.safetensors}], bits: [8, 4]}"
    assert list(cells(text)) == [
        "m1_1-w8a8-tflite-auto",
        "m1_1-w4a4-tflite-auto",
        "m0_9-mine-w8a8-tflite-auto",
        "m0_9-mine-w4a4-tflite-auto",
    ]


def test_names_do_not_change_when_the_grid_grows_and_are_safe_and_apart() -> None:
    small = cells("{base: {model: m1_1, data: /somebody/x}, axes: {int16: [[], ['add*']]}}")
    grown = cells("{base: {model: m1_1, data: /somebody/x}, axes: {seed: [0, 1], int16: [[], ['add*'], ['add?']]}}")
    assert "m1_1-w8a8-tflite-auto" in small and "m1_1-w8a8-tflite-auto-int16=add_" in small
    assert set(small) - set(grown) == {"m1_1-w8a8-tflite-auto-int16=add_"}, "two patterns of the same letters"
    long = cells(f"{{base: {{model: m1_1}}, axes: {{size_budget: ['{'9' * 200}MB', '{'9' * 201}MB']}}}}")
    for name in (*small, *grown, *long):
        assert len(name) <= grid.NAME + 9 and "/" not in name and not name.startswith(".") and "somebody" not in name


def test_the_command_of_a_cell_asks_for_the_same_run(monkeypatch: pytest.MonkeyPatch) -> None:
    import shlex

    from qtools.cli import main, quantize

    text = (
        "{base: {model: m1_1, weights: reference, bits: 6, target: onnx, eval_data: held, int16: ['a*', b], seed: 3,"
        " clamp: true, strict_weights: true, strict_activations: true, max_drop: 0.5,"
        " target_options: {activations: int8}}}"
    )
    (cell,) = cells(text).values()
    asked: list[config.RunConfig] = []
    monkeypatch.setattr(quantize, "_export", lambda made, **_: asked.append(made))
    words = shlex.split(command(cell))
    with pytest.raises(SystemExit):
        main(words[1:])
    assert dataclasses.replace(asked[0], command="", int16=("a*", "b"), dynamic=()) == cell.config()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: &a [1]\nb: *a", "aliases"),
        ("base: &b {model: m1_1}\ncells: [{<<: *b}]", "aliases"),
        ("base: {model: m1_1, model: m0_9}", "twice"),
        ("!!python/object/apply:os.system ['true']", "could not determine a constructor"),
        ("base: {model: !!python/name:os.system }", "could not determine a constructor"),
        ("bits: 8", "'bits' is unknown. Did you mean base"),
        ("base: {bitz: 8}", "'base.bitz' is unknown. Did you mean bits"),
        ("base: {model: m1_1, out: here}", "'base.out' is unknown"),
        ("axes: {bits: ['8']}", "axes.bits.0"),
        ("axes: {bits: 8}", "axes.bits"),
        ("base: {bits: true}", "base.bits"),
        ("base: {clamp: 1}", "base.clamp"),
        ("base: {model: 2020-01-01}", "base.model"),
        ("base: {model: m1_1, method: mim}", "unknown method 'mim'. Did you mean minmax"),
        ("base: {model: m1_1, target: tflight}", "unknown target 'tflight'. Did you mean tflite"),
        ("base: {model: m1_1, calibration: 0}", "at least one image"),
        ("base: {model: m1_1}\nexclude: [{bits: 3}]", "exclude.0 leaves out no cell"),
        ("base: {model: m1_1}\nexclude: [{}]", "has no cells"),
        ("axes: {model: [m1_1, m1_1]}", "is there twice"),
        ("axes: {model: [{model: a, bits: 4}], bits: [3]}", "two axes set 'bits'"),
        ("base: {model: m1_1}\naxes: {bits: []}", "no cells"),
        ("cells: [{}]", "model or builder"),
        ("base: {model: m1_1, builder: 'a:b'}", "model or builder"),
        ("- 1", "is no grid"),
        ("[" * 5000, "cannot be read"),
        ("base: {model: m1_1}\nschema_version: 2", "schema_version"),
        ("base: {model: m1_1}\nschema_version: 0", "schema_version"),
        (f"base: {{model: m1_1}}\naxes: {{seed: {[*range(101)]}, evaluation: {[*range(1, 101)]}}}", "10,100 cells"),
        ("x" * (grid.LONGEST + 1), "longer"),
        ("base: {model: \x00}", "cannot be read"),
        (f"base: {{model: m1_1, seed: 0x{'f' * 4000}}}", "a word is longer than 2,000 letters"),
    ],
)  # fmt: skip
def test_what_is_no_grid_is_refused_with_its_place(text: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        cells(text)
    assert says in caught.value.what, caught.value.what


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(InputError, match="cannot be read"):
        parse(b"base: {model: \xff\xfe}")


GOOD = (
    "{schema_version: 1, base: {model: m1_1, max_drop: 1}, axes: {bits: [8, {weight_bits: 4}]}, exclude: [{bits: 8}]}"
)


@pytest.mark.parametrize(
    ("text", "fits"),
    [(GOOD, True), ("{axes: {bits: ['8']}}", False), ("{base: {bitz: 8}}", False), ("{schema_version: 2}", False)],
)
def test_the_published_schema_says_the_same(text: str, fits: bool) -> None:
    schema = json.loads(json.dumps(grid.schema()))
    jsonschema.Draft202012Validator.check_schema(schema)
    assert jsonschema.Draft202012Validator(schema).is_valid(yaml.safe_load(text)) == fits


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text("def build(): ...\n")
    (tmp_path / "w.safetensors").write_bytes(b"weights")
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    for folder in ("photos", "held"):
        (tmp_path / folder / "cat").mkdir(parents=True)
        (tmp_path / folder / "cat" / "1.png").write_bytes(b"one")
    return tmp_path


ASKED = Cell(builder="net:build", weights="w.safetensors", data="photos", eval_data="held", labels="names.txt")


def test_a_key_is_that_of_the_same_content_wherever_it_lies(inputs: Path) -> None:
    first = Inputs().key(ASKED)
    assert Inputs().key(ASKED) == first
    moved = ASKED.model_copy(update={name: str(inputs / getattr(ASKED, name)) for name in ("weights", "labels")})
    assert Inputs().key(moved) != first, "the command line differs: a path that leaves the folder"
    assert str(inputs) not in json.dumps(moved.shown)


@pytest.mark.parametrize(
    "name", ["net.py", "w.safetensors", "names.txt", "photos/cat/1.png", "held/cat/1.png", "photos/cat/2.png"]
)
def test_whatever_file_a_cell_is_made_from_changes_its_key(inputs: Path, name: str) -> None:
    first = Inputs().key(ASKED)
    (inputs / name).write_bytes(b"another")
    assert Inputs().key(ASKED) != first


@pytest.mark.parametrize("packages", [True, False], ids=["packages", "folders without __init__.py"])
@pytest.mark.parametrize("file", ["inner/net.py", "inner/net/__init__.py"])
def test_a_builder_inside_packages_counts_and_none_of_them_is_imported(inputs: Path, file: str, packages: bool) -> None:
    path = inputs / "outer" / file
    path.parent.mkdir(parents=True)
    for package in ("outer", "outer/inner") if packages else ():
        (inputs / package / "__init__.py").write_text("raise AssertionError('it was imported')")
    path.write_text("raise AssertionError('it was imported')")
    asked = ASKED.model_copy(update={"builder": "outer.inner.net:build"})
    first = Inputs().key(asked)
    assert Inputs().key(asked) == first
    path.write_text("another")
    assert Inputs().key(asked) != first
    assert "outer" not in sys.modules


@pytest.mark.parametrize("change", [{"bits": 6}, {"io": "float32"}, {"seed": 1}, {"method": "mse"}, {"int16": ("a",)}])
def test_every_option_changes_the_key(inputs: Path, change: dict[str, Any]) -> None:
    assert Inputs().key(ASKED.model_copy(update=change)) != Inputs().key(ASKED)


def test_another_program_changes_the_key(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from qtools.pipeline import reuse

    first = Inputs().key(ASKED)
    monkeypatch.setattr(reuse, "code", lambda: "another")
    assert Inputs().key(ASKED) != first


@settings(max_examples=30)
@given(st.sampled_from(["0x", "0b", "0", ""]), st.integers(3, grid.WORD))
def test_the_longest_number_that_is_read_can_be_written_down(prefix: str, length: int) -> None:
    text = (prefix + "1" * length)[: grid.WORD]
    for cell in named(parse(f"base: {{model: m1_1, seed: {text}}}\ncells: [{{}}]".encode())).values():
        assert files.digest_json(cell.shown)
