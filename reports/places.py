"""Where each operation runs, grouped for a reader."""

from __future__ import annotations

from dataclasses import dataclass, replace

from qtools.core.prediction import Place, Prediction


@dataclass(frozen=True)
class PlaceRow:
    """Operations of one kind that run in one place for one reason.

    Attributes:
        kind: What they mean.
        count: How many.
        integer: False where they compute in float.
        fast: Whether the runtime's fast path takes them.
        reason: Why they are in float or off the fast path; empty where they are neither.
        advice: What to do about that.
        module: Where the first of them comes from.
    """

    kind: str
    count: int
    integer: bool
    fast: bool
    reason: str
    advice: str
    module: str


@dataclass(frozen=True)
class Places:
    """A prediction in rows: what runs worst first.

    Attributes:
        fast: Name of the runtime's fast path.
        rest: Name of what runs everything else.
        parts: Pieces that the fast path gets the graph in; None where it is not handed over in pieces.
        rows: One per kind, place and reason.
        integer_macs: Share (0..1) of the multiply-accumulates that run in integers; None where there are none.
        dynamic_macs: Share of those on values that are quantized at run time, which kernels take and give as floats.
    """

    fast: str
    rest: str
    parts: int | None
    rows: tuple[PlaceRow, ...]
    integer_macs: float | None = None
    dynamic_macs: float | None = None

    def where(self, row: PlaceRow) -> str:
        """A row's place in words."""
        return f"{'integer' if row.integer else 'float'}, {self.fast if row.fast else self.rest}"

    @property
    def summary(self) -> str:
        """One sentence."""
        total = sum(row.count for row in self.rows)
        held = sum(row.count for row in self.rows if row.integer and row.fast)
        text = f"{held} of {total} operations run in integers on the fast path ({self.fast})"
        text += f", which gets the graph in {self.parts} part(s)" if self.parts is not None else ""
        if self.integer_macs is None:
            return text
        text += f"; {100 * self.integer_macs:.1f} % of the multiply-accumulates run in integers"
        later = 100 * (self.dynamic_macs or 0)
        return f"{text}, {later:.1f} % on values quantized at run time" if later else text


@dataclass(frozen=True)
class Foreseen:
    """What is known of an artifact before it is made.

    Attributes:
        model: Name of the model.
        target: Name of the target.
        scheme: Name of the scheme, e.g. "w8a8".
        places: Where its operations will run.
    """

    model: str
    target: str
    scheme: str
    places: Places


def places(prediction: Prediction) -> Places:
    """Groups a prediction; what computes in float comes first, then what runs in integers elsewhere."""
    rows, shares = tuple(row for row, _ in rows_of(prediction)), (prediction.integer_macs, prediction.dynamic_macs)
    return Places(prediction.fast, prediction.rest, prediction.parts, rows, *shares)


def rows_of(prediction: Prediction) -> list[tuple[PlaceRow, tuple[str, ...]]]:
    """The rows of `places`, each with the ids of its operations."""
    alike: dict[PlaceRow, list[Place]] = {}
    for place in prediction.places:
        alike.setdefault(_alike(place), []).append(place)
    rows = [
        (replace(row, count=len(found), module=found[0].module), tuple(place.op for place in found))
        for row, found in alike.items()
    ]
    return sorted(rows, key=lambda each: (each[0].integer, each[0].fast, -each[0].count, each[0].kind, each[0].reason))


def _alike(place: Place) -> PlaceRow:
    return PlaceRow(place.kind.value, 0, place.integer, place.fast, place.reason, place.advice, "")
