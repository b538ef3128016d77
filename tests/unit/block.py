"""A block whose operations may be on codes or in float, a target with times made up, and what may be moved there."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from calibration.plan import Recipe, plan
from calibration.sides import Edge, Sides
from exporters._tflite.rules import SPEC as TFLITE
from qtools.core.target import Between, LayerTime
from qtools.core.types import OpKind, QuantPlan, TensorStats
from qtools.graph.capture import Program, capture

NONE = np.empty(0, np.float32)
SEEN = TensorStats(10, -4.0, 4.0, 0.0, NONE, NONE, NONE, np.ones(4, np.int64))
TIMES = Between(
    {OpKind.GELU: (80.0, 50.0), OpKind.ADD: (20.0, 18.0), OpKind.DEPTHWISE_CONV: (10.0, 12.0), OpKind.RELU: (4.0, 5.0)},
    conversion=4.0,
    call=7.0,
    table=13.0,
    dynamic=(1.5, 3.0),
    layer=LayerTime(1.0, 4.0),
    plain=LayerTime(3.0, 4.0),
    other=(4.0, 30.0),
    given=25.0,
    source="made up",
)
SPEC = dataclasses.replace(TFLITE, between=TIMES)
SIZE = 8 * 6 * 6
"""Elements of every map in `Block`."""


class Block(nn.Module):
    """GELU between two layers, a sum with a depthwise layer behind it, and a ReLU that its layer takes in."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Conv2d(i, 8, 1) for i in (3, 8, 8, 8))
        self.deep = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.b(F.gelu(self.a(x)))
        y = self.deep(y + self.c(y))
        return self.head(torch.relu(self.d(y)).mean((2, 3)))


def _block() -> Program:
    torch.manual_seed(1)
    return capture(Block().eval(), torch.randn(1, 3, 6, 6), TFLITE.expand)


PROGRAM = _block()


def planned(program: Program, spec: Any = SPEC, **wishes: Any) -> QuantPlan:
    view = program.view
    recipe = Recipe("block", 8, 8, "minmax", lambda s, scheme: (s.lo, s.hi), **wishes)
    weights = {name: tensor.numpy() for name, tensor in program.constants.items()}
    return plan(view, spec, dict.fromkeys(view.activations, SEEN), weights, recipe, {})


def sides(program: Program, *, layers: bool = False, spec: Any = SPEC) -> Sides:
    return Sides(program.view, spec, planned(program, spec), layers=layers)


def by_kind(program: Program, *kinds: OpKind) -> frozenset[str]:
    return frozenset(op.id for op in program.view.ops if op.kind in kinds)


def costs(program: Program, seed: int) -> dict[Edge, float]:
    """Something for every reading of what has a grid."""
    chance, view = np.random.default_rng(seed), program.view
    on_grid = [name for name in view.activations if planned(program).params(name)]
    return {(name, op.id): float(chance.exponential()) for name in on_grid for op in view.consumers[name]}


def whole(program: Program) -> float:
    """All on codes, by hand: five layers, GELU, a sum, the depthwise layer, a ReLU; the mean as what is in float."""
    layers = sum((i * 8 + 4 * 8) * 36 for i in (3, 8, 8, 8)) + 8 * 5 + 4 * 5
    return layers + SIZE * (80 + 20 + 9 * 10 + 4) + 30 * 8
