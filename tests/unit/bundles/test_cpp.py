"""The C++ client, compiled by the compiler that is here, replays vectors byte for byte and finds what Python finds."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qtools.core import files
from qtools.core.boxes import Decoding
from qtools.pipeline import picture_vectors
from qtools.pipeline.bundles.cpp import BUNDLE
from qtools.pipeline.picture_vectors import Content
from tests.unit.bundles import detector_cases

FLAGS = ("-std=c++17", "-Wall", "-Wextra", "-Werror", "-pedantic", "-ffp-contract=off")
DRIVER = Path(__file__).with_name("Driver.cpp")
BORDER = {"dtype": "float32", "layout": "NCHW", "crop": "border", "resize": "lanczos", "size": (18, 25), "keep": 1.0}
SQUASH = {"dtype": "uint8", "crop": "squash", "resize": "nearest", "colours": "BGR", "applied": "model"}

pytestmark = pytest.mark.skipif(shutil.which("c++") is None, reason="there is no C++ compiler here")


def compiled(source: Path | str, folder: Path, program: str) -> None:
    subprocess.run(["c++", *FLAGS, "-I.", str(source), "-o", program], cwd=folder, check=True)


def replay(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(folder / "replay"), str(folder)], capture_output=True, text=True, check=False)


def built(content: Content, folder: Path) -> None:
    """The program that replays, in a bundle without its artifact."""
    BUNDLE.place(content, folder)
    picture_vectors.write(content, folder / BUNDLE.vectors)
    compiled("replay.cpp", folder, "replay")
    ended = replay(folder)
    assert (ended.returncode, ended.stdout.count("tensor equal")) == (0, len(content.vectors)), ended.stdout
    assert "network not run" in ended.stdout


def changed(folder: Path, name: str) -> subprocess.CompletedProcess[str]:
    """What is said where the last bit of a recorded file's first byte is another."""
    file = folder / BUNDLE.vectors / name
    file.write_bytes(bytes([file.read_bytes()[0] ^ 1]) + file.read_bytes()[1:])
    return replay(folder)


def test_every_tensor_has_the_recorded_bytes(made_up, tmp_path: Path) -> None:
    """Of an int8 tensor in tests/e2e/test_bundle.py."""
    built(made_up(**BORDER).content, tmp_path)
    ended = changed(tmp_path, "1.input.bin")
    assert (ended.returncode, ended.stdout.count("TENSOR DIFFERS")) == (1, 1), ended.stdout


def test_a_detectors_vectors_are_replayed(made_up, tmp_path: Path) -> None:
    content = detector_cases.content(made_up(**SQUASH).content)
    built(content, tmp_path)
    assert replay(tmp_path).stdout.count(f"{len(content.vectors[0].found)} objects") == len(content.vectors)
    boxes = tmp_path / BUNDLE.vectors / "2.boxes.bin"
    moved = np.frombuffer(boxes.read_bytes(), "<f4") + np.float32(1e-3)
    boxes.write_bytes(moved.tobytes())
    ended = replay(tmp_path)
    assert (ended.returncode, ended.stdout.count("OBJECTS DECODED OTHERWISE")) == (1, 1), ended.stdout


def numbers(decoding: Decoding) -> list[Any]:
    """A decoding as Driver.cpp reads it; -1 where there is nothing."""
    found: list[Any] = [-1]
    if (grid := decoding.anchors) is not None:
        found = [len(grid.maps), grid.lowest, grid.highest]
        for cells, ratios in zip(grid.maps, grid.ratios, strict=True):
            found += [*cells, len(ratios), *ratios]
    overlap = -1 if decoding.overlap is None else decoding.overlap
    found += [*decoding.variances, decoding.background, overlap, decoding.least]
    return [*found, decoding.candidates, decoding.most]


@pytest.fixture(scope="module")
def driven(made_up, drawn, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A contract, and what the driver says of all cases with it."""
    folder = tmp_path_factory.mktemp("cpp")
    content = made_up(crop="border", size=(18, 25), keep=0.9).content
    BUNDLE.place(content, folder)
    lines: list[list[Any]] = [[len(drawn.pictures)], *([*each.shape[:2]] for each in drawn.pictures)]
    lines += [[*detector_cases.BOX], [detector_cases.CASES]]
    for each in detector_cases.drawn():
        lines += [numbers(each.decoding), [*each.logits.shape, *each.logits.ravel()], [*each.boxes.ravel()]]
    (folder / "cases").write_text("\n".join(" ".join(str(word) for word in line) for line in lines))
    compiled(DRIVER, folder, "driver")
    ended = subprocess.run([str(folder / "driver")], cwd=folder, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    said = json.loads(files.to_json(content.contract))
    return said, [json.loads(line) for line in ended.stdout.splitlines()]


def test_objects_are_those_of_python_and_in_its_order(driven) -> None:
    cases = detector_cases.drawn()
    rows = driven[1][-len(cases) :]
    names = ("index", "label", "score", "box")
    detector_cases.check(cases, [[dict(zip(names, each, strict=True)) for each in row] for row in rows])


def test_a_box_is_led_back_to_the_whole_picture_as_python_does_it(client, drawn, driven) -> None:
    said, rows = driven
    assert len(rows) == len(drawn.pictures) + detector_cases.CASES
    for pixels, found in zip(drawn.pictures, rows, strict=False):
        expected = client.uncut(detector_cases.BOX, *pixels.shape[:2], said["preparation"])
        np.testing.assert_allclose(found, expected, rtol=1e-12)
