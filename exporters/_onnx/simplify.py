"""The float graph as torch.onnx writes it -> the same in fewer operations, where onnxruntime would not see to it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import Sequential, common
from onnxscript import optimizer, rewriter
from onnxscript.rewriter import RewriteRuleClassBase

from exporters._onnx.edit import shape_of, stored

GENERAL = [rule for rule in rewriter._DEFAULT_REWRITE_RULES if not str(rule.name).startswith("RemoveOptionalBias")]
"""What `rewriter.rewrite` does by itself, but for one; there is no public name for it."""


def simplified(model: ir.Model) -> ir.Model:
    """What torch.onnx's own `optimize` does and the rules below, but equal subexpressions and constants stay apart.

    A layer that is read twice must keep two tensors, or two values of the plan would share one; and one zero bias
    that serves two convolutions could not have two scales. A bias of zeros stays too: it is where corrections go, and a
    layer whose bias is nowhere would have to run in float.
    """
    common.InlinePass()(model)
    optimizer.fold_constants(model)
    model = common.ShapeInferencePass()(_tidy(rewriter.rewrite(model, GENERAL))).model
    for rules in ([Alike.rule()], [Nothing.rule("Mul"), Nothing.rule("Add")], [Twice.rule()]):
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


class Twice(RewriteRuleClassBase):
    """A change of shape behind another one, which alone leads to the same."""

    def pattern(self, op: Any, x: Any, first: Any, last: Any) -> Any:
        return op.Reshape(op.Reshape(x, first), last)

    def check(self, _: Any, x: ir.Value, first: ir.Value, last: ir.Value) -> bool:
        shape = stored(last)
        return shape is not None and int(np.asarray(shape, np.int64).min(initial=1)) > 0

    def rewrite(self, op: Any, x: ir.Value, first: ir.Value, last: ir.Value) -> Any:
        return op.Reshape(x, last)


class Nothing(RewriteRuleClassBase):
    """A product with ones or a sum with zeros, written for a norm whose affine map went into the layer behind it.

    Where a network itself has one it is an operation of the program, with a value of its own.
    """

    def __init__(self, op: str) -> None:
        super().__init__(f"nothing by {op}")
        self._op = op

    def pattern(self, op: Any, x: Any, constant: Any) -> Any:
        return getattr(op, self._op)(x, constant)

    def check(self, _: Any, x: ir.Value, constant: ir.Value) -> bool:
        array, shape = stored(constant), shape_of(x)
        if array is None or not shape or not (array == (self._op == "Mul")).all() or not _of_a_norm(x):
            return False
        return np.broadcast_shapes(array.shape, shape) == shape

    def rewrite(self, op: Any, x: ir.Value, constant: ir.Value) -> Any:
        return op.Identity(x)


def _of_a_norm(value: ir.Value) -> bool:
    """Whether it is what torch.onnx writes for a GroupNorm, up to the scale."""
    maker = value.producer()
    while maker is not None and maker.op_type in ("Identity", "Reshape", "Mul") and maker.inputs[0] is not None:
        maker = maker.inputs[0].producer()
    return maker is not None and maker.op_type == "InstanceNormalization"
