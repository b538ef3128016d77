"""The only place that quantizes, dequantizes and rounds.

Every function takes numpy arrays or torch tensors alike (array_api_compat finds the namespace), so that the
simulator, the planner and the exporters share one arithmetic. Rounding is half-to-even throughout, as in
XNNPACK's lrintf, onnxruntime and numpy.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from array_api_compat import array_namespace
from numpy.typing import NDArray

from qtools.core.types import QuantParams, QuantScheme

Array = Any
"""A numpy array or a torch tensor."""

MIN_SCALE = float(np.finfo(np.float32).tiny) * 2**20
"""Keeps scale products and their reciprocals normal in float32."""

BIAS_SCHEME = QuantScheme(32, True, 0, -(2**31) + 1, 2**31 - 1)


def params_from_range(lo: float, hi: float, scheme: QuantScheme) -> QuantParams:
    """Lays a per-tensor grid over [lo, hi], widened to contain zero exactly.

    Containing zero keeps the zero point inside the grid whatever the range (an all-positive bridge block would
    push it out), and makes zero padding exact.

    Args:
        lo: Smallest real value to represent.
        hi: Largest real value to represent, >= lo.
        scheme: A per-tensor scheme.

    Raises:
        ValueError: If the range is not finite or is reversed.
    """
    if not (np.isfinite(lo) and np.isfinite(hi)) or lo > hi:
        raise ValueError(f"range {lo}..{hi} is not a finite interval")
    lo, hi = min(float(lo), 0.0), max(float(hi), 0.0)
    if scheme.symmetric:
        magnitude = max(-lo / max(-scheme.qmin, 1), hi / max(scheme.qmax, 1))
        return QuantParams(scheme, (float32(max(magnitude, MIN_SCALE)),), (0,))
    scale = float32(max((hi - lo) / (scheme.qmax - scheme.qmin), MIN_SCALE))
    zero_point = int(np.clip(np.rint(scheme.qmin - lo / scale), scheme.qmin, scheme.qmax))
    return QuantParams(scheme, (scale,), (zero_point,))


def weight_params(weight: NDArray[np.float32], scheme: QuantScheme) -> QuantParams:
    """Symmetric parameters from the largest magnitude, per index of `scheme.axis` or for the whole tensor.

    A channel of zeros gets the scale 1.0 of no consequence divided by the grid, so that bias scales stay usable.

    Raises:
        ValueError: If a weight is NaN or infinite.
    """
    magnitude = np.abs(weight.astype(np.float64))
    if scheme.axis is None:
        peaks = magnitude.max(keepdims=True).reshape(1)
    else:
        peaks = magnitude.max(axis=tuple(i for i in range(weight.ndim) if i != scheme.axis % weight.ndim))
    if not np.isfinite(peaks).all():
        raise ValueError("weights must be finite")
    peaks = np.where(peaks > 0, peaks, 1.0)
    scales = np.maximum(peaks / scheme.qmax, MIN_SCALE).astype(np.float32)
    return QuantParams(scheme, tuple(map(float, scales)), (0,) * len(scales))


def number_params(number: float) -> QuantParams:
    """A grid for one number alone, which is its outermost code."""
    return weight_params(np.asarray([number], np.float32), QuantScheme.weight(8, axis=None))


def with_scale_dtype(params: QuantParams, dtype: str) -> QuantParams:
    """The same range on scales that `dtype` represents exactly, each rounded up so that nothing is clipped.

    Core ML stores scales as float16: a scale that is rounded after the weights were would shift all of them.

    Raises:
        ValueError: If a scale is too large for the type.
    """
    kind = np.dtype(dtype).type
    with np.errstate(over="ignore"):
        nearest = params.scale_array.astype(kind)
    up = np.where(nearest.astype(np.float64) < params.scale_array, np.nextafter(nearest, kind(np.inf)), nearest)
    if not np.isfinite(up).all():
        raise ValueError(f"scale {params.scale_array.max()} does not fit {dtype}")
    scheme, low = params.scheme, params.scheme.qmin - params.zero_point_array.astype(np.float64)
    moved = np.rint(scheme.qmin - low * params.scale_array / up.astype(np.float64))
    zeros = np.clip(moved, scheme.qmin, scheme.qmax) if not scheme.symmetric else np.zeros_like(moved)
    return QuantParams(scheme, tuple(map(float, up)), tuple(map(int, zeros)))


def in_container(params: QuantParams, container: QuantScheme) -> QuantParams:
    """A narrow per-tensor grid's steps with all codes of a wider container: values beyond the narrow grid keep theirs.

    A grid that starts at zero still does, because a ReLU fused into a kernel is the lower end of its grid.
    """
    starts_at_zero = params.zero_point[0] == params.scheme.qmin
    return QuantParams(container, params.scale, (container.qmin,) if starts_at_zero else params.zero_point)


def at_end(params: QuantParams, container: QuantScheme, *, top: bool) -> QuantParams:
    """A narrow per-tensor grid at one end of its container: what lies beyond that end of the grid is cut there."""
    scheme, zero_point = params.scheme, params.zero_point[0]
    moved = container.qmax - (scheme.qmax - zero_point) if top else container.qmin + (zero_point - scheme.qmin)
    return QuantParams(container, params.scale, (moved,))


def widened(params: QuantParams, wide: QuantScheme) -> QuantParams:
    """A wider symmetric per-tensor grid that holds every code of a narrow one exactly.

    A code less its zero point has one bit more than the code; a step becomes as many steps, a power of two, as the
    wide grid has bits left, so that the conversion is a shift and the scale keeps its mantissa.
    """
    steps = 2 ** (wide.bits - params.scheme.bits - 1)
    return QuantParams(wide, (params.scale[0] / steps,), (0,))


def bias_params(source: QuantParams, weight: QuantParams) -> QuantParams:
    """int32 bias at float32(input scale x weight scale), one per output channel, as the accumulator has it."""
    scales = np.broadcast_to(source.scale_array[0] * weight.scale_array, weight.scale_array.shape).astype(np.float32)
    return QuantParams(BIAS_SCHEME, tuple(map(float, scales)), (0,) * len(scales))


def quantize(x: Array, params: QuantParams) -> Array:
    """Codes of `x` on the grid, as int32: clip(round(x / scale) + zero_point), computed in float64."""
    xp = array_namespace(x)
    scale, zero_point = _laid_out(x, params)
    codes = xp.astype(x, xp.float64, copy=False) / scale  # new memory: the rest happens in place
    xp.round(codes, out=codes)
    codes += zero_point
    return xp.astype(xp.clip(codes, params.scheme.qmin, params.scheme.qmax, out=codes), xp.int32)


def dequantize(codes: Array, params: QuantParams) -> Array:
    """Real values of codes, of any type that holds them, as float32: float32(code - zero_point) * float32(scale)."""
    xp = array_namespace(codes)
    scale, zero_point = _laid_out(codes, params)
    found = xp.astype(codes - xp.astype(zero_point, codes.dtype), xp.float32, copy=False)  # new memory in any case
    found *= xp.astype(scale, xp.float32)
    return found


def on_grid(x: Array, params: QuantParams) -> Array:
    """`dequantize(quantize(x, params), params)` in half its time: codes stay in float64, which holds all of them.

    What codes do not have stays as it is: NaN, and the sign of zero.
    """
    xp = array_namespace(x)
    scale, zero_point = _laid_out(x, params)
    scale32 = xp.astype(scale, xp.float32)
    if params.scheme.axis is None:  # plain numbers spare a broadcast over the whole array
        scale, zero_point, scale32 = params.scale[0], params.zero_point[0], float32(params.scale[0])
    steps = xp.astype(x, xp.float64)  # new memory: the rest happens in place
    steps /= scale
    xp.round(steps, out=steps)
    xp.clip(steps, params.scheme.qmin - zero_point, params.scheme.qmax - zero_point, out=steps)
    found = xp.astype(steps, xp.float32)
    found *= scale32
    return found


def quantize_float32(x: Array, params: QuantParams) -> Array:
    """Codes as a kernel makes them at run time: round(x * float32(1 / scale)) + zero_point, in float32.

    Source: XNNPACK's f32-qs8-vcvt kernels multiply by the reciprocal and round half to even. Only per tensor.
    """
    return _settled(x * float(np.float32(1.0) / params.scale_array[0]), params)


def quantize_by_division(x: Array, params: QuantParams) -> Array:
    """Codes as ONNX's QuantizeLinear makes them: round(x / scale) + zero_point, in float32. Only per tensor."""
    xp = array_namespace(x)
    return _settled(x / xp.asarray(params.scale_array[:1]), params)


