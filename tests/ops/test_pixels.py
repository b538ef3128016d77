"""Pixels in: the normalisation inside an artifact is the one outside it, on the border as everywhere else."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from ai_edge_litert.interpreter import Interpreter
from PIL import Image
from torch import nn
from torch.nn import functional as F

from calibration.images import fitted, normalise
from exporters._tflite import flatbuffer
from qtools.core import numerics, plugins
from qtools.core.errors import CheckFailed
from qtools.core.types import InputSpec
from qtools.graph import execute
from qtools.graph.capture import capture
from qtools.graph.pixels import taking_pixels
from qtools.simulate.run import open_simulator

SIDE = 16  # 256 pixels: every byte once in every channel
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
NUMBERS = {
    "imagenet": IMAGENET,
    "inception": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "plain": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "unlike": ((0.9, 0.02, 0.4), (0.05, 0.7, 0.3)),
}
ALL_BYTES = np.stack([np.random.default_rng(n).permutation(256).reshape(SIDE, SIDE) for n in range(3)])[None]
TARGETS = ("tflite", "onnx-uint8", "onnx-int8", "onnx_qnn", "coreml")


def picture(mean: Any, std: Any) -> InputSpec:
    return InputSpec((SIDE, SIDE), mean, std, "bicubic", 1.0)


class Network(nn.Module):
    """A stem that pads, a depthwise layer that pads, and a head; made again it has the same weights."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(11)
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.mix = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.head = nn.Linear(8, 6)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(image))
        x = x + F.gelu(self.mix(x))
        return self.head(x.mean((2, 3)))


def images(count: int) -> np.ndarray:
    """Smooth pictures with noise, cut from larger ones as a run does it, and one of every byte."""
    rng = np.random.default_rng(8)
    made = []
    for _ in range(count - 1):
        coarse = rng.integers(0, 256, (5, 6, 3)).astype(np.uint8)
        large = np.asarray(Image.fromarray(coarse).resize((70, 50), Image.Resampling.BICUBIC)).astype(np.float64)
        noisy = np.clip(large + rng.normal(0, 8, large.shape), 0, 255).astype(np.uint8)
        made.append(fitted(noisy, picture(*IMAGENET)))
    return np.concatenate([ALL_BYTES, np.stack(made)]).astype(np.float32)


@pytest.fixture(scope="module", params=TARGETS)
def twins(request: pytest.FixtureRequest, make_bench: Any) -> Any:
    """The same network twice, made for pixels and for normalised pictures."""
    name, _, activations = request.param.partition("-")
    bench = make_bench(name, **({"activations": activations} if activations else {}))
    spec = bench.target.spec

    def wrapped() -> nn.Module:
        return taking_pixels(Network(), picture(*IMAGENET), spec)

    return (
        bench.tiny("pixels", wrapped, (3, SIDE, SIDE), pixels=True),
        bench.tiny("plain", Network, (3, SIDE, SIDE)),
    )


def calibrated(tiny: Any, given: np.ndarray, **options: bool) -> Any:
    """A plan from the ranges that the float network has on these pictures, whatever its input."""
    seen = [dict(execute.observe(tiny.program, torch.from_numpy(x[None]))) for x in given]
    names = tiny.program.view.activations
    return tiny.plan(
        {n: (min(float(s[n].min()) for s in seen), max(float(s[n].max()) for s in seen)) for n in names}, **options
    )


@pytest.fixture(scope="module")
def planned(twins: Any) -> Any:
    """Both plans: pixels, plain."""
    raw = images(6)
    first, second = twins
    return (
        calibrated(first, raw, pixels=True),
        calibrated(second, normalise(raw, picture(*IMAGENET))),
    )


@pytest.mark.parametrize("numbers", NUMBERS, ids=list(NUMBERS))
@pytest.mark.parametrize("target", ["tflite", "coreml"])
def test_the_program_normalises(numbers: str, target: str) -> None:
    """Both forms, in float32, on every byte."""
    spec = picture(*NUMBERS[numbers])
    raw = ALL_BYTES.astype(np.float32)
    module = taking_pixels(nn.Identity(), spec, plugins.find("exporters", target, "TARGET").spec)
    found = module(torch.from_numpy(raw)).numpy()
    expected = normalise(raw, spec)
    assert np.abs(found - expected).max() <= 1e-6 * np.abs(expected).max()


