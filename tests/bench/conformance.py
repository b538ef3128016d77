"""Every family through every target: `make conformance` (ARGS='--rows repvit_m0_9' for one row).

A row is a model, or one half of a promptable one; a cell is one target at one width. Each cell is measured once and
kept in tests/e2e/reference.yaml with what failed where it failed; a run that was stopped goes on where it was. A row is
measured in a process of its own, because a converter that crashes takes its process along: the cell it was at then says
so. The tables of docs/conformance.md are written anew from what is kept.

Weights are the file of --weights-dir whose header names the row's model, else those that qtools ships for it, else made
up (see `trained_like`).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from qtools.core import files
from qtools.models import ModelCard, families
from tests.bench.cell import EVALUATION, SCHEMES, Given, failed, network_of, rows_of, work
from tests.bench.matrix import TARGETS, table

ROOT = Path(__file__).resolve().parent.parent.parent
KEPT = ROOT / "tests/e2e/reference.yaml"
PAGE = ROOT / "docs/conformance.md"

Cell = tuple[str, str, str]


def smallest() -> list[ModelCard]:
    """The lightest member of each family."""
    return [min(family.cards, key=lambda card: card.macs_billions) for family in families()]


def main() -> int:
    """Measures what is missing, smallest networks first, prints the tables and keeps them on their page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="smallest", help="smallest (of each family), all, or names with commas")
    parser.add_argument("--schemes", default="w8a8", help=f"with commas, of {', '.join(SCHEMES)}")
    parser.add_argument("--targets", default=",".join(TARGETS))
    parser.add_argument("--weights-dir", type=Path, help="folder of real weights, named like the rows")
    parser.add_argument("--data", type=Path, help="images for the rows that have weights there, else rendered ones")
    parser.add_argument("--images", type=int, default=EVALUATION, help="how many of these are evaluated")
    parser.add_argument("--kept", type=Path, default=KEPT, help="file of the results")
    parser.add_argument("--again", action="store_true", help="measure cells that are there already")
    parser.add_argument("--table", action="store_true", help="only print the table of what is there")
    parser.add_argument("--worker", default="", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.worker:
        given = Given(asked.weights_dir, asked.data, asked.images) if asked.weights_dir else None
        return work(asked.worker, asked.schemes, asked.targets.split(","), given)
    if not asked.table:
        for cells in _missing(asked):
            _measure(cells, asked)
    tables = table(_read(asked.kept))
    sys.stdout.write(tables)
    if asked.kept == KEPT:
        files.write_text(PAGE, page(files.read_text(PAGE), tables))
    return 0


def page(text: str, tables: str) -> str:
    """The page with these tables in the place of those that end it; its first words stay as they are."""
    return text[: text.index("| model |")] + tables


def _missing(asked: argparse.Namespace) -> Iterator[list[Cell]]:
    """The cells of each row that are to be measured."""
    cards = {card.name: card for family in families() for card in family.cards}
    chosen = {"smallest": smallest(), "all": list(cards.values())}.get(asked.rows)
    names = asked.rows.split(",") if chosen is None else [row for card in chosen for row in rows_of(card)]
    known = _read(asked.kept)
    for scheme in asked.schemes.split(","):
        for name in sorted(names, key=lambda name: cards[network_of(name)[0]].macs_billions):
            cells = [(name, scheme, target) for target in asked.targets.split(",")]
            wanted = [cell for cell in cells if asked.again or " ".join(cell) not in known]
            if wanted:
                yield wanted


def _measure(cells: list[Cell], asked: argparse.Namespace) -> None:
    """Has a process measure cells of one row; one that dies costs the cell it was at, and the rest goes on."""
    while cells:
        row, scheme, _ = cells[0]
        words = ["--worker", row, "--schemes", scheme, "--targets", ",".join(target for *_, target in cells)]
        if asked.weights_dir:
            words += ["--weights-dir", str(asked.weights_dir), "--images", str(asked.images)]
            words += ["--data", str(asked.data)] if asked.data else []
        with subprocess.Popen([sys.executable, __file__, *words], stdout=subprocess.PIPE, text=True) as worker:
            assert worker.stdout is not None
            for line in worker.stdout:
                if line.startswith("{"):
                    _keep(asked.kept, cells.pop(0), json.loads(line))
        if cells and worker.returncode:
            _keep(asked.kept, cells.pop(0), failed("process", f"it ended with status {worker.returncode}"))


def _read(path: Path) -> dict[str, Any]:
    return (yaml.safe_load(path.read_text()) or {}) if path.exists() else {}


def _keep(path: Path, cell: Cell, found: dict[str, Any]) -> None:
    known = {**_read(path), " ".join(cell): found}
    files.write_text(path, yaml.safe_dump(known, sort_keys=True, width=120))
    told = found.get("reason") or f"{found['snr_db']} dB, simulated {found['snr_simulated_db']} dB"
    sys.stderr.write(f"{' '.join(cell)}: {found['status']}, {told}\n")


if __name__ == "__main__":
    sys.exit(main())
