"""Random directions of features: their squares are, for small errors, twice what is missing to a cosine of 1."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from qtools.pipeline.sensitivity import direction_of_features
from reports.features import distances

DRAWS = 4000


@pytest.mark.parametrize("shape", [(1, 6), (1, 5, 7), (1, 4, 3, 2)])
def test_squares_are_those_of_the_distance(shape: tuple[int, ...]) -> None:
    chance = torch.Generator().manual_seed(1)
    features = torch.randn(shape, generator=chance, dtype=torch.float64) * torch.linspace(0.2, 3, shape[-1])
    step = 1e-4 * torch.randn(shape, generator=chance, dtype=torch.float64)
    (distance,) = distances(features.numpy(), (features + step).numpy())
    squares = [float((direction_of_features(features, chance).double() * step).sum() ** 2) for _ in range(DRAWS)]
    assert np.mean(squares) / 2 == pytest.approx(distance**2, rel=0.1)  # of a chi square: 2 % is one deviation


def test_a_change_of_length_costs_nothing() -> None:
    features = torch.randn(1, 5, 4, generator=torch.Generator().manual_seed(2))
    moved = direction_of_features(features, torch.Generator().manual_seed(3)) * features
    assert float(moved.sum(1).abs().max()) < 1e-6


def test_a_vector_of_zeros_has_a_direction_all_the_same() -> None:
    assert torch.isfinite(direction_of_features(torch.zeros(1, 3, 2), torch.Generator().manual_seed(4))).all()
