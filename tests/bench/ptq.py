"""Every method on real networks and images: `make bench-ptq DATA=FOLDER`.

Each cell (network, widths, method, draw of calibration images) is measured once and kept in results.json; the table
is made from what is there, so a run that was stopped goes on where it was. Draw 0 also runs the real artifact, with
`--artifacts` every draw does. The evaluation images are the same for all draws and never calibrate.

With `--image-free` nothing calibrates but what the product takes without `--data`: each draw is other stand-ins.

Published methods that no kernel can run are simulated in float as their papers do, on the first 32 images of a draw.
Most of them leave all but the operands of layers in float, which is an easier problem than whole networks in integers:
the table says what each one covers.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import re
import resource
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from scipy import stats

from calibration.apart import Apart
from calibration.baseline import IMAGES
from calibration.method import AUTO, FAST, Method, method, names
from calibration.widths import Widths
from qtools.core import files, plugins
from qtools.core.cache import NONE
from qtools.core.protocols import Target
from qtools.graph.side_by_side import one_thread
from qtools.pipeline import data, peers
from qtools.pipeline.config import Images, RunConfig
from qtools.pipeline.decide import decide
from qtools.pipeline.evaluate import Stage, evaluate, of_module, of_network, of_runner, of_simulator
from qtools.pipeline.prepare import BATCH, Prepared, capture_model, fuse_model, lower
from qtools.pipeline.progress import Silent, Stopwatch
from qtools.pipeline.quantize import load
from qtools.pipeline.trial import Decision
from reports.accuracy import PairedAccuracy, paired_accuracy

SCHEMES = (Widths(8, 8), Widths(6, 8), Widths(4, 8), Widths(6, 6))
NOTHING_APART = Apart((), (), False)
QUIET = (NONE, Stopwatch(Silent()))


@dataclass(frozen=True)
class Network:
    """A network and its images, by their places in the data folder.

    Attributes:
        crop_pct: Share of the short side that is looked at, where the evaluation images were cropped already.
    """

    name: str
    model: str
    weights: str
    calibration: str
    evaluation: str
    images: int
    crop_pct: float | None = None


SHIPS = "everything that the target's kernels take in integers, as the artifact has it"
WHOLE = 224 / 227.5
"""Pictures of 227 x 227 are not enlarged: 224 pixels are cut out from pixel 2 on, where float MobileOne-S0 has 80.92.
The data's own figure, 80.31, is of the cut from pixel 1."""
CIFAR = ("images/cifar10_train_50000_jpg.tar.gz", "images/cifar10_test_a.tar.gz")
IMAGENET = ("images/imagenet_calibration", "images/imagenet_val_a/labels.csv")
NETWORKS = (
    Network(
        "MobileOne-S0", "mobileone_s0", "weights/mobileone_s0_imagenet_fused.safetensors", *IMAGENET, 650, WHOLE,
    ),
    Network("RepViT-M0.9, CIFAR-10", "repvit_m0_9", "weights/repvit_m0_9_cifar10_64.safetensors", *CIFAR, 1000),
    Network("MobileViT-XXS, CIFAR-10", "mobilevit_xxs", "weights/mobilevit_xxs_cifar10_64.safetensors", *CIFAR, 1000),
    Network(
        "MobileViTv2-050, CIFAR-10", "mobilevitv2_050", "weights/mobilevitv2_050_cifar10_64.safetensors", *CIFAR, 3000
    ),
)  # fmt: skip


def more(folder: Path | None) -> list[Network]:
    """What a folder holds: safetensors whose header names timm's `model`, and as `images` "imagenet" or nothing."""
    found = []
    for path in sorted(folder.glob("*.safetensors")) if folder is not None else ():
        with safe_open(path, "np") as file:
            header = file.metadata() or {}
        model, file_name = header.get("model", path.stem), str(path.resolve())
        if header.get("images") == "imagenet":
            found.append(Network(path.stem, model, file_name, *IMAGENET, 650))
        else:
            found.append(Network(f"{path.stem}, CIFAR-10", model, file_name, *CIFAR, 1000))
    return found


