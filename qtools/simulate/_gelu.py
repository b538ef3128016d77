"""GELU in float32 as LiteRT fills its lookup tables with it: by functions of the C library.

Their last bit differs from library to library, and from a float64 result that was rounded; where an entry of a table
lies next to a tie, that bit moves it.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import math
from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray

from qtools.core.types import Op

Function = Callable[[NDArray[np.float32]], NDArray[np.float32]]


def gelu(op: Op, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Either form, every step rounded to float32."""
    f32 = np.float32
    if op.attrs["approximate"] == "tanh":
        inner = f32(math.sqrt(2 / math.pi)) * (x + f32(0.044715) * (x * x * x))
        return np.asarray(f32(0.5) * x * (f32(1) + _of_library("tanhf", torch.tanh)(inner)))
    # by erfc: near x = 5 it tells 2 - 8e-8 from 2, which 1 + erf(x) cannot
    return np.asarray(f32(0.5) * x * _of_library("erfcf", torch.special.erfc)(-x * f32(math.sqrt(0.5))))


@cache
def _of_library(name: str, otherwise: Callable[[torch.Tensor], torch.Tensor]) -> Function:
    """A function of libm, elementwise; a system without one gets float64 results, rounded."""
    path = ctypes.util.find_library("m")
    if path is None:
        return lambda x: otherwise(torch.from_numpy(x).double()).float().numpy()
    function = getattr(ctypes.CDLL(path), name)
    function.restype, function.argtypes = ctypes.c_float, [ctypes.c_float]
    return lambda x: np.array([function(float(v)) for v in x.ravel()], np.float32).reshape(x.shape)
