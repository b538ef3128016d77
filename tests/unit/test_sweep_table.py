"""What a sweep's table says: fronts against every pair of rows, names that break nothing, an estimate that is one."""

from __future__ import annotations

import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qtools.core.errors import InputError, MissingPlatform
from qtools.pipeline.sweep import cluster, here
from qtools.pipeline.sweep import run as sweeping
from qtools.pipeline.sweep.cell import Work
from qtools.pipeline.sweep.cluster import Cluster
from qtools.pipeline.sweep.grid import Cell
from qtools.pipeline.sweep.here import Ended
from qtools.pipeline.sweep.pace import Pace, in_words
from qtools.pipeline.sweep.run import Planned, SweepConfig
from reports.accuracy import PairedAccuracy
from reports.build import Size
from reports.render import sweep as table
from reports.sweep import SWEEP_FILE, Clock, Row, Sweep, fronts


def row(name: str, score: float, size: int, ms: float | None = 1.0, **changes: Any) -> Row:
    told = {"labelled": True, "digests": {"evaluation": "e", "weights": "w"}, "host": "cpu"} | changes
    labels = (90.0, score, 90 - score, (89 - score, 91 - score)) if told["labelled"] else (None,) * 4
    scores = PairedAccuracy(
        100, score, (score, score), 0.1, labels[0], labels[1], drop=labels[2], drop_interval=labels[3]
    )
    return Row(
        name, {}, "passed", "", "m", "tflite", "w8a8", "auto", scores, told["labelled"], Size(size, 4 * size),
        told["digests"], Clock(told["host"], 5.0, ms, 0.5, (0.4, 0.6)),
    )  # fmt: skip


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 5)), min_size=2, max_size=12))
def test_a_front_is_what_no_pair_of_rows_contradicts(points: list[tuple[int, int]]) -> None:
    rows = [row(f"r{at}", 80 + value, size) for at, (value, size) in enumerate(points)]
    (front,) = [each for each in fronts(rows) if each.axis == "size"]

    def beaten(one: tuple[int, int]) -> bool:
        return any(v >= one[0] and s <= one[1] and (v, s) != one for v, s in points)

    assert front.best == {f"r{at}" for at, point in enumerate(points) if not beaten(point)}


def test_rows_of_other_images_other_hosts_and_no_labels_are_not_held_against_each_other() -> None:
    rows = [
        row("a", 80, 10),
        row("b", 90, 10, host="other"),
        row("c", 95, 10, digests={"evaluation": "f"}),
        row("d", 99, 10, labelled=False),
        row("e", 98, 9, labelled=False, digests={"evaluation": "e", "weights": "v"}),
    ]
    found = {(front.axis, *(each.cell for each in front.rows)): front.best for front in fronts(rows)}
    assert found == {("size", "a", "b"): {"b"}}, "latency of two hosts, and agreement with two float networks"


def test_a_cell_without_an_artifact_is_in_the_table_and_in_no_front() -> None:
    rows = (row("net-a", 80, 10), row("net-b", 81, 12), Row("net-c", {"bits": 3}, "error", "no such width;  next: 8"))
    made = Sweep("1", "qtools sweep g.yaml", "0" * 64, rows, 2, ("a note",))
    assert made.failed and {r.cell for front in fronts(rows) for r in front.rows} == {"net-a", "net-b"}
    for text in (table.render(made), table.markdown(made), table.html(made)):
        flat = " ".join(text.split())
        assert "no such width" in flat and "2 of 3 artifacts made, 1 failed" in flat and "a note." in flat
        assert "2 cells ran at once" in flat and re.search(r"80\.00 %", flat)
    assert SWEEP_FILE.parse(SWEEP_FILE.text(made)) == made


def test_names_from_a_grid_break_no_page_no_table_and_no_terminal() -> None:
    name = "<script>alert(1)</script>|[bold]x[/bold]\x1b[2J`a`"
    made = Sweep("1", name, "0" * 64, (row(name, 80, 10), row("b", 85, 12)), notes=(name,))
    assert "<script>" not in table.html(made) and "&lt;script&gt;" in table.html(made)
    assert "<script>" not in table.markdown(made) and "\\|" in table.markdown(made)
    shown = table.render(made)
    assert "\x1b" not in shown and "[bold]" in "".join(shown.split())
    assert "http" not in table.html(made).replace("http-equiv", "")


def test_a_page_draws_a_front_over_size_and_over_latency() -> None:
    page = table.html(Sweep("1", "", "", (row("a", 80, 1000, 1.0), row("b", 85, 2000, 3.0), row("c", 79, 2000, 2.0))))
    assert page.count("<svg") == 2 and "top-1 against size" in page and "not a phone" in page
    assert page.count("mark real") >= 4 and page.count('class="mark side"') >= 2
    same = table.html(Sweep("1", "", "", (row("a", 80, 1000), row("b", 85, 1000))))
    assert "<svg" not in same, "one size and one time: nothing to draw"


def test_an_estimate_lies_between_the_quickest_and_the_slowest_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    pace = Pace(6)
    assert pace.left == "no estimate before the first cell ends"
    for seconds in (10.0, 40.0):
        now[0] += seconds
        pace.add(seconds)
    assert pace.left == "4 left: 40 s to 3 min, if like the 2 before" and pace.at_once == 1
    now[0] -= 25  # both were in work at the same time
    assert pace.at_once == 2 and pace.left.startswith("4 left: 20 s to 80 s")
    assert [in_words(s) for s in (5, 99, 600, 7200)] == ["5 s", "99 s", "10 min", "2.0 h"]


