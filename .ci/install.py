"""Fills the environment this interpreter belongs to with exactly what a lock file names, then with the project itself.

    .venv/bin/python .ci/install.py requirements.lock

uv does the work, itself installed from a lock of its own; where uv cannot be had, pip does the same more slowly.
uv does not read pip's configuration, so pip's settings (mirror, certificate, folders of wheels) are handed to it as
environment variables: they stay where the user keeps them, and no address is ever written into a file of ours.
Standard library only: nothing else is installed yet.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
EXACTLY = ["--no-deps", "--require-hashes", "-r"]  # the lock is complete, so nothing is left to resolve
PROJECT = ["--no-deps", "--no-build-isolation", "-e", "."]  # setuptools is in the lock: no download

# pip's option -> (the variable uv reads, what joins several values)
UV_VARIABLES = {
    "index-url": ("UV_INDEX_URL", " "),
    "extra-index-url": ("UV_EXTRA_INDEX_URL", " "),
    "find-links": ("UV_FIND_LINKS", ","),
    "no-index": ("UV_NO_INDEX", " "),
    "trusted-host": ("UV_INSECURE_HOST", " "),
    "timeout": ("UV_HTTP_TIMEOUT", " "),
    "default-timeout": ("UV_HTTP_TIMEOUT", " "),
    "cert": ("SSL_CERT_FILE", " "),
    "client-cert": ("SSL_CLIENT_CERT", " "),
    "proxy": ("ALL_PROXY", " "),
}


def pip_settings(listing: str) -> dict[str, str]:
    """What `pip config list` shows, by option; the environment beats [install], which beats [global]."""
    found: dict[str, tuple[int, str]] = {}
    ranks = {"global": 0, "install": 1, ":env:": 2}
    for line in listing.splitlines():
        key, _, value = line.partition("=")
        section, _, option = key.rpartition(".")
        if section in ranks and ranks[section] >= found.get(option, (0, ""))[0]:
            found[option] = (ranks[section], str(ast.literal_eval(value)))
    return {option: value for option, (_, value) in found.items()}


def uv_environment(settings: Mapping[str, str], environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for uv: pip's settings where the user has not already told uv itself."""
    told = dict(environment)
    for option, (variable, separator) in UV_VARIABLES.items():
        if settings.get(option):
            told.setdefault(variable, separator.join(settings[option].split()))
    # pip looks at every index for the file it wants; uv would stop at the first that knows the name.
    # What it may take is fixed by the hashes either way.
    told.setdefault("UV_INDEX_STRATEGY", "unsafe-best-match")
    return told


def with_uv(lock: str) -> bool:
    """Installs through uv; False, and said why, where that does not work."""
    if subprocess.run([*PIP, "install", "--quiet", *EXACTLY, "requirements-uv.lock"], check=False).returncode:
        print("install: uv cannot be had here; pip installs instead, which takes several minutes", file=sys.stderr)
        return False
    listing = subprocess.run([*PIP, "config", "list"], check=True, capture_output=True, text=True).stdout
    environment = uv_environment(pip_settings(listing), os.environ)
    # Bytecode at once, as pip does: where the environment forbids Python to write it later, every start costs 11 s.
    install = [str(Path(sys.executable).parent / "uv"), "pip", "install", "--compile-bytecode"]
    install += ["--python", sys.executable]
    if any(
        subprocess.run([*install, *what], check=False, env=environment).returncode
        for what in ([*EXACTLY, lock], PROJECT)
    ):
        print("install: uv failed (above); pip tries the same, which takes several minutes", file=sys.stderr)
        return False
    return True


def main(lock: str) -> int:
    """Exit status of the installation."""
    os.chdir(ROOT)
    if sys.prefix == sys.base_prefix:
        print("install: this Python is not a virtual environment; run `make install`", file=sys.stderr)
        return 2
    if subprocess.run([*PIP, "--version"], check=False, capture_output=True).returncode:  # an interrupted first run
        subprocess.run([sys.executable, "-m", "ensurepip"], check=True)
    if with_uv(lock):
        return 0
    for what in ([*EXACTLY, lock], PROJECT):
        if status := subprocess.run([*PIP, "install", *what], check=False).returncode:
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
