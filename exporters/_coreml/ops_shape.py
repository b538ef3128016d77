"""Operations that move numbers: reshape, slice, concatenate, pad, resize, gather."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch.nn import functional as F

from exporters._coreml.arguments import Arguments, Implementation, lacks


def _reshape(a: Arguments) -> torch.Tensor:
    x = a.tensor("x")
    shape = [x.shape[i] if size == 0 else size for i, size in enumerate(a.ints("shape"))]
    return x.reshape(shape)


def _transpose(a: Arguments) -> torch.Tensor:
    return a.tensor("x").permute(a.ints("perm"))


def _expand_dims(a: Arguments) -> torch.Tensor:
    x = a.tensor("x")
    axes = a.ints("axes")
    rank = x.ndim + len(axes)
    for axis in sorted(i % rank for i in axes):
        x = x.unsqueeze(axis)
    return x


def _squeeze(a: Arguments) -> torch.Tensor:
    x = a.tensor("x")
    axes = a.ints("axes", [i for i, size in enumerate(x.shape) if size == 1])
    for axis in sorted((i % x.ndim for i in axes), reverse=True):
        x = x.squeeze(axis)
    return x


def _flatten2d(a: Arguments) -> torch.Tensor:
    x, axis = a.tensor("x"), a.whole("axis", 1)
    return x.reshape(math.prod(x.shape[:axis]), -1)


def _concat(a: Arguments) -> torch.Tensor:
    if a.flag("interleave", False):
        raise lacks(a, "interleaved form")
    values, axis = a.tensors("values"), a.whole("axis")
    return torch.cat(values, axis)


def _stack(a: Arguments) -> torch.Tensor:
    return torch.stack(a.tensors("values"), a.whole("axis"))


def _split(a: Arguments) -> tuple[torch.Tensor, ...]:
    x, axis = a.tensor("x"), a.whole("axis")
    sizes, count = a.ints("split_sizes", []), a.whole("num_splits", 0)
    if not sizes:
        sizes = [x.shape[axis] // count] * count
    return tuple(torch.split(x, sizes, axis))


def _bounds(start: int, stop: int, size: int, stride: int) -> slice:
    """numpy's slice, also backwards, with negative positions counted from the end."""
    start = start + size if start < 0 else start
    stop = stop + size if stop < 0 else stop
    return slice(start, stop if stop >= 0 else None, stride)


def _slice_by_index(a: Arguments) -> torch.Tensor:
    x = a.tensor("x")
    begin, end, stride = a.ints("begin"), a.ints("end"), a.ints("stride", [1] * x.ndim)
    masks = [a.ints(f"{name}_mask", [0] * x.ndim) for name in ("begin", "end", "squeeze")]
    squeezed = []
    for axis, size in enumerate(x.shape):
        no_begin, no_end, squeeze = (mask[axis] for mask in masks)
        step = stride[axis]
        if squeeze:
            x = x.narrow(axis, begin[axis] % size, 1)
            squeezed.append(axis)
            continue
        first = (0 if step > 0 else size - 1) if no_begin else begin[axis]
        last = (size if step > 0 else -size - 1) if no_end else end[axis]
        picked = list(range(size))[_bounds(first, last, size, step)]
        x = x.index_select(axis, torch.tensor(picked, dtype=torch.int64))
    for axis in reversed(squeezed):
        x = x.squeeze(axis)
    return x


def _slice_by_size(a: Arguments) -> torch.Tensor:
    x = a.tensor("x")
    for axis, (start, size) in enumerate(zip(a.ints("begin"), a.ints("size"), strict=True)):
        start = start + x.shape[axis] if start < 0 else start
        x = x.narrow(axis, start, x.shape[axis] - start if size == -1 else size)
    return x


def _reverse(a: Arguments) -> torch.Tensor:
    x = a.tensor("x")
    return x.flip(a.ints("axes", range(x.ndim)))


def _tile(a: Arguments) -> torch.Tensor:
    return a.tensor("x").repeat(a.ints("reps"))


def _pad(a: Arguments) -> torch.Tensor:
    x, pads = a.tensor("x"), a.ints("pad")
    mode, value = a.text("mode", "constant"), a.number("constant_val", 0.0)
    order = [side for pair in reversed(list(zip(pads[::2], pads[1::2], strict=True))) for side in pair]
    if mode == "constant":
        return F.pad(x, order, value=value)
    while len(order) > 2 * (x.ndim - 2) and not any(order[-2:]):  # torch pads the last dimensions only
        order = order[:-2]
    return F.pad(x, order, mode={"reflect": "reflect", "replicate": "replicate"}[mode])


