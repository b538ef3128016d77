"""The arithmetic of an iOS bundle's Swift, translated and run by Node, and compiled where a Swift compiler is, against
the Python client, which is held against Pillow. Every file is parsed where tree-sitter is installed.

QTOOLS_SWIFTC names a `swiftc`, with `swift` beside it; test_swift.py compiles the rest.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from qtools.core import files
from qtools.core.artifact import Runtime
from qtools.pipeline import picture_vectors
from qtools.pipeline.bundles import _templates
from qtools.pipeline.bundles.ios import BUNDLE
from tests.unit.bundles import detector_cases
from tests.unit.bundles.swift_expressions import Refused
from tests.unit.bundles.swift_subset import declared, translate, undecodable

NODE = shutil.which("node")
COMPILER = os.environ.get("QTOOLS_SWIFTC") or shutil.which("swiftc")
DRIVER = Path(__file__).with_name("Driver.swift")
CASES, ANSWERS = 240, 40
PLANTED = 36
"""Cases that a planted fault is looked for in: six of each filter."""
SWIFT = _templates.HERE / "ios" / "Sources" / "QtoolsPreparation"
ARITHMETIC = ("Resize.swift", "Prepare.swift", "Answers.swift", "Bytes.swift", "Detect.swift")
SCRIPT = """
import { readFileSync, writeFileSync } from "node:fs";
import { bgra, bytes, detect, likeliest, numbers, places, prepare, realNumbers, uncut, upright } from "./swift.mjs";
const read = (at) => Array.from(readFileSync(`${at}.rgb`));
const cases = JSON.parse(readFileSync("cases.json")), answers = JSON.parse(readFileSync("answers.json"));
const strides = JSON.parse(readFileSync("strides.json")), detectors = JSON.parse(readFileSync("detectors.json"));
const back = [];
cases.forEach(({ width, height, contract }, at) => {
  const tensor = prepare({ width, height, rgb: read(at) }, contract);
  const element = contract.input.dtype === "uint8" ? "uint8" : "float32", raw = bytes(tensor, element);
  writeFileSync(`${at}.out`, Buffer.from(raw));
  back.push(numbers(raw, element).every((x, i) => x === tensor[i]));
  if (element === "uint8") writeFileSync(`${at}.bgra`, Buffer.from(bgra(tensor, contract)));
});
writeFileSync("back.json", JSON.stringify(back));
writeFileSync("tops.json", JSON.stringify(answers.map(({ codes, contract }) => {
  const real = realNumbers(codes, contract);
  return { numbers: real, top: likeliest(real, contract, 3), all: likeliest(real, contract, 99).length };
})));
writeFileSync("found.json", JSON.stringify(detectors.map((each) => detect(each.logits, each.boxes, each.contract))));
writeFileSync("upright.json", JSON.stringify([1, 2, 3, 4, 5, 6, 7, 8, 0, 9].map((exif) =>
  upright({ width: cases[0].width, height: cases[0].height, rgb: read(0) }, exif))));
const box = JSON.parse(readFileSync("box.json"));
writeFileSync("uncut.json", JSON.stringify(cases.map(({ height, width, contract }) =>
  uncut(box, height, width, contract.preparation))));
