"""The evaluator against PyTorch: every operation, whole networks, packages made by coremltools itself."""

from __future__ import annotations

import contextlib
import io
import math
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from exporters._coreml.evaluator import Evaluator
from exporters._coreml.sdk import coremltools
from exporters._quiet import quiet
from qtools.core.errors import MissingPlatform
from qtools.graph.capture import capture

ct = coremltools()
with quiet():
    import coremltools.optimize as cto
    from coremltools.converters.mil import Builder as Mil

IMAGE = (1, 6, 12, 10)
TOKENS = (1, 9, 8)


class Apply(nn.Module):
    """A function as a module, with a weight of its own."""

    def __init__(self, function: Callable[..., torch.Tensor], shape: tuple[int, ...]) -> None:
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(3)) * 0.4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x, self.weight)


def package(module: nn.Module, shape: tuple[int, ...], path: Path, **options: Any) -> Path:
    """Converted by coremltools from a plain torch.export, saved."""
    exported = torch.export.export(module.eval(), (torch.zeros(shape),)).run_decompositions({})
    settings = {"minimum_deployment_target": ct.target.iOS17, "compute_precision": ct.precision.FLOAT32} | options
    with quiet(), warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        model = ct.convert(exported, inputs=[ct.TensorType("image", shape)], skip_model_load=True, **settings)
        model.save(str(path))
    return path


