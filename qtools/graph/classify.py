"""From aten operators to OpKind and neutral attributes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import fx

from qtools.core.types import OpKind

Attrs = Mapping[str, Any]


def classify(node: fx.Node) -> tuple[OpKind, Attrs]:
    """Returns what a call_function node means and its static arguments; OTHER where nothing here knows it."""
    name = str(node.target).removeprefix("aten.").split(".")[0]
    kind = _KINDS.get(name, OpKind.OTHER)
    reader = _READERS.get(name)
    attrs = reader(_bound_arguments(node)) if reader else {}
    if kind is OpKind.CONV and _is_depthwise(node, attrs):
        kind = OpKind.DEPTHWISE_CONV
    if kind is OpKind.PAD and attrs["mode"] != "constant":
        kind = OpKind.OTHER  # repeats or mirrors what is there
    if kind in (OpKind.MEAN, OpKind.SUM) and _keeps_every_element(node):
        kind = OpKind.RESHAPE  # over dimensions of size 1: converters drop it, and no kernel rounds
    return kind, {"aten": str(node.target), **attrs}


def _bound_arguments(node: fx.Node) -> Mapping[str, Any]:
    """Every argument of the call by schema name, defaults filled in."""
    schema = node.target._schema  # type: ignore[union-attr]
    values = {argument.name: argument.default_value for argument in schema.arguments}
    values.update(zip((argument.name for argument in schema.arguments), node.args, strict=False))
    values.update(node.kwargs)
    return values


def _is_depthwise(node: fx.Node, attrs: Attrs) -> bool:
    channels = node.args[0].meta["val"].shape[1]  # type: ignore[union-attr]
    return bool(attrs["groups"] == channels and channels > 1)


def _keeps_every_element(node: fx.Node) -> bool:
    return bool(node.args[0].meta["val"].numel() == node.meta["val"].numel())  # type: ignore[union-attr]


def _conv(args: Mapping[str, Any]) -> Attrs:
    return {
        "stride": tuple(args["stride"]),
        "padding": args["padding"] if isinstance(args["padding"], str) else tuple(args["padding"]),
        "dilation": tuple(args["dilation"]),
        "groups": int(args["groups"]),
    }


def _pool(args: Mapping[str, Any]) -> Attrs:
    """`unpadded`: whether every window lies on the map."""
    return {"padding": tuple(args["padding"]), "unpadded": not any(args["padding"]) and not args["ceil_mode"]}


def _average(args: Mapping[str, Any]) -> Attrs:
    """`counts_padding`: whether each window is divided by its full size; `even`: whether all are cut from the padded
    map in full, without a divisor of their own.
    """
    return {
        "padding": tuple(args["padding"]),
        "window": tuple(args["kernel_size"]),
        "stride": tuple(args["stride"] or args["kernel_size"]),
        "counts_padding": bool(args["count_include_pad"]),
        "even": not args["ceil_mode"] and args["divisor_override"] is None,
    }


def _pad(args: Mapping[str, Any]) -> Attrs:
    """Elements to add, from the last dimension's two ends on, as `torch.nn.functional.pad` counts them."""
    return {"pads": tuple(args["pad"]), "mode": args.get("mode", "constant"), "value": float(args["value"] or 0)}


def _reduce(args: Mapping[str, Any]) -> Attrs:
    dims = args.get("dim")  # a mean over everything has neither argument
    return {"dims": tuple(dims) if dims is not None else None, "keepdim": bool(args.get("keepdim"))}


def _one_dim(args: Mapping[str, Any]) -> Attrs:
    return {"dim": int(args["dim"])}


def _norm(args: Mapping[str, Any]) -> Attrs:
    """`over`: how many of the last dimensions are normalized together; `affine`: whether a weight and a bias follow."""
    given = tuple(args.get(name) is not None for name in ("weight", "bias"))
    return {"over": len(args["normalized_shape"]), "eps": float(args["eps"]), "affine": given}