writeFileSync("places.json", JSON.stringify(strides.map(([shape, steps]) => places(shape, steps))));
"""

needs_node = pytest.mark.skipif(NODE is None, reason="Node is not installed")


def sources() -> list[str]:
    return [(SWIFT / name).read_text(encoding="utf-8") for name in ARITHMETIC]


def translated(change: Callable[[str], str] = lambda text: text) -> str:
    return translate((SWIFT / "Contract.swift").read_text(encoding="utf-8"), [change(text) for text in sources()])


def whole(said: dict[str, Any]) -> dict[str, Any]:
    """A drawn part of a contract with what else Swift wants, as JSONDecoder's convertFromSnakeCase gives it.

    Core ML takes two types of elements; codes of the others are held in float32.
    """
    output = {"zeroPoint" if key == "zero_point" else key: each for key, each in said.get("output", {}).items()}
    dtype = said.get("input", {}).get("dtype")
    parts = {
        "preparation": {"size": [1, 1], "keep": 1, "crop": "squash", "resize": "box", "fill": [0, 0, 0]}
        | {"colours": "RGB", "layout": "NHWC", "rule": "pillow-8bit"}
        | said.get("preparation", {}),
        "input": {"name": "i", "shape": [1], "kind": "tensor", "table": []}
        | said.get("input", {})
        | {"dtype": "uint8" if dtype == "uint8" else "float32"},
        "output": {"name": "o", "shape": [1], "meaning": "logits", "byLabel": False} | output | {"dtype": "float32"},
        "artifact": {"name": "a", "format": "mlpackage", "sha256": "0"},
    }
    decoding = said.get("decoding")
    return parts | {"schemaVersion": 2, "labels": said.get("labels", []), "boxes": None, "decoding": decoding}


@pytest.fixture(scope="module")
def asked(
    tmp_path_factory: pytest.TempPathFactory, drawn: Any
) -> tuple[Path, list[dict[str, Any]], list[dict[str, Any]]]:
    """Cases in a folder, for Node to answer."""
    folder, cases = tmp_path_factory.mktemp("swift"), []
    for number, (pixels, contract) in enumerate(zip(drawn.pictures, drawn.contracts, strict=True)):
        cases.append({"height": pixels.shape[0], "width": pixels.shape[1], "contract": contract})
        (folder / f"{number}.rgb").write_bytes(pixels.tobytes())
    answers = [
        {"bytes": list(each.memory), "contract": each.contract, "codes": each.codes.astype(float).tolist()}
        for each in drawn.answers
    ]
    said = [each | {"contract": whole(each["contract"])} for each in answers]
    given = [each | {"contract": whole(each["contract"])} for each in cases]
    shapes = [np.zeros(shape)[:, ::2].T for shape in ((3, 4), (2, 5, 3), (1, 7))]
    strides = [(each.shape, [step // each.itemsize for step in each.strides]) for each in shapes]
    detectors = [
        {"logits": each.logits.ravel().tolist(), "boxes": each.boxes.ravel().tolist(), "contract": whole(each.contract)}
        for each in detector_cases.drawn()
    ]
    parts = (
        ("cases", given),
        ("answers", said),
        ("strides", strides),
        ("detectors", detectors),
        ("box", detector_cases.BOX),
    )
    for name, entries in parts:
        (folder / f"{name}.json").write_text(json.dumps(entries))
    return folder, cases, answers


def run(folder: Path, swift: str) -> None:
    (folder / "swift.mjs").write_text(swift)
    (folder / "run.mjs").write_text(SCRIPT)
    ended = subprocess.run([str(NODE), "run.mjs"], cwd=folder, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]


def compiled(folder: Path) -> None:
    """Leaves in the folder what `run` leaves there, by the compiler's hand."""
    for name in ("Contract.swift", *ARITHMETIC):
        shutil.copy(SWIFT / name, folder)
    shutil.copy(DRIVER, folder / "main.swift")
    words = [str(COMPILER), "-O", "-swift-version", "5", "-warnings-as-errors", "-o", "driver"]
    files_ = ["main.swift", "Contract.swift", *ARITHMETIC]
    for call in ([*words, *files_], [str(folder / "driver"), str(folder)]):
        ended = subprocess.run(call, cwd=folder, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, (ended.stdout + ended.stderr)[-3000:]


def element(each: dict[str, Any]) -> str:
    return str(whole(each["contract"])["input"]["dtype"])


def differing(client: ModuleType, folder: Path, cases: list[dict[str, Any]]) -> list[int]:
    """Cases whose tensor is not that of Python, to the byte."""
    found = []
    for number, each in enumerate(cases):
        pixels = np.frombuffer((folder / f"{number}.rgb").read_bytes(), np.uint8)
        expected = client.prepare(pixels.reshape(each["height"], each["width"], 3), each["contract"])
        ours = np.frombuffer((folder / f"{number}.out").read_bytes(), element(each))
        if ours.astype(expected.dtype).tobytes() != expected.tobytes():
            found.append(number)
    return found


@pytest.fixture(scope="module", params=["translated", "compiled"])
def replayed(request, asked, tmp_path_factory: pytest.TempPathFactory):
    """The cases with Swift's answers, by way of Node and by a compiler."""
    folder, *rest = asked
    if request.param == "translated":
        if NODE is None:
            pytest.skip("Node is not installed")
        run(folder, translated())
        return asked
    if COMPILER is None:
        pytest.skip("no Swift compiler: put swiftc on PATH or name one in QTOOLS_SWIFTC")
    own = Path(shutil.copytree(folder, tmp_path_factory.mktemp("compiled") / "cases", ignore=only_given))
    compiled(own)
    return own, *rest


def only_given(_: str, names: list[str]) -> list[str]:
    """What lies in the folder by another's hand."""
    given = {"cases.json", "answers.json", "strides.json", "detectors.json", "box.json"}
    return [name for name in names if name not in given and not name.endswith(".rgb")]


def test_every_tensor_is_that_of_python_to_the_byte(client, replayed) -> None:
    folder, cases, _ = replayed
    assert differing(client, folder, cases) == []
    assert json.loads((folder / "back.json").read_text()) == [True] * CASES


def test_a_pixel_buffer_shows_the_colours_of_the_tensor(client, replayed) -> None:
    folder, cases, _ = replayed
    for number, each in enumerate(cases):
        if element(each) != "uint8":
            continue
        tensor = np.frombuffer((folder / f"{number}.out").read_bytes(), np.uint8).reshape(-1, 3)
        colours = tensor if each["contract"]["preparation"]["colours"] == "BGR" else tensor[:, ::-1]
        rows = np.frombuffer((folder / f"{number}.bgra").read_bytes(), np.uint8).reshape(-1, 4)
        np.testing.assert_array_equal(rows[:, :3], colours)
        assert (rows[:, 3] == 255).all()


def test_answers_mean_the_same_numbers_and_the_same_classes(client, replayed) -> None:
    folder, _, answers = replayed
    for ours, each in zip(json.loads((folder / "tops.json").read_text()), answers, strict=True):
        contract, codes = each["contract"], np.array(each["codes"], each["contract"]["output"]["dtype"])
        numbers = client.real_numbers(codes, contract)
        np.testing.assert_array_equal(np.float32(ours["numbers"]), numbers)
        shares = client.probabilities(numbers.astype(np.float64), contract)
        order = np.argsort(-shares, kind="stable")[:3]
        assert [row["index"] for row in ours["top"]] == order.tolist() and ours["all"] == len(codes)
        assert [row["label"] for row in ours["top"]] == [("a", "b", *[""] * 9)[index] for index in order]
        np.testing.assert_allclose([row["probability"] for row in ours["top"]], shares[order], rtol=1e-12)


def test_objects_are_those_of_python_and_in_its_order(replayed) -> None:
    folder, *_ = replayed
    detector_cases.check(detector_cases.drawn(), json.loads((folder / "found.json").read_text()))


def test_a_box_is_led_back_to_the_whole_picture_as_python_does_it(client, replayed) -> None:
    folder, cases, _ = replayed
    for ours, each in zip(json.loads((folder / "uncut.json").read_text()), cases, strict=True):
        said = each["contract"]["preparation"]
        expected = client.uncut(detector_cases.BOX, each["height"], each["width"], said)
        np.testing.assert_allclose(ours, expected, rtol=1e-12)


def test_stored_pictures_are_turned_as_pillow_turns_them(replayed) -> None:
    folder, cases, _ = replayed
    shape = cases[0]["height"], cases[0]["width"], 3
    picture = Image.fromarray(np.frombuffer((folder / "0.rgb").read_bytes(), np.uint8).reshape(shape))
    for exif, ours in zip([*range(1, 9), 0, 9], json.loads((folder / "upright.json").read_text()), strict=True):
        picture.getexif()[0x0112] = exif
        turned = np.asarray(ImageOps.exif_transpose(picture))
        assert (ours["height"], ours["width"]) == turned.shape[:2]
        np.testing.assert_array_equal(np.array(ours["rgb"]), turned.reshape(-1))


def test_arrays_with_gaps_are_read_in_order(replayed) -> None:
    folder, *_ = replayed
    for (shape, steps), ours in zip(
        json.loads((folder / "strides.json").read_text()), json.loads((folder / "places.json").read_text()), strict=True
    ):
        assert ours == [int(np.dot(index, steps)) for index in np.ndindex(*shape)]


@needs_node
@pytest.mark.parametrize(
    ("is_", "becomes"),
    [
        ("2 - channel : channel\n        let row", "channel : channel\n        let row"),
        ("let a: Double = -0.5", "let a: Double = -0.75"),
        ("Float(0.54)", "Float(0.53)"),
        ("scaled - 0.5", "scaled + 0.5"),
        (".toNearestOrEven", ".down"),
        ("lost > 2 *", "lost > 1 *"),
        ("UInt8((word >> (8 * part)) % 256)", "UInt8((word >> (24 - 8 * part)) % 256)"),
    ],
)
def test_a_planted_fault_is_found(client, asked, tmp_path: Path, is_: str, becomes: str) -> None:
    folder, cases, _ = asked
    assert any(is_ in text for text in sources())
    given = "answers.json", "strides.json", "detectors.json", "box.json"
    for name in (*given, *(f"{number}.rgb" for number in range(PLANTED))):
        shutil.copy(folder / name, tmp_path)
    (tmp_path / "cases.json").write_text(
        json.dumps([each | {"contract": whole(each["contract"])} for each in cases[:PLANTED]])
    )
    run(tmp_path, translated(lambda text: text.replace(is_, becomes)))
    assert differing(client, tmp_path, cases[:PLANTED])


@pytest.mark.parametrize(
    ("is_", "becomes", "why"),
    [
        ("Double(source) / Double(goal)", "Double(source) / goal", "Double and Int in one operation"),
        ("found.append(min(Int(at), source - 1))", "found.append(at)", "Double where Int is due"),
        ("var at: Double = scale", "let at: Double = scale", "at is a let"),
        ("case .lanczos: return 3.0\n", "", "no case for lanczos"),
        ("filter: filter)", "with: filter)", "takes"),
        ("picture.width - goal.width", "picture.wide - goal.width", "Picture has no wide"),
    ],
)
def test_what_a_compiler_would_refuse_is_refused(is_: str, becomes: str, why: str) -> None:
    assert any(is_ in text for text in sources())
    with pytest.raises(Refused, match=why):
        translated(lambda text: text.replace(is_, becomes))


def test_swift_can_decode_the_contract_and_the_vectors(made_up, tmp_path: Path) -> None:
    content = made_up("float32", "NCHW").content
    names = declared((SWIFT / "Contract.swift").read_text(encoding="utf-8"))
    said = json.loads(files.to_json(content.contract))
    said["output"] |= {"dtype": "float32"}
    assert undecodable(said, "Contract", names, "contract") == []
    said["output"] |= {"scale": None, "zero_point": None, "by_label": "no"}
    said["preparation"] |= {"crop": "fish-eye", "fill": [0, 256, 0]}
    wrong = ["preparation.crop", "preparation.fill[1]", "output.byLabel"]
    found = undecodable(said, "Contract", names, "contract")
    assert [each.split(" is no ")[0] for each in found] == [f"contract.{each}" for each in wrong]
    picture_vectors.write(content, tmp_path)
    kinds = declared((SWIFT.parents[1] / "Tests" / "ReplayTests" / "Recorded.swift").read_text(encoding="utf-8"))
    assert undecodable(json.loads((tmp_path / picture_vectors.FILE).read_text()), "Recorded", kinds, "vectors") == []


@pytest.fixture(scope="module")
def placed(made_up, tmp_path_factory: pytest.TempPathFactory) -> Path:
    content = made_up("float32", "NCHW").content
    assert content.contract.runtime
    folder = tmp_path_factory.mktemp("ios")
    BUNDLE.place(content, folder)
    return folder


def test_every_file_is_swift(placed: Path) -> None:
    tree_sitter = pytest.importorskip("tree_sitter", reason="tree-sitter is not installed: no Swift file was parsed")
    grammar = pytest.importorskip("tree_sitter_swift", reason="tree-sitter-swift is not installed: nothing was parsed")
    parser = tree_sitter.Parser(tree_sitter.Language(grammar.language()))
    found = sorted(placed.rglob("*.swift"))
    assert len(found) == 19
    assert [path.name for path in found if parser.parse(path.read_bytes()).root_node.has_error] == []
    broken = (SWIFT / "Resize.swift").read_bytes().replace(b"func sinc(", b"func sinc")
    assert parser.parse(broken).root_node.has_error


def test_the_package_wants_the_system_that_its_artifact_wants(made_up, placed: Path, tmp_path: Path) -> None:
    assert '.iOS("17.0"), .macOS("14.0")' in (placed / "Package.swift").read_text()
    content = made_up("float32", "NCHW").content
    newer = dataclasses.replace(content.contract, runtime=Runtime("Core ML", systems={"iOS": "18", "macOS": "15"}))
    BUNDLE.place(dataclasses.replace(content, whole=dataclasses.replace(content.whole, contract=newer)), tmp_path)
    assert '.iOS("18.0"), .macOS("15.0")' in (tmp_path / "Package.swift").read_text()
    assert '.iOS("18.0")' in (tmp_path / "Sample.swiftpm" / "Package.swift").read_text()


def test_folders_and_names_of_the_package_fit_together(placed: Path) -> None:
    """Paths that Swift's build would miss: targets have folders, resources lie where the bundle writes them."""
    said = (placed / "Package.swift").read_text()
    for target in ("QtoolsPreparation", "QtoolsVision"):
        assert f'.target(name: "{target}"' in said and (placed / "Sources" / target).is_dir()
    assert BUNDLE.assets == "Sources/QtoolsVision/Assets" and '.copy("Assets")' in said
    assert BUNDLE.vectors == "Tests/ReplayTests/vectors" and '.copy("vectors")' in said
