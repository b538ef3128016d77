"""The installer's one decision: what of pip's configuration uv is told."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def install(root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("ci_install", root / ".ci" / "install.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_environment_beats_install_beats_global(install: ModuleType) -> None:
    listing = "\n".join(
        [
            ":env:.cert='/env.pem'",
            "global.cert='/global.pem'",
            "global.timeout='60'",
            "install.timeout='90'",
            "freeze.timeout='1'",
            "global.extra-index-url='\\nhttps://one.example/simple\\nhttps://two.example/simple'",
        ]
    )
    assert install.pip_settings(listing) == {
        "cert": "/env.pem",
        "timeout": "90",
        "extra-index-url": "\nhttps://one.example/simple\nhttps://two.example/simple",
    }


def test_uv_hears_what_pip_knows(install: ModuleType) -> None:
    settings = {"index-url": "https://mirror.example/simple", "find-links": "wheels more", "cert": "ca.pem"}
    told = install.uv_environment(settings, {"PATH": "bin"})
    assert told == {
        "PATH": "bin",
        "UV_INDEX_URL": "https://mirror.example/simple",
        "UV_FIND_LINKS": "wheels,more",
        "SSL_CERT_FILE": "ca.pem",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
    }


def test_what_the_user_told_uv_stands(install: ModuleType) -> None:
    own = {"UV_INDEX_URL": "https://own.example", "SSL_CERT_FILE": "own.pem", "UV_INDEX_STRATEGY": "first-index"}
    assert install.uv_environment({"index-url": "https://pip.example", "cert": "pip.pem"}, own) == own
