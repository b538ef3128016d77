"""A result of an earlier run stands in for the work only where nothing that made it changed."""

from __future__ import annotations

import dataclasses
import tempfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from calibration.batches import ImageBatches
from calibration.collect import collect
from exporters import coreml, onnx, tflite
from qtools.core import files
from qtools.core.cache import MEMBERS, NONE, Cache
from qtools.core.protocols import Lowered
from qtools.core.types import InputSpec, TensorStats
from qtools.graph.capture import Program, capture
from qtools.graph.execute import observer
from qtools.pipeline import float_artifact, reuse
from qtools.pipeline.progress import Silent, Stopwatch

SIDE = 12
SPEC = InputSpec(size=(SIDE, SIDE), interpolation="bilinear", crop_pct=1.0, mean=(0.5,) * 3, std=(0.3,) * 3)


class Noise:
    """Images of noise, by a seed."""

    def __init__(self, seed: int, count: int = 3) -> None:
        self.digest = f"noise {seed} {count}"
        draw = np.random.default_rng(seed)
        self.images = draw.integers(0, 256, (count, SIDE, SIDE, 3), np.uint8)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[np.ndarray, None]:
        return self.images[index], None


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    layers = nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Conv2d(5, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    return nn.Sequential(*layers).eval()


def program(seed: int = 0) -> Program:
    return capture(network(seed), torch.zeros(1, 3, SIDE, SIDE))


def batches(seed: int = 0, size: int = 2, spec: InputSpec = SPEC) -> ImageBatches:
    return ImageBatches(Noise(seed), spec, size)


class Counter:
    """How often statistics were collected."""

    def __init__(self, cache: Cache) -> None:
        self.how = cache, Stopwatch(Silent())
        self.made = 0

    def __call__(self, graph: Program, images: ImageBatches) -> Mapping[str, TensorStats]:
        def make() -> Mapping[str, TensorStats]:
            self.made += 1
            return collect(images, observer(graph, set(graph.view.activations)), dict.fromkeys(graph.view.activations))

        return reuse.statistics(graph, images, make, self.how)


def test_the_same_statistics_come_back(tmp_path: Path) -> None:
    count = Counter(Cache(tmp_path))
    made, found = count(program(), batches()), count(program(), batches())
    assert count.made == 1 and list(made) == list(found)
    for name, stats in made.items():
        for field in dataclasses.fields(stats):
            np.testing.assert_array_equal(getattr(stats, field.name), getattr(found[name], field.name), strict=True)


def nudged() -> Program:
    graph = program()
    name, weight = next((n, t) for n, t in graph.constants.items() if t.ndim == 4)
    changed = weight.clone()
    changed.view(-1)[7] = torch.nextafter(changed.view(-1)[7], torch.tensor(9.0))
    return graph.with_constants({name: changed})


@pytest.mark.parametrize(
    "other",
    [
        lambda: (nudged(), batches()),
        lambda: (capture(nn.Sequential(*network(), nn.ReLU()).eval(), torch.zeros(1, 3, SIDE, SIDE)), batches()),
        lambda: (program(), batches(seed=1)),
        lambda: (program(), batches(spec=dataclasses.replace(SPEC, interpolation="bicubic"))),
        lambda: (program(), batches(size=1)),
        lambda: (program(), ImageBatches(Noise(0), SPEC, 2, pixels=True)),
    ],
    ids=["one weight by one bit", "one operation more", "other images", "other filter", "other batches", "bytes in"],
)
def test_whatever_changes_is_seen(tmp_path: Path, other: Any) -> None:
    count = Counter(Cache(tmp_path))
    count(program(), batches())
    count(*other())
    assert count.made == 2


def elsewhere(monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    """Another version of an SDK, another file of our own, another processor, or less of it in use."""
    reuse.code.cache_clear()
    described = reuse.environment.describe()
    if part == "version":
        monkeypatch.setattr(reuse, "_version", lambda package: "99" if package == "torch" else "1")
    elif part == "code":
        monkeypatch.setattr(reuse, "OWN", reuse.OWN[1:])
    elif part == "instructions in use":
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "another")
    else:
        described = dataclasses.replace(described, **{part: "another"})
        monkeypatch.setattr(reuse.environment, "describe", lambda *packages: described)


PARTS = ("version", "code", "cpu", "isa", "instructions in use")


@pytest.mark.parametrize("part", PARTS)
def test_statistics_of_another_version_or_processor_are_not_used(tmp_path: Path, monkeypatch, part: str) -> None:
    count = Counter(Cache(tmp_path))
    count(program(), batches())
    elsewhere(monkeypatch, part)
    count(program(), batches())
    monkeypatch.undo()
    reuse.code.cache_clear()
    assert count.made == 2


ZEROS = (np.zeros((1, 3, SIDE, SIDE), np.float32),)


class Converter:
    """A target that writes the weights as they are, and counts how often."""

    def __init__(self, folder: Path) -> None:
        self.cache, self.folder, self.made = Cache(folder / "results"), folder, 0
        self.said: list[str] = []
        self.target = dataclasses.replace(tflite.TARGET, lower=self.lower)

    def lower(self, graph: Program, shown: Any, folder: Path) -> Lowered:
        self.made += 1
        path = folder / "model_float.tflite"
        path.write_bytes(b"head" + b"".join(graph.constants[name].numpy().tobytes() for name in graph.constants))
        return Lowered("tflite", path, {}, {"z": "folded", "a": "folded"}, 0.0, files.digest(path))

    def __call__(self, graph: Program, shown: Any = ZEROS, **changes: Any) -> Any:
        place = Path(tempfile.mkdtemp(dir=self.folder))
        listener: Any = SimpleNamespace(stage=lambda name: None, warn=self.said.append)
        target = dataclasses.replace(self.target, **changes)
        return reuse.lowered(target, graph, shown, place, (self.cache, Stopwatch(listener)))


@pytest.mark.parametrize("change", [*PARTS, "one weight by one bit", "other examples", "another target"])
def test_a_float_artifact_of_anything_else_is_not_used(tmp_path: Path, monkeypatch, change: str) -> None:
    convert = Converter(tmp_path)
    first, again = convert(program()), convert(program())
    assert convert.made == 1 and again.path.read_bytes() == first.path.read_bytes()
    assert list(again.unbound) == ["z", "a"], "in the order of the conversion"
    if change in PARTS:
        elsewhere(monkeypatch, change)
        convert(program())
    elif change == "other examples":
        convert(program(), (ZEROS[0] + 1,))
    elif change == "another target":
        convert(program(), spec=dataclasses.replace(tflite.TARGET.spec, name="onnx"))
    else:
        convert(nudged())
    monkeypatch.undo()
    reuse.code.cache_clear()
    assert convert.made == 2 and convert.said == []


@pytest.mark.parametrize("sealed", [False, True], ids=["as it fell", "with a list of digests that fits"])
@pytest.mark.parametrize("name", [float_artifact.FACTS, float_artifact.REST])
def test_a_poisoned_float_artifact_is_converted_again(tmp_path: Path, name: str, sealed: bool) -> None:
    convert = Converter(tmp_path)
    whole = convert(program()).path.read_bytes()
    entry = convert.cache.entries()[0].folder
    data = (entry / name).read_bytes()
    poison = data.replace(b'"at": 4', b'"at": 3') if name == float_artifact.FACTS else zlib.compress(b"daeh")
    assert poison != data
    (entry / name).write_bytes(poison)
    if sealed:
        members = {path.name: files.digest_file(path) for path in entry.iterdir() if path.name != MEMBERS}
        (entry / MEMBERS).write_text(files.to_json(members))
    assert convert(program()).path.read_bytes() == whole
    assert convert.made == 2 and len(convert.said) == 1 and "made again" in convert.said[0]
    assert convert(program()).path.read_bytes() == whole and convert.made == 2


@pytest.mark.parametrize("target", [tflite.TARGET, onnx.TARGET, coreml.TARGET], ids=lambda target: target.spec.name)
def test_a_float_artifact_comes_back_with_its_binding(tmp_path: Path, target, monkeypatch) -> None:
    examples = tuple(np.random.default_rng(s).normal(size=(1, 3, SIDE, SIDE)).astype(np.float32) for s in (1, 2))
    places = [tmp_path / name for name in ("made", "found", "other", "mended")]
    for place in places:
        place.mkdir()
    made_by: list[Path] = []

    def lower(graph: Program, shown: Any, folder: Path) -> Any:
        made_by.append(folder)
        return target.lower(graph, shown, folder)

    counting, cache = dataclasses.replace(target, lower=lower), Cache(tmp_path / "results")

    def ask(place: Path, shown: Any = examples) -> Any:
        return reuse.lowered(counting, program(), shown, place, (cache, Stopwatch(Silent())))

    made, found = ask(places[0]), ask(places[1])
    assert made_by == [places[0]]
    assert found.path.parent == places[1] and found.path.exists()
    assert dataclasses.replace(found, path=made.path) == made
    assert list(found.binding) == list(made.binding)
    ask(places[2], examples[::-1])
    assert made_by == [places[0], places[2]]
    entry = next(each for each in cache.entries() if each.kind.endswith("-float"))
    cache.clear()
    assert not entry.folder.exists()
    ask(places[3])
    assert made_by[-1] == places[3]


def test_without_a_cache_everything_is_made(tmp_path: Path) -> None:
    count = Counter(NONE)
    count(program(), batches())
    count(program(), batches())
    assert count.made == 2
