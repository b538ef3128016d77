"""onnxruntime's own quantizer beside ours: the same network, images and runtime, timed in turns.

    PYTHONPATH=. python tests/bench/peers_onnx.py --data DATA --networks ViT

What a user would do without qtools: export with torch.onnx, then `quantize_static` with 8-bit weights per channel, on
all operations or on layers and products only, with ranges by minmax or a percentile. Times are ratios of one round
against that export in float.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process

from calibration.method import AUTO, method
from calibration.widths import Widths
from qtools.core import plugins
from qtools.graph.side_by_side import one_thread
from qtools.pipeline import bench as timing
from qtools.pipeline.data import RunImages
from qtools.pipeline.decide import decide
from qtools.pipeline.devices._device import Asked
from qtools.pipeline.evaluate import Stage, of_runner
from qtools.pipeline.progress import Silent, Stopwatch
from tests.bench.ptq import NETWORKS, NOTHING_APART, Bench, Network

CALIBRATION, EVALUATION = 128, 1000
LAYERS = ("Conv", "Gemm", "MatMul")
RANGES = {
    "minmax": quantization.CalibrationMethod.MinMax,
    "percentile": quantization.CalibrationMethod.Percentile,
}
ROUNDS = 100


def main() -> None:
    """Prints a table for each network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with weights/ and images/")
    parser.add_argument("--networks", default="", help="part of a network's name; all by default")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/bench-ptq"), help="where archives of images are unpacked"
    )
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    for network in NETWORKS:
        if asked.networks.lower() in network.name.lower():
            with one_thread(), tempfile.TemporaryDirectory() as folder:
                sys.stdout.write(f"\n{network.name}\n\n" + "\n".join(rows(network, asked, Path(folder))) + "\n")


def rows(network: Network, asked: argparse.Namespace, folder: Path) -> Iterator[str]:
    """Accuracy of every artifact, and its time against float's."""
    bench = Bench(
        network, plugins.find("exporters", "onnx", "TARGET"), (asked.data, asked.out), (CALIBRATION, EVALUATION)
    )
    stages, batch = ours(bench, folder)
    stages |= theirs(bench, folder)
    judged = bench._judged(stages, batch)
    files = [folder / f"{name}.onnx" for name in ("float", *stages)]
    timed = timing.run(timing.BenchConfig(tuple(files), Asked(runs=ROUNDS)), Silent()).bench
    ratios = {each.name: each for comparison in timed.comparisons for each in comparison.ratios}
    yield "| artifact | top-1 | agreement | KL | time |"
    yield "|---|---|---|---|---|"
    for name, found in judged.items():
        ratio = ratios[f"{name}.onnx"]
        yield (
            f"| {name} | {found['top1_reference']:.2f} -> {found['top1']:.2f} | {found['agreement']:.1f} % "
            f"| {found['kl']:.4f} | {ratio.median:.3f} [{ratio.lo:.3f}, {ratio.hi:.3f}] |"
        )


def ours(bench: Bench, folder: Path) -> tuple[dict[str, Stage], int]:
    """The artifact of `auto`, and the size of batches that its program was captured at."""
    prepared = bench._prepare(Widths(8, 8), AUTO, 0)
    decision = decide(prepared, bench.target, (method(AUTO), Widths(8, 8), NOTHING_APART), Stopwatch(Silent()))
    path = folder / "qtools.onnx"
    options = {"io": "float32", "metadata": {}}
    bench.target.apply(prepared.lowered, decision.plan, decision.program, path, options)
    opened = bench.target.open(path, bench.target.kernels[0], 1, prepared.program, prepared.lowered)
    return {"qtools": of_runner(opened)}, prepared.batch


def theirs(bench: Bench, folder: Path) -> dict[str, Stage]:
    """onnxruntime's artifacts; `float.onnx`, what they were made from, comes to lie beside them."""
    images = bench._drawn(0)
    plain, prepared = folder / "float.onnx", folder / "prepared.onnx"
    example = next(iter(images.batches(images.calibration, 1)))
    torch.onnx.export(
        bench._fused.loaded.module.eval(), (torch.from_numpy(images.normalised(example)),), plain, dynamo=True,
        opset_version=20, verbose=False, external_data=False,
    )  # fmt: skip
    quant_pre_process(str(plain), str(prepared))
    found = {}
    for kinds, operations in (("all", None), ("layers", LAYERS)):
        for name, how in RANGES.items():
            path = folder / f"onnxruntime {kinds} {name}.onnx"
            with contextlib.redirect_stdout(sys.stderr):  # it tells its progress there
                quantization.quantize_static(
                    str(prepared), str(path), Reader(images, prepared), per_channel=True, calibrate_method=how,
                    op_types_to_quantize=None if operations is None else list(operations),
                    activation_type=quantization.QuantType.QUInt8, weight_type=quantization.QuantType.QInt8,
                )  # fmt: skip
            found[path.stem] = stage(path, images)
    return found


class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    """Calibration images one by one, as onnxruntime asks for them."""

    def __init__(self, images: RunImages, path: Path) -> None:
        self._name = _opened(path).get_inputs()[0].name
        self._images = (images.normalised(each) for each in images.batches(images.calibration, 1))

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """The next one; None behind the last."""
        image = next(self._images, None)
        return None if image is None else {self._name: image}


def stage(path: Path, images: RunImages) -> Stage:
    """An artifact with float ends as it runs."""
    session = _opened(path)
    name = session.get_inputs()[0].name
    run: Callable[[NDArray[np.float32]], Any] = lambda image: session.run(None, {name: image})[0]  # noqa: E731
    return lambda pixels: np.concatenate([run(image[None]) for image in images.normalised(pixels)])


def _opened(path: Path) -> Any:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


if __name__ == "__main__":
    main()
