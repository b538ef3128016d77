"""One row of the conformance matrix: a network, or one half of a promptable one, through some targets."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qtools import reference
from qtools.core import files
from qtools.core.cache import NONE
from qtools.core.errors import QtoolsError
from qtools.models import ModelCard, families

SCHEMES = {"w8a8": 8, "w6a6": 6}
METHOD = "mse"
GIVEN, SHIPPED, MADE_UP = "given", "reference", "made up"
CLASSES = 16
CALIBRATION, EVALUATION = 8, 16
SIDES = {
    "detr": 128,
    "efficientnetv2_rw_t": 128,
    "efficientvit_l1": 128,
    "efficientvit_sam": 128,
    "efficientvit_seg": 128,
    "fastvit_sa12": 128,
    "lgvit_vit_b": 96,
    "mask2former": 128,
    "mobile_sam": 128,
    "mobilenetv4_hybrid_medium": 128,
    "naflexvit": 112,
    "pvt_v2_b1": 128,
    "pvt_v2_b2_li": 128,
    "repvit_sam": 128,
    "segformer": 128,
    "ssdlite": 128,
}
"""Model, else family -> side of the input in pixels where made-up weights are measured below the published size.

Layers and kernels are the same; what grows with the picture is not seen: long rows of tokens, large maps, times.
"""
ARGUMENTS: dict[str, dict[str, Any]] = {"lgvit_vit_b": {"img_size": 96}, "vivit_b_16x2_fe": {"frames": 8, "side": 64}}
"""Model -> constructor arguments without which it would not take such an input."""
CLIPS = {"vivit_b_16x2_fe": (512, 64)}
"""Model -> height and width of its clips with these."""
MOVES = {"reshape", "transpose", "quantize", "dequantize", "quantizelinear", "dequantizelinear"}
COMPARED = 2
"""Images whose inner values are compared."""
AGREED = 99.5
"""Share of answers that simulation and artifact have to give alike, in percent."""
BORDER = 0.01
"""Steps: a code that moved although float results were nearer than this to where it turns is their last bits' doing."""
HALVES = ("encoder", "decoder")


@dataclass(frozen=True)
class Given:
    """What a user measures with instead of made-up weights and rendered images.

    Attributes:
        weights: Folder of safetensors, each of which says in its header which model it is of.
        data: Images for the models that have weights there; None takes rendered ones.
        images: How many of them are evaluated.
    """

    weights: Path
    data: Path | None = None
    images: int = EVALUATION


def rows_of(card: ModelCard) -> tuple[str, ...]:
    """A model's rows: itself, or both halves where it is two programs."""
    task = next(family.task for family in families() if card in family.cards)
    return tuple(f"{card.name}_{half}" for half in HALVES) if task == "prompted" else (card.name,)


def work(row: str, scheme: str, targets: Sequence[str], given: Given | None) -> int:
    """Measures a row's cells and prints one line of JSON for each."""
    from qtools.pipeline.prepare import Captured, fuse_model
    from qtools.pipeline.progress import Stopwatch

    clock, known = Clock(), list[Captured]()
    with tempfile.TemporaryDirectory() as folder:
        try:
            config, kind = _config(row, scheme, given, Path(folder))
            loaded, images = _loaded(row, config, Path(folder))
            if kind == MADE_UP:
                images = _its_own(images)
            fused = fuse_model(loaded, images, Stopwatch(clock))
        except QtoolsError as error:
            for _ in targets:
                _tell(failed(clock.now, str(error)))
            return 0
        for target in targets:
            begun = time.monotonic()
            try:
                place = Path(folder) / target
                place.mkdir()
                found = _cell(fused, target, config, (known, place, Stopwatch(clock)))
            except Exception as error:  # broad: the cell says what happened, whoever raised it
                found = failed(clock.now, f"{type(error).__name__}: {error}")
            side = images.input.size[0]
            found |= {"weights": kind, "input": side, "seconds": round(time.monotonic() - begun)}
            _tell(found)
    return 0


def failed(stage: str, reason: str) -> dict[str, Any]:
    """A cell that was not finished."""
    return {"status": "failed", "stage": stage, "reason": " ".join(reason.split())[:400]}


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


def _tell(found: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(found) + "\n")
    sys.stdout.flush()


