"""Islands and tables out of neutral operations, and the process that opens foreign files."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest

from exporters import _apart
from exporters._metadata import ours
from exporters._tflite.inspect import partitions
from qtools.core.errors import InputError
from qtools.core.inspection import Arithmetic, ArtifactOp, End, Grid, Inspection, Placement, Stored, stored
from reports import inspection as subject
from reports.render import inspection as rendering

FLOAT, INT = "float32", "int8"


def op(kind: str, reads: str, writes: str, arithmetic: Arithmetic, **more: Any) -> ArtifactOp:
    source = FLOAT if arithmetic == "float" or kind == "Q" else INT
    result = FLOAT if arithmetic == "float" or kind == "DQ" else INT
    return ArtifactOp(kind, tuple(reads.split()), tuple(writes.split()), source, "", result, arithmetic, **more)


def conversion(kind: str, reads: str, writes: str) -> ArtifactOp:
    return op(kind, reads, writes, "Q/DQ")


ISLANDS = [
    op("CONV", "image", "a", "integer"),
    conversion("DQ", "a", "b"),
    op("MEAN", "b", "m", "float"),
    op("SUB", "b m", "c", "float"),
    conversion("Q", "c", "d"),
    op("CONV", "d", "e", "integer"),
    conversion("DQ", "e", "f"),
    op("SOFTMAX", "f", "probabilities", "float"),
]


def test_islands_are_the_connected_runs_of_float() -> None:
    first, second = subject.islands(ISLANDS)
    assert first.ops == {"MEAN": 1, "SUB": 1}
    assert first.entered == (subject.Border("DQ", "b"),) and first.left == (subject.Border("Q", "c"),)
    assert first.from_inputs == first.to_outputs == ()
    assert second.ops == {"SOFTMAX": 1}
    assert second.left == () and second.to_outputs == ("probabilities",)


def test_float_readers_of_one_conversion_are_two_islands() -> None:
    ops = [
        op("CONV", "image", "a", "integer"),
        conversion("DQ", "a", "b"),
        op("TANH", "b", "c", "float"),
        op("GELU", "b", "d", "float"),
    ]
    assert [island.ops for island in subject.islands(ops)] == [{"TANH": 1}, {"GELU": 1}]
    joined = [*ops, op("MUL", "c d", "e", "float")]
    assert [island.ops for island in subject.islands(joined)] == [{"TANH": 1, "GELU": 1, "MUL": 1}]


def test_a_float_graph_has_no_islands() -> None:
    assert subject.islands([op("CONV", "image", "a", "float"), op("RELU", "a", "b", "float")]) == ()


def test_islands_at_the_graph_ends_say_so() -> None:
    (island, _) = subject.islands(
        [op("SUB", "image", "a", "float"), conversion("Q", "a", "b"), *ISLANDS[5:6], *ISLANDS[6:]]
    )
    assert island.from_inputs == ("image",) and island.left == (subject.Border("Q", "a"),)


@pytest.mark.parametrize(
    ("middle", "expected"),
    [
        ([op("Conv", "x", "y", "float")], ["QDQ"]),
        ([op("Conv", "x", "r", "float"), op("Relu", "r", "y", "float")], ["QDQ", "QDQ"]),
        ([op("Conv", "x", "r", "float"), op("Erf", "r", "y", "float")], ["float", "float"]),
        (
            [op("Conv", "x", "r", "float"), op("Relu", "r", "s", "float"), op("Relu", "s", "y", "float")],
            ["float"] * 3,
        ),
        ([op("Add", "x image", "y", "float")], ["float"]),
        ([op("Shape", "codes", "n", "index"), op("Reshape", "x n", "y", "float")], ["index", "QDQ"]),
    ],
)
def test_what_stands_between_pairs_counts_as_integer(middle: list[ArtifactOp], expected: list[str]) -> None:
    ops = [conversion("Q", "image", "codes"), conversion("DQ", "codes", "x"), *middle, conversion("Q", "y", "z")]
    settled = subject.settle(ops)
    assert [o.arithmetic for o in settled[2:-1]] == expected
    assert all(o.source == o.result == INT for o in settled if o.arithmetic == "QDQ")


def test_a_result_that_leaves_the_graph_in_float_is_no_pair() -> None:
    ops = [conversion("DQ", "codes", "x"), op("Gemm", "x", "logits", "float")]
    assert subject.settle(ops)[1].arithmetic == "float"


def test_the_table_counts_alike_operations_in_order() -> None:
    rows = subject.table(ISLANDS)
    counts = [(row.kind, row.count) for row in rows]
    assert counts == [("CONV", 2), ("DQ", 2), ("MEAN", 1), ("SUB", 1), ("Q", 1), ("SOFTMAX", 1)]
    assert sum(row.count for row in rows) == len(ISLANDS)


def test_a_pair_that_runs_in_float_is_a_fallback() -> None:
    dequantized = op("Erf", "x", "y", "QDQ", runs="Erf", dequantized=True)
    in_float = op("Erf", "x", "y", "float", runs="Erf", dequantized=True)
    assert [row.fallback for row in subject.table([dequantized, in_float])] == [True, False]


def test_constants_are_added_up_by_type() -> None:
    rows = stored([("parameters", "int8", 10, 10), ("grids", "float32", 9, 36), ("parameters", "int8", 5, 5)])
    assert rows == (Stored("parameters", "int8", 2, 15, 15), Stored("grids", "float32", 1, 9, 36))


PLAIN = [("A", [0, 9], [1]), ("B", [1], [2]), ("C", [2], [3]), ("D", [3, 8], [4]), ("E", [4, 1], [5])]


@pytest.mark.parametrize(
    ("delegates", "expected"),
    [
        ([], []),
        ([("DELEGATE", [0, 9], [5])], [[0, 1, 2, 3, 4]]),
        ([("DELEGATE", [0, 9], [1, 2]), ("DELEGATE", [3, 8, 1], [5])], [[0, 1], [3, 4]]),
    ],
)
def test_partitions_are_what_lies_between_a_delegates_ends(delegates: list[Any], expected: list[list[int]]) -> None:
    assert partitions(PLAIN, [*PLAIN, *delegates]) == expected


@pytest.mark.parametrize(
    "content", [b"not json", b"[1]", b"\xff", b"[" * 100_000, b'{"a": NaN}', b'{"a": 1e999}', b'{"a": "\\ud800"}']
)
def test_a_foreign_entry_of_our_name_is_foreign(content: bytes) -> None:
    assert ours({"qtools": content, "a": b"12"}) == (None, {"a": 2, "qtools": len(content)})


def test_our_entry_is_an_object() -> None:
    assert ours({"qtools": b'{"model": "m"}', "a": b"12"}) == ({"model": "m"}, {"a": 2})


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(tmp_path)

    def write(body: str) -> str:
        (tmp_path / "opened_apart.py").write_text(f"import sys\n{body}\n")
        return "opened_apart"

    return write


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", r"crashed on a.bin \(signal 11\)"),
        ("import os; os.abort()", r"crashed on a.bin \(signal 6\)"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", r"ended from outside on a.bin \(signal 9\)"),
        ("raise RuntimeError('no such op')", "cannot open a.bin: RuntimeError: no such op"),
        ("import time; time.sleep(60)", "within 2 s"),
        ("from exporters import _apart; _apart.MEMORY = 1 << 30; _apart.confine(); x = bytes(4 << 30)", "Memory"),
    ],
)
def test_a_runtime_that_crashes_takes_nothing_with_it(
    module: Any, monkeypatch: pytest.MonkeyPatch, body: str, said: str
) -> None:
    monkeypatch.setattr(_apart, "SECONDS", 2)
    with pytest.raises(InputError, match=said):
        _apart.ask(module(body), Path("a.bin"), "the runtime")
    talk = _apart.Conversation(module(body), Path("a.bin"), "the runtime")
    with contextlib.closing(talk), pytest.raises(InputError, match=said):
        talk.hear()


def test_a_conversation_goes_on_whatever_else_is_printed(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)  # where it is set nothing is held back
    body = """
