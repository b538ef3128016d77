"""Rounding of weights against what a layer reads: an exhaustive search, a second formula, and what must not happen."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from calibration.weights.covariance import covariance
from calibration.weights.rounding import round_weights
from qtools.core.types import Op, OpKind

TOP = 3
"""Codes of three bits: few enough to try all of them on four inputs."""


def rounded(weight: torch.Tensor, matrix: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Codes up to TOP everywhere."""
    return round_weights(weight, matrix, scale, torch.full_like(weight, TOP))


def layer(seed: int, inputs: int, channels: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Weights, the covariance of inputs that vary together, and steps that put the largest weight on the last code."""
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(inputs, inputs, generator=generator, dtype=torch.float64)
    rows = torch.randn(500, inputs, generator=generator, dtype=torch.float64) @ mixed
    weight = torch.randn(1, channels, inputs, generator=generator, dtype=torch.float64)
    return weight, (rows.T @ rows / 500)[None], weight.abs().amax(2) / TOP


def moved(codes: torch.Tensor, weight: torch.Tensor, matrix: torch.Tensor, scale: torch.Tensor) -> np.ndarray:
    error = (codes * scale[..., None] - weight)[0].numpy()
    return np.einsum("nk,kl,nl->n", error, matrix[0].numpy(), error)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000))
def test_never_worse_than_nearest_and_never_better_than_all_codes(seed: int) -> None:
    weight, matrix, scale = layer(seed, 4)
    found = moved(rounded(weight, matrix, scale), weight, matrix, scale)
    damped = matrix + 0.01 * matrix[0].diagonal().mean() * torch.eye(4, dtype=torch.float64)
    plain = moved((weight / scale[..., None]).round(), weight, damped, scale)
    grid = torch.tensor(list(itertools.product(range(-TOP, TOP + 1), repeat=4)), dtype=torch.float64)
    for channel in range(3):
        every = grid * scale[0, channel] - weight[0, channel]
        least = ((every @ matrix[0]) * every).sum(1).min().item()
        assert least - 1e-9 <= found[channel] <= plain[channel] + 1e-9


def test_gains_most_of_what_the_best_of_all_codes_would() -> None:
    sums = np.zeros(3)
    grid = torch.tensor(list(itertools.product(range(-TOP, TOP + 1), repeat=4)), dtype=torch.float64)
    for seed in range(60):
        weight, matrix, scale = layer(seed, 4)
        found = moved(rounded(weight, matrix, scale), weight, matrix, scale)
        plain = moved((weight / scale[..., None]).round(), weight, matrix, scale)
        every = grid * scale[0, :, None, None] - weight[0, :, None]
        least = ((every @ matrix[0]) * every).sum(2).amin(1)
        sums += plain.sum(), found.sum(), float(least.sum())
    plain_sum, found_sum, least_sum = sums
    assert (plain_sum - found_sum) / (plain_sum - least_sum) > 0.75


def test_halves_the_error_of_a_wide_layer() -> None:
    weight, matrix, scale = layer(1, 200, channels=40)  # more columns than one block
    found = moved(rounded(weight, matrix, scale), weight, matrix, scale)
    plain = moved((weight / scale[..., None]).round(), weight, matrix, scale)
    assert found.sum() < 0.5 * plain.sum()


def test_inputs_that_vary_alone_get_the_nearest_codes() -> None:
    weight, matrix, scale = layer(2, 9)
    alone = torch.diag_embed(matrix.diagonal(dim1=1, dim2=2))
    assert torch.equal(rounded(weight, alone, scale), (weight / scale[..., None]).round())


def test_groups_are_rounded_apart() -> None:
    parts = [layer(seed, 5) for seed in (3, 4)]
    weight, matrix, scale = (torch.cat([part[i] for part in parts]) for i in range(3))
    together = rounded(weight, matrix, scale)
    assert torch.equal(together, torch.cat([rounded(*part) for part in parts]))


def test_codes_stay_inside_their_grid_where_the_scale_is_too_small() -> None:
    weight, matrix, scale = layer(5, 6)
    codes = rounded(weight, matrix, scale / 2)
    assert codes.abs().max() == TOP and torch.equal(codes, codes.round())


def test_each_weight_has_its_own_largest_code() -> None:
    weight, matrix, scale = layer(6, 6)
    top = torch.full_like(weight, TOP)
    top[0, 1, 2] = 9
    weight[0, 1, 2] = 8.3 * scale[0, 1]
    codes = round_weights(weight, matrix, scale, top)
    assert TOP < codes[0, 1, 2] <= 9 and (codes.abs() <= top).all()
    grid = torch.tensor(list(itertools.product(range(-TOP, TOP + 1), repeat=6)), dtype=torch.float64)
    grid[:, 2] += 6  # the wide one among its nine possible codes near 6
    every = grid * scale[0, 1] - weight[0, 1]
    least = ((every @ matrix[0]) * every).sum(1).min().item()
    clipped = moved(rounded(weight, matrix, scale), weight, matrix, scale)[1]
    assert least - 1e-9 <= moved(codes, weight, matrix, scale)[1] < clipped


@pytest.mark.parametrize(("groups", "stride", "padding"), [(1, 1, 1), (2, 2, 0), (4, 1, 1)])
def test_covariance_of_a_convolution_predicts_how_far_its_results_move(groups: int, stride: int, padding: int) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 4 // groups, 3, 3, generator=generator)
    error = torch.randn(weight.shape, generator=generator)
    images = [torch.randn(2, 4, 12, 12, generator=generator) + 3 for _ in range(3)]
    attrs = {"stride": [stride] * 2, "padding": [padding] * 2, "dilation": [1, 1], "groups": groups}
    matrix = covariance(Op("c", OpKind.CONV, ("x", "w"), ("c",), attrs), images, weight)
    results = torch.cat([functional.conv2d(x, error, None, stride, padding, 1, groups) for x in images])
    measured = results.double().var((0, 2, 3), correction=0)
    rows = error.double().reshape(groups, 4 // groups, -1)
    predicted = ((rows @ matrix) * rows).sum(2).flatten()
    # shrunk towards the diagonal by inputs / (inputs + positions): no more than that may be between the two
    positions = results[:, 0].numel()
    share = rows.shape[2] / (rows.shape[2] + positions)
    diagonal = (rows**2 * matrix.diagonal(dim1=1, dim2=2)[:, None]).sum(2).flatten()
    torch.testing.assert_close(predicted, (1 - share) * measured + share * diagonal, rtol=1e-4, atol=1e-5)


def test_a_silent_input_and_few_rows_leave_a_usable_matrix() -> None:
    rows = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    rows[:, 2] = 5.0
    matrix = covariance(Op("l", OpKind.LINEAR, ("x", "w"), ("l",), {}), [rows], torch.zeros(2, 8))
    torch.linalg.cholesky(matrix)  # raises where it is singular
    assert matrix[0, 2, 2] > 0 and matrix[0, 2, [0, 1, 3]].abs().max() < 1e-6
