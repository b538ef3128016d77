"""What precision islands take in LiteRT: the prices in exporters/_tflite/rules.py are ratios within this group."""

from __future__ import annotations

from typing import Any

import pytest

from qtools.core.types import GraphView, OpKind

pytestmark = pytest.mark.bench


def _sums(view: GraphView) -> set[str]:
    return {op.id for op in view.ops if op.kind is OpKind.ADD}


def _pointwise(view: GraphView) -> set[str]:
    """The layers that do most of stage 2's work."""
    return {op.id for op in view.ops if op.kind is OpKind.CONV and op.module.startswith("stages.2.blocks")}


WAYS = {
    "int8": lambda view: {},
    "sums in float": lambda view: {"floats": _sums(view)},
    "sums in 16 bits": lambda view: {"wide": _sums(view)},
    "layers in float": lambda view: {"floats": _pointwise(view)},
    "layers on float activations": lambda view: {"dynamic": _pointwise(view)},
    "layers in 16 bits": lambda view: {"wide": _pointwise(view)},
}


@pytest.mark.benchmark(group="precision islands of RepViT-M1.1 in LiteRT, 1 thread")
@pytest.mark.parametrize("way", WAYS)
def test_islands(bench: Any, benchmark: Any, way: str) -> None:
    runner = bench.raised(**WAYS[way](bench.program.view))
    benchmark.pedantic(runner.invoke, rounds=20, warmup_rounds=3)
