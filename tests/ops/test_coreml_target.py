"""The Core ML target: a plan written into a package is what the evaluator finds in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from calibration import plan as planning
from calibration.check import check_plan
from calibration.collect import collect
from calibration.images import normalise
from calibration.ranges.minmax import RANGE
from exporters._coreml import run
from exporters._coreml.evaluator import Evaluator
from exporters.coreml import TARGET
from qtools.core import files, numerics
from qtools.core.errors import InputError, MissingPlatform
from qtools.core.protocols import Lowered
from qtools.core.target import TargetSpec
from qtools.core.types import InputSpec, QuantPlan
from qtools.graph import execute
from qtools.graph.capture import Program, capture
from qtools.graph.pixels import taking_pixels
from qtools.simulate.run import open_simulator

SHAPE = (1, 3, 20, 16)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
INPUT = InputSpec((20, 16), MEAN, STD, "bilinear", 1.0)


class Network(nn.Module):
    """Convolutions of every kind, a residual, squeeze-and-excitation, pooling, GELU and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 2, 1)
        self.mix = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.gate = nn.Conv2d(16, 16, 1)
        self.up, self.down = nn.Conv2d(16, 32, 1), nn.Conv2d(32, 16, 1, bias=False)
        self.pool, self.average = nn.MaxPool2d(2), nn.AvgPool2d(2, 1)
        self.head = nn.Linear(16, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(image))
        x = self.mix(x)
        x = x * torch.sigmoid(self.gate(x.mean((2, 3), keepdim=True)))
        x = x + self.down(torch.nn.functional.gelu(self.up(x)))
        x = self.average(self.pool(x))
        return self.head(x.mean((2, 3)))


def images(count: int) -> list[np.ndarray]:
    generator = np.random.default_rng(4)
    return [generator.normal(size=SHAPE).astype(np.float32) for _ in range(count)]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Program, Lowered, dict[str, Any]]:
    torch.manual_seed(6)
    program = capture(Network().eval(), torch.zeros(SHAPE), TARGET.spec.expand)
    lowered = TARGET.lower(program, images(2), tmp_path_factory.mktemp("lowered"))
    floats = set(program.view.activations)

    def observe(pixels: np.ndarray) -> Any:
        return ((n, v) for n, v in execute.observe(program, torch.from_numpy(pixels)) if n in floats)

    axes = {name: program.view.values[name].channel_axis for name in program.view.activations}
    return program, lowered, collect(images(8), observe, axes, lambda *_: None)


def planned(prepared: Any, weight_bits: int, activation_bits: int, spec: TargetSpec = TARGET.spec) -> QuantPlan:
    program, lowered, stats = prepared
    weights = {name: tensor.numpy() for name, tensor in program.constants.items()}
    recipe = planning.Recipe("network", weight_bits, activation_bits, "minmax", RANGE)
    plan = planning.plan(program.view, spec, stats, weights, recipe, lowered.unbound)
    check_plan(program.view, spec, plan)
    return plan


def written(prepared: Any, plan: QuantPlan, path: Path, **options: Any) -> Path:
    program, lowered, _ = prepared
    TARGET.apply(lowered, plan, program, path, {"metadata": {"model": "network"}} | options)
    return path


def operations(path: Path) -> list[str]:
    return [o.type for o in Evaluator(path).operations]


def test_every_value_is_bound(prepared: Any) -> None:
    _, lowered, _ = prepared
    assert not lowered.unbound
    assert lowered.max_error <= 1e-6


