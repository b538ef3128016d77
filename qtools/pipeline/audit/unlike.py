"""What the artifact computes otherwise than the plan says: an operation that is another one, or another rounding.

Both are proven by the simulation, which is the artifact without them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from qtools.core.types import GraphView
from qtools.pipeline.audit.prove import interval, is_proven
from qtools.pipeline.evaluate import Logits
from reports.accuracy import root_kl
from reports.audit import Finding
from reports.fidelity import Fidelity

ROUNDING_CODES = 2
"""Largest difference, in codes, that another rounding of the same sum makes."""
ROUNDING_SHARE = 0.05
"""Largest share of the codes that it changes."""


def unlike(
    view: GraphView, rows: Sequence[Fidelity], outputs: Mapping[str, Logits], kernels: str
) -> tuple[Finding, ...]:
    """At most one finding: the first operation that is not what was planned, else the rounding of all.

    Args:
        view: The captured graph.
        rows: Codes of the simulation held against the artifact's, in any order.
        outputs: Logits on the same images: "float", "simulated", and those of `kernels`.
        kernels: Kernel set that ships.
    """
    exact = outputs["float"]
    before, behind = root_kl(exact, outputs[kernels]), root_kl(exact, outputs["simulated"])
    if not is_proven(before, behind, float(before.mean())):
        return ()
    differing = {row.value: row for row in rows if row.differing}
    first = _first_of_its_own(view, differing)
    values = (first.value,) if first else tuple(row.value for row in sorted(differing.values(), key=lambda r: r.order))
    if first:
        cause = "operation changed in the artifact"
        evidence = (
            f"{first.kind} at {first.module or first.value} gives other codes than planned from equal ones: "
            f"{first.differing / first.codes:.1%} of them, by up to {first.max_difference}"
        )
        remedy = "compare the artifact with the one that was exported: qtools verify RUN, then qtools quantize again"
    else:
        cause = "kernel rounding"
        evidence = (
            f"{len(differing)} value(s) differ from the simulation by a code or two, as another rounding does; "
            f"the first is {values[0] if values else 'the output'}"
        )
        remedy = "run the kernels that were simulated, or accept the difference: it is the runtime's, not the plan's"
    return (
        Finding(
            cause=cause,
            values=values,
            module=first.module if first else "",
            evidence=evidence,
            proof="the simulation, which is the artifact without it",
            before=float(before.mean()),
            after=float(behind.mean()),
            gain_interval=interval(before - behind),
            images=len(before),
            remedy=remedy,
        ),
    )


def _first_of_its_own(view: GraphView, differing: Mapping[str, Fidelity]) -> Fidelity | None:
    """The first value that differs by more than rounding although nothing it is made of does."""
    for op in view.ops:
        for out in op.outputs:
            row = differing.get(out)
            if row is None or differing.keys() & set(op.inputs):
                continue
            if row.max_difference > ROUNDING_CODES or row.differing > ROUNDING_SHARE * row.codes:
                return row
    return None
