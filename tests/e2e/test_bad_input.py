"""What cannot work ends at once, with the right exit code, a message that names it, and nothing left behind."""

from __future__ import annotations

import dataclasses
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

import exporters.tflite
from qtools.core.errors import CheckFailed
from qtools.core.protocols import Lowered
from qtools.models import _hub

pytestmark = pytest.mark.e2e

OWN = ("quantize", "--builder", "user_network:build")
DATA = ("--data", "calibration", "--eval", "held_out")
BUILDERS = """
from user_network import build

def broken():
    raise OSError("my disk is full")

def diverged():
    network = build()
    network.head.weight.data[0, 0] = float("nan")
    return network

def nothing():
    return None
"""


class WantsCode:
    def __reduce__(self):
        return Path.touch, (Path("was_here"),)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, album) -> Path:
    """A user's folder full of things that cannot be used."""
    folder = album.furnish(tmp_path_factory.mktemp("bad"))
    (folder / "builders.py").write_text(BUILDERS)
    (folder / "empty").mkdir()
    album.class_folders(folder / "three", 4, names="abc")
    album.labels_csv(folder / "far", 12, classes=6)
    album.class_folders(folder / "damaged", 4)
    victim = max((folder / "damaged" / "c").iterdir())
    victim.write_bytes(victim.read_bytes()[:-100])
    album.class_folders(folder / "text", 4)
    (folder / "text" / "b" / "note.jpg").write_text("no picture")
    state = {"stem.conv1.c.weight": torch.ones(24, 3, 3, 3)}
    save_file(state, folder / "whole.safetensors")
    (folder / "cut.safetensors").write_bytes((folder / "whole.safetensors").read_bytes()[:-40])
    save_file({"stem.conv1.c.weight": torch.full((24, 3, 3, 3), torch.nan)}, folder / "nan.safetensors")
    save_file({"backbone.0.weight": torch.ones(4, 3, 3, 3)}, folder / "other.safetensors")
    torch.save({"model": WantsCode()}, folder / "code.pth")
    (folder / "file").write_text("in the way")
    (folder / "two.txt").write_text("cat\ndog\n")
    (folder / "taken").mkdir()
    (folder / "taken" / "model.tflite").write_bytes(b"an earlier run")
    return folder


@pytest.fixture(autouse=True)
def nothing_left(folder, contents) -> Iterator[None]:
    """Whatever a test does, the folder is afterwards what it was before."""
    before = without_caches(contents(folder))
    yield
    assert without_caches(contents(folder)) == before
    assert not list((folder / "runs").glob("*"))
    assert not list(folder.glob(".*"))


def without_caches(files: dict[str, bytes]) -> dict[str, bytes]:
    return {name: data for name, data in files.items() if "__pycache__" not in name}


@pytest.fixture
def no_conversion(monkeypatch) -> None:
    """Converting would end in exit code 70."""

    def lower(*_):
        raise AssertionError("bad input got as far as the conversion")

    monkeypatch.setattr(exporters.tflite, "TARGET", dataclasses.replace(exporters.tflite.TARGET, lower=lower))


@pytest.fixture
def quick_conversion(monkeypatch, tmp_path_factory) -> None:
    """Stands in for the conversion, for what is only found out after it."""
    monkeypatch.setenv("QTOOLS_CACHE", str(tmp_path_factory.mktemp("stand-ins")))

    def lower(program, examples, work):
        path = work / "model_float.tflite"
        path.write_bytes(b"")
        return Lowered("tflite", path, {}, {}, 0.0, "0" * 64)

    monkeypatch.setattr(exporters.tflite, "TARGET", dataclasses.replace(exporters.tflite.TARGET, lower=lower))


