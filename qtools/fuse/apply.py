"""Applies the folding rules to a copy of a model and proves each of them."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from qtools.core.errors import CheckFailed
from qtools.fuse.affine_norm import is_group_norm, is_layer_norm
from qtools.fuse.certificate import ALGEBRA_TOLERANCE, CAST_FACTOR, CAST_FLOOR, BlockProof, FusionCertificate
from qtools.fuse.find import ROWS, RULES, Trace, find, leftover_batch_norm
from qtools.fuse.rule import Chain, Match

_RANDOMIZED = "default (untrained): the proof was repeated with randomized statistics"


@torch.no_grad()
def fuse(module: nn.Module, example: Tensor, *, strict: bool = True) -> tuple[nn.Module, FusionCertificate]:
    """Folds branches and BatchNorm into plain layers on a copy, and proves it against the model as it was.

    Algebra and proofs are in float64; the weights are rounded to float32 once, at the end.

    Args:
        module: Float model in eval mode; it is not touched.
        example: Float32 input, shape (n, 3, height, width); a real picture makes the proof about real values.
        strict: Whether a BatchNorm that runs and cannot be folded is refused. Set it for verified families; without it
            such layers are listed in the certificate and stay operations of the graph.

    Returns:
        The fused float32 model in eval mode, folds at the paths of their blocks, and its certificate.

    Raises:
        CheckFailed: Training mode, leftover BatchNorm, a value that is not finite, or an error over tolerance; the
            message names the block.
    """
    _refuse_training(module)
    original = copy.deepcopy(module).double().requires_grad_(False)
    image = example.detach().double()
    matches = find(original, Trace(original, image[:1].clone()), RULES)
    fused, expected, errors = _fold_and_measure(original, matches, image)
    model_error = _relative(expected, _run(fused, image))
    statistics = _statistics(original)
    if statistics == _RANDOMIZED:  # scale 1 and shift 0 would prove the algebra of nothing
        randomized = _randomized(original)
        other, wanted, more = _fold_and_measure(randomized, matches, image)
        errors = [(max(a, c), max(b, d)) for (a, b), (c, d) in zip(errors, more, strict=True)]
        model_error = max(model_error, _relative(wanted, _run(other, image)))
    blocks = tuple(BlockProof(m.path, m.rule.name, *e) for m, e in zip(matches, errors, strict=True))
    _refuse_errors(blocks, model_error)
    left = leftover_batch_norm(fused, Trace(fused, image[:1].clone()))
    if left and strict:
        raise CheckFailed(
            f"BatchNorm is left after fusion at {_listed(left)}",
            "this pattern has no folding rule yet; report the model",
        )
    single = fused.float().eval()
    unfused_error = _relative(expected, _run(copy.deepcopy(module).float(), example))
    cast_error = _relative(expected, _run(single, example))
    return single, FusionCertificate(
        blocks=blocks,
        bn_statistics=statistics,
        model_max_error_float64=model_error,
        model_max_error_float32=cast_error,
        unfused_max_error_float32=unfused_error,
        tolerance_float64=ALGEBRA_TOLERANCE,
        tolerance_float32=_allowed_cast_error(cast_error, unfused_error),
        leftover=left,
        parameters_before=sum(p.numel() for p in module.parameters()),
        parameters_after=sum(p.numel() for p in single.parameters()),
        note=_note(blocks, left),
    )


@torch.no_grad()
def fold(module: nn.Module, example: Tensor) -> nn.Module:
    """The structure that `fuse` makes, in float32 and without a proof: for whoever has the weights of a proven one.

    Args:
        module: Float model in eval mode; it is not touched.
        example: Float32 input, shape (n, 3, height, width).

    Raises:
        CheckFailed: If the model is in training mode.
    """
    _refuse_training(module)
    single = copy.deepcopy(module).float().requires_grad_(False)
    matches = find(single, Trace(single, example[:1].clone()), RULES)
    folds = [match.rule.build(*match.modules(single)) for match in matches]
    return _with_folds(single, matches, folds).eval()


def _allowed_cast_error(cast_error: float, unfused_error: float) -> float:
    """The tolerance of the float32 model; raises CheckFailed where `cast_error` is over it."""
    tolerance = max(CAST_FACTOR * unfused_error, CAST_FLOOR)
    if not cast_error <= tolerance or not math.isfinite(cast_error):  # float32 itself may overflow, and inf <= inf
        raise CheckFailed(
            f"the fused model in float32 is {cast_error:.1e} from the float64 model; allowed is {tolerance:.1e}",
            "a BatchNorm variance near zero makes weights too large for float32: look at the largest fused weights",
        )
    return tolerance


def _note(blocks: Sequence[BlockProof], left: Sequence[str]) -> str:
    if left:
        return f"{len(left)} BatchNorm layers have no folding rule and stay operations of the graph"
    return "" if blocks else "nothing to fold: the model has no training branch and no BatchNorm"


def _fold_and_measure(
    model: nn.Module, matches: Sequence[Match], image: Tensor
) -> tuple[nn.Module, Tensor, list[tuple[float, float]]]:
    """Builds the folds of a float64 model, measures each on the block's real input, and puts them into a copy.

    Returns:
        The fused copy, the unfused model's output, and (max, mean) relative error per match.
    """
    folds = [match.rule.build(*match.modules(model)) for match in matches]
    errors: dict[int, tuple[float, float]] = {}
    with _measuring(model, matches, folds, errors):
        expected = _run(model, image)
    fused = _with_folds(copy.deepcopy(model), matches, folds)
    return fused, expected, [errors[index] for index in range(len(matches))]


def _with_folds(model: nn.Module, matches: Sequence[Match], folds: Sequence[Chain]) -> nn.Module:
    for match, fold in zip(matches, folds, strict=True):
        for path, replacement in zip(match.paths, fold, strict=True):
            model = _installed(model, path, replacement)
    return model


@contextmanager
def _measuring(
    model: nn.Module, matches: Sequence[Match], folds: Sequence[Chain], errors: dict[int, tuple[float, float]]
) -> Iterator[None]:
    """While inside, every matched block that runs is compared with its fold on the same input."""
    inputs: dict[int, Tensor] = {}
    hooks: list[Any] = []

    def keep(index: int) -> Any:
        def hook(_: nn.Module, arguments: tuple[Any, ...]) -> None:
            inputs[index] = arguments[0].clone()  # the block may write into its input

        return hook

    def compare(index: int) -> Any:
        def hook(_: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> None:
            value = inputs.pop(index)
            for part in folds[index]:
                value = part.eval()(value)
            if output.ndim == ROWS and len(folds[index]) > 1:  # a layer of tokens, and a norm over one row of them
                value = value.flatten(0, -2)
            worst, mean = errors.get(index, (0.0, 0.0))  # a shared block runs more than once
            now = _max_and_mean(output, value)
            errors[index] = (_larger(worst, now[0]), _larger(mean, now[1]))

        return hook

    for index, match in enumerate(matches):
        modules = match.modules(model)
        hooks += [modules[0].register_forward_pre_hook(keep(index)), modules[-1].register_forward_hook(compare(index))]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _installed(model: nn.Module, path: str, replacement: nn.Module) -> nn.Module:
    if not path:
        return replacement
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, replacement)
    return model


def _run(model: nn.Module, image: Tensor) -> Tensor:
    output = model(image.clone())
    outputs = tuple(output) if isinstance(output, (tuple, list)) else (output,)
    if not outputs or not all(isinstance(each, Tensor) for each in outputs):
        raise CheckFailed(
            f"the model returns {type(output).__name__}, not tensors", "wrap it so that forward returns the logits"
        )
    return outputs[0] if len(outputs) == 1 else torch.cat([each.flatten(1) for each in outputs], 1)


def _max_and_mean(expected: Tensor, got: Tensor) -> tuple[float, float]:
    """Largest and mean |expected - got| over the largest |expected|; infinite where shapes or finiteness differ."""
    if expected.shape != got.shape or not (expected.isfinite().all() and got.isfinite().all()):
        return float("inf"), float("inf")
    difference, scale = (expected - got).abs().double(), float(expected.abs().max())
    scale = scale or 1.0  # a block that is exactly zero (zero-initialised BatchNorm) is compared absolutely
    return float(difference.max()) / scale, float(difference.mean()) / scale


def _relative(expected: Tensor, got: Tensor) -> float:
    return _max_and_mean(expected, got)[0]


def _larger(a: float, b: float) -> float:
    return b if b > a or b != b else a


def _refuse_training(module: nn.Module) -> None:
    training = next((path for path, m in module.named_modules() if m.training), None)
    if training is not None:
        raise CheckFailed(
            f"the model is in training mode at {training or '(model)'}: its BatchNorm would follow the batch",
            "call model.eval() first",
        )


def _refuse_errors(blocks: Sequence[BlockProof], model_error: float) -> None:
    """Raises CheckFailed for the worst block, or for the whole model where each block holds but their sum does not."""
    wrong = [block for block in blocks if not block.max_error <= ALGEBRA_TOLERANCE]
    if wrong:
        worst = max(wrong, key=lambda block: block.max_error)
        others = (
            f", and {len(wrong) - 1} more: {_listed([b.path for b in wrong if b is not worst])}" if wrong[1:] else ""
        )
        what = (
            "gives values that are not finite or of another shape"
            if worst.max_error == float("inf")
            else f"differs from its fold by {worst.max_error:.1e} of its output; allowed is {ALGEBRA_TOLERANCE:.0e}"
        )
        raise CheckFailed(f"block {worst.path} ({worst.rule}) {what}{others}", "check its weights, or report the model")
    if not model_error <= ALGEBRA_TOLERANCE:
        raise CheckFailed(
            f"every fold holds but the whole model differs by {model_error:.1e}; allowed is {ALGEBRA_TOLERANCE:.0e}",
            "something outside the blocks reads a folded value, or the output is not finite; report the model",
        )


def _listed(paths: Sequence[str], limit: int = 5) -> str:
    return ", ".join(paths[:limit]) + (f" and {len(paths) - limit} more" if len(paths) > limit else "")


def _norms(model: nn.Module) -> Mapping[str, nn.modules.batchnorm._BatchNorm]:
    return {p: m for p, m in model.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}


def _statistics(model: nn.Module) -> str:
    """Whether any BatchNorm still has the statistics, or another norm the affine map, that it was born with."""
    tracked: list[tuple[Any, Any]] = [(bn.running_mean, bn.running_var) for bn in _norms(model).values()]
    tracked += [(norm.bias, norm.weight) for norm in _affine_norms(model)]
    known = [(mean, var) for mean, var in tracked if mean is not None and var is not None]
    if not known:
        return "none"
    untouched = any(bool((mean == 0).all() and (var == 1).all()) for mean, var in known)
    return _RANDOMIZED if untouched else "trained"


def _affine_norms(model: nn.Module) -> list[nn.LayerNorm | nn.GroupNorm]:
    return [m for m in model.modules() if is_layer_norm(m) or is_group_norm(m)]


def _randomized(model: nn.Module) -> nn.Module:
    """A copy whose norms all have statistics and affine weights far from neutral, the same every time."""
    other = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    for bn in _norms(other).values():
        draws = torch.rand(4, bn.num_features, generator=generator, dtype=torch.float64)
        for values, draw, lo, hi in (
            (bn.running_mean, draws[0], -0.5, 0.5),
            (bn.running_var, draws[1], 0.5, 2.0),
            (bn.weight, draws[2], 0.5, 1.5),
            (bn.bias, draws[3], -0.5, 0.5),
        ):
            if values is not None:
                values.copy_(lo + (hi - lo) * draw)
    for norm in _affine_norms(other):
        norm.weight.copy_(0.5 + torch.rand(norm.weight.shape, generator=generator, dtype=torch.float64))
        if norm.bias is not None:
            norm.bias.copy_(torch.rand(norm.bias.shape, generator=generator, dtype=torch.float64) - 0.5)
    return other