class Bench:
    """One network, loaded and fused once for all its cells."""

    def __init__(
        self,
        network: Network,
        target: Target,
        places: tuple[Path, Path],
        counts: tuple[int, int],
        *,
        image_free: bool = False,
    ) -> None:
        self.network, self.target, self._image_free = network, target, image_free
        root, work = places
        self._asked = Images(
            _opened(root / network.calibration, work),
            _opened(root / network.evaluation, work),
            counts[0],
            min(counts[1] or network.images, network.images),
        )
        config = RunConfig(
            network.model, weights=str(root / network.weights), target=target.spec.name, images=self._asked
        )
        loaded, images = load(config)
        cut = dataclasses.replace(images.input, crop_pct=network.crop_pct or images.input.crop_pct)
        self._images, self._evaluated = images, dataclasses.replace(images, input=cut)
        self._fused = fuse_model(loaded, images, Stopwatch(Silent()))
        self._held = tempfile.TemporaryDirectory()  # gone with the bench
        self._folder = Path(self._held.name)
        self._known: dict[tuple[Any, ...], Prepared] = {}
        self._float: dict[str, Any] = {}

    def cell(self, widths: Widths, name: str, draw: int, shipped: bool) -> dict[str, Any]:
        """Measures one cell; with its artifact where it is `shipped`."""
        forget_peak()
        began = time.perf_counter()
        chosen = method(name)
        if chosen.baseline is not None and chosen.baseline.simulate is not None:
            return self._simulated(chosen, widths, draw, began)
        prepared = self._prepare(widths, name, draw)
        decision = decide(prepared, self.target, (chosen, widths, NOTHING_APART), Stopwatch(Silent()))
        decided = time.perf_counter() - began
        batch = prepared.batch
        stages = {"simulated": of_simulator(decision.saturated or decision.simulator, batch)}
        if shipped:
            stages["artifact"] = self._artifact(decision)
        steps = [dataclasses.asdict(step) for step in decision.steps]
        shared = {"steps": steps, "seconds": round(decided, 1), "peak_mb": peak_mb()}
        images = self._asked.calibration if chosen.baseline is None else IMAGES
        return {**self._judged(stages, batch), **shared, "images": images}

    def _simulated(self, chosen: Method, widths: Widths, draw: int, began: float) -> dict[str, Any]:
        """A cell of a method that has no artifact."""
        assert chosen.baseline is not None
        network = peers.simulate(chosen, self._fused, self._drawn(draw), self.target.spec, widths)
        told = {
            "steps": [],
            "seconds": round(time.perf_counter() - began, 1),
            "peak_mb": peak_mb(),
            "covers": chosen.baseline.covers,
            "images": IMAGES,
            "not_deployable": chosen.baseline.not_deployable,
        }
        return {**self._judged({"simulated": of_network(network, BATCH)}, BATCH), **told}

    def _judged(self, stages: dict[str, Stage], batch: int) -> dict[str, Any]:
        found = self._logits(stages, batch)
        labels = self._evaluated.labels
        return {stage: _told(paired_accuracy(labels, self._float["float"], found[stage])) for stage in stages}

    def _drawn(self, draw: int) -> data.RunImages:
        asked = dataclasses.replace(self._asked, seed=draw)
        if self._image_free:
            return data.choose(self._fused.loaded, dataclasses.replace(asked, data=None, eval_data=None))
        drawn = data.choose(self._fused.loaded, asked)
        return dataclasses.replace(self._images, calibration=drawn.calibration)

    def _prepare(self, widths: Widths, name: str, draw: int) -> Prepared:
        """What decides, kept per draw, and per widths where those shape the weights.

        Converted each time: what stays in float, such as a norm that levelling wrote into, is in the artifact as it is.
        """
        chosen = method(name)
        key = (draw, chosen.equalize and widths, chosen.correct)
        if key not in self._known:
            self._known = {other: kept for other, kept in self._known.items() if other[0] == draw}
            fused = dataclasses.replace(self._fused, images=self._drawn(draw))
            captured = capture_model(fused, self.target, (chosen, widths), (), QUIET)
            folder = Path(tempfile.mkdtemp(dir=self._folder))
            self._known[key] = lower(fused, captured, self.target, folder, QUIET)
        return self._known[key]

    def _artifact(self, decision: Decision) -> Stage:
        prepared = decision.prepared
        path = self._folder / f"model{self.target.spec.suffix}"
        options = {"io": "int8", "metadata": {"model": self.network.model}}
        self.target.apply(prepared.lowered, decision.plan, decision.program, path, options)
        opened = self.target.open(path, self.target.kernels[0], 1, prepared.program, prepared.lowered)
        return of_runner(opened)

    def _logits(self, stages: dict[str, Stage], batch: int) -> dict[str, Any]:
        if not self._float:
            stages = {**stages, "float": of_module(self._fused.loaded.module, self._evaluated.normalised)}
        found = evaluate(self._evaluated, stages, {}, batch, Silent())
        self._float = self._float or {"float": found["float"]}
        return found


