"""All Swift that is handed out, compiled: a package is built and tested by Swift's own tools, and what needs Apple's
frameworks is held against declarations in apple/: types as we read them in Apple's documentation, and no more.

QTOOLS_SWIFTC names a `swiftc`, with `swift` beside it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from qtools.core import files
from qtools.pipeline import contract, devices, picture_vectors
from qtools.pipeline.bundles.ios import BUNDLE
from tests.unit.bundles import detector_cases

COMPILER = os.environ.get("QTOOLS_SWIFTC") or shutil.which("swiftc")
DEVICES = Path(devices.__file__).parent
APPLE = Path(__file__).with_name("apple")
FRAMEWORKS = ("CoreGraphics", "ImageIO", "CoreVideo", "AVFoundation", "CoreML", "SwiftUI", "PhotosUI")
"""In the order of what needs what."""
MODULE = "import Foundation\nextension Bundle { static var module: Bundle { .main } }\n"
"""What Swift's build writes for a target with resources."""

Ended = subprocess.CompletedProcess[str]
pytestmark = pytest.mark.skipif(
    COMPILER is None, reason="no Swift compiler: put swiftc on PATH or name one in QTOOLS_SWIFTC"
)


@pytest.fixture(scope="module")
def package(made_up, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector's bundle, but for the artifact."""
    content = detector_cases.content(made_up("uint8", resize="lanczos", crop="border", keep=1.0).content)
    folder = tmp_path_factory.mktemp("package")
    BUNDLE.place(content, folder)
    files.write_text(folder / BUNDLE.assets / contract.FILE, files.to_json(content.contract))
    picture_vectors.write(content, folder / BUNDLE.vectors)
    return folder


def test_swifts_own_tools_build_the_package_and_replay_its_vectors(package: Path) -> None:
    words = [str(Path(str(COMPILER)).with_name("swift")), "test"]
    ended = subprocess.run(words, cwd=package, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, (ended.stdout + ended.stderr)[-3000:]
    assert "Executed 3 tests, with 0 failures" in ended.stdout + ended.stderr
    changed = next((package / BUNDLE.vectors).glob("1.input.bin"))
    changed.write_bytes(bytes([changed.read_bytes()[0] ^ 1]) + changed.read_bytes()[1:])
    index = package / BUNDLE.vectors / picture_vectors.FILE
    said = json.loads(index.read_text())
    said["vectors"][2]["found"][0]["box"][3] += 1e-3
    index.write_text(json.dumps(said))
    ended = subprocess.run(words, cwd=package, capture_output=True, text=True, check=False)
    for words_ in ("vector 1: the tensor differs", "vector 2: an object lies elsewhere"):
        assert ended.returncode != 0 and words_ in ended.stdout + ended.stderr


@pytest.fixture(scope="module")
def sources(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything in one place, and the modules of Apple's declarations among it."""
    folder = tmp_path_factory.mktemp("apple")
    shutil.copytree(APPLE, folder, dirs_exist_ok=True)
    shutil.copytree(package, folder / "package", ignore=shutil.ignore_patterns(".build", "vectors"))
    shutil.copytree(DEVICES, folder / "devices", ignore=shutil.ignore_patterns("*.py", "Package.swift"))
    for target in ("Sources/QtoolsVision", "Tests/ReplayTests"):
        (folder / "package" / target / "Module.swift").write_text(MODULE)
    shutil.copy(APPLE / "XCTAttachment.swift", folder / "package/Tests/ReplayTests")
    arrays = folder / "package/Sources/QtoolsVision/Arrays.swift"
    assert "#if arch(arm64)" in arrays.read_text()
    arrays.write_text(arrays.read_text().replace("#if arch(arm64)", "#if true"))  # what only phones compile
    for name in FRAMEWORKS:
        ended = compiled(folder, name, [f"{name}.swift"], module=True)
        assert ended.returncode == 0, ended.stderr[-3000:]
    return folder


def compiled(folder: Path, name: str, found: list[str], *, module: bool = False, mode: str = "5"):
    """Checks the types of files as one module, without a warning, and keeps its interface where others need it."""
    words = [str(COMPILER), "-parse-as-library", "-swift-version", mode, "-I", ".", "-module-name", name]
    words += ["-suppress-warnings"] if name in FRAMEWORKS else ["-warnings-as-errors"]
    words += ["-emit-module", "-emit-module-path", f"{name}.swiftmodule"] if module else ["-typecheck"]
    words += ["-I", "/usr/libexec/swift/lib/swift/linux/x86_64"] if name == "ReplayTests" else []
    return subprocess.run([*words, *found], cwd=folder, capture_output=True, text=True, check=False)


def within(folder: Path, place: str) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in (folder / place).glob("*.swift"))


@pytest.mark.parametrize("mode", ["5", "6"])
def test_what_needs_apples_frameworks_has_the_right_types(sources: Path, mode: str) -> None:
    for name in ("QtoolsPreparation", "QtoolsVision"):
        ended = compiled(sources, name, within(sources, f"package/Sources/{name}"), module=True, mode=mode)
        assert ended.returncode == 0, ended.stderr[-3000:]
    sample = [path for path in within(sources, "package/Sample.swiftpm") if not path.endswith("Package.swift")]
    for name, found in (
        ("ReplayTests", within(sources, "package/Tests/ReplayTests")),
        ("Sample", sample),
        ("Mac", ["devices/Bench.swift", "devices/Command.swift"]),
        ("Phone", ["devices/Bench.swift", "devices/App.swift"]),
    ):
        ended = compiled(sources, name, found, mode=mode)
        assert ended.returncode == 0, (name, ended.stderr[-3000:])


@pytest.mark.parametrize(
    ("is_", "becomes", "why"),
    [
        (
            "func timed(_ compiled: URL, _ asked: Asked) throws",
            "func timed(_ compiled: URL, _ asked: Asked) async throws",
            "async",
        ),
        ("wanted.shape", "wanted.sizes", "no member 'sizes'"),
        ("settings.computeUnits = units", "settings.computeUnit = units", "no member 'computeUnit'"),
    ],
)
def test_what_core_ml_does_not_have_is_refused(sources: Path, tmp_path: Path, is_: str, becomes: str, why: str) -> None:
    text = (sources / "devices/Bench.swift").read_text()
    assert is_ in text
    changed = shutil.copytree(sources, tmp_path / "changed") / "devices/Bench.swift"
    changed.write_text(text.replace(is_, becomes))
    ended = compiled(tmp_path / "changed", "Mac", ["devices/Bench.swift", "devices/Command.swift"])
    assert ended.returncode != 0 and why in ended.stderr
