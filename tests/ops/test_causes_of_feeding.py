"""Pictures fed wrongly to each of the good networks: the audit names the mistake, and none where there is none.

What the network says of rightly fed pictures is taken for their labels, so that the right way is the one that is always
right. All of it is for `make test ARGS='-m bench -k causes'`; a plain run plants the same mistakes in a small network
(tests/unit/test_audit_parts.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from qtools.core.inspection import End
from qtools.pipeline.audit import alternatives
from qtools.pipeline.feeding import Reading
from qtools.pipeline.progress import Silent
from qtools.reference.images import render
from tests.ops import good_networks
from tests.ops.good_networks import NETWORKS, Good

pytestmark = pytest.mark.bench
SIZE, COUNT = 64, alternatives.IMAGES
LEAST_CLASSES = 4
"""With fewer, other ways of feeding could not be told apart."""


class Pictures:
    """Renders 160 x 128, with a grain as fine as a pixel, so that filter, crop and colours matter."""

    digest = "pictures"

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], int | None]:
        draw = np.random.default_rng(index)
        picture = np.asarray(render(index, split="test", size=160)[0])[:, 16:144].astype(np.float64)
        picture += 70 * draw.choice([-1.0, 1.0], picture.shape[:2])[..., None] + 40 * draw.normal(0, 1, 3)
        return np.clip(picture, 0, 255).astype(np.uint8), None


@dataclass(frozen=True)
class Fed:
    """A network, how pictures go into it rightly, and what it then says."""

    ask: alternatives.Ask
    right: Reading
    labels: NDArray[np.int64]
    logits: NDArray[np.floating]


@pytest.fixture(scope="module", params=NETWORKS)
def fed(request: pytest.FixtureRequest) -> Fed:
    network: Good = getattr(good_networks, request.param)()
    loaded, module = network.loaded, network.loaded.module
    side = loaded.spec.input.size[0] if request.param == "vit" else SIZE  # its tokens are counted
    spec = replace(loaded.spec.input, size=(side, side), interpolation="bilinear", crop_pct=0.875, crop_mode="center")
    right = Reading(End("image", (1, 3, side, side), "float32"), spec)

    def answers(tensors: Sequence[NDArray[Any]]) -> NDArray[np.floating]:
        with torch.inference_mode():
            return np.asarray(module(torch.from_numpy(np.concatenate(tensors))).numpy())

    source = Pictures()
    mean = answers([right.tensor(source[i][0]) for i in range(COUNT)]).mean(0)  # few classes would win them all

    def ask(tensors: Sequence[NDArray[Any]]) -> Sequence[NDArray[np.floating]]:
        return [*(answers(tensors) - mean)]

    logits = np.stack([ask([right.tensor(source[i][0])])[0] for i in range(COUNT)])
    assert np.unique(logits.argmax(1)).size >= LEAST_CLASSES
    return Fed(ask, right, logits.argmax(1), logits)


def normalised(mean: Sequence[float], std: Sequence[float]) -> Callable[[Reading], Reading]:
    return lambda right: replace(right, spec=replace(right.spec, mean=tuple(mean), std=tuple(std)), pixels=False)


def twice(right: Reading) -> Reading:
    mean, std = np.asarray(right.spec.mean), np.asarray(right.spec.std)
    return normalised((mean + mean * std).tolist(), (std**2).tolist())(right)


def looked_at(**changes: Any) -> Callable[[Reading], Reading]:
    return lambda right: replace(right, spec=replace(right.spec, **changes))


MISTAKES: dict[str, Callable[[Reading], Reading]] = {
    "red and blue exchanged": lambda right: replace(right, colours="BGR"),
    "not normalised": normalised((0.0,) * 3, (1.0,) * 3),
    "scaled to -1..1": normalised((0.5,) * 3, (0.5,) * 3),
    "normalised by ImageNet's numbers": normalised(*alternatives.IMAGENET),
    "not divided by 255": lambda right: replace(right, pixels=True),
    "normalised twice": twice,
    "nearest filter": looked_at(interpolation="nearest"),
    "squashed": looked_at(crop_mode="squash", crop_pct=1.0),
}
SAID = {
    "red and blue exchanged": "red and blue exchanged",
    "nearest filter": "resized by bilinear",
    "squashed": "87.5% of the middle",
}
"""Mistake -> the alternative that is right; of numbers it is what the network takes."""
SCALINGS = {
    ((0.0,) * 3, (1.0,) * 3): "scaled to 0..1 and not normalised",
    ((0.5,) * 3, (0.5,) * 3): "scaled to -1..1",
    alternatives.IMAGENET: "normalised by ImageNet's mean and deviation",
}


def taken(right: Reading) -> str:
    """Which of the known scalings a network takes."""
    own = right.spec.mean, right.spec.std
    return next(name for numbers, name in SCALINGS.items() if np.allclose(numbers, own, atol=1e-3))


def tried(fed: Fed, present: Reading, labels: NDArray[np.int64]) -> Any:
    rows, ways = alternatives.try_all(
        fed.ask, (present, np.empty((0, fed.logits.shape[1]))), (Pictures(), labels), Silent()
    )
    return alternatives.finding(rows, ways, "write {}"), rows


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named(fed: Fed, mistake: str) -> None:
    present = MISTAKES[mistake](fed.right)
    same = np.allclose((present.spec.mean, present.spec.std), (fed.right.spec.mean, fed.right.spec.std), atol=1e-3)
    if mistake not in SAID and same and not present.pixels:
        pytest.skip("it is what the network takes")
    found, rows = tried(fed, present, fed.labels)
    assert found is not None, rows
    assert found.cause == f"preprocessing: {SAID.get(mistake) or taken(fed.right)}", rows
    assert found.gain_interval[0] > 0 and found.images == COUNT


@pytest.mark.parametrize("moved", [1, -1])
def test_moved_labels_are_named(fed: Fed, moved: int) -> None:
    found, rows = tried(fed, fed.right, fed.labels + moved)
    assert found is not None and found.cause == f"preprocessing: labels moved by {-moved:+d}", rows


def test_nothing_is_named_where_pictures_are_fed_rightly(fed: Fed) -> None:
    assert tried(fed, fed.right, fed.labels)[0] is None
    draw = np.random.default_rng(3)
    wrong = np.where(draw.random(COUNT) < 0.4, draw.integers(0, fed.logits.shape[1], COUNT), fed.labels)
    assert tried(fed, fed.right, wrong)[0] is None  # though a part of the labels is, so that any way could win