def requantize(
    accumulator: Array, multiplier: Array | float, params: QuantParams, ends: tuple[int, int] | None = None
) -> Array:
    """Brings an integer accumulator to the output grid: clip(round(float32(acc) * multiplier) + zero_point).

    Source: the float32 requantization of XNNPACK (fp32 requantization parameters) and of onnxruntime's MLAS.

    Args:
        accumulator: Integer-valued array, any float or integer type.
        multiplier: float32 scale_in * scale_weight / scale_out, broadcastable to `accumulator`.
        params: Per-tensor output parameters.
        ends: Smallest and largest code that may leave, where they are not those of the grid.

    Returns:
        Integer-valued float32 array.
    """
    xp = array_namespace(accumulator)
    return _settled(xp.astype(accumulator, xp.float32, copy=False) * multiplier, params, ends)


def _settled(steps: Array, params: QuantParams, ends: tuple[int, int] | None = None) -> Array:
    """clip(round(steps) + zero_point), in the memory of `steps`."""
    xp = array_namespace(steps)
    xp.round(steps, out=steps)
    steps += params.zero_point[0]
    return xp.clip(steps, *(ends or (params.scheme.qmin, params.scheme.qmax)), out=steps)


def float32(x: float) -> float:
    """The nearest float32, as a Python float, so that JSON and runtime carry the same number."""
    return float(np.float32(x))


def _laid_out(x: Array, params: QuantParams) -> tuple[Array, Array]:
    """Scale (float64) and zero point (int32) shaped to broadcast over `x`, in the namespace of `x`."""
    xp = array_namespace(x)
    shape = [1] * x.ndim
    if params.scheme.axis is not None:
        shape[params.scheme.axis % x.ndim] = len(params.scale)
    scale = xp.reshape(xp.asarray(params.scale_array.astype(np.float64)), tuple(shape))
    return scale, xp.reshape(xp.asarray(params.zero_point_array), tuple(shape))
