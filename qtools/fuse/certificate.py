"""What fusion proved, block by block."""

from __future__ import annotations

from dataclasses import dataclass

ALGEBRA_TOLERANCE = 1e-9
"""Largest |block - fold| / max|block| in float64. Float64 resolves 2e-16; a fold over BatchNorm statistics far from its
inputs may cancel six digits of that. A fold done in float32 by mistake leaves 1e-7, a missing branch 1e-3 and more."""

CAST_FACTOR = 10.0
"""The fused float32 model may be at most this many times as far from float64 as the unfused float32 model is: what
float32 costs a network depends on its depth and gain, so the network itself says how much is normal."""

CAST_FLOOR = 1e-5
"""Relative error of a float32 model that is always accepted, for networks whose unfused error is luckily tiny."""


@dataclass(frozen=True)
class BlockProof:
    """One fold and how far it is from the block it replaces, on the block's real input, in float64.

    Attributes:
        path: Module path of the fused weights.
        rule: Which fold it is.
        max_error: Largest |block - fold|, divided by the largest |block| output.
        mean_error: Mean of the same.
    """

    path: str
    rule: str
    max_error: float
    mean_error: float


@dataclass(frozen=True)
class FusionCertificate:
    """The proof that the fused model computes what the training-time model computes in eval mode.

    Attributes:
        blocks: One entry per fold, in module order; empty where there was nothing to fold.
        bn_statistics: "trained"; "default" where statistics were untouched (mean 0, variance 1), with the sentence that
            the proof was repeated with randomized ones; "none" for a model without BatchNorm.
        model_max_error_float64: Fused against unfused, whole model, float64, relative to the largest output.
        model_max_error_float32: Fused float32 model against the unfused float64 model, likewise.
        unfused_max_error_float32: The unfused float32 model against itself in float64: what float32 costs anyway.
        tolerance_float64: Limit that each block and the whole model kept.
        tolerance_float32: Limit that the float32 model kept.
        leftover: Module paths of BatchNorm layers that run and could not be folded.
        parameters_before: Number of weights before.
        parameters_after: Number of weights after.
        note: What a reader should know, in one sentence; empty for the usual case.
    """

    blocks: tuple[BlockProof, ...]
    bn_statistics: str
    model_max_error_float64: float
    model_max_error_float32: float
    unfused_max_error_float32: float
    tolerance_float64: float
    tolerance_float32: float
    leftover: tuple[str, ...]
    parameters_before: int
    parameters_after: int
    note: str = ""
