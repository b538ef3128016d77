"""Cheap evidence of what rounding each value, or narrowing each weight, costs: all from a few runs backwards.

For small errors e of a value the logits move by J e, and to second order the KL divergence of the softmax is
(J e)' F (J e) / 2 with F = diag(p) - p p', the Fisher information of the logits. For random u of covariance F the mean
of (u' J e)^2 is twice that, and one run backwards from u gives u' J for every value at once, split by who reads it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence, Set

import numpy as np
import torch
from numpy.typing import NDArray

from calibration.islands import Candidate
from qtools.core import numerics
from qtools.core.answers import PLACED, of_boxes, of_classes
from qtools.core.types import QuantPlan
from qtools.graph.capture import Program
from qtools.graph.side_by_side import side_by_side
from qtools.graph.slopes import Edge, Tape, traced
from reports import masks

Direction = Callable[[torch.Tensor, torch.Generator], torch.Tensor]
"""(result of one image, chance) -> a random vector like it."""
PROBES = 4
"""Random directions per image; with 16 images the shares of RepViT-M1.1's values are known to about a fifth."""


def costs(
    program: Program,
    plan: QuantPlan,
    candidates: Sequence[Candidate],
    images: Iterable[NDArray[np.float32]],
    draws: Callable[[int], Direction] | None = None,
) -> NDArray[np.float64]:
    """What the rounding that each candidate would spare costs by itself: squared mean root of KL, shape (candidates,).

    Args:
        program: The captured graph in float.
        plan: The grids of now.
        candidates: What could be raised.
        images: float32 arrays of shape (1, 3, height, width), all of one kind.
        draws: Number of an image -> what draws directions, where a distance other than the root of KL counts.
    """

    def of_image(at: tuple[int, NDArray[np.float32]]) -> NDArray[np.float64]:
        draw = direction if draws is None else draws(at[0])
        found: NDArray[np.float64] = traced(lambda: _of_image((program, plan), candidates, at, draw))
        return found

    roots = list(side_by_side(of_image, enumerate(images)))
    return np.asarray(np.square(np.mean(roots, 0)))


def roundings(
    program: Program,
    plan: QuantPlan,
    images: Iterable[NDArray[np.float32]],
    draws: Callable[[int], Direction] | None = None,
) -> dict[Edge, float]:
    """What the rounding of each value costs for each of its readers: squared mean root of KL.

    Readings of one value err together; what they cost together is split among them as what each costs alone.

    Args:
        program: The captured graph in float.
        plan: The grids of now.
        images: float32 arrays of shape (1, 3, height, width), all of one kind.
        draws: Number of an image -> what draws directions, where a distance other than the root of KL counts.

    Returns:
        (value id, id of an operation that reads it) -> cost, for values on a grid that count.
    """

    def of_image(at: tuple[int, NDArray[np.float32]]) -> dict[Edge, float]:
        draw = direction if draws is None else draws(at[0])
        found: dict[Edge, float] = traced(lambda: _edges_of_image(program, plan, at, draw))
        return found

    seen = list(side_by_side(of_image, enumerate(images)))
    edges = dict.fromkeys(edge for found in seen for edge in found)
    return {edge: float(np.mean([found.get(edge, 0.0) for found in seen])) ** 2 for edge in edges}


def weight_costs(
    program: Program, errors: Sequence[tuple[str, torch.Tensor]], images: Iterable[NDArray[np.float32]]
) -> NDArray[np.float64]:
    """What each change of a weight costs by itself: squared mean root of KL, shape (errors,).

    Args:
        program: The captured graph in float.
        errors: Value id of a weight that one operation reads, and what is added to it; a weight may come again.
        images: float32 arrays of shape (1, 3, height, width), all of one kind.
    """
    names = frozenset(name for name, _ in errors)

    def of_image(at: tuple[int, NDArray[np.float32]]) -> NDArray[np.float64]:
        found: NDArray[np.float64] = traced(lambda: _of_weights(program, errors, names, at))
        return found

    roots = list(side_by_side(of_image, enumerate(images)))
    return np.asarray(np.square(np.mean(roots, 0)))


def _of_weights(
    program: Program,
    errors: Sequence[tuple[str, torch.Tensor]],
    names: Set[str],
    at: tuple[int, NDArray[np.float32]],
) -> NDArray[np.float64]:
    """Root of KL per change on one image."""
    number, pixels = at
    tape = Tape(program, torch.from_numpy(pixels.copy()), names)
    chance = torch.Generator().manual_seed(number)
    squares = np.zeros(len(errors))
    for _ in range(PROBES):
        slopes = {name: slope for (name, _), slope in tape.slopes(direction(tape.result.detach(), chance)).items()}
        squares += [float((slopes[name] * error).sum()) ** 2 if name in slopes else 0.0 for name, error in errors]
    return np.asarray(np.sqrt(squares / PROBES / 2))


