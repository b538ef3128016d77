"""The kept cells as a table for the README."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qtools.models import families
from tests.bench.cell import BORDER, network_of

TARGETS = ("tflite", "onnx", "coreml")


def table(known: dict[str, Any]) -> str:
    """Markdown: a line per row and width, a column per target."""
    level = {card.name: family.level for family in families() for card in family.cards}
    heads = ("model", "level", "px", "weights", "widths", *TARGETS)
    lines = [_line(heads), "|" + "---|" * len(heads)]
    for row, scheme in dict.fromkeys(tuple(key.split()[:2]) for key in known):
        cells = [known.get(f"{row} {scheme} {target}") for target in TARGETS]
        side, weights = (_common(cells, what) for what in ("input", "weights"))
        lines.append(_line((row, level[network_of(row)[0]], side, weights, scheme.upper(), *map(_told, cells))))
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _common(cells: Sequence[dict[str, Any] | None], what: str) -> str:
    """What the cells of a row have in common; each kind once where they differ."""
    return " / ".join(dict.fromkeys(str(cell[what]) for cell in cells if cell and what in cell))


def _told(cell: dict[str, Any] | None) -> str:
    if cell is None:
        return "not run"
    if cell["status"] == "failed":
        return f"fails at {cell['stage']}: {cell['reason'][:160]}"
    told = f"{cell['snr_db']:g} dB (simulated {cell['snr_simulated_db']:g}), size {cell['size_ratio']:g}"
    if cell["status"] == "ok":
        return told
    agreed = f"{cell['simulated_real_agreement']:g} % of the {cell.get('agreed', 'images')}"
    return f"{told}; as simulated on {agreed}: {_why(cell)}"


def _why(cell: dict[str, Any]) -> str:
    """What differs from equal operands, and what is between the classes where another one comes first."""
    if "sources" not in cell:
        return "measured before operations were compared one by one"
    named = [source for source in cell["sources"] if cell["status"] == "explained" or _is_at_fault(source)]
    moved, kinds = sum(source["moved"] for source in named), " and ".join(_kind(source) for source in named)
    told = f"{moved} of {cell['compared_codes']:,} codes move from equal operands, behind {kinds}"
    if cell["status"] == "explained":
        missed = max(source["missed_steps"] for source in named)
        told += f", {missed:g} steps and less from where rounding turns"
    if flips := cell.get("flips"):
        told += (
            f"; there float's two best classes are at most {flips['largest_margin']:g} apart, quantization moves "
            f"logits by {flips['quantization_apart']:g}, the simulation is {flips['simulation_apart']:g} off"
        )
    return told


def _is_at_fault(source: dict[str, Any]) -> bool:
    """Whether float's last bits do not explain what differs."""
    return source["arithmetic"] == "integer" or bool(source["missed_steps"] > BORDER)


def _kind(source: dict[str, Any]) -> str:
    return f"{source['arithmetic']} {source['kind'].replace('_', ' ')}"
