"""Habits that SECURITY.md promises: no pickle of our own, no shell, no network but the hub, escaped pages."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.arch.conftest import Source

NETWORK = {"socket", "ssl", "http", "urllib", "ftplib", "smtplib", "requests", "httpx", "aiohttp", "websockets"}
HUB = {
    "qtools/models/_hub.py": "asks whether the hub answers, before timm fetches weights that the user asked for",
    "qtools/pipeline/demo/server.py": "serves the demo's page to 127.0.0.1, and asks nobody",
}
SOURCES = {"qtools/pipeline/bundles/_templates.py": "writes source code too; its pages are escaped by their suffix"}
PICKLE = {
    "qtools/models/_checkpoint.py": "catches its errors; torch reads with weights_only",
    "qtools/models/_hub.py": "catches its errors",
}
YAML = {"qtools/pipeline/sweep/grid.py": "its loader is SafeLoader, and takes neither tags nor aliases"}
READERS = {"read_bytes", "read_text"}
OWN = {
    "qtools/core/files.py": "is where it is looked at first",
    "qtools/core/bounds.py": "the kernel's numbers of this process",
    "qtools/pipeline/reuse.py": "this program's own code",
    "qtools/pipeline/bundles/_templates.py": "this program's own templates",
    "qtools/pipeline/bundles/templates/python/qtools_client.py": "an app's own code; stands without qtools",
    "qtools/pipeline/bundles/templates/python/replay.py": "likewise",
    "qtools/pipeline/devices/android.py": "this program's own scripts",
    "qtools/pipeline/devices/ios.py": "this program's own sources",
    "qtools/pipeline/devices/macos.py": "this program's own sources",
}
BANNED_CALLS = {"eval", "exec", "os.system", "os.popen", "pickle.loads", "pickle.load", "pickle.dump", "pickle.dumps"}
UNSAFE_YAML = {"load", "load_all", "full_load", "full_load_all", "unsafe_load", "unsafe_load_all"}
UNSAFE_YAML |= {"Loader", "CLoader", "FullLoader", "UnsafeLoader"}


def calls(tree: ast.Module) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def faults(source: Source) -> Iterator[str]:
    path = source.path
    for name, call in calls(source.tree):
        words = {word.arg: word.value for word in call.keywords}
        if name in BANNED_CALLS:
            yield f"{name} in {path}:{call.lineno}"
        if "shell" in words and not _is(words["shell"], False):
            yield f"a shell in {path}:{call.lineno}"
        if name == "torch.load" and not _is(words.get("weights_only"), True):
            yield f"torch.load without weights_only in {path}:{call.lineno}"
        if name.rpartition(".")[2] in READERS and not _looked_at(call) and path not in OWN:
            yield f"{name} reads whatever lies there, a pipe or a hole too, in {path}:{call.lineno}: see core/files.py"
        if _is(words.get("allow_pickle"), True):
            yield f"allow_pickle in {path}:{call.lineno}"
        if name in ("Markup", "markupsafe.Markup") and not all(isinstance(a, ast.Constant) for a in call.args):
            yield f"Markup of something that is no constant in {path}:{call.lineno}"
        if (
            name in ("Environment", "jinja2.Environment")
            and "loader" in words
            and not _is(words.get("autoescape"), True)
            and path not in SOURCES
        ):
            yield f"a page without autoescape in {path}:{call.lineno}"
    yield from _imported(source)


def _looked_at(call: ast.Call) -> bool:
    """Whether a reader is that of qtools.core.files, or reads what `regular` let through."""
    owner = call.func.value if isinstance(call.func, ast.Attribute) else None
    while isinstance(owner, ast.Call):
        owner = owner.func
    return owner is None or ast.unparse(owner) in ("files", "regular", "files.regular")


def _imported(source: Source) -> Iterator[str]:
    path, names = source.path, source.imports
    if names & NETWORK and path not in HUB:
        yield f"{path} imports {sorted(names & NETWORK)}"
    if names & {"pickle", "marshal", "shelve", "dill", "joblib"} and path not in PICKLE:
        yield f"{path} imports a pickle"
    if "yaml" in names and path not in YAML:
        yield f"{path} imports yaml, whose load runs code: read with SafeLoader, and say so in this test"
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "yaml" and node.attr in UNSAFE_YAML:
            yield f"yaml.{node.attr} in {path}:{node.lineno}"


def _is(node: ast.expr | None, value: bool) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def test_nothing_of_the_kind(sources: list[Source]) -> None:
    found = [fault for source in sources for fault in faults(source)]
    assert not found, "\n".join(found)


def test_templates_leave_escaping_on(root: Path, tracked: list[str]) -> None:
    pages = [name for name in tracked if name.endswith(".j2")]
    assert pages
    bad = [name for name in pages if re.search(r"\|\s*safe\b|autoescape|Markup", (root / name).read_text())]
    assert not bad


@pytest.mark.parametrize(
    "code",
    [
        "import subprocess\nsubprocess.run('x', shell=True)",
        "import os\nos.system('x')",
        "import torch\ntorch.load('x')",
        "import torch\ntorch.load('x', weights_only=False)",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
        "import pickle",
        "import requests",
        "from urllib.request import urlopen",
        "Markup(name)",
        "Environment(loader=here)",
        "import yaml",
        "path.read_bytes()",
        "(folder / name).read_text(encoding='utf-8')",
    ],
)
def test_the_search_finds_each(code: str) -> None:
    assert list(faults(Source("qtools/new.py", code)))


@pytest.mark.parametrize("code", ["yaml.load(x)", "yaml.unsafe_load(x)", "class L(yaml.FullLoader): pass"])
@pytest.mark.parametrize("path", YAML)
def test_yaml_runs_no_code_even_where_it_is_read(path: str, code: str) -> None:
    assert not list(faults(Source(path, "import yaml\nclass L(yaml.SafeLoader): pass")))
    assert list(faults(Source(path, f"import yaml\n{code}")))
