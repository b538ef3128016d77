"""Random directions of masks, and of features that are read to draw them: their squares are twice the distance's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from qtools.pipeline.reader import Reader
from qtools.pipeline.sensitivity import direction_of_masks, traced
from qtools.pipeline.tasks.masks import TASK
from reports.masks import COUNT, distances

DRAWS, SIDE, WIDTH, ASKED = 3000, 4, 6, 3
NUMBERS = COUNT * (SIDE * SIDE + 1)


class Drawer(nn.Module):
    """Rows of features and a prompt to rows of masks, bent on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(WIDTH + ASKED, 24), nn.Linear(24, NUMBERS)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return 4 * self.second(torch.tanh(self.first(rows)))


@pytest.fixture(scope="module")
def reader() -> Reader:
    torch.manual_seed(5)
    asked = np.random.default_rng(1).normal(0, 1, (7, ASKED)).astype(np.float32)
    return Reader(Drawer().eval(), asked, TASK)


def mean_square(draw: object, step: torch.Tensor) -> float:
    assert callable(draw)
    chance = torch.Generator().manual_seed(2)
    return float(np.mean([float((draw(chance).double() * step).sum()) ** 2 for _ in range(DRAWS)]))


def test_squares_are_those_of_the_distance() -> None:
    rows = torch.randn(1, NUMBERS, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 3
    step = 1e-4 * torch.randn(rows.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    (distance,) = distances(rows.numpy(), (rows + step).numpy())
    found = mean_square(lambda chance: direction_of_masks(rows.float(), chance), step)
    assert found / 2 == pytest.approx(distance**2, rel=0.1)  # of a chi square of so many draws: 3 % is one deviation


def test_what_masks_state_of_themselves_has_no_part() -> None:
    drawn = direction_of_masks(torch.randn(1, NUMBERS), torch.Generator().manual_seed(4))
    assert drawn[:, -COUNT:].abs().max() == 0 < drawn[:, :-COUNT].abs().max()


def test_a_readers_directions_are_of_its_own_distance_for_the_prompt_of_the_image(reader: Reader) -> None:
    features = torch.randn(1, 2, 3, generator=torch.Generator().manual_seed(6))
    step = 1e-3 * torch.randn(features.shape, generator=torch.Generator().manual_seed(7))
    squares = []
    for image in (0, 4):
        exact, moved = (reader.answers([each], image) for each in (features, features + step))
        (distance,) = distances(exact, moved)
        found = traced(lambda image=image: mean_square(lambda c: reader.direction(image)(features, c), step.double()))
        assert found / 2 == pytest.approx(distance**2, rel=0.1)
        squares.append(distance)
    assert squares[0] != pytest.approx(squares[1], rel=0.01), "both prompts count alike, and nothing was shown"


def test_answers_of_several_batches_are_asked_what_belongs_to_each_image(reader: Reader) -> None:
    features = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(8))
    together = reader.answers([features[:2], features[2:4], features[4:]], 2)
    for at in range(5):
        row = torch.cat([features[at].flatten(), torch.from_numpy(reader.asked[2 + at])])
        with torch.inference_mode():
            alone = reader.network(row[None]).numpy()
        np.testing.assert_allclose(together[at : at + 1], alone, rtol=1e-5, atol=1e-6)