def test_a_cell_that_took_its_process_with_it_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    works = [Work(name, Cell(model=name), "key") for name in "abc"]
    made: list[str] = []

    def make(work: Work, folder: Path, listener: Any) -> None:
        assert (tmp_path / here.STARTED / work.name).exists()
        made.append(work.name)
        if work.name == "b" and made.count("b") == 1:
            raise KeyboardInterrupt
        if work.name == "c":
            raise ZeroDivisionError("a bug")

    monkeypatch.setattr(here, "make", make)
    (tmp_path / here.STARTED).mkdir()
    (tmp_path / here.STARTED / "a").touch()
    with pytest.raises(KeyboardInterrupt):
        list(here.run(works, tmp_path, SimpleNamespace()))
    assert made == ["b"], "what was interrupted leaves no mark"
    ended = list(here.run(works, tmp_path, SimpleNamespace()))
    assert [each.name for each in ended] == made[1:] == ["b", "c", "a"]
    assert [each.error for each in ended] == ["", "internal error: ZeroDivisionError: a bug", ""]
    assert not (tmp_path / here.STARTED).exists()


class Nobody:
    """Hears everything."""

    def stage(self, name: str) -> None: ...

    def warn(self, text: str) -> None: ...

    def __call__(self, label: str, done: int, total: int) -> None: ...


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each cell of every sweep is finished before it begins; their reports are not read."""
    done: list[bool] = []
    works = (Work(name, Cell(model=name), "key") for name in "abcd")
    monkeypatch.setattr(sweeping, "plan", lambda config: tuple(map(Planned, works, done)))
    monkeypatch.setattr(sweeping, "rows", lambda name, cell, folder: iter([row(name, 80, 10)]))
    return done


def test_a_sweep_that_is_stopped_says_what_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, planned: list[bool]
) -> None:
    def stopped(*_: Any) -> Any:
        yield Ended("b", 1.0)
        yield Ended("c", 1.0, "no such width")
        raise SystemExit(130)

    planned += [True, False, False, False]
    monkeypatch.setattr(here, "run", stopped)
    with pytest.raises(SystemExit) as end:
        sweeping.run(SweepConfig(tmp_path / "g.yaml", tmp_path / "out"), Nobody())
    assert end.value.__notes__ == ["2 of 4 cells are finished and stay; the same command makes the others"]


@pytest.mark.parametrize(
    ("cluster_of", "told"),
    [
        (Cluster("head.example:6379", 2), " --ray HOST:PORT --cpus 2"),
        (Cluster("local:2"), " --ray local:2"),
        (Cluster("auto"), " --ray auto"),
        (None, ""),
    ],
)
@pytest.mark.parametrize("asked", [True, False], ids=["a cell is missing", "all are finished"])
def test_only_a_cluster_that_made_a_cell_is_in_the_tables_and_never_by_its_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, planned: list[bool], cluster_of: Any, told: str, asked: bool
) -> None:
    planned += [True, not asked]
    monkeypatch.setattr(sweeping, "run_on_cluster", lambda *_: iter([Ended("b", 1.0)]))
    monkeypatch.setattr(here, "run", lambda *_: iter([Ended("b", 1.0)]))
    config = SweepConfig(tmp_path / "g.yaml", tmp_path / "out", cluster_of, cache=False)
    sweep = sweeping.run(config, Nobody())
    assert sweep.command == f"qtools sweep .../g.yaml --out .../out --no-cache{told if asked else ''}"
    assert not any("head.example" in path.read_text() for path in config.folder.iterdir())


@pytest.mark.parametrize("address", ["local:0", "local:x", "local:-1", "ray://host:10001"])
def test_an_address_that_can_be_none_is_refused(address: str) -> None:
    with pytest.raises(InputError) as caught:
        Cluster(address)
    assert address in caught.value.what and caught.value.next_step


def test_without_ray_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(MissingPlatform) as caught:
        list(cluster.run([], tmp_path, Cluster("local:1"), SimpleNamespace()))
    assert "qtools[ray]" in caught.value.next_step and caught.value.exit_status == 3


def test_a_cluster_that_does_not_answer_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    monkeypatch.setattr(cluster, "PATIENCE", 0.5)
    with pytest.raises(MissingPlatform, match=r"127.0.0.1:9: ") as caught:
        list(cluster.run([], tmp_path, Cluster("127.0.0.1:9"), SimpleNamespace()))
    assert "ray start --head" in caught.value.next_step


@pytest.mark.parametrize("harm", ["a byte", "a path outside", "nothing"])
def test_what_comes_back_damaged_is_no_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: str) -> None:
    from qtools.core import files
    from qtools.pipeline import seal
    from qtools.pipeline.sweep.cell import FILE

    work = Work("w", Cell(model="m1_1"), "key")
    source = tmp_path / "source"
    files.write_text(source / FILE, '{"key": "key"}')
    files.write_bytes(source / "model.onnx", b"content")
    seal.sums(source)
    members = {path.name: path.read_bytes() for path in source.iterdir()}
    if harm == "a byte":
        members["model.onnx"] = b"CONTENT"
    elif harm == "a path outside":
        members["../outside"] = b"x"
    ended = cluster._stored(work, tmp_path / "out" / "w", members, here.Ended("w", 1.0))
    assert bool(ended.error) == (harm != "nothing") == (not (tmp_path / "out" / "w").exists())
    assert not (tmp_path / "out" / "outside").exists()
