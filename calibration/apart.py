"""What a user wants treated apart from the scheme: values, by patterns over their ids and module paths."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from qtools.core.errors import InputError
from qtools.core.types import GraphView, TargetSpec


@dataclass(frozen=True)
class Apart:
    """Patterns, as of file names, over value ids and module paths.

    Attributes:
        int16: Values to hold at 16 bits.
    """

    int16: tuple[str, ...] = ()

    def check(self, spec: TargetSpec, others: Callable[[], Sequence[TargetSpec]]) -> None:
        """Refuses what a target cannot have.

        Args:
            spec: The target.
            others: All targets, to name those that can.

        Raises:
            InputError: Naming the targets that have such kernels.
        """
        if self.int16 and spec.wide is None:
            able = ", ".join(other.name for other in others() if other.wide is not None)
            raise InputError(f"the {spec.name} target has no kernels on 16-bit values", f"--int16 is for: {able}")


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
