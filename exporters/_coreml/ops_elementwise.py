"""Element by element: arithmetic, activations, comparisons, casts, and reductions."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch.nn import functional as F

from exporters._coreml.arguments import Arguments, Implementation, lacks

_CASTS = {
    "fp16": torch.float32,  # computed in float32; the evaluator rounds where it was asked to
    "fp32": torch.float32,
    "int32": torch.int32,
    "int16": torch.int16,
    "int8": torch.int8,
    "uint8": torch.uint8,
    "bool": torch.bool,
}
Function = Callable[[torch.Tensor], torch.Tensor]


def _unary(function: Function) -> Implementation:
    return lambda a: function(a.tensor("x"))


def _binary(function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Implementation:
    return lambda a: function(a.tensor("x"), a.tensor("y"))


def _real_div(a: Arguments) -> torch.Tensor:
    x, y = a.tensor("x"), a.tensor("y")
    if not (x.is_floating_point() and y.is_floating_point()):
        raise lacks(a, "integer form")
    return x / y


def _gelu(a: Arguments) -> torch.Tensor:
    x, mode = a.tensor("x"), a.text("mode", "EXACT")
    if mode == "EXACT":
        return F.gelu(x)
    if mode == "TANH_APPROXIMATION":
        return F.gelu(x, approximate="tanh")
    if mode == "SIGMOID_APPROXIMATION":
        return x * torch.sigmoid(1.702 * x)
    raise lacks(a, f"mode {mode}")


def _sigmoid_hard(a: Arguments) -> torch.Tensor:
    return (a.tensor("x") * a.number("alpha", 0.2) + a.number("beta", 0.5)).clamp(0, 1)


def _leaky_relu(a: Arguments) -> torch.Tensor:
    return F.leaky_relu(a.tensor("x"), a.number("alpha", 0.01))


def _elu(a: Arguments) -> torch.Tensor:
    return F.elu(a.tensor("x"), a.number("alpha", 1.0))


def _prelu(a: Arguments) -> torch.Tensor:
    return F.prelu(a.tensor("x"), a.tensor("alpha"))


def _linear_activation(a: Arguments) -> torch.Tensor:
    return a.tensor("x") * a.number("alpha", 1.0) + a.number("beta", 0.0)


def _scaled_tanh(a: Arguments) -> torch.Tensor:
    return a.number("alpha", 1.0) * torch.tanh(a.tensor("x") * a.number("beta", 1.0))


def _clip(a: Arguments) -> torch.Tensor:
    return a.tensor("x").clamp(a.number("alpha"), a.number("beta"))


def _clamped_relu(a: Arguments) -> torch.Tensor:
    x = a.tensor("x")
    return torch.minimum(torch.where(x >= 0, x, x * a.number("alpha")), torch.tensor(a.number("beta")))


def _threshold(a: Arguments) -> torch.Tensor:
    return a.tensor("x").clamp(min=a.number("alpha"))


def _thresholded_relu(a: Arguments) -> torch.Tensor:
    x = a.tensor("x")
    return torch.where(x >= a.number("alpha", 1.0), x, torch.zeros_like(x))


def _inverse(a: Arguments) -> torch.Tensor:
    return 1 / (a.tensor("x") + a.number("epsilon", 1e-4))


def _rsqrt(a: Arguments) -> torch.Tensor:
    return torch.rsqrt(a.tensor("x") + a.number("epsilon", 1e-12))


def _log(a: Arguments) -> torch.Tensor:
    return torch.log(a.tensor("x") + a.number("epsilon", 1e-45))


def _cast(a: Arguments) -> torch.Tensor:
    name = a.text("dtype")
    if name not in _CASTS:
        raise lacks(a, f"dtype {name}")
    return a.tensor("x").to(_CASTS[name])


def _select(a: Arguments) -> torch.Tensor:
    return torch.where(a.tensor("cond").bool(), a.tensor("a"), a.tensor("b"))


def _reduction(function: Callable[[torch.Tensor, list[int], bool], torch.Tensor]) -> Implementation:
    def run(a: Arguments) -> torch.Tensor:
        x = a.tensor("x")
        return function(x, a.ints("axes", range(x.ndim)), a.flag("keep_dims", False))

    return run


def _extreme(function: Callable[..., torch.Tensor]) -> Implementation:
    def run(a: Arguments) -> torch.Tensor:
        x, axis, keep = a.tensor("x"), a.whole("axis", -1), a.flag("keep_dims", False)
        a.text("output_dtype", "int32")
        return function(x, axis, keep).to(torch.int32)

    return run


OPS: Mapping[str, Implementation] = {
    "add": _binary(torch.add),
    "sub": _binary(torch.sub),
    "mul": _binary(torch.mul),
    "real_div": _real_div,
    "floor_div": _binary(torch.floor_divide),
    "mod": _binary(torch.remainder),
    "pow": _binary(torch.pow),
    "maximum": _binary(torch.maximum),
    "minimum": _binary(torch.minimum),
    "equal": _binary(torch.eq),
    "not_equal": _binary(torch.ne),
    "greater": _binary(torch.gt),
    "greater_equal": _binary(torch.ge),
    "less": _binary(torch.lt),
    "less_equal": _binary(torch.le),
    "logical_and": _binary(torch.logical_and),
    "logical_or": _binary(torch.logical_or),
    "logical_not": _unary(torch.logical_not),
    "relu": _unary(torch.relu),
    "relu6": _unary(F.relu6),
    "gelu": _gelu,
    "sigmoid": _unary(torch.sigmoid),
    "sigmoid_hard": _sigmoid_hard,
    "silu": _unary(F.silu),
    "tanh": _unary(torch.tanh),
    "scaled_tanh": _scaled_tanh,
    "softplus": _unary(F.softplus),
    "softsign": _unary(F.softsign),
    "leaky_relu": _leaky_relu,
    "elu": _elu,
    "prelu": _prelu,
    "linear_activation": _linear_activation,
    "clip": _clip,
    "clamped_relu": _clamped_relu,
    "threshold": _threshold,
    "thresholded_relu": _thresholded_relu,
    "abs": _unary(torch.abs),
    "ceil": _unary(torch.ceil),
    "floor": _unary(torch.floor),
    "round": _unary(torch.round),
    "sign": _unary(torch.sign),
    "exp": _unary(torch.exp),
    "exp2": _unary(torch.exp2),
    "log": _log,
    "sqrt": _unary(torch.sqrt),
    "rsqrt": _rsqrt,
    "inverse": _inverse,
    "square": _unary(torch.square),
    "erf": _unary(torch.erf),
    "sin": _unary(torch.sin),
    "cos": _unary(torch.cos),
    "cast": _cast,
    "select": _select,
    "reduce_mean": _reduction(lambda x, axes, keep: x.mean(axes, keepdim=keep)),
    "reduce_sum": _reduction(lambda x, axes, keep: x.sum(axes, keepdim=keep)),
    "reduce_max": _reduction(lambda x, axes, keep: x.amax(axes, keepdim=keep)),
    "reduce_min": _reduction(lambda x, axes, keep: x.amin(axes, keepdim=keep)),
    "reduce_sum_square": _reduction(lambda x, axes, keep: x.square().sum(axes, keepdim=keep)),
    "reduce_l2_norm": _reduction(lambda x, axes, keep: x.square().sum(axes, keepdim=keep).sqrt()),
    "reduce_argmax": _extreme(torch.argmax),
    "reduce_argmin": _extreme(torch.argmin),
}
