"""The float graph as torch.onnx writes it -> the same in fewer and faster operations.

Where torch.onnx and onnxruntime leave something on the table: times are onnxruntime 1.31's, x86, one thread.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import Sequential, common
from onnxscript import optimizer, rewriter
from onnxscript.rewriter import RewriteRuleClassBase

from exporters._onnx.edit import shape_of, stored

LARGE = 4096
"""Numbers; for fewer, two more calls take longer than what they save."""


def simplified(model: ir.Model) -> ir.Model:
    """What torch.onnx's own `optimize` does and the rules below, but equal subexpressions and constants stay apart.

    A layer that is read twice must keep two tensors, or two values of the plan would share one; and one zero bias
    that serves two convolutions could not have two scales.
    """
    common.InlinePass()(model)
    optimizer.fold_constants(model)
    model = common.ShapeInferencePass()(_tidy(rewriter.rewrite(model))).model
    for rules in ([Alike.rule()], [Nothing.rule("Mul"), Nothing.rule("Add"), Keys.rule()], [Reversed.rule()]):
        model = _tidy(rewriter.rewrite(model, rules))
    return model


def _tidy(model: ir.Model) -> ir.Model:
    passes = Sequential(
        common.IdentityEliminationPass(),
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedFunctionsPass(),
        common.RemoveUnusedOpsetsPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.NameFixPass(),
    )
    return passes(model).model


class Alike(RewriteRuleClassBase):
    """CastLike of what has the type already, which onnxruntime would do at every inference."""

    def pattern(self, op: Any, x: Any, like: Any) -> Any:
        return op.CastLike(x, like)

    def check(self, _: Any, x: ir.Value, like: ir.Value) -> bool:
        return x.dtype is not None and x.dtype == like.dtype

    def rewrite(self, op: Any, x: ir.Value, like: ir.Value) -> Any:
        return op.Identity(x)


class Nothing(RewriteRuleClassBase):
    """A product with ones and a sum with zeros: the affine map of a norm that went into the layer behind it."""

    def __init__(self, op: str) -> None:
        super().__init__(f"nothing by {op}")
        self._op = op

    def pattern(self, op: Any, x: Any, constant: Any) -> Any:
        return getattr(op, self._op)(x, constant)

    def check(self, _: Any, x: ir.Value, constant: ir.Value) -> bool:
        array, shape = stored(constant), shape_of(x)
        if array is None or not shape or not (array == (self._op == "Mul")).all():
            return False
        return np.broadcast_shapes(array.shape, shape) == shape

    def rewrite(self, op: Any, x: ir.Value, constant: ir.Value) -> Any:
        return op.Identity(x)


class Keys(RewriteRuleClassBase):
    """Keys turned for their product with queries, as torch.onnx writes it: a Transpose between two Reshapes.

    One Transpose of the last two dimensions becomes part of onnxruntime's product.
    """

    def pattern(self, op: Any, x: Any, flat: Any, whole: Any, perm: Any) -> Any:
        return op.Reshape(op.Transpose(op.Reshape(x, flat), perm=perm), whole)

    def check(self, _: Any, x: ir.Value, flat: ir.Value, whole: ir.Value, perm: ir.Attr) -> bool:
        shape, through, target = shape_of(x), stored(flat), stored(whole)
        if len(shape) < 4 or through is None or target is None or list(perm.as_ints()) != [0, 2, 1]:
            return False
        turned = (*shape[:-2], shape[-1], shape[-2])
        return tuple(through[1:]) == shape[-2:] and tuple(target) == turned

    def rewrite(self, op: Any, x: ir.Value, **_: Any) -> Any:
        rank = len(shape_of(x))
        return op.Transpose(x, perm=[*range(rank - 2), rank - 1, rank - 2])


class Reversed(RewriteRuleClassBase):
    """Three dimensions in reverse, as between the maps and the tokens of MobileViT, in two turns.

    onnxruntime moves a single dimension by whole blocks and all else number by number: 160 us for 64 x 256 x 4, and
    20 in two turns. It puts the two together again where floats are turned, but not codes.
    """

    def pattern(self, op: Any, x: Any, perm: Any) -> Any:
        return op.Transpose(x, perm=perm)

    def check(self, _: Any, x: ir.Value, perm: ir.Attr) -> bool:
        shape = shape_of(x)
        long = [axis for axis in perm.as_ints() if shape and shape[axis] > 1]
        return len(long) == 3 and long == sorted(long, reverse=True) and math.prod(shape) >= LARGE

    def rewrite(self, op: Any, x: ir.Value, perm: ir.Attr) -> Any:
        shape, order = shape_of(x), list(perm.as_ints())
        outer, *inner = (axis for axis, size in enumerate(shape) if size > 1)
        last = [*(axis for axis in range(len(shape)) if axis != outer), outer]
        first = op.Transpose(x, perm=last)
        flat = op.Reshape(first, _numbers(op, [shape[axis] for axis in (*inner, outer)]))
        second = op.Transpose(flat, perm=[1, 0, 2])
        return op.Reshape(second, _numbers(op, [shape[axis] for axis in order]))


def _numbers(op: Any, shape: Any) -> Any:
    numbers: NDArray[np.int64] = np.array(shape, np.int64)
    return op.Constant(value=ir.tensor(numbers))
