"""The runtimes' own quantizers beside ours: the same network, images and runtime, timed in turns.

    PYTHONPATH=. python tests/bench/peers.py --data DATA --networks ViT --target onnx

What a user would do without qtools. ONNX: torch.onnx, then onnxruntime's `quantize_static`, 8-bit weights per channel,
on all operations or on layers and products only, ranges by minmax or a percentile. TFLite: litert-torch with channels
last, then ai-edge-quantizer's recipes. Times are ratios of one round against that conversion in float.
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
import torch
from numpy.typing import NDArray

from calibration.method import AUTO, method
from calibration.widths import Widths
from qtools.core import plugins
from qtools.core.errors import CheckFailed
from qtools.graph.side_by_side import one_thread
from qtools.pipeline import bench as timing
from qtools.pipeline.data import RunImages
from qtools.pipeline.decide import decide
from qtools.pipeline.devices._device import Asked
from qtools.pipeline.evaluate import Stage, of_runner
from qtools.pipeline.progress import Silent, Stopwatch
from tests.bench.ptq import NETWORKS, NOTHING_APART, Bench, Network, more

CALIBRATION, EVALUATION = 256, 1000
LAYERS = ("Conv", "Gemm", "MatMul")
ROUNDS = 100
SIGNATURE = "serving_default"
W8A8 = Widths(8, 8)
Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""One normalised image with its batch dimension, NCHW -> logits."""


def main() -> None:
    """Prints a table for each network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with weights/ and images/")
    parser.add_argument("--networks", default="", help="part of a network's name; all by default")
    parser.add_argument("--target", default="onnx", choices=sorted(PEERS))
    parser.add_argument("--out", type=Path, default=Path("runs/bench-ptq"), help="where archives are unpacked")
    parser.add_argument("--more", type=Path, help="folder of further networks (`tests/bench/ptq.py`)")
    asked = parser.parse_args()
    if not (asked.data / "weights").is_dir():
        parser.error(f"'{asked.data}' does not hold weights/ and images/")
    asked.out.mkdir(parents=True, exist_ok=True)
    for network in (*NETWORKS, *more(asked.more)):
        if asked.networks.lower() in network.name.lower():
            with one_thread(), tempfile.TemporaryDirectory() as folder:
                lines = list(rows(network, asked, Path(folder)))
                sys.stdout.write(f"\n{network.name}\n\n" + "\n".join(lines) + "\n")


def rows(network: Network, asked: argparse.Namespace, folder: Path) -> Iterator[str]:
    """Accuracy of every artifact, and its time against float's."""
    target = plugins.find("exporters", asked.target, "TARGET")
    bench = Bench(network, target, (asked.data, asked.out), (CALIBRATION, EVALUATION))
    mine, batch = ours(bench, folder / f"qtools{target.spec.suffix}")
    with contextlib.redirect_stdout(sys.stderr):  # quantizers tell their progress there
        theirs = PEERS[asked.target](bench, folder)
    images = bench._evaluated
    runs = {name: _stage(run, images) for name, run in theirs.items()}
    judged = {name: _judged(bench, name, stage, batch) for name, stage in {"qtools": mine, **runs}.items()}
    files = [folder / f"{name}{target.spec.suffix}" for name in ("float", *judged)]
    timed = timing.run(timing.BenchConfig(tuple(files), Asked(runs=ROUNDS)), Silent()).bench
    ratios = {each.name: each for comparison in timed.comparisons for each in comparison.ratios}
    yield "| artifact | top-1 | agreement | KL | time |"
    yield "|---|---|---|---|---|"
    for name, found in judged.items():
        ratio = ratios[f"{name}{target.spec.suffix}"]
        yield f"| {name} | {found} | {ratio.median:.3f} [{ratio.lo:.3f}, {ratio.hi:.3f}] |"


def _judged(bench: Bench, name: str, stage: Stage, batch: int) -> str:
    """Columns of one artifact's accuracy; without numbers where its answers are none."""
    try:
        found = bench._judged({name: stage}, batch)[name]
    except CheckFailed as error:
        return f"{error.what} | – | –"
    return f"{found['top1_reference']:.2f} -> {found['top1']:.2f} | {found['agreement']:.1f} % | {found['kl']:.4f}"


def ours(bench: Bench, path: Path) -> tuple[Stage, int]:
    """The artifact of `auto`, and the size of batches that its program was captured at."""
    prepared = bench._prepare(W8A8, AUTO, 0)
    decision = decide(prepared, bench.target, (method(AUTO), W8A8, NOTHING_APART), Stopwatch(Silent()))
    prepared = decision.prepared
    options = {"io": "float32", "metadata": {}}
    bench.target.apply(prepared.lowered, decision.plan, decision.program, path, options)
    opened = bench.target.open(path, bench.target.kernels[0], 1, prepared.program, prepared.lowered)
    return of_runner(opened), prepared.batch


