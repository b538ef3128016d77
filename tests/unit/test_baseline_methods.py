"""Published methods on a small hybrid, each held to what is peculiar to it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from calibration.baseline import Baseline, Grids
from calibration.baselines import easyquant, fqvit, ptq4vit, qhyvit, repq
from calibration.baselines._network import layers
from calibration.baselines._quantizers import TwinSigned, TwinSoftmax, Uniform
from calibration.baselines._search import Judge, Seen, WeightedSquares, between, search
from calibration.baselines._units import Unit
from calibration.method import method, names
from calibration.widths import Widths
from qtools.core import numerics, plugins
from qtools.core.errors import ExitStatus, InputError
from qtools.core.types import OpKind, QuantScheme
from qtools.fuse.apply import fuse
from qtools.graph import execute
from qtools.graph.capture import Program, capture
from qtools.pipeline.config import RunConfig

BASELINES = plugins.names("calibration.baselines")


class Hybrid(nn.Module):
    """Feature maps, a bridge, one transformer block, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.SiLU())
        self.local = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.wide = nn.Conv2d(8, 16, 1)
        self.before, self.after = nn.LayerNorm(16), nn.LayerNorm(16)
        self.qkv, self.proj = nn.Linear(16, 48), nn.Linear(16, 16)
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)
        self.head = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = self.wide(F.silu(self.local(self.stem(x))))
        tokens = maps.flatten(2).transpose(1, 2)
        parts = self.qkv(self.before(tokens)).reshape(len(x), -1, 3, 2, 8).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(*parts.unbind(0))
        tokens = tokens + self.proj(mixed.transpose(1, 2).reshape(tokens.shape))
        return self.head((tokens + self.down(F.gelu(self.up(self.after(tokens))))).mean(1))