@pytest.mark.parametrize(("weight_bits", "activation_bits"), [(8, 8), (6, 8), (4, 8), (3, 16), (6, 16), (8, 16)])
def test_package_computes_the_plan(prepared: Any, weight_bits: int, activation_bits: int, tmp_path: Path) -> None:
    program, lowered, _ = prepared
    plan = planned(prepared, weight_bits, activation_bits)
    path = written(prepared, plan, tmp_path / "model.mlpackage")
    runner = TARGET.open(path, "evaluator", 1, program, lowered)
    simulator = open_simulator(program, plan, TARGET.simulator)
    for image in images(12)[8:]:
        assert np.array_equal(runner.codes(image), simulator.codes(torch.from_numpy(image)).numpy())
        real = runner.values(image[0])
        for name, value in simulator.observe(torch.from_numpy(image)):
            assert np.array_equal(simulator.as_codes(name, value.numpy()), simulator.as_codes(name, real[name])), name


def test_biases_that_calibration_changed_are_the_packages(prepared: Any, tmp_path: Path) -> None:
    """Layers of equal biases share one constant in the float package; here each gets its own."""
    program, lowered, stats = prepared
    plan = planned(prepared, 8, 8)
    names = [op.inputs[2] for op in program.view.ops if len(op.inputs) > 2]
    changed = program.with_constants({n: program.constants[n] + 0.25 * (i + 1) for i, n in enumerate(names)})
    path = written((changed, lowered, stats), plan, tmp_path / "model.mlpackage")
    runner, image = TARGET.open(path, "evaluator", 1, changed, lowered), images(1)[0]
    now, before = (open_simulator(p, plan, TARGET.simulator).codes(torch.from_numpy(image)) for p in (changed, program))
    assert np.array_equal(runner.codes(image), now.numpy())
    assert not np.array_equal(now.numpy(), before.numpy())
    assert not TARGET.apply(lowered, plan, changed, tmp_path / "other.mlpackage", {}).float_constants


@pytest.mark.parametrize(("weight_bits", "kind", "opset"), [(8, "affine_dequantize", 7), (6, "lut_to_dense", 8)])
def test_weights_are_the_plans_integers(prepared: Any, weight_bits: int, kind: str, opset: int, tmp_path: Path) -> None:
    program, lowered, _ = prepared
    plan = planned(prepared, weight_bits, 8)
    evaluator = Evaluator(written(prepared, plan, tmp_path / "model.mlpackage"))
    assert evaluator.spec.mlProgram.functions["main"].opset == f"CoreML{opset}"
    assert [o.type for o in evaluator.operations].count(f"constexpr_{kind}") == 6
    for op in program.view.ops:
        params = plan.params(op.inputs[1]) if len(op.inputs) > 1 else None
        if params is not None and op.inputs[1] in program.constants:
            held = evaluator.constant(f"{lowered.binding[op.inputs[1]].tensor}_compressed")
            weight = program.constants[op.inputs[1]]
            assert torch.equal(held, numerics.dequantize(numerics.quantize(weight, params), params))


def test_palette_per_tensor_needs_no_ios18(prepared: Any, tmp_path: Path) -> None:
    plan = planned(prepared, 6, 16, TARGET.configured({"palettes": "per_tensor"}).spec)
    path = written(prepared, plan, tmp_path / "model.mlpackage")
    evaluator = Evaluator(path)
    assert evaluator.spec.mlProgram.functions["main"].opset == "CoreML7"
    (real,) = evaluator.run({"image": images(1)[0]}).values()
    expected = open_simulator(prepared[0], plan, "coreml").codes(torch.from_numpy(images(1)[0])).numpy()
    assert np.abs(real - expected).max() <= 2e-3 * np.abs(expected).max(), "the table's numbers are rounded to float16"


@pytest.mark.parametrize("options", [{"palettes": "per_pixel"}, {"activations": "int8"}])
def test_unknown_options(options: dict[str, str]) -> None:
    with pytest.raises(InputError, match="has no option"):
        TARGET.configured(options)