def _group_norm(args: Mapping[str, Any]) -> Attrs:
    """`groups` of channels, each normalized together; `affine` as in `_norm`."""
    given = tuple(args.get(name) is not None for name in ("weight", "bias"))
    return {"groups": int(args["num_groups"]), "eps": float(args["eps"]), "affine": given}


def _number(args: Mapping[str, Any]) -> Attrs:
    """`number`: what is added, or multiplied by, where that is no tensor."""
    return {"number": float(args["other"])} if isinstance(args["other"], (int, float)) else {}


def _gelu(args: Mapping[str, Any]) -> Attrs:
    return {"approximate": str(args["approximate"])}


def _bilinear(args: Mapping[str, Any]) -> Attrs:
    return {"sampling": "bilinear, corners aligned" if args["align_corners"] else "bilinear"}


def _nearest(args: Mapping[str, Any]) -> Attrs:
    return {"sampling": "nearest"}


_KINDS: Mapping[str, OpKind] = {
    "conv2d": OpKind.CONV,
    "linear": OpKind.LINEAR,
    "matmul": OpKind.MATMUL,
    "bmm": OpKind.MATMUL,
    "add": OpKind.ADD,
    "sub": OpKind.SUB,
    "mul": OpKind.MUL,
    "div": OpKind.DIV,
    "relu": OpKind.RELU,
    "relu6": OpKind.RELU6,
    "gelu": OpKind.GELU,
    "sigmoid": OpKind.SIGMOID,
    "tanh": OpKind.TANH,
    "silu": OpKind.SILU,
    "hardswish": OpKind.HARD_SWISH,
    "hardsigmoid": OpKind.HARD_SIGMOID,
    "softmax": OpKind.SOFTMAX,
    "_softmax": OpKind.SOFTMAX,
    "scaled_dot_product_attention": OpKind.ATTENTION,
    "layer_norm": OpKind.LAYER_NORM,
    "group_norm": OpKind.GROUP_NORM,
    "_native_batch_norm_legit_no_training": OpKind.BATCH_NORM,
    "mean": OpKind.MEAN,
    "sum": OpKind.SUM,
    "avg_pool2d": OpKind.AVG_POOL,
    "adaptive_avg_pool2d": OpKind.AVG_POOL,
    "max_pool2d": OpKind.MAX_POOL,
    "constant_pad_nd": OpKind.PAD,
    "pad": OpKind.PAD,
    "view": OpKind.RESHAPE,
    "_unsafe_view": OpKind.RESHAPE,
    "reshape": OpKind.RESHAPE,
    "squeeze": OpKind.RESHAPE,
    "unsqueeze": OpKind.RESHAPE,
    "permute": OpKind.TRANSPOSE,
    "transpose": OpKind.TRANSPOSE,
    "expand": OpKind.EXPAND,
    "slice": OpKind.SLICE,
    "select": OpKind.SLICE,
    "cat": OpKind.CONCAT,
    "split_with_sizes": OpKind.SPLIT,
    "split": OpKind.SPLIT,
    "unbind": OpKind.SPLIT,
    "upsample_bilinear2d": OpKind.RESIZE,
    "upsample_nearest2d": OpKind.RESIZE,
    "clone": OpKind.IDENTITY,
    "alias": OpKind.IDENTITY,
    "contiguous": OpKind.IDENTITY,
    "detach": OpKind.IDENTITY,
}

_READERS: Mapping[str, Callable[[Mapping[str, Any]], Attrs]] = {
    "conv2d": _conv,
    "avg_pool2d": _average,
    "max_pool2d": _pool,
    "constant_pad_nd": _pad,
    "pad": _pad,
    "mean": _reduce,
    "sum": _reduce,
    "softmax": _one_dim,
    "_softmax": _one_dim,
    "layer_norm": _norm,
    "group_norm": _group_norm,
    "cat": _one_dim,
    "add": _number,
    "mul": _number,
    "gelu": _gelu,
    "upsample_bilinear2d": _bilinear,
    "upsample_nearest2d": _nearest,
}