def _upsample_nearest(a: Arguments) -> torch.Tensor:
    factors = (a.number("scale_factor_height", 1.0), a.number("scale_factor_width", 1.0))
    return F.interpolate(a.tensor("x"), scale_factor=factors, mode="nearest")


def _upsample_bilinear(a: Arguments) -> torch.Tensor:
    x = a.tensor("x")
    factors = (a.number("scale_factor_height", 1.0), a.number("scale_factor_width", 1.0))
    size = [math.floor(n * f + 1e-6) for n, f in zip(x.shape[-2:], factors, strict=True)]
    return F.interpolate(x, size=size, mode="bilinear", align_corners=a.flag("align_corners", True))


def _resize_bilinear(a: Arguments) -> torch.Tensor:
    size = [a.whole("target_size_height", 1), a.whole("target_size_width", 1)]
    mode = a.text("sampling_mode", "DEFAULT")
    corners = {"STRICT_ALIGN_CORNERS": True, "ALIGN_CORNERS": True, "UNALIGN_CORNERS": False}
    if mode not in corners:
        raise lacks(a, f"sampling mode {mode}")
    return F.interpolate(a.tensor("x"), size=size, mode="bilinear", align_corners=corners[mode])


def _resize_nearest(a: Arguments) -> torch.Tensor:
    size = [a.whole("target_size_height", 1), a.whole("target_size_width", 1)]
    return F.interpolate(a.tensor("x"), size=size, mode="nearest")


def _pixel_shuffle(a: Arguments) -> torch.Tensor:
    return F.pixel_shuffle(a.tensor("x"), a.whole("upscale_factor"))


def _pixel_unshuffle(a: Arguments) -> torch.Tensor:
    return F.pixel_unshuffle(a.tensor("x"), a.whole("downscale_factor"))


def _space_to_depth(a: Arguments) -> torch.Tensor:
    x, block = a.tensor("x"), a.whole("block_size")
    n, c, h, w = x.shape
    parts = x.reshape(n, c, h // block, block, w // block, block).permute(0, 3, 5, 1, 2, 4)
    return parts.reshape(n, c * block * block, h // block, w // block)


def _gather(a: Arguments) -> torch.Tensor:
    x, indices, axis = a.tensor("x"), a.tensor("indices").long(), a.whole("axis", 0)
    a.flag("validate_indices", False)
    if a.whole("batch_dims", 0):
        raise lacks(a, "batched form")
    axis %= x.ndim
    indices = torch.where(indices < 0, indices + x.shape[axis], indices)
    picked = x.index_select(axis, indices.reshape(-1))
    return picked.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])


def _fill(a: Arguments) -> torch.Tensor:
    value = a.tensor("value")
    return value.reshape(()).expand(a.ints("shape")).clone()


def _shape(a: Arguments) -> torch.Tensor:
    return torch.tensor(a.tensor("x").shape, dtype=torch.int32)


def _range(a: Arguments) -> torch.Tensor:
    start, end, step = (a.tensor(n).reshape(()) for n in ("start", "end", "step"))
    return torch.arange(start.item(), end.item(), step.item(), dtype=start.dtype)


def _classify(a: Arguments) -> tuple[str, torch.Tensor]:
    probabilities, labels = a.tensor("probabilities"), a.any("classes")
    return str(labels[int(probabilities.reshape(-1).argmax())]), probabilities


OPS: Mapping[str, Implementation] = {
    "identity": lambda a: a.tensor("x"),
    "reshape": _reshape,
    "transpose": _transpose,
    "expand_dims": _expand_dims,
    "squeeze": _squeeze,
    "flatten2d": _flatten2d,
    "concat": _concat,
    "stack": _stack,
    "split": _split,
    "slice_by_index": _slice_by_index,
    "slice_by_size": _slice_by_size,
    "reverse": _reverse,
    "tile": _tile,
    "pad": _pad,
    "upsample_nearest_neighbor": _upsample_nearest,
    "upsample_bilinear": _upsample_bilinear,
    "resize_bilinear": _resize_bilinear,
    "resize_nearest_neighbor": _resize_nearest,
    "pixel_shuffle": _pixel_shuffle,
    "pixel_unshuffle": _pixel_unshuffle,
    "space_to_depth": _space_to_depth,
    "gather": _gather,
    "fill": _fill,
    "shape": _shape,
    "range_1d": _range,
    "classify": _classify,
}