# ---------------------------------------------------------------- the network and its weights


def network_of(row: str) -> tuple[str, str]:
    """Name of a row's model, and which half of it."""
    names = {card.name for family in families() for card in family.cards}
    half = "" if row in names else row.rpartition("_")[2]
    return row.removesuffix(f"_{half}"), half


def _config(row: str, scheme: str, given: Given | None, folder: Path) -> tuple[Any, str]:
    from qtools.models import resolve
    from qtools.pipeline.config import Images, RunConfig

    name, _ = network_of(row)
    images = Images(calibration=CALIBRATION, evaluation=EVALUATION)
    if given and (path := weights_of(name, given.weights)):
        told, kind = str(path), GIVEN
        images = replace(images, data=given.data, evaluation=given.images)
    elif reference.checkpoint(resolve(name).architecture):
        told, kind = "reference", SHIPPED
    else:
        told, kind = str(_made_up(name, folder)), MADE_UP
    return RunConfig(name, weights=told, bits=SCHEMES[scheme], method=METHOD, images=images), kind


def weights_of(name: str, folder: Path) -> Path | None:
    """The first file of the folder whose header says that it is of this model."""
    from safetensors import safe_open

    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as opened:
            if (opened.metadata() or {}).get("model") == name:
                return path
    return None


def _loaded(row: str, config: Any, folder: Path) -> Any:
    """The network of a row and its images: rows of embeddings and prompts for a decoder."""
    from qtools.pipeline import data, quantize
    from qtools.pipeline.halves import halves_of, rows_of

    _, half = network_of(row)
    if not half:
        return quantize.load(config)
    halves = halves_of(whole := quantize.load_model(config))
    images = data.choose(whole, config.images)
    if half == HALVES[0]:
        return halves.encoder, replace(images, labels=None)
    return halves.decoder, rows_of(halves, images, folder)


def _its_own(images: Any) -> Any:
    """Scenes of the reference set instead of what stands in for photographs: a made-up classifier is fitted to them."""
    from qtools.reference.stand_ins import StandIns

    if not isinstance(images.calibration, StandIns):
        return images
    sets = (images.calibration, images.evaluation)
    calibration, evaluation = (reference.ReferenceImages(own.split, len(own), own.size) for own in sets)
    return replace(images, calibration=calibration, evaluation=evaluation, reach=1.0)


def _made_up(row: str, folder: Path) -> Path:
    """A checkpoint of the row's architecture with made-up weights."""
    import torch
    from safetensors.torch import save_file

    from qtools.models import create, resolve
    from tests.bench.trained_like import renders, trained_like

    spec = resolve(row)
    side = SIDES.get(row, SIDES.get(spec.family))
    size = CLIPS.get(row, (side, side) if side else spec.input.size)
    classes = spec.classes if spec.task == "prompted" else CLASSES
    spec = replace(spec, classes=classes, arguments=ARGUMENTS.get(row, {}))
    picture = replace(spec.input, size=size)
    torch.manual_seed(0)
    module = trained_like(create(spec), *renders(picture), CLASSES)
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    words = {"model": row, "num_classes": str(classes), "input": f"3x{size[0]}x{size[1]} RGB"}
    words |= {"kwargs": json.dumps(spec.arguments)}
    save_file(state, folder / f"{row}.safetensors", words)
    return folder / f"{row}.safetensors"


