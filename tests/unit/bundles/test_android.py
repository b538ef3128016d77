"""The Kotlin of an Android bundle: complete, its core free of Android, and on the JVM the same to the byte as Python.

QTOOLS_KOTLINC names a `kotlinc`, or a .jar that holds the compiler, with kotlin-stdlib*.jar beside it.
QTOOLS_ANDROID_JAR names an SDK's android.jar: the modules for Android are compiled against it, and against our reading
of the documentation of the libraries, which proves their types and no more.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qtools.core import files
from qtools.pipeline import contract, picture_vectors
from qtools.pipeline.bundles.android import BUNDLE
from tests.unit.bundles import detector_cases
from tests.unit.bundles.json_documents import documents, read
from tests.unit.bundles.kotlin_cases import FLOATS, FRAME, WRONG, views, whole

COMPILER = os.environ.get("QTOOLS_KOTLINC") or shutil.which("kotlinc")
MAIN = "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler"
JAVA = ("java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
compiled = pytest.mark.skipif(
    COMPILER is None or shutil.which("java") is None,
    reason="no Kotlin compiler: put kotlinc on PATH or name one in QTOOLS_KOTLINC, and java beside it",
)

ANDROID = os.environ.get("QTOOLS_ANDROID_JAR")
DRIVER = Path(__file__).with_name("Driver.kt")
LIBRARIES = Path(__file__).with_name("libraries.java")


def written(content: Any, folder: Path) -> Path:
    """A bundle's files, but for the artifact."""
    BUNDLE.place(content, folder)
    files.write_text(folder / BUNDLE.assets / contract.FILE, files.to_json(content.contract))
    picture_vectors.write(content, folder / BUNDLE.vectors)
    return folder


@pytest.fixture(scope="module")
def bundle(made_up, tmp_path_factory) -> Path:
    return written(made_up().content, tmp_path_factory.mktemp("android"))


def kotlin(bundle: Path) -> list[Path]:
    found = sorted(bundle.rglob("*.kt"))
    assert found
    return found


def bare(source: str) -> str:
    """Kotlin without its texts, characters and comments."""
    parts = r"\"\"\".*?\"\"\"|\"(?:\\.|[^\"\\])*\"|'(?:\\.|[^'\\])+'|//[^\n]*|/\*.*?\*/"
    return re.sub(parts, "", source, flags=re.DOTALL)


def test_every_module_is_there_and_nothing_is_left_to_fill_in(bundle: Path) -> None:
    modules = re.findall(r'":(\w+)"', (bundle / "settings.gradle.kts").read_text().split("include")[1])
    assert modules == ["core", "vision", "sample"]
    for module in modules:
        assert (bundle / module / "build.gradle.kts").is_file()
        assert any((bundle / module / "src").rglob("*.kt"))
    for path in bundle.rglob("*"):
        if path.suffix in {".kt", ".kts", ".md", ".xml", ".properties"}:
            assert not re.search(r"\{\{|\{%|\.j2", path.read_text()), path


def test_sources_are_balanced_and_lie_where_their_package_says(bundle: Path) -> None:
    for path in [*kotlin(bundle), *bundle.rglob("*.kts")]:
        text = bare(path.read_text())
        for opening, closing in ("()", "[]", "{}"):
            assert text.count(opening) == text.count(closing), path
    for path in kotlin(bundle):
        package = re.match(r"package ([\w.]+)\n", path.read_text())
        assert package and path.parent.as_posix().endswith("kotlin/" + package[1].replace(".", "/")), path


def test_the_core_knows_no_android(bundle: Path) -> None:
    imports = {
        line
        for path in (bundle / "core").rglob("*.kt")
        for line in re.findall(r"^import (\S+)", path.read_text(), re.MULTILINE)
    }
    assert imports and all(name.startswith(("kotlin.", "java.", "org.junit.")) for name in imports)
    sources = "".join(path.read_text() for path in (bundle / "core/src/main").rglob("*.kt"))
    assert not re.search(r"\b(android|androidx|org\.tensorflow)\.", sources)


def test_the_activity_of_the_manifest_exists(bundle: Path) -> None:
    manifest = (bundle / "sample/src/main/AndroidManifest.xml").read_text()
    (name,) = re.findall(r'<activity\s+android:name="\.(\w+)"', manifest)
    assert (bundle / "sample/src/main/kotlin/qtools/sample" / f"{name}.kt").is_file()