def example(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 2


def relative_error(path: Path, module: nn.Module, shape: tuple[int, ...], rounding: str = "float32") -> float:
    x = example(shape)
    with torch.no_grad():
        expected = module.eval()(x).numpy()
    (actual,) = Evaluator(path, rounding).run({"image": x.numpy()}).values()
    assert actual.shape == expected.shape
    return float(np.abs(actual - expected).max() / max(np.abs(expected).max(), 1e-6))


LAYERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "conv": (nn.Conv2d(6, 8, 3, padding=1), IMAGE),
    "conv_stride": (nn.Conv2d(6, 8, 3, stride=2, padding=1, bias=False), IMAGE),
    "conv_groups": (nn.Conv2d(6, 12, 3, padding=1, groups=3), IMAGE),
    "conv_depthwise": (nn.Conv2d(6, 6, 7, padding=3, groups=6), IMAGE),
    "conv_dilated": (nn.Conv2d(6, 8, 3, padding=2, dilation=2), IMAGE),
    "conv_rectangular": (nn.Conv2d(6, 8, (3, 1), stride=(1, 2), padding=(1, 0)), IMAGE),
    "conv_same": (nn.Conv2d(6, 8, 4, padding="same"), IMAGE),
    "conv_padded_unequally": (nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(6, 8, 3, stride=2)), IMAGE),
    "conv1d": (nn.Conv1d(9, 4, 3, padding=1), TOKENS),
    "linear": (nn.Linear(8, 5), TOKENS),
    "linear_no_bias": (nn.Linear(8, 5, bias=False), TOKENS),
    "batch_norm": (nn.BatchNorm2d(6), IMAGE),
    "layer_norm": (nn.LayerNorm(8), TOKENS),
    "layer_norm_image": (nn.LayerNorm([6, 12, 10]), IMAGE),
    "group_norm": (nn.GroupNorm(2, 6), IMAGE),
    "avg_pool": (nn.AvgPool2d(3, 2, 1), IMAGE),
    "avg_pool_exclude": (nn.AvgPool2d(3, 1, 1, count_include_pad=False), IMAGE),
    "avg_pool_ceil": (nn.AvgPool2d(3, 2, ceil_mode=True), IMAGE),
    "max_pool": (nn.MaxPool2d(3, 2, 1), IMAGE),
    "global_pool": (nn.AdaptiveAvgPool2d(1), IMAGE),
    "relu": (nn.ReLU(), IMAGE),
    "relu6": (nn.ReLU6(), IMAGE),
    "gelu": (nn.GELU(), IMAGE),
    "silu": (nn.SiLU(), IMAGE),
    "sigmoid": (nn.Sigmoid(), IMAGE),
    "tanh": (nn.Tanh(), IMAGE),
    "hard_sigmoid": (nn.Hardsigmoid(), IMAGE),
    "hard_swish": (nn.Hardswish(), IMAGE),
    "leaky_relu": (nn.LeakyReLU(0.1), IMAGE),
    "elu": (nn.ELU(), IMAGE),
    "softmax": (nn.Softmax(-1), TOKENS),
    "upsample_nearest": (nn.Upsample(scale_factor=2, mode="nearest"), IMAGE),
    "upsample_bilinear": (nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False), IMAGE),
    "upsample_corners": (nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True), IMAGE),
    "pixel_shuffle": (nn.PixelShuffle(2), (1, 8, 5, 3)),
}
FUNCTIONS: dict[str, tuple[Callable[..., torch.Tensor], tuple[int, ...], tuple[int, ...]]] = {
    "add": (lambda x, w: x + w, IMAGE, (6, 1, 1)),
    "add_self": (lambda x, w: x + x * w, IMAGE, (1,)),
    "sub": (lambda x, w: w - x, IMAGE, (6, 1, 1)),
    "mul": (lambda x, w: x * w, IMAGE, (1, 6, 1, 1)),
    "div": (lambda x, w: x / (w.abs() + 1), IMAGE, (6, 1, 1)),
    "div_computed": (lambda x, w: x / (x.sigmoid() + w.abs()), IMAGE, (6, 1, 1)),
    "matmul": (lambda x, w: x @ w, TOKENS, (8, 4)),
    "matmul_transposed": (lambda x, w: (x * w) @ x.transpose(1, 2), TOKENS, (8,)),
    "bmm": (lambda x, w: torch.bmm(x * w, x.permute(0, 2, 1)), TOKENS, (8,)),
    "einsum": (lambda x, w: torch.einsum("bnc,dc->bnd", x, w), TOKENS, (5, 8)),
    "mean": (lambda x, w: (x * w).mean((2, 3)), IMAGE, (1,)),
    "mean_keep": (lambda x, w: (x * w).mean((2, 3), keepdim=True), IMAGE, (1,)),
    "sum": (lambda x, w: (x * w).sum(1), IMAGE, (1,)),
    "amax": (lambda x, w: (x * w).amax(1, keepdim=True), IMAGE, (1,)),
    "variance": (lambda x, w: (x * w).var(-1, keepdim=True, unbiased=False), TOKENS, (1,)),
    "reshape": (lambda x, w: (x * w).reshape(1, 2, 3, 120), IMAGE, (1,)),
    "flatten": (lambda x, w: (x * w).flatten(1), IMAGE, (1,)),
    "transpose": (lambda x, w: (x * w).permute(0, 2, 3, 1), IMAGE, (1,)),
    "unsqueeze": (lambda x, w: (x * w).unsqueeze(1), IMAGE, (1,)),
    "squeeze": (lambda x, w: (x * w).mean(1, keepdim=True).squeeze(1), IMAGE, (1,)),
    "cat": (lambda x, w: torch.cat((x, x * w), 1), IMAGE, (1,)),
    "cat_token": (lambda x, w: torch.cat((w.expand(1, 1, 8), x), 1), TOKENS, (1, 1, 8)),
    "stack": (lambda x, w: torch.stack((x, x * w), 2), IMAGE, (1,)),
    "split": (lambda x, w: torch.split(x * w, [1, 2, 3], 1)[2], IMAGE, (1,)),
    "chunk": (lambda x, w: (x * w).chunk(2, 1)[1], IMAGE, (1,)),
    "unbind": (lambda x, w: (x * w).reshape(1, 9, 2, 4).unbind(2)[1], TOKENS, (1,)),
    "slice": (lambda x, w: (x * w)[:, 1:5:2, 3:, :-2], IMAGE, (1,)),
    "select": (lambda x, w: (x * w)[:, 2], IMAGE, (1,)),
    "pad": (lambda x, w: F.pad(x * w, (1, 2, 0, 3)), IMAGE, (1,)),
    "pad_value": (lambda x, w: F.pad(x * w, (1, 2), value=0.5), IMAGE, (1,)),
    "pad_reflect": (lambda x, w: F.pad(x * w, (1, 2, 2, 1), mode="reflect"), IMAGE, (1,)),
    "expand": (lambda x, w: (x * w).mean(1, keepdim=True).expand(1, 6, 12, 10), IMAGE, (1,)),
    "attention": (lambda x, w: F.scaled_dot_product_attention(x[:, None], x[:, None] * w, x[:, None]), TOKENS, (8,)),
    "clamp": (lambda x, w: (x * w).clamp(-0.2, 0.3), IMAGE, (1,)),
    "sqrt": (lambda x, w: ((x * w) ** 2 + 0.1).sqrt(), IMAGE, (1,)),
    "rsqrt": (lambda x, w: ((x * w) ** 2 + 0.1).rsqrt(), IMAGE, (1,)),
    "exp": (lambda x, w: (x * w).exp(), IMAGE, (1,)),
    "erf": (lambda x, w: torch.erf(x * w), IMAGE, (1,)),
    "abs": (lambda x, w: (x * w).abs(), IMAGE, (1,)),
    "roll": (lambda x, w: torch.roll(x * w, (1, -2), (2, 3)), IMAGE, (1,)),
    "normalize": (lambda x, w: F.normalize(x * w, dim=-1), TOKENS, (1,)),
}
CASES = dict(LAYERS) | {name: (Apply(function, weight), shape) for name, (function, shape, weight) in FUNCTIONS.items()}