def _of_image(
    now: tuple[Program, QuantPlan],
    candidates: Sequence[Candidate],
    at: tuple[int, NDArray[np.float32]],
    draw: Direction,
) -> NDArray[np.float64]:
    """Root of KL per candidate on one image."""
    (program, plan), (number, pixels) = now, at
    tape = Tape(program, torch.from_numpy(pixels.copy()))
    errors = {name: _rounding(tape.values[name], name, plan) for each in candidates for name in each.made}
    chance = torch.Generator().manual_seed(number)
    squares = np.zeros(len(candidates))
    for _ in range(PROBES):
        slopes = tape.slopes(draw(tape.result.detach(), chance))
        moved: dict[tuple[str, str], float] = {
            (name, reader): float((slope * errors[name]).sum())
            for (name, reader), slope in slopes.items()
            if name in errors
        }
        squares += [_square(each, moved) for each in candidates]
    return np.asarray(np.sqrt(squares / PROBES / 2))


def _edges_of_image(
    program: Program, plan: QuantPlan, at: tuple[int, NDArray[np.float32]], draw: Direction
) -> dict[Edge, float]:
    """Root of KL per reading on one image."""
    number, pixels = at
    tape = Tape(program, torch.from_numpy(pixels.copy()))
    chance = torch.Generator().manual_seed(number)
    moved: dict[str, dict[str, list[float]]] = {}
    for _ in range(PROBES):
        for (name, reader), slope in tape.slopes(draw(tape.result.detach(), chance)).items():
            if plan.params(name) is not None:  # rounded again for each reading, as all errors at once take much memory
                error = _rounding(tape.values[name], name, plan)
                moved.setdefault(name, {}).setdefault(reader, []).append(float((slope * error).sum()))
    found: dict[Edge, float] = {}
    for name, readings in moved.items():
        alone = {reader: float(np.square(each).mean()) for reader, each in readings.items()}
        together = float(np.square(np.sum(list(readings.values()), 0)).mean())
        share = together / (sum(alone.values()) or 1.0)
        found |= {(name, reader): math.sqrt(square * share / 2) for reader, square in alone.items()}
    return found


def _square(candidate: Candidate, moved: dict[tuple[str, str], float]) -> float:
    """Readings of one value err together, values apart from each other."""
    return sum(sum(moved.get((name, reader), 0.0) for reader in candidate.readers) ** 2 for name in candidate.made)


def _rounding(value: torch.Tensor, name: str, plan: QuantPlan) -> torch.Tensor:
    params = plan.params(name)
    assert params is not None  # candidates are values with a grid
    return numerics.on_grid(value, params) - value


def direction(logits: torch.Tensor, chance: torch.Generator) -> torch.Tensor:
    """A random vector whose covariance is the Fisher information of the logits, shape (1, classes, ...).

    Where there are pixels or places, the divergence of the image is their mean. Numbers of boxes are means of normal
    distributions of variance 1, whose Fisher information is 1.
    """
    share = torch.softmax(of_classes(logits).double(), 1)
    normal = torch.randn(share.shape, generator=chance, dtype=torch.float64)
    drawn = share.sqrt() * normal - share * (share.sqrt() * normal).sum(1, keepdim=True)
    if logits.ndim == PLACED:
        drawn = torch.cat([drawn, torch.randn(of_boxes(logits).shape, generator=chance, dtype=torch.float64)], 1)
    return (drawn / math.sqrt(math.prod(logits.shape[2:]))).float()


def direction_of_masks(rows: torch.Tensor, chance: torch.Generator) -> torch.Tensor:
    """The same for masks before the sigmoid, shape (1, numbers): each pixel is of its mask or not.

    The Fisher information of such a number is p (1 - p). The distance is a mean over all masks' pixels
    (`reports.masks.pixel_divergence`), in which what masks state of themselves has no part.
    """
    maps = rows[:, : -masks.COUNT].double()
    share = torch.sigmoid(maps)
    drawn = (share * (1 - share) / maps.shape[1]).sqrt() * torch.randn(maps.shape, generator=chance, dtype=maps.dtype)
    return torch.cat([drawn.float(), torch.zeros_like(rows[:, -masks.COUNT :])], 1)
