"""Which images a run sees."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from qtools.core.errors import InputError
from qtools.core.types import InputSpec
from qtools.pipeline.config import Images
from qtools.pipeline.data import REACH, _share, choose
from qtools.reference import CLASSES

INPUT = InputSpec((16, 16), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bilinear", 0.9)


def loaded(kind="file", classes=3):
    """As much of a loaded model as choosing images needs."""
    return SimpleNamespace(
        spec=SimpleNamespace(classes=classes, input=INPUT, task="classification"),
        weights=SimpleNamespace(kind=kind, source="w"),
    )


def folder(root: Path, count: int, classes: int = 3, *, flat: bool = False) -> Path:
    for number in range(count):
        place = root if flat else root / f"class_{number % classes}"
        place.mkdir(parents=True, exist_ok=True)
        shade = np.full((20, 24, 3), (number * 7) % 256, np.uint8)
        Image.fromarray(shade).save(place / f"{number:04d}.png")
    return root


@given(st.integers(2, 5000), st.none() | st.integers(1, 3000), st.none() | st.integers(1, 3000))
def test_what_was_not_asked_fits_what_there_is(available, calibration, evaluation):
    shares = _share(available, Images(calibration=calibration, evaluation=evaluation))
    assert min(shares) >= 1
    assert calibration in (None, shares[0]) and evaluation in (None, shares[1])
    if (calibration or 1) + (evaluation or 1) <= available:
        assert sum(shares) <= available
    if available >= 1024 and calibration is evaluation is None:
        assert shares == (256, 512)


def test_one_folder_serves_for_both_without_sharing_an_image(tmp_path):
    chosen = choose(loaded(), Images(data=folder(tmp_path, 30), calibration=9, evaluation=15))
    calibration, evaluation = set(chosen.calibration.indices), set(chosen.evaluation.indices)
    assert (len(calibration), len(evaluation)) == (9, 15) and not calibration & evaluation
    assert np.bincount(chosen.labels).tolist() == [5, 5, 5] and chosen.described.labelled
    (batch, *_) = chosen.batches(chosen.calibration, 4)
    assert batch.shape == (4, 3, 16, 16) and chosen.input == INPUT


def test_the_seed_changes_the_choice_and_nothing_else(tmp_path):
    root = folder(tmp_path, 30)
    chosen = [choose(loaded(), Images(data=root, calibration=6, evaluation=6, seed=seed)) for seed in (0, 0, 1)]
    digests = [images.calibration.digest for images in chosen]
    assert digests[0] == digests[1] != digests[2]


def test_two_folders(tmp_path):
    data, held_out = folder(tmp_path / "data", 12), folder(tmp_path / "held_out", 9)
    chosen = choose(loaded(), Images(data=data, eval_data=held_out))
    assert (len(chosen.calibration), len(chosen.evaluation)) == (12, 9)
    assert (chosen.described.kind, chosen.described.note) == ("folder", "class folders, in sorted order")


def test_a_flat_folder_has_no_labels(tmp_path):
    chosen = choose(loaded(), Images(data=folder(tmp_path, 8, flat=True)))
    assert chosen.labels is None and not chosen.described.labelled
    assert (chosen.described.calibration, chosen.described.evaluation) == (4, 4)


@pytest.mark.parametrize(("option", "there"), [("calibration", 12), ("evaluation", 9)])
def test_fewer_than_asked_names_the_folder_and_the_option(tmp_path, option, there):
    data, held_out = folder(tmp_path / "data", 12), folder(tmp_path / "held_out", 9)
    with pytest.raises(InputError, match=rf"--{option} 99: .* holds {there} images"):
        choose(loaded(), Images(data=data, eval_data=held_out, **{option: 99}))


def test_images_to_evaluate_alone_are_refused(tmp_path):
    with pytest.raises(InputError, match="none to calibrate on"):
        choose(loaded(), Images(eval_data=folder(tmp_path, 3)))


def test_without_images_reference_weights_have_labels_and_others_have_not():
    asked = Images(calibration=3, evaluation=4)
    own, other = choose(loaded("reference"), asked), choose(loaded("file"), asked)
    assert own.described.kind == "reference" and own.labels is not None and len(own.labels) == 4
    assert other.described.kind == "procedural renders" and other.labels is None
    assert "were not seen" in other.described.note
    assert own.input.crop_pct == other.input.crop_pct == 1.0  # renders come at the network's own size
    assert own.calibration.digest != own.evaluation.digest
    assert own.classes == CLASSES and other.classes == ()
    assert (own.reach, other.reach) == (1.0, REACH), "photographs make a network surer than stand-ins do"


def test_the_seed_draws_other_stand_ins_and_the_same_reference_set():
    digests = {
        kind: {choose(loaded(kind), Images(seed=seed)).calibration.digest for seed in (0, 0, 1)}
        for kind in ("file", "reference")
    }
    assert [len(digests[kind]) for kind in ("file", "reference")] == [2, 1]


def test_names_of_the_classes_come_from_the_folders(tmp_path):
    data, held_out = folder(tmp_path / "data", 12), folder(tmp_path / "held_out", 9)
    assert choose(loaded(), Images(data=data)).classes == ("class_0", "class_1", "class_2")
    assert choose(loaded(), Images(data=data, eval_data=held_out)).classes == ("class_0", "class_1", "class_2")
    (held_out / "class_0").rename(held_out / "another")
    assert choose(loaded(), Images(data=data, eval_data=held_out)).classes == (), "which of the two is right?"
    assert choose(loaded("reference"), Images(data=data)).classes == CLASSES, "the weights know their own"


def test_pixels_normalise_to_what_the_network_takes(tmp_path):
    plain = choose(loaded(), Images(data=folder(tmp_path, 8)))
    pixels = dataclasses.replace(plain, pixels=True)
    (first, *_), (second, *_) = (images.batches(images.evaluation, 4) for images in (plain, pixels))
    assert second.max() > 1 and (second == np.rint(second)).all()
    assert (pixels.normalised(second) == first).all() and plain.normalised(first) is first