def _images(count: int, seed: int) -> torch.Tensor:
    return torch.randn(count, 3, 12, 12, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def program() -> Program:
    torch.manual_seed(7)
    network = Hybrid().eval()
    norm = network.stem[1]
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    for layer in (network.before, network.after):
        layer.weight.data = torch.exp(torch.randn(16))  # channels of unlike size
        layer.bias.data.normal_()
    with torch.no_grad():
        network.head.weight.mul_(4)
    fused, _ = fuse(network, _images(1, 0))
    return capture(fused, _images(1, 0), frozenset({OpKind.SILU, OpKind.ATTENTION}))


@pytest.fixture(autouse=True)
def few_factors(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (ptq4vit, qhyvit):
        monkeypatch.setattr(module, "FACTORS", tuple(k / 20 for k in range(1, 25)))


def _op(program: Program, module: str) -> str:
    return next(op.id for op in program.view.ops if op.module == module and op in layers(program.view))


@pytest.mark.parametrize("name", BASELINES)
def test_every_method_says_whether_it_ships(name: str) -> None:
    baseline = method(name).baseline
    assert isinstance(baseline, Baseline) and "arXiv" in baseline.paper and name in names()
    if baseline.simulate is None:
        assert RunConfig("m1_1", method=name).method == name
        return
    with pytest.raises(InputError) as refused:
        RunConfig("m1_1", method=name)
    assert baseline.not_deployable in refused.value.what and name in refused.value.what
    assert "make bench-ptq" in refused.value.next_step and "auto" in refused.value.next_step
    assert refused.value.exit_status is ExitStatus.BAD_INPUT


@pytest.mark.parametrize("name", [n for n in BASELINES if n != "easyquant"])
def test_eight_bits_come_near_and_four_do_not(program: Program, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    baseline = method(name).baseline
    assert baseline is not None and baseline.simulate is not None
    images = _images(8, 2)
    exact = execute.run(program, images)
    off = []
    for bits in (8, 4):
        network = baseline.simulate(program, [_images(8, 1)], Widths(bits, bits))
        off.append(float((network.logits(images) - exact).norm() / (exact - exact.mean(0)).norm()))
    assert 0.001 < off[0] < 0.5 and off[1] > 2 * off[0], "in spreads of the logits over images"


def test_ptq4vit_lays_twins_behind_softmax_and_functions(program: Program) -> None:
    view = program.view
    network = ptq4vit.simulate(program, [_images(8, 1)], Widths(6, 6))
    kinds = {read: type(quantizer) for read, quantizer in network._reads.items()}
    product = [op for op in view.ops if op.kind is OpKind.MATMUL][1]
    assert kinds[product.id, 0] is TwinSoftmax and kinds[product.id, 1] is Uniform
    assert kinds[_op(program, "down"), 0] is kinds[_op(program, "wide"), 0] is TwinSigned
    assert kinds[_op(program, "qkv"), 0] is Uniform


def test_ptq4vit_lets_no_image_decide_alone() -> None:
    """Three images of two rows each, one with weights ten thousand times the others'."""
    weight = torch.rand(6, 4, generator=torch.Generator().manual_seed(0))
    weight[2:4] *= 1e4
    even = ptq4vit._alike(weight, 2)
    assert even.reshape(3, 8).sum(1).tolist() == pytest.approx([8.0] * 3, rel=1e-5)
    assert torch.allclose(even[2:4] / even[2, 0], weight[2:4] / weight[2, 0], rtol=1e-5)


def test_fqvit_quantizes_every_result_that_is_computed(program: Program) -> None:
    view = program.view
    network = fqvit.simulate(program, [_images(8, 1)], Widths(8, 8))
    normed = fqvit.read_by_norms(view)
    assert len(normed) == 2
    for name in normed:
        grid = network._made[name]
        assert isinstance(grid, Uniform) and len(grid.scale) == 16
        steps = torch.log2(grid.scale / grid.scale.max())
        assert torch.allclose(steps, steps.round(), atol=1e-5) and float(steps.min()) >= -3
    computed = {op.outputs[0] for op in view.ops if op.kind in (OpKind.LINEAR, OpKind.ADD, OpKind.GELU, OpKind.MATMUL)}
    assert computed <= network._made.keys() and "x" in network._made


def test_repq_rewrites_without_changing_the_float_network(program: Program) -> None:
    normalized = repq.rewritable(program.view)
    assert len(normalized) == 2
    x = torch.randn(40, 16, generator=torch.Generator().manual_seed(3)) * torch.logspace(-1, 1, 16)
    moved = repq.rewritten(repq.by_quantiles([x], 8, 1))
    name = next(iter(normalized))
    changed = repq.behind(program, {name: (moved.factor, moved.shift)})
    (op,) = program.view.consumers[name]
    weight, bias = (program.constants[n].detach() for n in op.inputs[1:])
    exact = x @ weight.T + bias
    found = (x / moved.factor - moved.shift) @ changed[op.inputs[1]].T + changed[op.inputs[2]]
    assert float((found - exact).abs().max() / exact.abs().max()) < 1e-5


def test_repq_gives_the_codes_of_the_grid_per_channel() -> None:
    x = torch.randn(200, 4, generator=torch.Generator().manual_seed(3)) * torch.tensor([0.1, 1.0, 3.0, 9.0])
    scale, zero = torch.tensor([0.001, 0.01, 0.03, 0.09]), torch.tensor([-8.0, 0.0, 4.0, 12.0])  # their mean is whole
    per_channel = Uniform(scale, zero, -128, 127, 1)
    moved = repq.rewritten(per_channel)
    back = (moved(x) + moved.shift) * moved.factor
    assert torch.allclose(back, per_channel(x), atol=1e-5)


class Chain(nn.Module):
    """Two pointwise layers in front of an attention: the second subtracts two equal results of the first."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(2, 3, 1, bias=False), nn.Conv2d(3, 2, 1, bias=False)
        self.one.weight.data = torch.tensor([[1.0, 0], [1, 0], [0, 1]])[:, :, None, None]
        self.two.weight.data = torch.tensor([[1.0, -1, 1], [0.5, -0.5, -1]])[:, :, None, None]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.two(self.one(x)).flatten(2).transpose(1, 2)
        return F.scaled_dot_product_attention(tokens, tokens, tokens).mean(1)


def test_a_layer_inside_a_bridge_is_judged_at_the_chains_end() -> None:
    """The first channel is large and long-tailed, and all its error cancels behind the second layer."""
    program = capture(Chain().eval(), torch.randn(1, 2, 4, 4))
    view = program.view
    (unit,) = (unit for unit in qhyvit.units(view) if len(unit.ops) > 1)
    assert unit.end == unit.ops[1].outputs[0]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(16, 2, 4, 4, generator=generator)
    x = torch.stack([x[:, 0] ** 3, 4 * torch.sin(x[:, 1] * 9)], 1)
    values = dict(execute.observe(program, x))
    alive = {name: values.get(name, program.constants.get(name)) for name in unit.reads(view)}
    one = unit.ops[0]
    chosen = {}
    for asked in (unit, Unit((one,), one.outputs[0])):
        seen = [Seen(alive, values[asked.end])]
        chosen[asked.end] = qhyvit.together(program, asked, seen, Widths(8, 6))[one.id, 0]
    at_end, at_home = chosen.values()
    assert (at_end.family.note, at_end.factors.tolist()) != (at_home.family.note, at_home.factors.tolist())
    costs = {
        end: Judge(program, one, between(view, one, end), [Seen(alive, values[end])], WeightedSquares).costs(
            0, {}, [at_end.quantizer, at_home.quantizer], None
        )[:, 0]
        for end in (unit.end, one.outputs[0])
    }
    assert costs[unit.end][0] < costs[unit.end][1] and costs[one.outputs[0]][1] < costs[one.outputs[0]][0]


@pytest.mark.parametrize(("lowest", "overflows"), [(10.0, True), (0.0, False)])
def test_a_channel_that_is_all_positive_is_left_to_the_other_scheme(lowest: float, overflows: bool) -> None:
    program = capture(nn.Conv2d(2, 2, 1).eval(), torch.randn(1, 2, 4, 4))
    (op,) = layers(program.view)
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(8, 2, 4, 4, generator=generator)
    x = torch.stack([lowest + 2 * x[:, 0], x[:, 1] * 0.02], 1)
    alive = dict(program.constants) | {op.inputs[0]: x}
    seen = [Seen(alive, execute.run(program, x))]
    tried = qhyvit.families(program, op, seen, Widths(8, 8), own=True)
    judge = Judge(program, op, (), seen, WeightedSquares)
    chosen = search(judge, tried, 3)[0]
    assert (chosen.family.note == "channel, asymmetric") is not overflows
    assert chosen.family.note.endswith("symmetric"), chosen.family.note
    error = (chosen.quantizer(x) - x).abs().amax((0, 2, 3))
    assert float(error[0]) < 0.1, "the range is kept, whatever the scheme"


def test_easyquant_takes_the_factor_of_the_smallest_angle(program: Program) -> None:
    """The activation of one layer, in numpy with the planner's arithmetic."""
    op = next(op for op in program.view.ops if op.id == _op(program, "down"))
    batches = [_images(8, 1)]
    scheme, weights = QuantScheme.activation(4), QuantScheme.weight(4)
    found = easyquant.ranges(program, batches, Grids(scheme, lambda _: weights))
    values = {name: value.numpy() for name, value in execute.observe(program, batches[0])}
    x, exact = values[op.inputs[0]], values[op.id]
    weight, bias = (program.constants[n].detach().numpy() for n in op.inputs[1:])
    w = _on_grid(weight, numerics.weight_params(found.spans[op.inputs[1]], weights))

    def cosine(factor: float) -> float:
        params = numerics.params_from_range(float(x.min()) * factor, float(x.max()) * factor, scheme)
        y = _on_grid(x, params) @ w.T + bias
        return float((y * exact).sum() / np.linalg.norm(y) / np.linalg.norm(exact))

    factor = max(easyquant.FACTORS, key=cosine)
    assert found.ranges[op.inputs[0]] == pytest.approx((float(x.min()) * factor, float(x.max()) * factor), rel=1e-5)
    assert 0.5 < factor < 1, "the case tells factors apart"


def _on_grid(x: np.ndarray, params: object) -> np.ndarray:
    return numerics.dequantize(numerics.quantize(x, params), params)


def test_batches_of_any_number_are_one_set_of_images(program: Program) -> None:
    """A search over two batches finds what it finds over one."""
    images: Sequence[torch.Tensor] = [_images(8, 1)]
    op = next(op for op in layers(program.view) if op.id == _op(program, "up"))
    found = []
    for batches in (images, images[0].split(4)):
        seen = []
        for batch in batches:
            values = dict(execute.observe(program, batch))
            alive = {name: values.get(name, program.constants.get(name)) for name in op.inputs}
            seen.append(Seen(alive, values[op.id]))
        tried = ptq4vit.families(program, op, seen, Widths(5, 5))
        found.append(search(Judge(program, op, (), seen, WeightedSquares), tried, 3))
    assert torch.equal(found[0][0].factors, found[1][0].factors)
    assert torch.equal(found[0][1].factors, found[1][1].factors)
