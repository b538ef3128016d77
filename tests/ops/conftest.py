"""A bench for tiny models: converted once, then given many plans, each run by the simulator and by the artifact."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Set
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from calibration import plan as planning
from calibration.check import check_plan
from qtools.core import numerics, plugins
from qtools.core.protocols import Lowered, Runner, Target
from qtools.core.types import QuantParams, QuantPlan, QuantScheme, TensorStats
from qtools.graph.capture import Program, capture
from qtools.simulate.run import open_simulator
from tests.ops import good_networks
from tests.ops.good_networks import Good

INT8 = QuantScheme.activation(8)
_NONE = np.empty(0, np.float32)
_ANY = TensorStats(1, -1.0, 1.0, 0.0, _NONE, _NONE, _NONE, np.ones(1, np.int64))
Range = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Count:
    """How one value compares.

    Attributes:
        different: Elements whose code, or float, is not equal.
        total: Elements compared.
        worst: Largest difference.
    """

    different: int
    total: int
    worst: float

    def __add__(self, other: Count) -> Count:
        return Count(self.different + other.different, self.total + other.total, max(self.worst, other.worst))


class Forward(nn.Module):
    """A module out of a function of (its submodules, x)."""

    def __init__(self, compute: Callable[[Any, torch.Tensor], torch.Tensor], **parts: nn.Module) -> None:
        super().__init__()
        self.compute = compute
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.compute(self, x)


@dataclasses.dataclass(frozen=True)
class Tiny:
    """A converted model, and what can be done to it."""

    target: Target
    program: Program
    lowered: Lowered
    folder: Path

    def with_constants(self, constants: Mapping[str, NDArray[np.float32]]) -> Tiny:
        """Other weights in the same artifact: weights are read from the program when a plan is applied."""
        changed = {n: torch.from_numpy(np.ascontiguousarray(a, np.float32)) for n, a in constants.items()}
        program = dataclasses.replace(self.program, constants={**self.program.constants, **changed})
        return dataclasses.replace(self, program=program)

    def random_weights(self, rng: np.random.Generator) -> Tiny:
        """Normal weights of random size; now and then a dead channel, or one number far above the rest."""
        made = {}
        for name in self.lowered.binding:
            if name in self.program.constants:
                shape = tuple(self.program.constants[name].shape)
                array = rng.normal(size=shape) * 2.0 ** rng.uniform(-3, 1)
                kind = rng.integers(6)
                if kind == 0:
                    array[rng.integers(shape[0])] = 0
                elif kind == 1:
                    array.flat[rng.integers(array.size)] *= 50
                made[name] = array.astype(np.float32)
        return self.with_constants(made)

    def plan(
        self,
        ranges: Callable[[], Range] | Mapping[str, Range],
        *,
        pixels: bool = False,
        bits: int = 8,
        **recipe_fields: Any,
    ) -> QuantPlan:
        """A checked plan with a range drawn for each tied group, or given for each value; that of pixels is known.

        `recipe_fields`: what else the Recipe says.
        """
        known = dict.fromkeys(self.program.view.inputs, (0.0, 255.0)) if pixels else {}
        drawn = ranges if callable(ranges) else None
        recipe = planning.Recipe(
            "tiny", bits, bits, "drawn", lambda stats, scheme: drawn() if drawn else (stats.lo, stats.hi), known
        )
        recipe = dataclasses.replace(recipe, **recipe_fields)
        view, spec = self.program.view, self.target.spec
        stats = dict.fromkeys(view.activations, _ANY)
        if isinstance(ranges, Mapping):
            stats = {n: dataclasses.replace(_ANY, lo=ranges[n][0], hi=ranges[n][1]) for n in view.activations}
        weights = {n: t.numpy() for n, t in self.program.constants.items()}
        plan = planning.plan(view, spec, stats, weights, recipe, self.lowered.unbound)
        check_plan(view, spec, plan)
        return plan

    def random_plan(self, rng: np.random.Generator, widest: float = 4.0, wide: Set[str] = frozenset()) -> QuantPlan:
        """Grids whose scales differ by up to 2^(2 * widest), a third of them with the zero point at an end."""
        return self.plan(lambda: random_range(rng, widest), wide=wide)

    def images(self, plan: QuantPlan, rng: np.random.Generator, count: int = 2) -> NDArray[np.float32]:
        """Inputs that use every code of the input's grid alike, both ends included."""
        name = self.program.view.inputs[0]
        shape = (count, *self.program.view.values[name].shape[1:])
        params = plan.params(name)
        if params is None:
            return rng.normal(size=shape).astype(np.float32)
        codes = rng.integers(params.scheme.qmin, params.scheme.qmax + 1, size=shape)
        codes.flat[:2] = params.scheme.qmin, params.scheme.qmax
        return np.asarray(numerics.dequantize(codes.astype(np.int32), params))

    def write(self, plan: QuantPlan, io: str = "int8", name: str = "") -> Path:
        """The artifact of a plan."""
        path = self.folder / (name or f"model{self.target.spec.suffix}")
        self.target.apply(self.lowered, plan, self.program, path, {"io": io, "metadata": {"model": "tiny"}})
        return path

    def open(self, path: Path, kernels: str = "") -> Runner:
        """The artifact opened, inner values included."""
        runner: Runner = self.target.open(path, kernels or self.target.kernels[0], 1, self.program, self.lowered)
        return runner

    def compare(self, plan: QuantPlan, images: NDArray[np.float32], io: str = "int8") -> dict[str, Count]:
        """Simulated against real, at every bound value and at the artifact's own output."""
        runner = self.open(self.write(plan, io))
        simulator = open_simulator(self.program, plan, self.target.simulator)
        counts: dict[str, Count] = {}

        def tally(name: str, expected: NDArray[Any], actual: NDArray[Any]) -> None:
            assert expected.size == actual.size, name
            away = np.abs(expected.reshape(-1).astype(np.float64) - actual.reshape(-1).astype(np.float64))
            counts[name] = counts.get(name, Count(0, 0, 0)) + Count(int((away > 0).sum()), away.size, float(away.max()))

        for image in images:
            simulated = {n: t.numpy() for n, t in simulator.observe(torch.from_numpy(image[None]))}
            for name, real in runner.values(image).items():
                # where the artifact shows codes of a value that a float operation made, codes are compared
                tally(
                    name,
                    simulator.as_codes(name, simulated[name]) if real.dtype.kind in "iu" else simulated[name],
                    real,
                )
            last = simulator.codes(torch.from_numpy(image[None]))
            if io != "int8":
                last = simulator.logits(last)
            # a spatial output leaves the artifact flattened: the order is the program's
            tally("<output>", last.numpy(), runner.codes(image[None]))
        return counts

    def assert_as_simulated(self, seed: int = 0) -> QuantPlan:
        """Random weights, grids and images: not one code may differ. Returns the plan."""
        rng = np.random.default_rng(seed)
        changed = self.random_weights(rng)
        plan = changed.random_plan(rng, widest=1.0)
        ends = ["float32"] if self.target.spec.float_results else []
        counts = changed.compare(plan, changed.images(plan, rng, 3), *ends)
        assert len(counts) > 5
        assert_equal(counts)
        return plan