@pytest.mark.parametrize("numbers", NUMBERS, ids=list(NUMBERS))
@pytest.mark.parametrize("share", [1.0, 0.9, 1.3])
def test_codes_of_every_byte(twins: Any, numbers: str, share: float) -> None:
    """The exact number rounded; or its neighbour, within 1/254 of a pixel of a tie: the bias is rounded that far."""
    tiny, _ = twins
    if tiny.target.spec.float_results:
        pytest.skip("normalises in float")
    spec = picture(*NUMBERS[numbers])
    ready = taking_pixels(nn.Identity(), spec, tiny.target.spec).normalise
    constants = {"p_normalise_weight": ready.weight.numpy(), "p_normalise_bias": ready.bias.numpy()}
    raw = ALL_BYTES.astype(np.float32)
    mean, std = (np.reshape(n, (1, 3, 1, 1)) for n in NUMBERS[numbers])
    normal = (raw.astype(np.float64) / 255 - mean) / std
    lo, hi = share * float(normal.min()), share * float(normal.max())
    changed = tiny.with_constants(constants)
    plan = changed.plan(lambda: (lo, hi), pixels=True)
    codes = dict(open_simulator(changed.program, plan, tiny.target.simulator).observe(torch.from_numpy(raw)))
    value = tiny.program.view.ops[0].outputs[0]
    params, found = plan.params(value), codes[value].numpy()
    exact = np.clip(normal / params.scale[0] + params.zero_point[0], params.scheme.qmin, params.scheme.qmax)
    pixel = 1 / (255 * std * params.scale[0])
    assert (np.abs(found - exact) <= 0.5 + pixel / 254 + 1e-4).all()
    assert np.abs(found - numerics.quantize(normalise(raw, spec), params)).max() <= 1
    ties = np.abs(exact % 1 - 0.5) <= pixel / 254 + 1e-4
    assert (found == np.rint(exact))[~ties].all() and (numbers not in ("imagenet", "clip") or ties.sum() <= 24)


def test_simulated_codes_are_the_artifacts(twins: Any, planned: Any, bench: Any) -> None:
    bench.assert_equal(twins[0].compare(planned[0], images(6), "pixels"))


def test_random_plans(twins: Any, bench: Any) -> None:
    rng = np.random.default_rng(21)
    for _ in range(4):
        plan = twins[0].plan(lambda: bench.random_range(rng, 2.0), pixels=True)
        bench.assert_equal(twins[0].compare(plan, images(3), "pixels"))


def test_pixels_answer_as_normalised_pictures_do(twins: Any, planned: Any) -> None:
    """Top-1 equal, logits within three codes' worth; and no worse on the border than inside."""
    raw = images(24)
    normal = normalise(raw, picture(*IMAGENET))
    opened = [t.open(t.write(p, io)) for t, p, io in zip(twins, planned, ("pixels", "float32"), strict=True)]
    first, second = opened[0].codes(raw), opened[1].codes(normal)
    assert first.dtype == second.dtype == np.float32
    assert (first.argmax(1) == second.argmax(1)).all()
    assert np.abs(first - second).max() <= 0.02 * np.ptp(second)
    stems = [next(o.outputs[0] for o in t.program.view.ops if o.kind == "relu") for t in twins]
    step = 1 / 255 * float(max(np.ptp(opened[1].values(x)[stems[1]]) for x in normal[:1]))
    for pixels, picture_ in zip(raw, normal, strict=True):
        a, b = opened[0].values(pixels)[stems[0]], opened[1].values(picture_)[stems[1]]
        away = np.abs(a.astype(np.float64) - b.astype(np.float64)) / (step if a.dtype.kind == "f" else 1)
        border = np.concatenate([away[..., 0, :].ravel(), away[..., :, 0].ravel()])
        assert away.max() <= 2, "codes"
        assert border.mean() <= away.mean() + 0.1


def test_a_black_border_would_show(twins: Any) -> None:
    """The same network with the mean in the first bias instead fails the comparison of borders: it is no formality."""
    spec = picture(*IMAGENET)
    right = taking_pixels(Network(), spec, twins[0].target.spec)
    wrong = Network()
    mean, std = (torch.tensor(n).reshape(1, -1, 1, 1) for n in IMAGENET)
    with torch.no_grad():
        wrong.stem.bias -= (wrong.stem.weight * mean / std).sum((1, 2, 3))
        wrong.stem.weight /= 255 * std
        raw = torch.from_numpy(images(2))
        gap = (wrong.stem(raw) - right.network.stem(torch.from_numpy(normalise(raw.numpy(), spec)))).abs()
    assert float(gap[..., 1:, 1:].max()) < 1e-4 < 0.1 < float(gap[..., 0, :].max())