import os
from exporters import _apart
replies = _apart.channel()
for number in _apart.requests():
    print("chatter")
    os.system("echo chatter of a library")
    _apart.reply(replies, number * 100_000 * [number])
    if number == 2:
        raise RuntimeError("enough")
"""
    with contextlib.closing(_apart.Conversation(module(body), Path("a.bin"), "the runtime")) as talk:
        for number in (1, 2):
            talk.say(number)
            assert talk.hear() == number * 100_000 * [number], "longer than any pipe holds at once"
        with pytest.raises(InputError, match="cannot open a.bin: RuntimeError: enough"):
            talk.hear()
        with pytest.raises(InputError, match="RuntimeError: enough"):
            talk.say(3)


def test_nothing_is_imported_from_the_folder_of_the_file(module: Any, tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "download").mkdir()
    (tmp_path / "download" / "json.py").write_text("raise SystemExit('code from a download ran')")
    monkeypatch.chdir(tmp_path / "download")
    assert _apart.ask(module("from exporters import _apart; _apart.answer(1)"), Path("a.bin"), "the runtime") == 1


def test_the_answer_comes_back_whatever_else_is_printed(module: Any) -> None:
    body = "print('chatter'); from exporters import _apart; _apart.answer([1, sys.argv[1][-5:]])"
    assert _apart.ask(module(body), Path("a.bin"), "the runtime") == [1, "a.bin"]


def _inspection(**more: Any) -> Inspection:
    ends = (End("image\x1b[2J", (1, "batch"), "int8", Grid((0.5,), (3,))),)
    placement = Placement("runtime", partitions=({"CONV": 2},), left={"SOFTMAX": 1})
    values: dict[str, Any] = {"metadata": {"model": "[red]m[/red]"}, "foreign": {"other": 7}} | more
    return Inspection("m.bin", "format", 1234, "", ends, ends, tuple(ISLANDS), (), placement, **values)


def test_the_terminal_shows_every_fact_and_no_control_character() -> None:
    text = rendering.render(subject.describe(_inspection()))
    for said in ("m.bin", "Float islands: 2", "1 MEAN, 1 SUB", "graph output", "0.5", "[red]m[/red]", "7 bytes"):
        assert said in text
    assert "delegated part 1: 2 operations (2 CONV)" in text and "not delegated: 1 operation (1 SOFTMAX)" in text
    assert "\x1b" not in text


def test_json_has_the_same_counts() -> None:
    described = json.loads(subject.to_json(subject.describe(_inspection())))
    assert described["schema"] == 1 and described["file"] == "m.bin"
    assert [island["ops"] for island in described["islands"]] == [{"MEAN": 1, "SUB": 1}, {"SOFTMAX": 1}]
    assert sum(row["count"] for row in described["ops"]) == len(ISLANDS) == sum(described["arithmetic"].values())
    assert described["inputs"][0]["grid"] == {"axis": None, "scales": [0.5], "zero_points": [3]}