def random_range(rng: np.random.Generator, widest: float) -> Range:
    """An interval with zero inside or at an end, of any width; every fourth a power of two, for exact ties."""
    exponent = rng.uniform(-widest, widest)
    width = float(2.0 ** (exponent if rng.integers(4) else round(exponent)))
    kind = rng.integers(7)
    if kind == 0:
        return 0.0, width
    if kind == 1:
        return -width, 0.0
    if kind == 2:
        return -width * 128 / 255, width * 127 / 255
    share = float(rng.uniform(0.02, 0.98))
    return -width * share, width * (1 - share)


def assert_equal(counts: Mapping[str, Count]) -> None:
    """Not one code may differ; says where and how many."""
    bad = {name: count for name, count in counts.items() if count.different}
    assert not bad, "simulated and real differ: " + ", ".join(
        f"{name} {c.different} of {c.total} by up to {c.worst:g}" for name, c in bad.items()
    )


def grid(scale: float, zero_point: int) -> QuantParams:
    """An int8 activation grid."""
    return QuantParams(INT8, (numerics.float32(scale),), (zero_point,))


class Bench:
    """Makes and keeps Tiny models."""

    Forward = Forward
    Count = Count
    grid = staticmethod(grid)
    random_range = staticmethod(random_range)
    assert_equal = staticmethod(assert_equal)

    def __init__(self, folder: Path, target: str = "tflite", **options: str) -> None:
        torch.set_num_threads(1)
        found: Target = plugins.find("exporters", target, "TARGET")
        self.target = found.configured(options)
        self._folder = folder
        self._kept: dict[str, Tiny] = {}

    def tiny(self, name: str, build: Callable[[], nn.Module], shape: tuple[int, ...], *, pixels: bool = False) -> Tiny:
        """The model of this name, converted at the first call; its input is normal noise, or pixels."""
        if name not in self._kept:
            torch.manual_seed(len(name))
            noise = [torch.randn(1, *shape) for _ in range(2)]
            examples = [((60 * x + 128).round().clamp(0, 255) if pixels else x).numpy() for x in noise]
            spec, example = self.target.spec, torch.from_numpy(examples[0])
            program = capture(build().eval(), example, spec.expand, scale_queries=spec.scales_queries)
            folder = self._folder / name
            folder.mkdir()
            self._kept[name] = Tiny(self.target, program, self.target.lower(program, examples, folder), folder)
        return self._kept[name]


@pytest.fixture(scope="session")
def make_bench(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Bench]:
    """`make_bench(target, **options)`: a bench for any target."""
    return lambda target, **options: Bench(tmp_path_factory.mktemp(f"ops-{target}"), target, **options)


@pytest.fixture(scope="session", params=["uint8", "int8"])
def onnx_bench(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Bench:
    return Bench(tmp_path_factory.mktemp(f"ops-onnx-{request.param}"), "onnx", activations=request.param)


@pytest.fixture(scope="session")
def onnx_qnn_bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("ops-onnx-qnn"), "onnx_qnn")


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("ops"))


@pytest.fixture(scope="module")
def repvit() -> Good:
    return good_networks.repvit()


@pytest.fixture(scope="module")
def mobilevit() -> Good:
    return good_networks.mobilevit()


@pytest.fixture(scope="module")
def vit() -> Good:
    return good_networks.vit()


@pytest.fixture
def network(request: pytest.FixtureRequest) -> Good:
    """The one that `good_networks.on` names."""
    found: Good = request.getfixturevalue(request.param)
    return found
