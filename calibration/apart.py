"""What a user wants treated apart from the scheme: values, by patterns over ids and module paths, and narrow ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from calibration import budget
from calibration.budget import SizeBudget
from calibration.widths import Widths
from qtools.core.errors import InputError
from qtools.core.target import TargetSpec
from qtools.core.types import GraphView

MOST_SLOWER = 100.0
"""Percent: beyond twice the time a float artifact is the better choice."""


@dataclass(frozen=True)
class Apart:
    """Wishes beyond widths.

    Attributes:
        int16: Patterns, as of file names, of values to hold at 16 bits.
        dynamic: Patterns of operations to run on float activations over int8 weights.
        clamp: Whether activations below the target's width are cut where their grid ends.
        strict_weights: Whether every weight keeps to a narrow grid, also where its container has room for outliers.
        strict_activations: Whether values that no layer and no product of matrices reads keep to a narrow grid too.
        max_islands: Most values to raise by measured benefit; None for no number, 0 for none, and for nothing in float
            that a kernel takes in integers.
        max_slower: Percent of the predicted time that may be given for nearness to float, by leaving operations in
            float; None for what the network can give (`calibration.time_given.time_given`).
        max_drop: Points of top-1 (of agreement with float, without labels) that may be lost; None for no limit.
        size_budget: How large the artifact may be; layers with the least to lose then get fewer bits. None: no limit.
        float_ends: Whether the artifact gives floats, so that what makes its output may be raised too.
    """

    int16: tuple[str, ...] = ()
    dynamic: tuple[str, ...] = ()
    clamp: bool = False
    strict_weights: bool = False
    strict_activations: bool = False
    max_islands: int | None = None
    max_drop: float | None = None
    max_slower: float | None = None
    size_budget: SizeBudget | None = None
    float_ends: bool = False

    def __post_init__(self) -> None:
        if self.max_islands is not None and self.max_islands < 0:
            raise InputError(f"--max-islands {self.max_islands} is no number of values", "give 0 or more")
        if self.max_slower is not None and not 0 <= self.max_slower <= MOST_SLOWER:
            raise InputError(
                f"--max-slower {self.max_slower:g} is no share of the time",
                f"give 0 to {MOST_SLOWER:g} percent, e.g. 20",
            )
        if self.max_slower and self._decided:
            raise InputError(
                f"--max-slower leaves values in float, and {self._decided} leaves it no room", "leave one of them out"
            )
        if self.raises and self.size_budget is not None:
            raise InputError(
                "--size-budget and --max-islands or --max-drop do not go together yet: one takes bits, the other adds",
                "leave one of them out; the report says what the narrower weights cost",
            )
        if self.max_drop is not None and not 0 <= self.max_drop < 100:
            raise InputError(f"--max-drop {self.max_drop:g} is no number of points", "give 0 to 100, e.g. 0.5")

    @property
    def raises(self) -> bool:
        """Whether values are to be raised by measured benefit."""
        return bool(self.max_islands) or self.max_drop is not None

    @property
    def free(self) -> bool:
        """Whether operations may stay in float by choice: not where the user says what each value is."""
        return not self._decided

    @property
    def _decided(self) -> str:
        """The option by which the user says it, if there is one."""
        said = {
            "--max-islands 0": self.max_islands == 0,
            "--int16": bool(self.int16),
            "--dynamic": bool(self.dynamic),
            "--clamp": self.clamp,
            "--strict-activations": self.strict_activations,
            "--size-budget": self.size_budget is not None,  # floats and conversions take bytes that nobody counted
        }
        return next((option for option, given in said.items() if given), "")

    def check(self, spec: TargetSpec, widths: Widths, others: Callable[[], Sequence[TargetSpec]]) -> None:
        """Refuses what a target cannot have.

        Args:
            spec: The target.
            widths: What it makes of the widths asked for.
            others: All targets, to name those that can.

        Raises:
            InputError: Naming the targets that have such kernels.
        """
        if self.int16 and spec.wide is None:
            able = ", ".join(other.name for other in others() if other.wide is not None)
            raise InputError(f"the {spec.name} target has no kernels on 16-bit values", f"--int16 is for: {able}")
        if self.dynamic and not spec.dynamic:
            able = ", ".join(other.name for other in others() if other.dynamic)
            raise InputError(f"the {spec.name} target has no kernels of dynamic range", f"--dynamic is for: {able}")
        if self.max_slower and spec.between is None:
            able = ", ".join(other.name for other in others() if other.between is not None)
            raise InputError(
                f"what operations take in float on the {spec.name} target is not known",
                f"--max-slower is for: {able}",
            )
        if self.raises:
            self._check_islands(spec, widths, others)
        if self.size_budget is not None:
            budget.check(spec, widths.weights, [other.name for other in others() if other.packing is not None])
        if not self.clamp:
            return
        if not spec.clamps:
            able = ", ".join(other.name for other in others() if other.clamps)
            raise InputError(f"the {spec.name} target cannot cut codes below its own width", f"--clamp is for: {able}")
        if widths.activations >= spec.activation.bits:
            raise InputError(
                f"activations of {widths.activations} bits end where their codes end, there is nothing to cut",
                "give --bits or --act-bits below 8 with --clamp",
            )
        if self.int16 or self.raises:
            option = "--int16" if self.int16 else "--max-islands or --max-drop"
            raise InputError(f"--clamp and {option} do not go together yet", "leave one of them out")

    def _check_islands(self, spec: TargetSpec, widths: Widths, others: Callable[[], Sequence[TargetSpec]]) -> None:
        if not spec.islands:
            able = ", ".join(other.name for other in others() if other.islands)
            raise InputError(
                f"the {spec.name} target takes whole graphs of codes: no value can be raised by itself",
                f"--max-islands and --max-drop are for: {able}",
            )
        if widths.activations > spec.activation.bits:
            raise InputError(
                f"activations have {widths.activations} bits already: there is nothing to raise",
                "leave out --act-bits, or --max-islands and --max-drop",
            )


def matching(view: GraphView, patterns: Sequence[str], option: str) -> frozenset[str]:
    """Activations whose id, or the path of the module that makes them, fits one of the patterns.

    Args:
        view: The captured graph.
        patterns: In the words of a shell: `*`, `?`, `[...]`; a `*` passes dots.
        option: What the message calls them.

    Raises:
        InputError: If a pattern fits nothing.
    """
    found: set[str] = set()
    for pattern in patterns:
        fits = {
            name
            for name in view.activations
            if fnmatchcase(name, pattern)
            or ((op := view.producer.get(name)) is not None and fnmatchcase(op.module, pattern))
        }
        if not fits:
            raise InputError(
                f"{option} '{pattern}' fits no value and no module of the model",
                "take ids or paths from the report of a run, quoted: 'add*', 'stages.3.*'",
            )
        found |= fits
    return frozenset(found)
