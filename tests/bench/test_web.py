"""200 pictures in headless Chromium, by both runtimes of a browser, against the runtimes of Python.

Needs Chromium and npm with its registry: `make test ARGS='-m bench -n 0 -k web -s'`.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from PIL import Image

from qtools.pipeline.demo.server import serve
from qtools.reference.images import render

pytestmark = [
    pytest.mark.bench,
    pytest.mark.skipif(not (shutil.which("chromium") and shutil.which("npm")), reason="needs Chromium and npm"),
]
PICTURES = 200
QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
ROW = re.compile(
    r"vector (\d+) \(.*?\): (tensor equal|TENSOR DIFFERS).*?, "
    r"answer (equal|within [\d.e+-]+)(, ANOTHER CLASS)?(  FAILED)?"
)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Scenes of the kind that the network was trained on, and that calibration did not see, in several sizes."""
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(PICTURES):
        scene, _ = render(number, split="test", size=(160, 224, 256, 300)[number % 4])
        Image.fromarray(scene).save(folder / f"{number:03d}.png")
    return folder


@pytest.mark.parametrize(("target", "io"), [("onnx", "int8"), ("tflite", "pixels")])
def test_a_browser_answers_as_python_does(tmp_path_factory, pictures, target: str, io: str) -> None:
    from qtools.cli import main

    folder = tmp_path_factory.mktemp(target)
    asked = f"mobilevit_xxs --weights reference --target {target} --io {io} --calibration 32 --evaluation 32"
    with pytest.raises(SystemExit):
        main(["quantize", *asked.split(), "--out", str(folder / "run")])
    made = ["bundle", str(folder / "run"), "-p", "web", "-o", str(folder / "web"), "--data", str(pictures)]
    with pytest.raises(SystemExit) as ended:
        main([*made, "--vectors", str(PICTURES)])
    assert not ended.value.code
    web = folder / "web"
    subprocess.run(["npm", "install", "--no-audit", "--no-fund"], cwd=web, check=True, capture_output=True)
    rows = ROW.findall(_page(web, folder / "profile"))
    recorded = json.loads((web / "vectors" / "vectors.json").read_text())
    equal = sum(answer == "equal" for _, _, answer, _, _ in rows)
    other = sum(bool(word) for _, _, _, word, _ in rows)
    failed = sum(bool(word) for *_, word in rows)
    limit = recorded["tolerance"]["value"]
    said = (
        f"{len(rows)} pictures, {equal} answers equal in every bit, {other} other classes, {failed} beyond {limit:.3g}"
    )
    sys.stdout.write(f"\n{target}: {said}\n")
    assert len(rows) == PICTURES
    assert all(tensor == "tensor equal" for _, tensor, _, _, _ in rows)
    assert max(failed, other) <= 0.005 * PICTURES


def _page(web: Path, profile: Path) -> str:
    """What the page holds once it has replayed its vectors."""
    server = serve(web, lambda picture: [], 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}/?replay"
    words = ["chromium", *QUIET, f"--user-data-dir={profile}", "--virtual-time-budget=600000", "--dump-dom", address]
    try:
        return subprocess.run(words, capture_output=True, text=True, timeout=300, check=True).stdout
    finally:
        server.shutdown()
        server.server_close()