def forget_peak() -> None:
    """Begins a new peak of this process's memory, where the system has a way to (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_mb() -> int:
    """Largest memory of this process since `forget_peak`, in MB; since its start where that does nothing."""
    status = Path("/proc/self/status")
    held = re.search(r"VmHWM:\s+(\d+)", status.read_text()) if status.exists() else None
    return round((int(held[1]) if held else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) / 1024)


def _opened(path: Path, work: Path) -> Path:
    """A folder of images, or a list of labels; an archive is unpacked once."""
    if not path.name.endswith(".tar.gz"):
        return path
    folder = work / path.name.removesuffix(".tar.gz")
    if not folder.exists():
        unpacked = Path(tempfile.mkdtemp(dir=work))
        with tarfile.open(path) as archive:
            archive.extractall(unpacked, filter="data")
        unpacked.rename(folder)
    inside = [child for child in folder.iterdir() if child.is_dir()]
    return inside[0] if len(inside) == 1 else folder


def _told(judged: PairedAccuracy) -> dict[str, Any]:
    wanted = ("n", "top1_reference", "top1", "drop", "drop_interval", "agreement", "kl")
    return {name: getattr(judged, name) for name in wanted}


Cell = tuple[Network, Widths, str, int]


def cells(networks: Sequence[Network], methods: Sequence[str], later: Sequence[str], draws: int) -> Iterator[Cell]:
    """All methods on the first draw, then some on the `later` ones."""
    for network in networks:
        for draw in range(draws):
            for widths in SCHEMES:
                for name in methods if draw == 0 else later:
                    yield network, widths, name, draw


def table(results: dict[str, Any]) -> str:
    """Markdown; means with their 95 % interval where there are several draws."""
    rows: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for key, cell in results.items():
        network, scheme, name, _ = key.split(" | ")
        rows.setdefault((network, scheme, name), []).append(cell)
    names = (
        "network (float top-1)|widths|method|images × draws|quantized|top-1|drop|agreement|KL|artifact|seconds|peak MB"
    )
    lines = [f"| {names.replace('|', ' | ')} |", "|" + "---|" * len(names.split("|"))]
    kinds: dict[str, int] = {}
    reasons: dict[str, str] = {}
    for (network, scheme, name), found in rows.items():
        simulated, first = [cell["simulated"] for cell in found], found[0]["simulated"]
        drop = _mean([cell["drop"] for cell in simulated], 2)
        if len(found) == 1:
            drop = "{:.2f} [{:.2f}, {:.2f}]".format(first["drop"], *first["drop_interval"])
        artifacts = [cell["artifact"]["top1"] for cell in found if "artifact" in cell]
        why = found[0].get("not_deployable", "")
        covers = f"simulated in float: {found[0]['covers']}" if why else SHIPS
        kinds.setdefault(covers, len(kinds) + 1)
        if why:
            reasons[name] = why
        columns = [
            f"{network} ({first['top1_reference']:.2f})", scheme.upper(), name,
            f"{found[0]['images']} × {len(found)}", f"[{kinds[covers]}]",
            _mean([cell["top1"] for cell in simulated], 2), drop,
            _mean([cell["agreement"] for cell in simulated], 2), _mean([cell["kl"] for cell in simulated], 4),
            _mean(artifacts, 2) if artifacts else "– (not deployable)" if why else "–",
            f"{found[0]['seconds']:.0f}", found[0]["peak_mb"],
        ]  # fmt: skip
        lines.append("| " + " | ".join(map(str, columns)) + " |")
    notes = [f"[{number}] {covers}; all else stays in float" for covers, number in kinds.items()]
    notes += [f"{name} is not deployable: {why}" for name, why in reasons.items()]
    return "\n".join([*lines, "", *(f"{note}  " for note in notes)]).rstrip() + "\n"


def _mean(values: list[float], digits: int) -> str:
    """Mean, and half of its 95 % interval by Student's t where there are several."""
    mean = f"{np.mean(values):.{digits}f}"
    if len(values) < 2:
        return mean
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return f"{mean} ± {half:.{digits}f}"