def with_statistics(module: nn.Module) -> nn.Module:
    """BatchNorm layers that do something."""
    generator = torch.Generator().manual_seed(5)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1, generator=generator)
            layer.running_var.uniform_(0.5, 1.5, generator=generator)
            layer.weight.data.uniform_(0.5, 1.5, generator=generator)
            layer.bias.data.normal_(0, 0.1, generator=generator)
    return module.eval()


class Abreast(nn.Module):
    """Modules that read the same input: one package for all, because each takes coremltools more than a second."""

    def __init__(self, modules: dict[str, nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleDict(modules)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(member(x) for member in self.members.values())


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Operation -> what the evaluator makes of it, and torch."""
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for shape in {shape for _, shape in CASES.values()}:
        module = Abreast({name: with_statistics(own) for name, (own, read) in CASES.items() if read == shape})
        named = [ct.TensorType(f"of_{name}") for name in module.members]
        path = package(module, shape, tmp_path_factory.mktemp("operations") / "abreast.mlpackage", outputs=named)
        x = example(shape)
        with torch.no_grad():
            expected = [value.numpy() for value in module(x)]
        actual = Evaluator(path).run({"image": x.numpy()}).values()
        found |= dict(zip(module.members, zip(actual, expected, strict=True), strict=True))
    return found


@pytest.mark.parametrize("name", CASES)
def test_operation_equals_torch(name: str, answers: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    actual, expected = answers[name]
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= 1e-5 * max(np.abs(expected).max(), 1e-6)


@pytest.mark.parametrize(("mode", "approximate"), [("TANH_APPROXIMATION", "tanh"), ("EXACT", "none")])
def test_gelu_modes(mode: str, approximate: str, tmp_path: Path) -> None:
    """coremltools 9 converts every aten.gelu of an exported program to EXACT, so the program is written by hand."""

    @Mil.program(input_specs=[Mil.TensorSpec(shape=IMAGE)], opset_version=ct.target.iOS17)
    def program(image: Any) -> Any:
        return Mil.gelu(x=image, mode=mode)

    with quiet():
        model = ct.convert(
            program, skip_model_load=True, compute_precision=ct.precision.FLOAT32,
            minimum_deployment_target=ct.target.iOS17,
        )  # fmt: skip
        model.save(str(tmp_path / "gelu.mlpackage"))
    assert relative_error(tmp_path / "gelu.mlpackage", nn.GELU(approximate=approximate), IMAGE) <= 1e-5


@pytest.mark.parametrize("rounding", ["float32", "float16"])
def test_float16_package_is_near_torch(rounding: str, tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(6, 8, 3, padding=1), nn.GELU(), nn.Conv2d(8, 6, 1))
    path = package(module, IMAGE, tmp_path / "half.mlpackage", compute_precision=ct.precision.FLOAT16)
    assert 0 < relative_error(path, module, IMAGE, rounding) <= 2e-3


def test_float16_rounding_leaves_only_float16_numbers(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(6, 8, 3, padding=1), nn.GELU(), nn.Conv2d(8, 6, 1))
    path = package(module, IMAGE, tmp_path / "half.mlpackage", compute_precision=ct.precision.FLOAT16)
    for name, value in Evaluator(path, "float16").observe({"image": example(IMAGE).numpy()}):
        assert torch.equal(value, value.half().float()), name


def small_network() -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(
        nn.Conv2d(6, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1, groups=32), nn.Conv2d(32, 16, 1),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10),
    ).eval()  # fmt: skip


@cache
def converted(target: Any) -> Any:
    """The small network as coremltools converts it for a version of iOS; compressing it leaves it as it is."""
    exported = torch.export.export(small_network(), (torch.zeros(IMAGE),)).run_decompositions({})
    return ct.convert(
        exported, inputs=[ct.TensorType("image", IMAGE)], skip_model_load=True, minimum_deployment_target=target,
        compute_precision=ct.precision.FLOAT32,
    )  # fmt: skip


def foreign(tmp_path: Path, target: Any, compress: Callable[[Any], Any]) -> tuple[Path, Path]:
    """A package that coremltools compressed, and one with the weights that coremltools itself decompresses."""
    packages = tmp_path / "foreign.mlpackage", tmp_path / "plain.mlpackage"
    with quiet(), warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        compressed = compress(converted(target))
        compressed.save(str(packages[0]))
        cto.coreml.decompress_weights(compressed).save(str(packages[1]))
    return packages


def linear(**settings: Any) -> Callable[[Any], Any]:
    config = cto.coreml.OptimizationConfig(cto.coreml.OpLinearQuantizerConfig(weight_threshold=64, **settings))
    return lambda model: cto.coreml.linear_quantize_weights(model, config)


def palette(**settings: Any) -> Callable[[Any], Any]:
    config = cto.coreml.OptimizationConfig(
        cto.coreml.OpPalettizerConfig(weight_threshold=64, mode="uniform", **settings)
    )
    return lambda model: cto.coreml.palettize_weights(model, config)


def pruned(model: Any) -> Any:
    config = cto.coreml.OptimizationConfig(cto.coreml.OpMagnitudePrunerConfig(target_sparsity=0.6, weight_threshold=64))
    return cto.coreml.prune_weights(model, config)


FOREIGN = {
    "ios16_int8": (ct.target.iOS16, linear(mode="linear_symmetric")),
    "ios17_int8_asymmetric": (ct.target.iOS17, linear(mode="linear")),
    "ios17_uint8": (ct.target.iOS17, linear(mode="linear", dtype="uint8")),
    "ios16_palette_6": (ct.target.iOS16, palette(nbits=6)),
    "ios17_palette_4": (ct.target.iOS17, palette(nbits=4)),
    "ios17_palette_2": (ct.target.iOS17, palette(nbits=2)),
    "ios17_palette_8": (ct.target.iOS17, palette(nbits=8)),
    "ios17_sparse": (ct.target.iOS17, pruned),
    "ios18_int8_per_channel": (ct.target.iOS18, linear(mode="linear_symmetric", granularity="per_channel")),
    "ios18_int4_blocks": (
        ct.target.iOS18, linear(mode="linear_symmetric", dtype="int4", granularity="per_block", block_size=8),
    ),
    "ios18_palette_6": (ct.target.iOS18, palette(nbits=6)),
    "ios18_palette_3": (ct.target.iOS18, palette(nbits=3)),
    "ios18_palette_4_groups": (ct.target.iOS18, palette(nbits=4, granularity="per_grouped_channel", group_size=8)),
    "ios18_palette_4_scales": (ct.target.iOS18, palette(nbits=4, enable_per_channel_scale=True)),
}  # fmt: skip


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_package_equals_its_decompressed_twin(name: str, tmp_path: Path) -> None:
    target, compress = FOREIGN[name]
    x = example(IMAGE).numpy()
    (actual,), (expected,) = (
        Evaluator(path).run({"image": x}).values() for path in foreign(tmp_path, target, compress)
    )
    with torch.no_grad():
        exact = small_network()(torch.from_numpy(x)).numpy()
    assert np.abs(actual - expected).max() <= 1e-5 * np.abs(expected).max()
    assert 0 < np.abs(actual - exact).max() < 2 * np.abs(exact).max(), "compressed, and still the same network"


def test_unknown_operation_is_named(tmp_path: Path) -> None:
    @Mil.program(input_specs=[Mil.TensorSpec(shape=(1, 4))], opset_version=ct.target.iOS17)
    def program(image: Any) -> Any:
        return Mil.cumsum(x=image, axis=1)

    with quiet():
        ct.convert(program, skip_model_load=True, minimum_deployment_target=ct.target.iOS17).save(
            str(tmp_path / "strange.mlpackage")
        )
    with pytest.raises(MissingPlatform, match="cumsum"):
        Evaluator(tmp_path / "strange.mlpackage")


@pytest.mark.parametrize(
    "precision", [pytest.param(ct.precision.FLOAT32, marks=pytest.mark.all_models), ct.precision.FLOAT16]
)
def test_repvit_equals_torch(precision: Any, tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    module = with_statistics(timm.create_model("repvit_m0_9"))
    program = capture(module, torch.zeros(1, 3, 64, 64))
    path = tmp_path / "repvit.mlpackage"
    with quiet(), warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        model = ct.convert(
            program.exported, inputs=[ct.TensorType("image", (1, 3, 64, 64))], compute_precision=precision,
            minimum_deployment_target=ct.target.iOS17, skip_model_load=True,
        )  # fmt: skip
        model.save(str(path))
    limit = 1e-3 if precision is ct.precision.FLOAT32 else 3e-3
    assert relative_error(path, module, (1, 3, 64, 64)) <= limit
    assert math.isfinite(limit)