def by_onnxruntime(bench: Bench, folder: Path) -> dict[str, Run]:
    """onnxruntime's artifacts; `float.onnx`, what they were made from, comes to lie beside them."""
    import onnxruntime
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
        """Calibration images one by one, as onnxruntime asks for them."""

        def __init__(self) -> None:
            self._images = _calibration(bench)

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            image = next(self._images, None)
            return None if image is None else {"image": image}

    def opened(path: Path) -> Run:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        return lambda image: np.asarray(session.run(None, {"image": image})[0])

    plain, prepared = folder / "float.onnx", folder / "prepared.onnx"
    example = torch.from_numpy(next(_calibration(bench)))
    torch.onnx.export(
        bench._fused.loaded.module.eval(), (example,), plain, input_names=["image"], dynamo=True, opset_version=20,
        verbose=False, external_data=False,
    )  # fmt: skip
    quant_pre_process(str(plain), str(prepared))
    ranges = {"minmax": quantization.CalibrationMethod.MinMax, "percentile": quantization.CalibrationMethod.Percentile}
    found = {}
    for kinds, operations in (("all", None), ("layers", list(LAYERS))):
        for name, how in ranges.items():
            path = folder / f"onnxruntime {kinds} {name}.onnx"
            quantization.quantize_static(
                str(prepared), str(path), Reader(), per_channel=True, calibrate_method=how,
                op_types_to_quantize=operations, activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
            )  # fmt: skip
            found[path.stem] = opened(path)
    return found


def by_ai_edge(bench: Bench, folder: Path) -> dict[str, Run]:
    """ai-edge-quantizer's artifacts; `float.tflite`, what they were made from, comes to lie beside them."""
    import litert_torch
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import quantizer, recipe

    def opened(path: Path) -> Run:
        runner = Interpreter(str(path), num_threads=1).get_signature_runner(SIGNATURE)
        ((source, given),), ((result, made),) = runner.get_input_details().items(), runner.get_output_details().items()

        def run(image: NDArray[np.float32]) -> NDArray[np.float32]:
            last = np.ascontiguousarray(image.transpose(0, 2, 3, 1))
            return _real(runner(**{source: _codes(last, given)})[result], made)

        return run

    plain = folder / "float.tflite"
    module = litert_torch.to_channel_last_io(bench._fused.loaded.module.eval(), args=[0])
    example = torch.from_numpy(next(_calibration(bench))).permute(0, 2, 3, 1).contiguous()
    litert_torch.convert(module, (example,)).export(str(plain))
    (source,) = Interpreter(str(plain)).get_signature_runner(SIGNATURE).get_input_details()
    shown = [{source: np.ascontiguousarray(image.transpose(0, 2, 3, 1))} for image in _calibration(bench)]
    found = {}
    for name, chosen in (("static", recipe.static_wi8_ai8()), ("dynamic", recipe.dynamic_wi8_afp32())):
        path = folder / f"ai-edge {name}.tflite"
        work = quantizer.Quantizer(str(plain), chosen)
        work.quantize(work.calibrate({SIGNATURE: shown}) if work.need_calibration else None).export_model(str(path))
        found[path.stem] = opened(path)
    return found


def _codes(array: NDArray[np.float32], end: dict[str, Any]) -> NDArray[Any]:
    """An input as the file takes it: LiteRT's description of the end says in which type, on which grid."""
    scale, zero_point = end["quantization"]
    if not scale:
        return array
    limits = np.iinfo(end["dtype"])
    return np.clip(np.rint(array / scale) + zero_point, limits.min, limits.max).astype(end["dtype"])


def _real(array: NDArray[Any], end: dict[str, Any]) -> NDArray[np.float32]:
    scale, zero_point = end["quantization"]
    return (array.astype(np.float32) - zero_point) * np.float32(scale) if scale else array


PEERS = {"onnx": by_onnxruntime, "tflite": by_ai_edge}


def _calibration(bench: Bench) -> Iterator[NDArray[np.float32]]:
    """The calibration images that `ours` has, one by one."""
    images = bench._drawn(0)
    return (images.normalised(each) for each in images.batches(images.calibration, 1))


def _stage(run: Run, images: RunImages) -> Stage:
    return lambda pixels: np.concatenate([run(image[None]) for image in images.normalised(pixels)])


if __name__ == "__main__":
    main()
