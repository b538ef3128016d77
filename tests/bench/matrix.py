"""The kept cells as tables for docs/conformance.md: the smallest member of each family, then others, then notes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from qtools.models import families, resolve
from tests.bench.cell import BORDER, network_of, rows_of

TARGETS = ("tflite", "onnx", "coreml")
NAMES = {"tflite": "TFLite", "onnx": "ONNX", "coreml": "Core ML"}
WIDTHS = ("w8a8", "w6a6")
NOT_RUN = "–"
FOLD, END = "<details><summary>Larger members, sampled</summary>", "</details>"


def table(known: dict[str, Any]) -> str:
    """Markdown: a line per row, three columns per target; larger members folded below, notes at the end."""
    smallest = {row for family in families() for row in rows_of(min(family.cards, key=lambda card: card.macs_billions))}
    rows = list(dict.fromkeys(key.split()[0] for key in known))
    notes = _Notes()
    lines = _block([row for row in rows if row in smallest], known, notes)
    larger = [row for row in rows if row not in smallest]
    if larger:
        lines += ["", FOLD, "", *_block(larger, known, notes), "", END]
    return "\n".join([*lines, "", *notes.lines]).rstrip() + "\n"


class _Notes:
    """What does not fit into a cell, numbered in the order of the cells."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def add(self, where: tuple[str, str, str], text: str) -> str:
        """Keeps a sentence about (row, target, width), and returns the mark that points to it."""
        row, target, scheme = where
        self.lines.append(f"{len(self.lines) + 1}. {row}, {NAMES[target]}, {scheme.upper()}: {text}")
        return f"[{len(self.lines)}]"


def _block(rows: Iterable[str], known: dict[str, Any], notes: _Notes) -> list[str]:
    heads = ["model", "px", "weights"]
    heads += [f"{NAMES[target]} {what}" for target in TARGETS for what in ("W8A8", "size", "W6A6")]
    lines = [_line(heads), "|" + "---|" * len(heads)]
    for row in rows:
        cells = {(t, s): known[key] for t in TARGETS for s in WIDTHS if (key := f"{row} {s} {t}") in known}
        told = [row, _side(row, cells.values()), _common(cells.values(), "weights")]
        for target in TARGETS:
            eight, six = (_told(cells.get((target, s)), (row, target, s), notes) for s in WIDTHS)
            told += [eight, _size(cells.get((target, "w8a8"), cells.get((target, "w6a6")))), six]
        lines.append(_line(told))
    return lines


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _common(cells: Iterable[dict[str, Any]], what: str) -> str:
    """What the cells of a row have in common; each kind once where they differ."""
    return " / ".join(dict.fromkeys(str(cell[what]) for cell in cells if what in cell))


def _side(row: str, cells: Iterable[dict[str, Any]]) -> str:
    """Height of the input, and the published one where it is larger."""
    published = resolve(network_of(row)[0]).input.size[0]
    sides = dict.fromkeys(int(cell["input"]) for cell in cells if "input" in cell)
    return " / ".join(str(side) if side == published else f"{side} of {published}" for side in sides)


def _size(cell: dict[str, Any] | None) -> str:
    return f"{cell['size_ratio']:.2f}" if cell and "size_ratio" in cell else NOT_RUN


def _told(cell: dict[str, Any] | None, where: tuple[str, str, str], notes: _Notes) -> str:
    if cell is None:
        return NOT_RUN
    if cell["status"] == "failed":
        return f"**fails** {notes.add(where, 'fails at {stage}: {reason}'.format(**cell))}"
    real, simulated = (f"{cell[name]:.1f}" for name in ("snr_db", "snr_simulated_db"))
    told = real if real == simulated else f"{real} ({simulated})"
    if cell["status"] == "ok":
        return told
    agreed = f"{cell['simulated_real_agreement']:g} % of the {cell.get('agreed', 'images').rstrip(',')}"
    mark = notes.add(where, f"as simulated on {agreed}: {_why(cell)}")
    return f"{told} {mark}" if cell["status"] == "explained" else f"**{told} differs** {mark}"


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