class Awkward(nn.Module):
    """What coremltools refuses (alias) or misreads (the keyword of gelu)."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = torch.nn.functional.gelu(torch.ops.aten.alias(image), approximate="tanh")
        return x.mean((2, 3))


def test_what_the_converter_cannot_read_is_rewritten(tmp_path: Path) -> None:
    program = capture(Awkward().eval(), torch.zeros(SHAPE), TARGET.spec.expand)
    lowered = TARGET.lower(program, images(2), tmp_path)
    assert lowered.max_error <= 1e-6


def test_scales_are_float16_numbers(prepared: Any) -> None:
    plan = planned(prepared, 8, 8)
    for name, entry in plan.values.items():
        if entry.params is not None:
            scales = entry.params.scale_array
            assert np.array_equal(scales.astype(np.float16).astype(np.float32), scales), name


def test_only_what_integer_operations_read_is_quantized(prepared: Any, tmp_path: Path) -> None:
    kinds = operations(written(prepared, planned(prepared, 8, 8), tmp_path / "model.mlpackage"))
    assert kinds.count("quantize") == kinds.count("dequantize") == 9, (
        "the gate's, GELU's and head's results stay in float"
    )
    kinds = operations(written(prepared, planned(prepared, 8, 16), tmp_path / "weights.mlpackage"))
    assert "quantize" not in kinds


def test_float16_baseline(prepared: Any, tmp_path: Path) -> None:
    """A plan without parameters gives the float16 package: near the float program, and twice the size of int8."""
    program, _, _ = prepared
    plan = QuantPlan("network", "coreml", "float16", {}, {op.id: "baseline" for op in program.view.ops}, {})
    path = written(prepared, plan, tmp_path / "half.mlpackage")
    image = images(1)[0]
    expected = execute.run(program, torch.from_numpy(image)).numpy()
    for rounding in ("float32", "float16"):
        (real,) = Evaluator(path, rounding).run({"image": image}).values()
        assert 0 < np.abs(real - expected).max() <= 3e-3 * np.abs(expected).max()


def test_two_builds_are_byte_identical(prepared: Any, tmp_path: Path) -> None:
    plan = planned(prepared, 6, 8)
    digests = {files.digest(written(prepared, plan, tmp_path / f"{n}.mlpackage")) for n in ("a", "b")}
    assert len(digests) == 1
    program, _, _ = prepared
    again = TARGET.lower(program, images(2), tmp_path)
    assert again.sha256 == prepared[1].sha256


def test_metadata(prepared: Any, tmp_path: Path) -> None:
    facts = {"author": "A. Person", "licence": "MIT", "version": "3", "description": "a test"}
    path = written(prepared, planned(prepared, 8, 8), tmp_path / "model.mlpackage", **facts)
    found = Evaluator(path).spec.description.metadata
    assert {"author": found.author, "licence": found.license} == {n: facts[n] for n in ("author", "licence")}
    assert (found.versionString, found.shortDescription) == (facts["version"], facts["description"])
    assert json.loads(found.userDefined["qtools"]) == {"model": "network"}


@pytest.fixture(scope="module")
def taking(tmp_path_factory: pytest.TempPathFactory) -> tuple[Program, Lowered, dict[str, Any]]:
    """The same network with its normalisation in front, and what it does on the same pictures."""
    torch.manual_seed(6)
    module = taking_pixels(Network().eval(), INPUT, TARGET.spec)
    program = capture(module, torch.full(SHAPE, 99.0), TARGET.spec.expand)
    lowered = TARGET.lower(program, [raw_of(image) for image in images(2)], tmp_path_factory.mktemp("pixels"))
    floats = set(program.view.activations)

    def observe(pixels: np.ndarray) -> Any:
        return ((n, v) for n, v in execute.observe(program, torch.from_numpy(pixels)) if n in floats)

    axes = {name: program.view.values[name].channel_axis for name in program.view.activations}
    return program, lowered, collect([raw_of(image) for image in images(8)], observe, axes, lambda *_: None)


def raw_of(image: np.ndarray) -> np.ndarray:
    """Whole pixels whose normalised form is near the given noise."""
    pixels = 255 * (image * np.reshape(STD, (1, 3, 1, 1)) + np.reshape(MEAN, (1, 3, 1, 1)))
    return np.clip(np.rint(pixels), 0, 255).astype(np.float32)


@pytest.mark.parametrize("bits", [(8, 8), (8, 16)])
def test_image_input_equals_normalised_array(prepared: Any, taking: Any, bits: tuple[int, int], tmp_path: Path) -> None:
    """Borders included: the stem pads with zeros, which are the mean there and not black."""
    plain = Evaluator(written(prepared, planned(prepared, *bits), tmp_path / "plain.mlpackage"))
    pixels = Evaluator(written(taking, planned(taking, *bits), tmp_path / "pixels.mlpackage", io="pixels"))
    image_type = pixels.spec.description.input[0].type.imageType
    assert (image_type.height, image_type.width, image_type.colorSpace) == (*SHAPE[2:], 20)
    assert [o.type for o in pixels.operations if o.type in ("sub", "mul")][:2] == ["sub", "mul"]
    raw = np.random.default_rng(7).integers(0, 256, SHAPE).astype(np.float32)
    results = [dict(plain.observe({"image": normalise(raw, INPUT)})), dict(pixels.observe({"image": raw}))]
    stems = [next(v for v in r.values() if getattr(v, "shape", ()) == (1, 16, 10, 8)) for r in results]
    error = (stems[0] - stems[1]).abs()
    limit = (3e-3 if bits[1] == 16 else 0.05) * float(stems[0].abs().max())  # a code may flip where it is quantized
    assert float(error.max()) <= limit
    border = torch.cat([error[..., 0, :].flatten(), error[..., :, 0].flatten()])
    assert float(border.mean()) <= 2 * float(error.mean()) + 1e-6, "no worse at the border"
    logits = [r["logits"].numpy() for r in results]
    assert np.abs(logits[0] - logits[1]).max() <= (3e-3 if bits[1] == 16 else 0.05) * np.ptp(logits[0])


def test_a_classifiers_runner_still_gives_logits(taking: Any, tmp_path: Path) -> None:
    program, lowered, _ = taking
    plan = planned(taking, 8, 8)
    names = [f"class {i}" for i in range(10)]
    paths = [
        written(taking, plan, tmp_path / "labels.mlpackage", io="pixels", labels=names),
        written(taking, plan, tmp_path / "logits.mlpackage", io="pixels"),
    ]
    raw = np.concatenate([raw_of(image) for image in images(3)])
    found = [TARGET.open(path, "evaluator", 1, program, lowered).codes(raw) for path in paths]
    assert found[0].shape == (3, 10) and np.array_equal(*found)
    assert run.labels_of(Evaluator(paths[0]).spec) == tuple(names)
    assert run.labels_of(Evaluator(paths[1]).spec) == ()


def test_labels(prepared: Any, tmp_path: Path) -> None:
    plan = planned(prepared, 8, 8)
    names = [f"class {i}" for i in range(10)]
    evaluator = Evaluator(written(prepared, plan, tmp_path / "model.mlpackage", labels=names))
    answer = evaluator.run({"image": images(1)[0]})
    assert answer["classLabel"] == names[int(answer["classLabel_probs"].argmax())]
    assert evaluator.spec.description.predictedFeatureName == "classLabel"
    for wrong, words in ((names[:9], "9 labels for 10"), (["same"] * 10, "same label")):
        with pytest.raises(InputError, match=words):
            written(prepared, plan, tmp_path / "wrong.mlpackage", labels=wrong)


def test_five_bits_are_refused(prepared: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="5-bit"):
        written(prepared, planned(prepared, 5, 8), tmp_path / "model.mlpackage")


def test_core_ml_itself_wants_a_mac(prepared: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.system", lambda: "Linux")
    path = written(prepared, planned(prepared, 8, 8), tmp_path / "model.mlpackage")
    with pytest.raises(MissingPlatform, match="macOS"):
        TARGET.open(path, "coreml", 1, prepared[0])
