"""Products that level floats in front of codes: every code of a file that has them is as simulated."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from calibration.hybrid.behind_floats import Levelled, candidates, fold
from exporters._levelled import laid_out
from exporters._onnx import session
from qtools.core.errors import CheckFailed
from qtools.core.levelled import factors_of, levelled
from qtools.pipeline.evaluate import float_weights_left
from tests.ops.conftest import Forward
from tests.processor import FOLLOWED


def _maps(m: Any, x: torch.Tensor) -> torch.Tensor:
    """A function in front of a depthwise layer, of a pointwise one, and of two at once; a sum in float at the end."""
    y = F.silu(m.stem(x))
    y = m.deep(y)
    y = F.gelu(m.a(F.silu(y)))
    y = m.b(y) + m.c(y)
    return m.head(F.hardswish(y).mean((2, 3)))


def _tokens(m: Any, x: torch.Tensor) -> torch.Tensor:
    """GELU of tokens in front of a linear layer, whose result attention reads with a norm of no affine map."""
    t = F.gelu(m.stem(x).flatten(2).transpose(1, 2))
    t = m.b(F.gelu(m.a(t)))
    return m.head(F.layer_norm(t, t.shape[-1:]))


PARTS = {
    "maps": lambda: {
        "stem": nn.Conv2d(3, 16, 3, stride=2, padding=1),
        "deep": nn.Conv2d(16, 16, 3, padding=1, groups=16),
        "a": nn.Conv2d(16, 24, 1),
        "b": nn.Conv2d(24, 12, 1),
        "c": nn.Conv2d(24, 12, 3, padding=1),
        "head": nn.Linear(12, 5),
    },
    "tokens": lambda: {
        "stem": nn.Conv2d(3, 24, 2, stride=2),
        "a": nn.Linear(24, 40),
        "b": nn.Linear(40, 24),
        "head": nn.Linear(24, 5),
    },
}
COMPUTE = {"maps": _maps, "tokens": _tokens}


def _twice(m: Any, x: torch.Tensor) -> torch.Tensor:
    """Two functions, and two moves, that compute the same: a converter may compute them once."""
    x = m.stem(x)
    y = m.a(F.silu(x)) * m.b(F.silu(x))
    q, k = (layer(y.flatten(2).transpose(1, 2)) for layer in (m.q, m.k))
    return m.head(F.gelu(q * k, approximate="tanh").mean(1))


def _twice_parts() -> dict[str, nn.Module]:
    pointwise = {"stem": nn.Conv2d(3, 12, 3, padding=1), "a": nn.Conv2d(12, 8, 1), "b": nn.Conv2d(12, 8, 3, padding=1)}
    return pointwise | {name: nn.Linear(8, 6) for name in "qk"} | {"head": nn.Linear(6, 5)}


def _built(bench: Any, name: str) -> Any:
    return bench.tiny(name, lambda: Forward(COMPUTE[name], **PARTS[name]()), (3, 14, 10))


@pytest.fixture(params=COMPUTE)
def network(onnx_bench: Any, request: pytest.FixtureRequest) -> Any:
    return _built(onnx_bench, request.param)


@pytest.fixture(params=COMPUTE)
def package(make_bench: Any, request: pytest.FixtureRequest) -> Any:
    return _built(make_bench("coreml"), request.param)


def _levelled(tiny: Any, rng: np.random.Generator, plan: Any) -> tuple[Any, list[str]]:
    """The same with every candidate levelled by drawn factors."""
    paths = candidates(tiny.program.view, plan)
    readers = {path.values[0]: len(path.readers) for path in paths}
    bound = tiny.target.levelled(tiny.lowered, readers).binding
    paths = tuple(path for path in paths if levelled(path.values[0]) in bound)
    stored = tiny.target.spec.scale_dtype
    chosen = [Levelled(p, (2.0 ** rng.uniform(-3, 3, p.channels)).astype(stored), 0.0, 0.0) for p in paths]
    weights = {name: tensor.numpy() for name, tensor in tiny.program.constants.items()}
    new = {name: torch.from_numpy(array) for name, array in fold(chosen, tiny.program.view, weights).items()}
    values = [path.values[0] for path in paths]
    program = tiny.program.levelled(values).with_constants(new)
    lowered = tiny.target.levelled(tiny.lowered, {value: readers[value] for value in values})
    return dataclasses.replace(tiny, program=program, lowered=lowered), values


@pytest.mark.parametrize("seed", range(4))
def test_every_code_is_as_simulated(onnx_bench: Any, network: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    tiny, values = _levelled(network, rng, network.random_plan(rng, widest=1.0))
    assert len(values) >= 3
    plan = tiny.random_plan(rng, widest=1.0)
    assert all(plan.params(levelled(value)) is not None and plan.params(value) is None for value in values)
    counts = tiny.compare(plan, tiny.images(plan, rng, 3))
    assert counts.keys() >= {levelled(value) for value in values}
    codes = {name: count for name, count in counts.items() if plan.params(name) is not None}
    assert all(count.worst <= 1 for count in codes.values())
    if FOLLOWED:
        onnx_bench.assert_equal(codes)


@pytest.mark.parametrize("place", range(6))
def test_a_layer_behind_may_yet_run_in_float(onnx_bench: Any, network: Any, place: int) -> None:
    """As when somebody wants its operand more precisely: its weights undo the factors in the file too."""
    rng = np.random.default_rng(place)
    tiny, values = _levelled(network, rng, network.random_plan(rng, widest=1.0))
    readers = [reader.id for value in values for reader in tiny.program.view.consumers[levelled(value)]]
    floats = frozenset({readers[place % len(readers)]})
    plan = tiny.plan(lambda: onnx_bench.random_range(rng, 1.0), floats=floats)
    assert floats <= plan.float_ops.keys()
    counts = tiny.compare(plan, tiny.images(plan, rng, 3))
    codes = {name: count for name, count in counts.items() if plan.params(name) is not None}
    assert codes and all(count.worst <= 1 for count in codes.values())
    if FOLLOWED:
        onnx_bench.assert_equal(codes)


def test_layers_behind_still_run_in_integers(network: Any) -> None:
    rng = np.random.default_rng(7)
    plan = network.random_plan(rng, widest=1.0)
    before = session.operators(onnx.load(network.write(plan)))
    tiny, values = _levelled(network, rng, plan)
    after = session.operators(onnx.load(tiny.write(tiny.random_plan(rng, widest=1.0))))
    assert after["Mul"] == before["Mul"] + len(values)
    for kernel in ("QLinearConv", "QGemm", "MatMulIntegerToFloat", "Conv", "Gemm"):
        assert after[kernel] == before[kernel]


@pytest.mark.parametrize("seed", range(3))
def test_every_code_of_a_package_is_as_simulated(package: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    tiny, values = _levelled(package, rng, package.random_plan(rng, widest=1.0))
    plan = tiny.random_plan(rng, widest=1.0)
    counts = tiny.compare(plan, tiny.images(plan, rng, 3), "float32")
    assert len(values) >= 3 and counts.keys() >= {levelled(value) for value in values}
    codes = [counts[levelled(value)] for value in values]
    assert all(count.worst <= 1 for count in codes)
    assert sum(count.different for count in codes) <= 1e-3 * sum(count.total for count in codes)
    assert counts["<output>"].worst < 1e-4


@pytest.mark.parametrize("target", ["onnx", "coreml"])
def test_what_a_converter_computes_once_is_levelled_for_all_its_readers_or_not_at_all(
    make_bench: Any, target: str
) -> None:
    """A factor in front of a layer whose weights do not undo it would be an error in all that follows."""
    tiny = make_bench(target).tiny("twice", lambda: Forward(_twice, **_twice_parts()), (3, 8, 8))
    rng = np.random.default_rng(0)
    found = candidates(tiny.program.view, tiny.random_plan(rng, widest=1.0))
    assert any(path.values[0].startswith("silu") for path in found)
    made, _ = _levelled(tiny, rng, tiny.random_plan(rng, widest=1.0))
    plan = made.random_plan(rng, widest=1.0)
    counts = made.compare(plan, made.images(plan, rng, 2), *(["float32"] if target == "coreml" else []))
    codes = [count for name, count in counts.items() if plan.params(name) is not None and name != "<output>"]
    assert len(codes) >= 3 and all(count.worst <= 1 for count in codes)
    # layers that stay in float have weights of float16 in a package; with factors too many every code would differ
    assert sum(count.different for count in codes) <= 1e-2 * sum(count.total for count in codes)


def _wide(m: Any, x: torch.Tensor) -> torch.Tensor:
    """A function that the converter takes apart, of more channels than may stay in float without a reason."""
    return m.head(m.b(F.gelu(m.a(m.stem(x).flatten(2).transpose(1, 2)), approximate="tanh")).mean(1))


def test_factors_of_many_channels_have_a_reason(make_bench: Any) -> None:
    parts = {"stem": nn.Conv2d(3, 8, 2, stride=2), "a": nn.Linear(8, 600), "b": nn.Linear(600, 8)}
    tiny = make_bench("coreml").tiny("wide", lambda: Forward(_wide, **parts, head=nn.Linear(8, 5)), (3, 8, 8))
    rng = np.random.default_rng(0)
    made, values = _levelled(tiny, rng, tiny.random_plan(rng, widest=1.0))
    assert "gelu" in values
    plan, path = made.random_plan(rng, widest=1.0), made.folder / "wide.mlpackage"
    written = made.target.apply(made.lowered, plan, made.program, path, {"io": "float32", "metadata": {}})
    assert factors_of("gelu") in written.float_constants
    assert not float_weights_left(written.float_constants, made.program.view, plan)


@pytest.mark.parametrize("place", range(6))
def test_a_layer_of_a_package_may_yet_run_in_float(package: Any, place: int) -> None:
    """Its weights, in float16, undo the factors there too: as near to the simulation as without the products."""
    rng = np.random.default_rng(place)
    tiny, values = _levelled(package, rng, package.random_plan(rng, widest=1.0))
    readers = [reader.id for value in values for reader in tiny.program.view.consumers[levelled(value)]]
    floats = frozenset({readers[place % len(readers)]})
    off = []
    for made in (package, tiny):
        plan = made.plan(lambda: (-2.0, 2.0), floats=floats)
        assert floats <= plan.float_ops.keys()
        counts = made.compare(plan, made.images(plan, np.random.default_rng(place), 3), "float32")
        off.append(sum(c.different / c.total for name, c in counts.items() if plan.params(name) is not None))
    assert off[1] <= 2 * off[0] + 0.01


@pytest.mark.parametrize("target", ["onnx", "coreml"])
def test_who_is_not_told_of_the_tensors_gets_no_file(make_bench: Any, target: str, tmp_path: Any) -> None:
    """A binding of the network without the products has no place for their codes: refused, nothing written."""
    network, rng = _built(make_bench(target), "maps"), np.random.default_rng(8)
    tiny, _ = _levelled(network, rng, network.random_plan(rng))
    other = dataclasses.replace(tiny, lowered=network.lowered, folder=tmp_path)
    with pytest.raises(CheckFailed, match="no tensor for: .*_levelled"):
        other.write(tiny.random_plan(rng))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("factors", "shape", "tensor", "last", "expected"),
    [
        ((1, 6, 1, 1), (1, 6, 4, 5), (1, 6, 4, 5), False, (1, 6, 1, 1)),
        ((1, 6, 1, 1), (1, 6, 4, 5), (1, 4, 5, 6), True, (6,)),
        ((1, 6, 1, 1), (1, 6, 4, 5), (20, 6), True, (6,)),
        ((1, 6, 1, 1), (1, 6, 4, 5), (6, 20), False, (6, 1)),
        ((1, 6, 1, 1), (1, 6, 6, 1), (1, 6, 6), False, (1, 6, 1)),
        ((1, 6, 1, 1), (1, 6, 4, 5), (1, 1, 120), False, (1, 1, 120)),
        ((1, 1, 6), (1, 6, 6), (6, 6), False, (1, 6)),
        ((1, 1, 6), (1, 20, 6), (1, 4, 5, 6), False, (1, 1, 1, 6)),
    ],
)
def test_factors_lie_where_a_tensor_has_its_channels(
    factors: tuple[int, ...], shape: tuple[int, ...], tensor: tuple[int, ...], last: bool, expected: tuple[int, ...]
) -> None:
    rng = np.random.default_rng(0)
    own, value = rng.normal(size=factors).astype(np.float32), rng.normal(size=shape).astype(np.float32)
    made = laid_out(own, shape, (tensor, last))
    assert made.shape == expected
    held = value.transpose(0, 2, 3, 1) if last else value
    product = held.reshape(tensor) * made
    exact = value * own
    np.testing.assert_array_equal(product.ravel(), (exact.transpose(0, 2, 3, 1) if last else exact).ravel())