def test_files_that_the_kotlin_opens_are_there(bundle: Path) -> None:
    """The tests of both modules name the assets by path."""
    replay = (bundle / "core/src/test/kotlin/qtools/core/ReplayTest.kt").read_text()
    for path in re.findall(r'File\("([^"]+)"\)', replay):
        assert (bundle / "core" / path).exists(), path
    assert f'CONTRACT = "{contract.FILE}"' in (bundle / "vision/src/main/kotlin/qtools/vision/Network.kt").read_text()
    assert f'read("{picture_vectors.FILE}")' in (bundle / "core/src/main/kotlin/qtools/core/Replay.kt").read_text()


def kotlinc(*words: str | Path, path: Sequence[str | Path] = ()) -> subprocess.CompletedProcess[str]:
    """One call of the compiler, with `path` on its class path."""
    said, path = [str(word) for word in words], [str(each) for each in path]
    if str(COMPILER).endswith(".jar"):
        path += [str(each) for each in library()]
        said = ["-no-stdlib", "-no-reflect", *said]
        call = [*JAVA, "-cp", f"{Path(str(COMPILER)).parent}/*", MAIN]
    else:
        call = [str(COMPILER)]
    more = ["-cp", os.pathsep.join(path)] if path else []
    return subprocess.run([*call, *more, *said], capture_output=True, text=True, check=False)


def library() -> list[Path]:
    """Kotlin's own classes, where the compiler is a .jar that does not bring them along."""
    if not str(COMPILER).endswith(".jar"):
        return []
    (found,) = Path(str(COMPILER)).parent.glob("kotlin-stdlib-[0-9]*.jar")
    return [found]


@pytest.fixture(scope="module")
def core(bundle: Path, tmp_path_factory) -> Path:
    """The core of a bundle and the driver, compiled once."""
    jar = tmp_path_factory.mktemp("kotlin") / "out.jar"
    runtime = [] if library() else ["-include-runtime"]
    sources = sorted((bundle / "core/src/main").rglob("*.kt"))
    ended = kotlinc(*runtime, "-Werror", "-d", jar, DRIVER, *sources)
    assert ended.returncode == 0, (ended.stdout + ended.stderr)[-3000:]
    return jar


