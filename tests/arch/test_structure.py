"""Who may know whom, what loads when, and that an extension is one new file."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from qtools.core import plugins

# Beyond the standard library and what lies below in the layers.
ALLOWED = {
    "qtools.core": {"numpy", "array_api_compat", "qtools"},
    "reports": {"numpy", "scipy", "matplotlib", "jinja2", "markupsafe", "rich", "pydantic", "PIL", "qtools", "reports"},
}
HEAVY = [
    "torch", "torchvision", "timm", "jax", "matplotlib", "scipy", "PIL", "litert_torch", "ai_edge_litert",
    "ai_edge_quantizer", "onnx", "onnxruntime", "coremltools", "tensorflow",
]  # fmt: skip
EXTENDABLE = [
    "exporters",
    "qtools.models",
    "calibration.ranges",
    "calibration.baselines",
    "qtools.causes",
    "reports.render",
    "qtools.cli",
    "qtools.pipeline.bundles",
    "qtools.pipeline.devices",
    "qtools.pipeline.tasks",
    "qtools.reference.exercises",
]


def test_core_and_reports_know_little(sources: list[Any]) -> None:
    strangers = {
        source.path: sorted(unknown)
        for source in sources
        if (allowed := ALLOWED.get(source.package)) is not None
        and (unknown := source.imports - allowed - sys.stdlib_module_names)
    }
    assert not strangers


@pytest.mark.parametrize("module", ["qtools", "qtools.core.plugins", "qtools.cli"])
def test_import_is_light(root: Path, module: str) -> None:
    """What `qtools --help` pays for. The time itself is a benchmark; this is the cause."""
    code = f"import json, sys, {module}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=root, check=True, capture_output=True, text=True)
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    assert not loaded & set(HEAVY), f"import {module} loads {sorted(loaded & set(HEAVY))}"


def test_public_names_resolve() -> None:
    import qtools

    for name in dir(qtools):
        assert getattr(qtools, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'quantise'"):
        qtools.__getattr__("quantise")


@pytest.mark.parametrize("package", EXTENDABLE)
def test_extension_is_one_new_file(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dummy_extension.py").write_text("ANSWER = 42\n")
    (tmp_path / "_private.py").write_text("raise AssertionError('private files are no extensions')\n")
    folder = importlib.import_module(package)
    before = plugins.names(package)
    monkeypatch.setattr(folder, "__path__", [*folder.__path__, str(tmp_path)])
    importlib.invalidate_caches()
    try:
        assert set(plugins.names(package)) == {*before, "dummy_extension"}
        assert plugins.find(package, "dummy_extension", "ANSWER") == 42
    finally:
        sys.modules.pop(f"{package}.dummy_extension", None)
        vars(folder).pop("dummy_extension", None)
