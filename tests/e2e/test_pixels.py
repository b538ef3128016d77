"""`--io pixels`: an app feeds a camera's bytes and gets logits, with the names of the classes in the file."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from PIL import Image, ImageOps

pytestmark = pytest.mark.e2e

WORDS = ("quantize", "--builder", "user_network:build", "--data", "calibration", "--eval", "held_out", "--json")
NAMES = ["Apfel", "Birne", "Cassis", "Dattel", "Erdbeere"]
SIDE, GROWN = 32, 36


@pytest.fixture(scope="module")
def ended(tmp_path_factory, qtools, album) -> Any:
    folder = album.furnish(tmp_path_factory.mktemp("pixels"))
    (folder / "names.txt").write_text("\n".join(NAMES) + "\n")
    return qtools(folder, *WORDS, "--io", "pixels", "--labels", "names.txt")


def classifier(path: Path) -> Callable[[np.ndarray], str]:
    """The whole of an app: bytes in, a name out of the label file that lies in the model."""
    interpreter = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    (image,), (logits,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert image["dtype"] == np.uint8 and logits["dtype"] == np.float32
    with zipfile.ZipFile(path) as archive:
        names = archive.read("labels.txt").decode().split("\n")

    def answer(picture: np.ndarray) -> str:
        interpreter.set_tensor(image["index"], picture[None])
        interpreter.invoke()
        return names[int(interpreter.get_tensor(logits["index"])[0].argmax())]

    return answer


def cropped(path: Path) -> np.ndarray:
    """Bytes as Pillow resizes them, no arithmetic of anybody's on them."""
    picture = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    width, height = picture.size
    scale = GROWN / min(width, height)
    size = (GROWN, int(GROWN * height / width)) if width <= height else (int(GROWN * width / height), GROWN)
    assert min(size) == GROWN and scale > 0
    picture = picture.resize(size, Image.Resampling.BILINEAR)
    left, top = (round((side - SIDE) / 2) for side in size)
    return np.asarray(picture.crop((left, top, left + SIDE, top + SIDE)))


def test_the_report_measures_what_an_app_gets(ended):
    report = ended.report()
    assert {check["status"] for check in report["checks"]} == {"passed"}
    assert sum(row["differing"] for row in report["differences"]) == 0
    answer = classifier(ended.folder() / "model.tflite")
    right = [
        answer(cropped(path)) == NAMES[label]
        for label, folder in enumerate(sorted((ended.cwd / "held_out").iterdir()))
        for path in sorted(folder.iterdir())
    ]
    rows = {row["stage"]: row["accuracy"] for row in report["ledger"]}
    assert rows["artifact, XNNPACK"]["top1"] == pytest.approx(100 * np.mean(right))
    assert rows["fused"]["agreement"] == 100, "the normalisation inside is the one outside"


def test_the_file_says_that_nothing_is_left_to_normalise(ended):
    from exporters._tflite import flatbuffer

    model = flatbuffer.read((ended.folder() / "model.tflite").read_bytes())
    assert json.loads(flatbuffer.metadata(model, "qtools"))["io"] == "pixels"
    assert flatbuffer.metadata(model, "TFLITE_METADATA")[4:8] == b"M001"


@pytest.mark.parametrize("target", ["onnx", "coreml"])
def test_other_targets(ended, qtools, target):
    again = qtools(ended.cwd, *WORDS, "--io", "pixels", "--target", target, "--out", target)
    report = json.loads((ended.cwd / target / "report.json").read_text())
    assert {check["status"] for check in report["checks"]} == {"passed"}, again.err
    rows = list(report["ledger"])
    assert rows[-1]["accuracy"]["agreement"] >= 95
    assert sum(row["differing"] for row in report["differences"]) == 0
    labels = {"onnx": onnx_labels, "coreml": coreml_labels}[target]
    assert labels(next((ended.cwd / target).glob("model.*"))) == list("abcde"), "the class folders' names"


def onnx_labels(path: Path) -> list[str]:
    import onnx

    properties = {p.key: p.value for p in onnx.load(path).metadata_props}
    return properties["labels"].split("\n")


def coreml_labels(path: Path) -> list[str]:
    from exporters._coreml.evaluator import Evaluator
    from exporters._coreml.run import labels_of

    spec = Evaluator(path).spec
    assert spec.description.input[0].type.WhichOneof("Type") == "imageType"
    assert spec.description.predictedFeatureName == "classLabel"
    return list(labels_of(spec))
