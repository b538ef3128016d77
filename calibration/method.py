"""What `--method` chooses: the activation ranges, and what is done to the weights around them."""

from __future__ import annotations

from dataclasses import dataclass

from calibration.baseline import Baseline
from qtools.core import plugins
from qtools.core.errors import InputError, did_you_mean
from qtools.core.protocols import RangeMethod

AUTO = "auto"
FAST = "fast"


@dataclass(frozen=True)
class Method:
    """A calibration method.

    Attributes:
        name: Word used on the command line.
        ranges_name: File in calibration/ranges.
        equalize: Whether channels of linear paths are levelled first (`calibration.hybrid.equalize`).
        through: Whether a value that only GELU or its like reads gets the range that is best behind it
            (`calibration.read_through`).
        correct: Whether biases are corrected under the plan (`calibration.weights.correct`).
        between: Whether operations may be in float where that pays (`calibration.sides`).
        ends: Whether the ends of the grids are moved by what they cost the result (`calibration.ends`).
        rounding: Whether weights are rounded there as well.
        baseline: A published method to compare with (calibration/baselines), where this is one.
    """

    name: str
    ranges_name: str
    equalize: bool = False
    through: bool = False
    correct: bool = False
    between: bool = False
    ends: bool = False
    rounding: bool = False
    baseline: Baseline | None = None

    @property
    def ranges(self) -> RangeMethod:
        """The range method itself."""
        found: RangeMethod = plugins.find("calibration.ranges", self.ranges_name, "RANGE")
        return found

    @property
    def source(self) -> str:
        """What a plan says of where a range is from."""
        return self.ranges_name if self.baseline is None else self.name

    def check_deployable(self) -> None:
        """Refuses a method that no artifact can be made by.

        Raises:
            InputError: With what it needs that kernels have not.
        """
        if self.baseline is not None and self.baseline.not_deployable:
            raise InputError(
                f"--method {self.name} ({self.baseline.paper}) cannot be exported: it needs "
                f"{self.baseline.not_deployable}, which no stock int8 kernel has",
                f"--method {AUTO}; make bench-ptq simulates {self.name} to compare with",
            )


_COMPOSED = {
    AUTO: Method(AUTO, "mse", equalize=True, through=True, correct=True, between=True, ends=True, rounding=True),
    FAST: Method(FAST, "mse", equalize=True, through=True, correct=True, between=True),
}


def names() -> tuple[str, ...]:
    """Everything `--method` knows: auto, fast, each range method with nothing around it, and published methods."""
    return (*_COMPOSED, *plugins.names("calibration.ranges"), *plugins.names("calibration.baselines"))


def method(name: str) -> Method:
    """The method of a name.

    Raises:
        InputError: If there is none; the message lists what there is.
    """
    if name in _COMPOSED:
        return _COMPOSED[name]
    if name not in names():
        raise InputError(
            f"unknown method '{name}'.{did_you_mean(name, names())}", f"choose one of: {', '.join(names())}"
        )
    if name in plugins.names("calibration.baselines"):
        return Method(name, "minmax", baseline=plugins.find("calibration.baselines", name, "BASELINE"))
    return Method(name, name)