def test_what_goes_in(twins: Any, planned: Any) -> None:
    """uint8 in the format's own layout, scale 1, zero point 0; float32 logits out."""
    tiny = twins[0]
    path = tiny.write(planned[0], "pixels")
    if path.suffix == ".tflite":
        interpreter = Interpreter(model_path=str(path))
        (image,), (logits,) = interpreter.get_input_details(), interpreter.get_output_details()
        assert (image["name"], image["dtype"], list(image["shape"])) == ("image", np.uint8, [1, SIDE, SIDE, 3])
        assert image["quantization"] == (1.0, 0)
        assert (logits["name"], logits["dtype"]) == ("logits", np.float32)
        assert interpreter.get_signature_list()["serving_default"] == {"inputs": ["image"], "outputs": ["logits"]}
        model = flatbuffer.read(path.read_bytes())
        names = [t.name for t in model.subgraphs[0].tensors]
        assert len(names) == len(set(names))
    elif path.suffix == ".onnx":
        model = onnx.load(path)
        onnx.checker.check_model(model, full_check=True)
        (image,), (logits,) = model.graph.input, model.graph.output
        assert (image.name, image.type.tensor_type.elem_type) == ("image", onnx.TensorProto.UINT8)
        assert [d.dim_value for d in image.type.tensor_type.shape.dim] == [1, 3, SIDE, SIDE]
        assert (logits.name, logits.type.tensor_type.elem_type) == ("logits", onnx.TensorProto.FLOAT)


def test_pixels_into_a_program_of_normalised_pictures_are_refused(twins: Any, planned: Any) -> None:
    if twins[1].target.spec.float_results:
        pytest.skip("its input is float32 whatever goes in")
    with pytest.raises(CheckFailed, match="no code for every byte"):
        twins[1].write(planned[1], "pixels", f"refused{twins[1].target.spec.suffix}")


def test_same_plan_same_bytes(twins: Any, planned: Any) -> None:
    first, second = (read(twins[0].write(planned[0], "pixels", f"{n}{twins[0].target.spec.suffix}")) for n in "ab")
    assert first == second


def read(path: Path) -> dict[str, bytes]:
    members = sorted(path.rglob("*")) if path.is_dir() else [path]
    return {m.relative_to(path).as_posix(): m.read_bytes() for m in members if m.is_file()}


def test_a_one_by_one_depthwise_layer_has_its_scales_on_the_channels(make_bench: Any) -> None:
    """Its weight is (3, 1, 1, 1) here and (1, 1, 1, 3) there: equal numbers in any order of axes."""
    tiny = make_bench("tflite").tiny("alone", lambda: nn.Conv2d(3, 3, 1, groups=3), (3, 8, 8))
    plan = tiny.plan(lambda: (-1.0, 1.0))
    model = flatbuffer.read(tiny.write(plan).read_bytes())
    (op,) = tiny.program.view.ops
    tensor = next(t for t in model.subgraphs[0].tensors if t.name.decode() == op.inputs[1])
    assert (list(tensor.shape), tensor.quantization.quantizedDimension) == ([1, 1, 1, 3], 3)


def test_six_bits_leave_the_pixels_alone(twins: Any) -> None:
    """A narrower scheme is for the network: pixels keep a code per byte, and their normalisation its weights."""
    tiny, _ = twins
    if tiny.target.spec.float_results:
        pytest.skip("the normalisation runs in float")
    plan = tiny.plan(lambda: (-1.0, 1.0), pixels=True, bits=6)
    first = tiny.program.view.ops[0]
    params = plan.params(first.inputs[0])
    assert (params.scale, params.scheme.bits, params.zero_point) == ((1.0,), 8, (params.scheme.qmin,))
    assert plan.params(first.inputs[1]).scheme.qmax == 127
    assert plan.params(tiny.program.view.ops[1].inputs[1]).scheme.bits == 6


def test_capture_is_in_eval_mode_and_exact() -> None:
    target = plugins.find("exporters", "tflite", "TARGET")
    module = taking_pixels(Network(), picture(*IMAGENET), target.spec)
    assert not module.training
    raw = torch.from_numpy(images(2)[:1])
    program = capture(module, raw, target.spec.expand)
    plain = Network().eval()(torch.from_numpy(normalise(raw.numpy(), picture(*IMAGENET))))
    assert float((execute.run(program, raw) - plain).abs().max()) <= 1e-5
    assert dataclasses.replace(program).view.inputs == ("pixels",)