# ---------------------------------------------------------------- one target


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
    from qtools.pipeline.task import task_of

    known, folder, watch = how
    target = plugins.find("exporters", name, "TARGET")
    chosen, widths = method(config.method), choose(target.spec, config.bits, None, None)
    captured = capture_model(fused, target, (chosen, widths), known, (NONE, watch))
    known.append(captured)
    prepared = lower(fused, captured, target, folder, (NONE, watch))
    decision = decide(prepared, target, (chosen, widths, Apart(strict_activations=True)), watch)
    leg = export(decision, target, config, (folder, watch))
    stages = leg.stages()
    wanted = {"simulated": stages["simulated"], "real": stages[target.kernels[0]]}
    wanted |= {"float": of_module(fused.loaded.module), "fused": of_program(captured.program, captured.batch)}
    with watch.stage("evaluate"):
        answers = evaluate(fused.images, wanted, {}, captured.batch, watch.listener)
    task, sides = task_of(fused.loaded.spec), (answers["simulated"], answers["real"])
    agreed = 100 * task.agreement(*sides)
    equal = (sides[0] == sides[1]).reshape(len(sides[0]), -1).all(1)
    said = inspect.run(leg.path)
    found = {
        "status": "ok" if agreed >= AGREED else "differs",
        "images": len(equal),
        "agreed": task.agreed,
        "simulated_real_agreement": round(agreed, 2),
        "codes_equal_images": round(100 * float(equal.mean()), 2),
        "fused_max_error": float(f"{_relative(answers['float'], answers['fused']):.1e}"),
        "snr_db": _snr(answers["float"], answers["real"]),
        "snr_simulated_db": _snr(answers["float"], answers["simulated"]),
        "size_bytes": leg.artifact.size_bytes,
        "size_ratio": round(leg.artifact.size_bytes / files.size(prepared.lowered.path), 3),
        "islands": len(said.islands),
        "operations": sum(row.count for row in said.table),
        "moves": sum(row.count for row in said.table if row.kind.lower() in MOVES),
    }
    return found if equal.all() else found | _explained(leg, found["status"], answers, task, watch)


def _explained(leg: Any, status: str, answers: dict[str, Any], task: Any, watch: Any) -> dict[str, Any]:
    """What differs from equal operands, and whether that is float rounding alone."""
    from calibration.sampling import Subset
    from tests.bench.equal_operands import Comparison

    simulated, real, exact = (answers[name] for name in ("simulated", "real", "float"))
    away = np.abs(simulated - real).reshape(len(real), -1).max(1)
    alike = np.array([task.agreement(simulated[i : i + 1], real[i : i + 1]) for i in range(len(real))])
    worst = np.lexsort((-away, alike))[:COMPARED]
    images = leg.prepared.images
    few = Subset(images.evaluation, np.sort(worst))
    sides = (leg.decision.simulator, leg.runners[leg.target.kernels[0]])
    seen = Comparison(leg.prepared.program, leg.decision.plan, sides)
    with watch.stage("compare inner values"):
        seen.add(images.batches(few, 1))
    sources = list(seen.sources.values())
    by_float = all(source.in_float and source.missed <= BORDER for source in sources)
    kinds = sorted({(source.kind, source.in_float) for source in sources})
    found: dict[str, Any] = {
        "compared_codes": seen.codes,
        "float_apart": float(f"{seen.apart:.1e}"),
        "sources": [_summed([s for s in sources if (s.kind, s.in_float) == kind]) for kind in kinds],
    }
    if status != "ok" and task.by_image:
        found["flips"] = _flips(simulated, real, exact)
    return found | ({"status": "explained"} if status != "ok" and by_float else {})


def _summed(sources: list[Any]) -> dict[str, Any]:
    """All values of one kind."""
    first = sources[0]
    return {
        "kind": first.kind,
        "arithmetic": "float" if first.in_float else "integer",
        "values": len(sources),
        "first": f"{first.value} ({first.module or 'the model itself'})",
        "moved": sum(source.moved for source in sources),
        "most": max(source.most for source in sources),
    } | ({"missed_steps": float(f"{max(s.missed for s in sources):.1e}")} if first.in_float else {})


def _flips(simulated: NDArray[Any], real: NDArray[Any], exact: NDArray[Any]) -> dict[str, Any]:
    """Images whose class is another: how far apart the two classes are there, and what else moves logits."""
    other = simulated.argmax(1) != real.argmax(1)
    ordered = np.sort(exact[other], 1)
    return {
        "images": int(other.sum()),
        "largest_margin": float(f"{(ordered[:, -1] - ordered[:, -2]).max():.2g}"),
        "simulation_apart": float(f"{np.abs(simulated - real)[other].max():.2g}"),
        "quantization_apart": float(f"{np.abs(real - exact)[other].max():.2g}"),
    }


def _snr(exact: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Signal over error in dB, both around their mean over the images: what all images share says nothing."""
    signal = exact - exact.mean(0)
    error = (other - exact).astype(np.float64)
    return round(float(10 * np.log10((signal.astype(np.float64) ** 2).sum() / max((error**2).sum(), 1e-30))), 1)


def _relative(exact: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    return float(np.abs(exact - other).max() / np.abs(exact).max())