def main() -> None:
    """Measures what is missing, and writes the table after each cell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with weights/ and images/")
    parser.add_argument("--out", type=Path, default=Path("runs/bench-ptq"))
    parser.add_argument("--target", default="tflite", choices=plugins.names("exporters"))
    parser.add_argument("--more", type=Path, help="folder of networks on CIFAR-10 (tests/bench/train_more.py)")
    parser.add_argument("--networks", default="", help="part of a network's name; all by default")
    parser.add_argument("--methods", default="", help=f"by default all, image-free {AUTO},{FAST}: {','.join(names())}")
    parser.add_argument("--calibration", type=int, default=256, help="images of one draw")
    parser.add_argument(
        "--evaluation", type=int, default=0, help="images to evaluate on; by default each network's own"
    )
    parser.add_argument("--widths", default="", help="e.g. w8a8,w6a6; all by default")
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--image-free", action="store_true", help="calibrate on what stands in for the images")
    parser.add_argument(
        "--artifacts", action="store_true", help="the real artifact of every draw, not only of the first"
    )
    asked = parser.parse_args()
    if not (asked.data / "weights").is_dir():
        parser.error(f"'{asked.data}' does not hold weights/ and images/: make bench-ptq DATA=FOLDER")
    if asked.more is not None and not asked.more.is_dir():
        parser.error(f"'{asked.more}' is no folder: PYTHONPATH=. python tests/bench/train_more.py --help")
    asked.out.mkdir(parents=True, exist_ok=True)
    few = f"-{asked.evaluation}" if asked.evaluation else ""
    free = "-image-free" if asked.image_free else ""
    kept = asked.out / f"results-{asked.target}-{asked.calibration}{few}{free}.json"
    results = json.loads(kept.read_text()) if kept.exists() else {}
    networks = [network for network in (*NETWORKS, *more(asked.more)) if asked.networks.lower() in network.name.lower()]
    target: Target = plugins.find("exporters", asked.target, "TARGET")
    methods = asked.methods.split(",") if asked.methods else [AUTO, FAST] if asked.image_free else names()
    later = methods if asked.image_free else [AUTO]
    bench: Bench | None = None
    for network, widths, name, draw in cells(networks, methods, later, asked.draws):
        key = " | ".join((network.name, widths.scheme, name, str(draw)))
        if key in results or widths.scheme not in (asked.widths or widths.scheme).split(","):
            continue
        if bench is None or bench.network is not network:
            counts = (asked.calibration, asked.evaluation)
            bench = Bench(network, target, (asked.data, asked.out), counts, image_free=asked.image_free)
        with one_thread():
            results[key] = bench.cell(widths, name, draw, draw == 0 or asked.artifacts)
        files.write_text(kept, files.to_json(results))
        files.write_text(kept.with_suffix(".md"), table(results))
        judged = results[key]["simulated"]
        told = f"top-1 {judged['top1']:.2f}, agreement {judged['agreement']:.2f}, KL {judged['kl']:.4f}"
        sys.stderr.write(f"{key}: {told}\n")
    sys.stdout.write("\n" + table(results))


if __name__ == "__main__":
    main()
