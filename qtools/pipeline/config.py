"""What a run was asked for, checked before anything heavy is imported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from calibration.apart import Apart
from calibration.budget import SizeBudget
from calibration.method import AUTO
from calibration.method import method as calibration_method
from qtools.core import plugins
from qtools.core.cache import NONE, Cache
from qtools.core.cache import default as default_cache
from qtools.core.errors import InputError

if TYPE_CHECKING:
    from torch import nn

DEFAULT_METHOD = AUTO
INT8, PIXELS = "int8", "pixels"
IO = (INT8, "float32", PIXELS)
ALL = "all"
ALL_TARGETS = ("tflite", "onnx", "coreml")
"""What `--target all` makes: one artifact per runtime."""
CALIBRATION_IMAGES = 256
EVALUATION_IMAGES = 512


class Options(TypedDict, total=False):
    """Keyword options of `qtools.quantize` beyond the first few; see RunConfig for their meaning."""

    weights: str
    builder: str
    eval_data: str | Path
    method: str
    calibration: int
    evaluation: int
    io: str
    labels: str | Path
    seed: int
    weight_bits: int
    act_bits: int
    int16: Sequence[str]
    dynamic: Sequence[str]
    clamp: bool
    strict_weights: bool
    strict_activations: bool
    max_drop: float
    max_islands: int
    max_slower: float | None
    size_budget: str | float
    force: bool
    cache: bool
    input_size: int
    target_options: Mapping[str, str]


@dataclass(frozen=True)
class Images:
    """Which images, and how many.

    Attributes:
        data: Folder or CSV to calibrate on; None takes rendered images.
        eval_data: Folder or CSV to evaluate on; None takes what calibration left of `data`.
        calibration: Number of calibration images; None takes 256, or half of a smaller folder.
        evaluation: Number of evaluation images; None takes 512, or what is left of a smaller folder.
        seed: Seed of the choice.
    """

    data: Path | None = None
    eval_data: Path | None = None
    calibration: int | None = None
    evaluation: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, count in (("calibration", self.calibration), ("evaluation", self.evaluation)):
            if count is not None and count < 1:
                raise InputError(f"{name} needs at least one image, got {count}", f"leave --{name} out for the default")


@dataclass(frozen=True)
class RunConfig:
    """One run.

    Attributes:
        model: A name, or the user's own module.
        weights: auto, imagenet, reference or a path.
        builder: "package.module:function" that makes the module, instead of a name; "" for none.
        target: Name of a file in exporters/, or "all".
        bits: Width of weights and activations.
        weight_bits: Width of the weights, where it differs.
        act_bits: Width of the activations, where it differs.
        int16: Patterns of values to hold at 16 bits, over value ids and module paths.
        dynamic: Patterns of layers to keep on float activations over int8 weights, over value ids and module paths.
        clamp: Whether activations narrower than their container are cut where their grid ends.
        strict_weights: Whether every weight keeps to a narrow grid, also where its container has room for outliers.
        strict_activations: Whether activations that no layer and no product of matrices reads are narrow as well.
        max_drop: Points of top-1 that may be lost (of agreement with float, without labels; of overlap with float's
            masks): the fewest values that meet it on held-out calibration images are held more precisely, and the
            artifact is checked against it. None: networks for prompts are made as `prompted.LOST` says, unchecked.
        max_islands: Most values to hold more precisely where that pays; 0 for none, and for all in 8 bits.
        max_slower: Percent of the predicted time that may be given for nearness to float.
        size_budget: How large the artifact may be, such as "6MB", or 0.22 of the float artifact: layers then get fewer
            bits where that costs least, on targets whose files get smaller by it.
        method: "auto", "fast", or the name of a file in calibration/ranges/ or (what can ship) calibration/baselines/.
        images: Which images.
        io: "int8" or "float32", the artifact's input and output; "pixels": bytes 0..255 in, float32 out.
        labels: File with the names of the classes, one per line; None takes those of the class folders.
        out: Run folder; None makes runs/<model>-<weights>-<scheme>-<target>.
        force: Whether an existing run folder given with `out` is replaced.
        cache: Whether statistics and float artifacts of earlier runs are used, and kept for later ones.
        input_size: Side in pixels, for modules that do not say.
        command: How the run was called, for the report.
        target_options: Choices that only this target has, e.g. {"activations": "int8"} of onnx.
    """

    model: str | nn.Module
    weights: str = "auto"
    builder: str = ""
    target: str = "tflite"
    bits: int = 8
    weight_bits: int | None = None
    act_bits: int | None = None
    int16: Sequence[str] = ()
    dynamic: Sequence[str] = ()
    clamp: bool = False
    strict_weights: bool = False
    strict_activations: bool = False
    max_drop: float | None = None
    max_islands: int | None = None
    max_slower: float | None = None
    size_budget: str | float | None = None
    method: str = DEFAULT_METHOD
    images: Images = Images()
    io: str = "int8"
    labels: Path | None = None
    out: Path | None = None
    force: bool = False
    cache: bool = True
    input_size: int | None = None
    command: str = ""
    target_options: Mapping[str, str] = field(default_factory=dict)

    @property
    def results(self) -> Cache:
        """Where results of earlier runs are."""
        return default_cache() if self.cache else NONE

    @property
    def apart(self) -> Apart:
        """What is to be planned apart from the scheme.

        Raises:
            InputError: If no target could have it.
        """
        patterns = tuple(self.int16), tuple(self.dynamic)
        return Apart(
            *patterns,
            self.clamp,
            self.strict_weights,
            self.strict_activations,
            max_islands=self.max_islands,
            max_drop=self.max_drop,
            max_slower=self.max_slower,
            size_budget=None if self.size_budget is None else SizeBudget.parse(str(self.size_budget)),
            float_ends=self.io != INT8,
        )

    def __post_init__(self) -> None:
        _ = self.apart
        if self.target != ALL:
            plugins.check("exporters", self.target, "target")
        elif self.target_options:
            raise InputError("--target all takes no option of one target", "leave it out, or choose that target")
        chosen = calibration_method(self.method)
        chosen.check_deployable()
        if self.max_slower and not chosen.between:
            raise InputError(
                f"--max-slower is a choice of auto and fast, not of {self.method}", "leave one of them out"
            )
        if self.io not in IO:
            raise InputError(f"--io {self.io} is unknown", f"choose one of: {', '.join(IO)}")