@pytest.fixture(scope="module")
def jvm(core: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`jvm(main class, argument, ...)`."""

    def run(main: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join(map(str, [core, *library()]))
        words = [*JAVA, "-cp", path, main, *arguments]
        return subprocess.run(words, capture_output=True, text=True, check=False)

    return run


@pytest.fixture(scope="module")
def libraries(tmp_path_factory) -> Path:
    """The declarations of libraries.java, each in the file where Java has it."""
    folder = tmp_path_factory.mktemp("libraries")
    for part in re.split(r"^(?=package )", LIBRARIES.read_text(), flags=re.MULTILINE)[1:]:
        package, name = re.findall(r"^package ([\w.]+);", part)[0], re.findall(r"\w*(?:class|face|enum) (\w+)", part)[0]
        files.write_text(folder / package.replace(".", "/") / f"{name}.java", part)
    return folder


@compiled
@pytest.mark.skipif(ANDROID is None, reason="no android.jar: name an SDK's in QTOOLS_ANDROID_JAR")
@pytest.mark.parametrize("planted", ["", "interpreter.runForMultipleInputsOutputs(arrayOf(input), places)"])
def test_the_modules_for_android_compile(
    bundle: Path, core: Path, libraries: Path, tmp_path: Path, planted: str
) -> None:
    """A module at a time, as Gradle does it: what is internal to the core is out of reach."""
    sources = []
    for module in ("core/src/test", "vision/src", "sample/src"):
        sources += [shutil.copy(path, tmp_path) for path in sorted((bundle / module).rglob("*.kt"))]
    if planted:
        changed = tmp_path / "Network.kt"
        assert planted in changed.read_text()
        changed.write_text(changed.read_text().replace(planted, planted.replace("places", "places, inMemory(places)")))
    ended = kotlinc("-Werror", "-d", tmp_path / "out", *sources, libraries, path=(str(ANDROID), core))
    assert (ended.returncode != 0) == bool(planted), (ended.stdout + ended.stderr)[-3000:]
    assert not planted or "inMemory" in ended.stderr


@compiled
@pytest.mark.parametrize("planted", ["", "compileSdk = = 36"])
def test_gradle_files_are_kotlin(bundle: Path, tmp_path: Path, planted: str) -> None:
    """Gradle's own names are unknown here; everything else has to be in order."""
    scripts = []
    for path in sorted(bundle.rglob("*.kts")):
        scripts.append(tmp_path / f"{path.parent.name}_{path.name}".replace(".gradle", "").replace("-", "_"))
        scripts[-1].write_text(path.read_text().replace("compileSdk = 36", planted or "compileSdk = 36"))
    ended = kotlinc("-d", tmp_path / "out", *scripts)
    errors = re.findall(r"error: (.*)", ended.stderr)
    assert errors and len(scripts) == 5
    assert any("yntax" in each for each in errors) == bool(planted), errors


@compiled
@pytest.mark.parametrize(
    "said",
    [
        {},
        {"dtype": "float32", "layout": "NCHW", "crop": "border", "resize": "lanczos", "size": (18, 25), "keep": 1.0},
        {"dtype": "uint8", "crop": "squash", "resize": "nearest", "colours": "BGR", "applied": "model"},
    ],
    ids=lambda said: said.get("dtype", "int8"),
)
def test_every_vector_is_replayed(made_up, jvm, tmp_path: Path, said: dict[str, Any]) -> None:
    content = made_up(**said).content
    folder = written(content, tmp_path)
    call = "qtools.core.ReplayKt", str(folder / BUNDLE.assets / contract.FILE), str(folder / BUNDLE.vectors)
    ended = jvm(*call)
    assert (ended.returncode, ended.stdout.count("tensor equal")) == (0, len(content.vectors)), ended.stderr[-2000:]
    changed = folder / BUNDLE.vectors / "1.input.bin"
    changed.write_bytes(bytes([changed.read_bytes()[0] ^ 1]) + changed.read_bytes()[1:])
    ended = jvm(*call)
    assert (ended.returncode, ended.stdout.count("TENSOR DIFFERS in 1 bytes")) == (1, 1), ended.stdout
    index = folder / BUNDLE.vectors / picture_vectors.FILE
    index.write_text(index.read_text().replace(f'"{content.whole.artifact.sha256}"', '"ff"'))
    assert "another artifact" in jvm(*call).stderr


ARGB = np.random.default_rng(8).integers(0, 2**32, (3, 5))


@pytest.fixture(scope="module")
def documented() -> list[str]:
    return documents(np.random.default_rng(4), 300)


@pytest.fixture(scope="module")
def driven(jvm, bundle, drawn, documented, tmp_path_factory) -> Path:
    """The folder of one run of the driver over all cases."""
    folder = tmp_path_factory.mktemp("driven")
    for number, (pixels, said) in enumerate(zip(drawn.pictures, drawn.contracts, strict=True)):
        (folder / f"{number}.rgb").write_bytes(pixels.tobytes())
        (folder / f"{number}.sides").write_text(f"{pixels.shape[0]} {pixels.shape[1]}")
        (folder / f"{number}.contract").write_text(whole(said))
    for number, answer in enumerate(drawn.answers):
        (folder / f"{number}.codes").write_bytes(answer.memory)
        (folder / f"{number}.meaning").write_text(whole(answer.contract))
    for number, each in enumerate(detector_cases.drawn()):
        (folder / f"{number}.logits").write_bytes(each.logits.astype("<f4").tobytes())
        (folder / f"{number}.boxes").write_bytes(each.boxes.astype("<f4").tobytes())
        (folder / f"{number}.detector").write_text(whole(FLOATS | each.contract))
    (folder / "box").write_text(" ".join(map(str, detector_cases.BOX)))
    (folder / "views").write_text("\n".join(" ".join(map(str, each)) for each in views()))
    for number, text in enumerate(documented):
        (folder / f"{number}.json").write_text(text, encoding="utf-8")
    for number, (entry, (value, _)) in enumerate(WRONG.items()):
        said = json.loads(whole({}))
        (said[entry[0]] if entry[1:] else said)[entry[-1]] = value
        (folder / f"{number}.wrong").write_text(json.dumps(said))
    (folder / "argb").write_text(" ".join(map(str, ARGB.ravel())))
    bundled = str(bundle / BUNDLE.assets / contract.FILE), str(bundle / BUNDLE.vectors)
    ended = jvm("DriverKt", str(folder), *bundled)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return folder


@compiled
def test_every_tensor_is_that_of_python_to_the_byte(client, driven: Path, drawn) -> None:
    for number, (pixels, said) in enumerate(zip(drawn.pictures, drawn.contracts, strict=True)):
        expected = client.prepare(pixels, said).tobytes()
        assert (driven / f"{number}.out").read_bytes() == expected, (pixels.shape, said["preparation"])


@compiled
def test_answers_mean_the_same_numbers_and_the_same_classes(client, driven: Path, drawn) -> None:
    for number, answer in enumerate(drawn.answers):
        numbers = client.real_numbers(answer.codes, answer.contract)
        line, top = (driven / f"{number}.top").read_text().split("\n")
        assert line.split() == [f"{word:08x}" for word in numbers.view(np.uint32)]
        shares = client.probabilities(numbers.astype(np.float64), answer.contract)
        order = np.argsort(-shares, kind="stable")[:3]
        rows = [row.split(":") for row in top.split()]
        labels = answer.contract["labels"]
        assert [(int(row[0]), row[1]) for row in rows] == [(i, labels[i] if i < len(labels) else "") for i in order]
        np.testing.assert_allclose([float(row[2]) for row in rows], shares[order], rtol=1e-12)


@compiled
def test_objects_are_those_of_python_and_in_its_order(driven: Path) -> None:
    cases = detector_cases.drawn()
    found = []
    for number in range(len(cases)):
        rows = [line.split(" ") for line in (driven / f"{number}.found").read_text().splitlines()]
        names = ("index", "label", "score")
        found.append(
            [
                dict(zip(names, (int(row[0]), row[1], float(row[2])), strict=True)) | {"box": list(map(float, row[3:]))}
                for row in rows
            ]
        )
    detector_cases.check(cases, found)


def sides(path: Path) -> list[list[float]]:
    return [[float(word) for word in line.split()] for line in path.read_text().splitlines()]


@compiled
def test_a_box_is_led_back_to_the_whole_picture_as_python_does_it(client, driven: Path, drawn) -> None:
    for number, (pixels, said) in enumerate(zip(drawn.pictures, drawn.contracts, strict=True)):
        expected = client.uncut(detector_cases.BOX, *pixels.shape[:2], said["preparation"])
        np.testing.assert_allclose(sides(driven / f"{number}.uncut")[0], expected, rtol=1e-12)


@compiled
def test_a_box_of_a_stored_frame_lies_where_a_preview_shows_its_pixels(driven: Path) -> None:
    """The pixels are cut out and turned by numpy."""
    for (degrees, left, x0, x1, right, top, y0, y1, bottom), found in zip(views(), sides(driven / "seen"), strict=True):
        inside = np.zeros(FRAME[::-1], bool)
        inside[y0:y1, x0:x1] = True
        seen = np.rot90(inside[top:bottom, left:right], -degrees // 90)
        rows, columns = (np.flatnonzero(seen.any(axis)) for axis in (1, 0))
        height, width = seen.shape
        expected = columns[0] / width, rows[0] / height, (columns[-1] + 1) / width, (rows[-1] + 1) / height
        np.testing.assert_allclose(found, expected, atol=1e-12)


@compiled
def test_a_detectors_vectors_are_replayed(jvm, made_up, tmp_path: Path) -> None:
    """A box that lies elsewhere is noticed."""
    content = detector_cases.content(made_up().content)
    folder = written(content, tmp_path)
    call = "qtools.core.ReplayKt", str(folder / BUNDLE.assets / contract.FILE), str(folder / BUNDLE.vectors)
    ended = jvm(*call)
    assert (ended.returncode, ended.stdout.count("tensor equal")) == (0, len(content.vectors)), ended.stderr[-2000:]
    index = json.loads((folder / BUNDLE.vectors / picture_vectors.FILE).read_text())
    index["vectors"][2]["found"][0]["box"][3] += 1e-3
    files.write_text(folder / BUNDLE.vectors / picture_vectors.FILE, json.dumps(index))
    assert "objects lie elsewhere" in jvm(*call).stderr


@compiled
def test_json_is_read_and_refused_as_python_does_it(driven: Path, documented: list[str]) -> None:
    expected = [read(text) for text in documented]
    assert 50 < expected.count("refused") < 150
    for number, text in enumerate(documented):
        assert (driven / f"{number}.json.bits").read_text() == expected[number], text


@compiled
def test_a_contract_that_is_none_is_refused_by_name(driven: Path) -> None:
    for number, (entry, (_, words)) in enumerate(WRONG.items()):
        assert words in (driven / f"{number}.wrong.said").read_text(), entry


@compiled
def test_bitmaps_pixels_are_taken_apart_and_turned(driven: Path) -> None:
    rgb = np.stack([ARGB >> 16, ARGB >> 8, ARGB], -1).astype(np.uint8)
    for quarters in range(-1, 5):
        expected = np.rot90(rgb, -quarters)  # numpy turns the other way
        found = (driven / f"turned{quarters}").read_bytes()
        assert found == bytes(expected.shape[:2]) + np.ascontiguousarray(expected).tobytes()


@compiled
def test_answers_may_be_off_by_the_tolerance_and_no_more(driven: Path, made_up) -> None:
    content = made_up().content
    for off in range(3):
        gaps, passed = zip(*(row.split(":") for row in (driven / f"off{off}").read_text().split()), strict=True)
        expected = [0.0] + [off * content.whole.output.scale] * (len(content.vectors) - 1)
        assert [float(gap) for gap in gaps] == pytest.approx(expected, rel=1e-5)
        assert [word == "true" for word in passed] == [gap <= content.tolerance.value for gap in expected]