@pytest.fixture
def no_hub(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(_hub, "unreachable", lambda url: "no connection (made up)")


CASES = {
    "model unknown": (("quantize", "repvit_m1_3"), "unknown model 'repvit_m1_3'. Did you mean ", "repvit_m1_1"),
    "model by an alias unknown": (("quantize", "m11"), "Did you mean m1_1"),
    "target unknown": (("quantize", "m1_1", "--target", "tflight"), "tflight", "Did you mean tflite?"),
    "method unknown": (("quantize", "m1_1", "--method", "mes"), "method 'mes'", "Did you mean mse"),
    "bits not there": (("quantize", "m1_1", "--bits", "9"), "weights of 9 bits are not available", "choose 2 to 8"),
    "io unknown": (("quantize", "m1_1", "--io", "int4"), "--io int4", "int8, float32, pixels"),
    "neither model nor builder": (("quantize", "--bits", "8"), "a model's name or --builder"),
    "model and builder": ((*OWN, "m1_1"), "a model's name or --builder, one of the two"),
    "builder raises": (("quantize", "--builder", "builders:broken"), "raised OSError: my disk is full"),
    "builder is not there": (("quantize", "--builder", "builders:brken"), "has no 'brken'. Did you mean broken"),
    "builder's module is not there": (("quantize", "--builder", "bilders:f"), "there is no module 'bilders'"),
    "builder returns nothing": (("quantize", "--builder", "builders:nothing"), "NoneType, not torch.nn.Module"),
    "builder's weights are NaN": (("quantize", "--builder", "builders:diverged"), "head.weight has 1 of", "checkpoint"),
    "folder empty": ((*OWN, "--data", "empty"), "empty holds no image", "put jpg, jpeg, png"),
    "folder missing": ((*OWN, "--data", "nowhere"), "there is no folder nowhere"),
    "evaluation folder missing": ((*OWN, "--data", "calibration", "--eval", "nowhere"), "there is no folder nowhere"),
    "evaluation alone": ((*OWN, "--eval", "held_out"), "none to calibrate on", "--data DIR"),
    "a file as folder": ((*OWN, "--data", "file"), "file is neither a folder nor a .csv file"),
    "too few to calibrate": ((*OWN, *DATA, "--calibration", "21"), "--calibration 21: calibration holds 20 images"),
    "too few to evaluate": ((*OWN, *DATA, "--evaluation", "61"), "--evaluation 61: held_out holds 60 images"),
    "too few for both": (
        (*OWN, "--data", "held_out", "--calibration", "31", "--evaluation", "30"),
        "31 images to calibrate and 30 others",
        "there are 60",
    ),
    "no image asked": ((*OWN, *DATA, "--calibration", "0"), "calibration needs at least one image, got 0"),
    "classes differ": ((*OWN, "--data", "three"), "class folders of three: 3 classes, and the model has 5"),
    "label out of range": ((*OWN, "--data", "far"), "label 5 is outside the model's 5 classes", "labels.csv"),
    "labels too few": ((*OWN, *DATA, "--labels", "two.txt"), "two.txt names 2 classes, and the model has 5"),
    "labels missing": ((*OWN, *DATA, "--labels", "no.txt"), "--labels no.txt cannot be read"),
    "weights missing": (("quantize", "m0_9", "--weights", "no.pth"), "weights file no.pth does not exist"),
    "weights word unknown": (("quantize", "m0_9", "--weights", "imagnet"), "Did you mean imagenet"),
    "weights truncated": (("quantize", "m0_9", "--weights", "cut.safetensors"), "cut.safetensors is truncated"),
    "weights want code": (("quantize", "m0_9", "--weights", "code.pth"), "code.pth is a pickle that wants to run code"),
    "weights are NaN": (
        ("quantize", "m0_9", "--weights", "nan.safetensors"),
        "stem.conv1.c.weight has 648 of 648 values that are NaN",
    ),
    "weights of another network": (
        ("quantize", "m0_9", "--weights", "other.safetensors"),
        "other.safetensors does not fit repvit_m0_9",
        "another architecture",
    ),
    "weights incomplete": (("quantize", "m0_9", "--weights", "whole.safetensors"), "does not fit", "missing"),
    "no reference": (("quantize", "m2_3", "--weights", "reference"), "no reference checkpoint of repvit_m2_3"),
    "out taken": ((*OWN, *DATA, "--out", "taken"), "taken exists already", "--force"),
    "out below a file": ((*OWN, *DATA, "--out", "file/run"), "cannot write file/run", "--out"),
}


@pytest.mark.usefixtures("no_conversion")
@pytest.mark.parametrize("case", CASES, ids=[name.replace(" ", "-") for name in CASES])
def test_bad_input_ends_before_the_conversion(case, folder, qtools):
    words, *said = CASES[case]
    ended = qtools(folder, *words)
    assert ended.code == 2, ended.err
    assert ended.out == ""
    message = ended.err[ended.err.index("qtools: error: ") :]
    assert "\n  next: " in message and "Traceback" not in ended.err
    for part in said:
        assert part in message


@pytest.mark.usefixtures("quick_conversion")
@pytest.mark.parametrize(("data", "name"), [("damaged", "damaged/c/003."), ("text", "text/b/note.jpg")])
def test_an_image_that_cannot_be_read_is_named(folder, qtools, data, name):
    ended = qtools(folder, *OWN, "--data", data, "--eval", "held_out")
    assert ended.code == 2
    assert f"error: image {name}" in ended.err and "next: replace it or take it out" in ended.err


@pytest.mark.usefixtures("quick_conversion")
def test_a_failing_run_leaves_the_folder_that_force_would_replace(folder, qtools):
    ended = qtools(folder, *OWN, "--data", "damaged", "--out", "taken", "--force", "--calibration", "19")
    assert ended.code == 2 and "damaged/c" in ended.err
    assert (folder / "taken" / "model.tflite").read_bytes() == b"an earlier run"


@pytest.mark.usefixtures("no_hub", "no_conversion")
@pytest.mark.parametrize("weights", ["imagenet", "auto"])
def test_weights_that_cannot_be_had_are_a_missing_platform(folder, qtools, weights):
    ended = qtools(folder, "quantize", "m2_3", "--weights", weights)
    assert ended.code == 3
    assert "repvit_m2_3.dist_450e_in1k are not cached and the hub cannot be used: no connection" in ended.err
    assert "--weights PATH" in ended.err


@pytest.mark.usefixtures("no_conversion")
def test_a_hub_that_never_answers_costs_five_seconds(folder, qtools, monkeypatch, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setattr(_hub, "hf_hub_url", lambda *_, **__: f"http://127.0.0.1:{silent.getsockname()[1]}/file")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        start = time.monotonic()
        ended = qtools(folder, "quantize", "m2_3", "--weights", "imagenet")
    assert ended.code == 3 and "no answer within 5 s" in ended.err
    assert time.monotonic() - start < 8


def failing(error: Exception):
    def lower(*_):
        raise error

    return dataclasses.replace(exporters.tflite.TARGET, lower=lower)


def test_a_stage_that_cannot_prove_its_work_ends_in_one(folder, qtools, monkeypatch):
    monkeypatch.setattr(exporters.tflite, "TARGET", failing(CheckFailed("value add_3 is bound to no tensor")))
    ended = qtools(folder, *OWN, *DATA, "--no-cache")
    assert ended.code == 1 and "error: value add_3 is bound to no tensor" in ended.err


def test_an_internal_error_is_one_line_unless_asked(folder, qtools, monkeypatch):
    monkeypatch.setattr(exporters.tflite, "TARGET", failing(RuntimeError("a bug")))
    ended = qtools(folder, *OWN, *DATA, "--no-cache")
    assert ended.code == 70 and "internal error: RuntimeError: a bug" in ended.err and "--debug" in ended.err
    assert "Traceback" not in ended.err
    with pytest.raises(RuntimeError, match="a bug"):
        qtools(folder, *OWN, *DATA, "--no-cache", "--debug")
