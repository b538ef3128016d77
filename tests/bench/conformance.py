"""Every family through every target: `make conformance` (ARGS='--rows repvit_m0_9' for one row).

A row is a model, a cell one target at one width. Each cell is measured once and kept in tests/e2e/reference.yaml with
what failed where it failed; a run that was stopped goes on where it was. A row is measured in a process of its own,
because a converter that crashes takes its process along: the cell it was at then says so.

Weights are the file of --weights-dir whose header names the row's model, else made up (see `trained_like`).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from qtools.core import files
from qtools.core.cache import NONE
from qtools.core.errors import QtoolsError
from qtools.models import ModelCard, families

ROOT = Path(__file__).resolve().parent.parent.parent
KEPT = ROOT / "tests/e2e/reference.yaml"
TARGETS = ("tflite", "onnx", "coreml")
SCHEMES = {"w8a8": 8, "w6a6": 6}
METHOD = "mse"
MADE_UP, GIVEN = "made up", "given"
CLASSES = 16
CALIBRATION, EVALUATION = 8, 16
SIDES = {"naflexvit": 112}
"""Family -> side of the input in pixels, where made-up weights need not be measured at the published size."""
MOVES = {"reshape", "transpose", "quantize", "dequantize", "quantizelinear", "dequantizelinear"}
COMPARED, NAMED = 2, 3
"""Images whose inner values are compared, and operations named, where simulation and artifact differ."""
AGREED = 99.5
"""Share of images on which simulation and artifact have to give the same class, in percent."""

Cell = tuple[str, str, str]


def smallest() -> list[ModelCard]:
    """The lightest member of each family."""
    return [min(family.cards, key=lambda card: card.macs_billions) for family in families()]


def main() -> int:
    """Measures what is missing, smallest networks first, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="smallest", help="smallest (of each family), all, or names with commas")
    parser.add_argument("--schemes", default="w8a8", help=f"with commas, of {', '.join(SCHEMES)}")
    parser.add_argument("--targets", default=",".join(TARGETS))
    parser.add_argument("--weights-dir", type=Path, help="folder of real weights, named like the rows")
    parser.add_argument("--kept", type=Path, default=KEPT, help="file of the results")
    parser.add_argument("--again", action="store_true", help="measure cells that are there already")
    parser.add_argument("--table", action="store_true", help="only print the table of what is there")
    parser.add_argument("--worker", default="", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.worker:
        return work(asked.worker, asked.schemes, asked.targets.split(","), asked.weights_dir)
    if not asked.table:
        for cells in _missing(asked):
            _measure(cells, asked)
    sys.stdout.write(table(_read(asked.kept)))
    return 0


def _missing(asked: argparse.Namespace) -> Iterator[list[Cell]]:
    """The cells of each row that are to be measured."""
    cards = {card.name: card for family in families() for card in family.cards}
    chosen = {"smallest": smallest(), "all": list(cards.values())}.get(asked.rows)
    rows = chosen if chosen is not None else [cards[name] for name in asked.rows.split(",")]
    known = _read(asked.kept)
    for scheme in asked.schemes.split(","):
        for card in sorted(rows, key=lambda card: card.macs_billions):
            cells = [(card.name, scheme, target) for target in asked.targets.split(",")]
            wanted = [cell for cell in cells if asked.again or " ".join(cell) not in known]
            if wanted:
                yield wanted


def _measure(cells: list[Cell], asked: argparse.Namespace) -> None:
    """Has a process measure cells of one row; one that dies costs the cell it was at, and the rest goes on."""
    while cells:
        row, scheme, _ = cells[0]
        words = ["--worker", row, "--schemes", scheme, "--targets", ",".join(target for *_, target in cells)]
        if asked.weights_dir:
            words += ["--weights-dir", str(asked.weights_dir)]
        with subprocess.Popen([sys.executable, __file__, *words], stdout=subprocess.PIPE, text=True) as worker:
            assert worker.stdout is not None
            for line in worker.stdout:
                if line.startswith("{"):
                    _keep(asked.kept, cells.pop(0), json.loads(line))
        if cells and worker.returncode:
            _keep(asked.kept, cells.pop(0), _failed("process", f"it ended with status {worker.returncode}"))


def _read(path: Path) -> dict[str, Any]:
    return (yaml.safe_load(path.read_text()) or {}) if path.exists() else {}


def _keep(path: Path, cell: Cell, found: dict[str, Any]) -> None:
    known = {**_read(path), " ".join(cell): found}
    files.write_text(path, yaml.safe_dump(known, sort_keys=True, width=120))
    told = found.get("reason") or f"{found['snr_db']} dB, simulated {found['snr_simulated_db']} dB"
    sys.stderr.write(f"{' '.join(cell)}: {found['status']}, {told}\n")


def _failed(stage: str, reason: str) -> dict[str, Any]:
    return {"status": "failed", "stage": stage, "reason": " ".join(reason.split())[:400]}


# ---------------------------------------------------------------- one row, in a process of its own


class Clock:
    """Listens to the pipeline for the name of the stage that runs."""

    def __init__(self) -> None:
        self.now = "load"

    def stage(self, name: str) -> None:
        self.now = name

    def warn(self, text: str) -> None:
        """Of no interest either: what a cell came to is in its record."""

    def __call__(self, label: str, done: int, total: int) -> None:
        """Progress inside a stage is of no interest."""


def work(row: str, scheme: str, targets: Sequence[str], weights: Path | None) -> int:
    """Measures a row's cells and prints one line of JSON for each."""
    from qtools.pipeline.prepare import Captured, fuse_model
    from qtools.pipeline.progress import Stopwatch

    clock, known = Clock(), list[Captured]()
    with tempfile.TemporaryDirectory() as folder:
        try:
            config, kind = _config(row, scheme, weights, Path(folder))
            loaded, images = _loaded(config)
            fused = fuse_model(loaded, images, Stopwatch(clock))
        except QtoolsError as error:
            for _ in targets:
                _tell(_failed(clock.now, str(error)))
            return 0
        for target in targets:
            begun = time.monotonic()
            try:
                place = Path(folder) / target
                place.mkdir()
                found = _cell(fused, target, config, (known, place, Stopwatch(clock)))
            except Exception as error:  # broad: the cell says what happened, whoever raised it
                found = _failed(clock.now, f"{type(error).__name__}: {error}")
            side = images.input.size[0]
            found |= {"weights": kind, "input": side, "seconds": round(time.monotonic() - begun)}
            _tell(found)
    return 0


def _tell(found: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(found) + "\n")
    sys.stdout.flush()


def _config(row: str, scheme: str, weights: Path | None, folder: Path) -> tuple[Any, str]:
    from qtools.pipeline.config import Images, RunConfig

    given = _given(row, weights) if weights else None
    path = given or _made_up(row, folder)
    images = Images(calibration=CALIBRATION, evaluation=EVALUATION)
    config = RunConfig(row, weights=str(path), bits=SCHEMES[scheme], method=METHOD, images=images)
    return config, GIVEN if given else MADE_UP


def _given(row: str, folder: Path) -> Path | None:
    """The first file of the folder whose header says that it is of this model."""
    from safetensors import safe_open

    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as opened:
            if (opened.metadata() or {}).get("model") == row:
                return path
    return None


def _loaded(config: Any) -> Any:
    from qtools.pipeline.quantize import load

    return load(config)


def _made_up(row: str, folder: Path) -> Path:
    """A checkpoint of the row's architecture with made-up weights."""
    import timm
    import torch
    from safetensors.torch import save_file

    from qtools.models import resolve
    from tests.bench.trained_like import renders, trained_like

    spec = resolve(row)
    side = SIDES.get(spec.family, max(spec.input.size))
    picture = replace(spec.input, size=(side, side))
    torch.manual_seed(0)
    module = timm.create_model(spec.architecture, num_classes=CLASSES)
    module = trained_like(module, *renders(picture), CLASSES)
    state = {name: tensor.contiguous() for name, tensor in module.state_dict().items()}
    words = {"model": row, "num_classes": str(CLASSES), "input": f"3x{side}x{side} RGB"}
    save_file(state, folder / f"{row}.safetensors", words)
    return folder / f"{row}.safetensors"


def _cell(fused: Any, name: str, config: Any, how: tuple[Any, Path, Any]) -> dict[str, Any]:
    """One target: its artifact beside the simulation and float."""
    from calibration.apart import Apart
    from calibration.method import method
    from calibration.widths import choose
    from qtools.core import plugins
    from qtools.pipeline import inspect
    from qtools.pipeline.decide import decide
    from qtools.pipeline.evaluate import evaluate, of_module, of_program
    from qtools.pipeline.leg import export
    from qtools.pipeline.prepare import capture_model, lower

    known, folder, watch = how
    target = plugins.find("exporters", name, "TARGET")
    chosen, widths = method(config.method), choose(target.spec, config.bits, None, None)
    captured = capture_model(fused, target, (chosen, widths), known, (NONE, watch))
    known.append(captured)
    prepared = lower(fused, captured, target, folder, (NONE, watch))
    leg = export(prepared, decide(prepared, target, (chosen, widths, Apart()), watch), target, config, (folder, watch))
    stages = leg.stages()
    wanted = {"simulated": stages["simulated"], "real": stages[target.kernels[0]]}
    wanted |= {"float": of_module(fused.loaded.module), "fused": of_program(captured.program, captured.batch)}
    with watch.stage("evaluate"):
        logits = evaluate(fused.images, wanted, {}, captured.batch, watch.listener)
    agreed = float((logits["simulated"].argmax(1) == logits["real"].argmax(1)).mean() * 100)
    unlike = np.flatnonzero((logits["simulated"] != logits["real"]).any(1))
    said = inspect.run(leg.path)
    moves = sum(row.count for row in said.table if row.kind.lower() in MOVES)
    return {
        "status": "ok" if agreed >= AGREED else "differs",
        "images": len(logits["float"]),
        "simulated_real_agreement": round(agreed, 2),
        "codes_equal_images": round(100 - 100 * len(unlike) / len(logits["float"]), 2),
        "fused_max_error": float(f"{_relative(logits['float'], logits['fused']):.1e}"),
        "snr_db": _snr(logits["float"], logits["real"]),
        "snr_simulated_db": _snr(logits["float"], logits["simulated"]),
        "size_bytes": leg.artifact.size_bytes,
        "size_ratio": round(leg.artifact.size_bytes / files.size(prepared.lowered.path), 3),
        "islands": len(said.islands),
        "operations": sum(row.count for row in said.table),
        "moves": moves,
    } | ({"differs": _differs(leg, target.kernels[0], unlike[:COMPARED], watch)} if len(unlike) else {})


def _differs(leg: Any, kernels: str, unlike: Any, watch: Any) -> str:
    """The first operations, in the order of execution, whose codes are not those of the simulation."""
    from calibration.sampling import Subset
    from qtools.pipeline.evaluate import compare_values

    images = leg.prepared.images
    few = replace(images, evaluation=Subset(images.evaluation, unlike))
    sides = (leg.decision.simulator, leg.runners[kernels])
    rows = compare_values(few, leg.prepared.program, sides, leg.decision.plan, watch.listener).rows()
    found = sorted((row for row in rows if row.differing), key=lambda row: row.order)
    told = [
        f"{row.value} ({row.module or 'the model itself'}): {100 * row.differing / row.codes:.2g} % of the codes, "
        f"by up to {row.max_difference}"
        for row in found[:NAMED]
    ]
    return (
        f"{len(found)} of {sum(row.codes > 0 for row in rows)} values, first " + "; ".join(told) if told else "no code"
    )


def _snr(exact: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Signal over error in dB, both around their mean over the images: what all images share says nothing."""
    signal = exact - exact.mean(0)
    error = (other - exact).astype(np.float64)
    return round(float(10 * np.log10((signal.astype(np.float64) ** 2).sum() / max((error**2).sum(), 1e-30))), 1)


def _relative(exact: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    return float(np.abs(exact - other).max() / np.abs(exact).max())


# ---------------------------------------------------------------- what is there, for the README


def table(known: dict[str, Any]) -> str:
    """Markdown: a line per row and width, a column per target."""
    level = {card.name: family.level for family in families() for card in family.cards}
    heads = ("model", "level", "px", "weights", "widths", *TARGETS)
    lines = [_line(heads), "|" + "---|" * len(heads)]
    for row, scheme in dict.fromkeys(tuple(key.split()[:2]) for key in known):
        cells = [known.get(f"{row} {scheme} {target}") for target in TARGETS]
        side, weights = (_common(cells, what) for what in ("input", "weights"))
        lines.append(_line((row, level.get(row, ""), side, weights, scheme.upper(), *map(_told, cells))))
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
    first = cell.get("differs", "").partition(" first ")[2].partition(":")[0]
    return f"{told}; simulation agrees on {cell['simulated_real_agreement']} %" + (
        f", from {first} on" if first else ""
    )


if __name__ == "__main__":
    sys.exit(main())
