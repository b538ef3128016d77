"""The machine in words that explain a number and identify nobody: no host name, no user name, no path."""

from __future__ import annotations

import os
import platform
import re
import shlex
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from qtools.core import files

# Instruction sets that decide which integer kernel a runtime picks: flag of the operating system -> name shown.
_FLAGS = {
    "avx2": "avx2",
    "fma": "fma",
    "avx512f": "avx512f",
    "avx512_vnni": "avx512_vnni",
    "avx_vnni": "avx_vnni",
    "amx_int8": "amx_int8",
    "asimd": "neon",
    "asimddp": "neon dotprod",
    "i8mm": "neon i8mm",
    "sve": "sve",
    "FEAT_DotProd": "neon dotprod",
    "FEAT_I8MM": "neon i8mm",
}
DOT_PRODUCTS = frozenset({"avx512_vnni", "avx_vnni", "amx_int8", "neon dotprod", "neon i8mm"})
"""Names of instructions that multiply and add bytes, as phones have: without any of them 8-bit kernels widen what they
read, and are hardly faster than float ones."""


@dataclass(frozen=True)
class Environment:
    """Where a report was made.

    Attributes:
        system: Operating system and version.
        machine: "x86_64", "aarch64", ...
        cpu: Model of the CPU as it names itself.
        isa: Instruction sets that matter to integer kernels, sorted.
        cores: Logical cores that this process may use.
        python: Version of Python.
        packages: Package -> version, "not installed" where it is missing.
    """

    system: str
    machine: str
    cpu: str
    isa: tuple[str, ...]
    cores: int
    python: str
    packages: Mapping[str, str]


def describe(packages: Iterable[str] = ()) -> Environment:
    """The machine and the versions of `packages`."""
    cpu, isa = _cpu()
    return Environment(
        system=_system(),
        machine=platform.machine(),
        cpu=cpu,
        isa=isa,
        cores=_cores(),
        python=platform.python_version(),
        packages={name: _version(name) for name in sorted(packages)},
    )


def portable_command(argv: Sequence[str]) -> str:
    """A command line as it may be printed: of a path that leaves the folder only the last name is kept."""
    return shlex.join(map(portable, argv))


def portable(word: str) -> str:
    """A word as it may be printed: of a path that leaves the folder only the last name is kept."""
    return _ABSOLUTE.sub(lambda m: m["lead"] + ".../" + m["name"], word)


_ABSOLUTE = re.compile(r"(?P<lead>^|=)(?:~|/|\.\.[\\/]|[A-Za-z]:[\\/])(?:[^=]*[\\/])?(?P<name>[^=\\/]+)[\\/]*$")


def parse_cpuinfo(text: str) -> tuple[str, tuple[str, ...]]:
    """CPU model and instruction sets from the text of Linux's cpuinfo."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    model = fields.get("model name") or fields.get("Model") or fields.get("Hardware", "")
    if not model and "CPU part" in fields:  # Arm kernels give numbers instead of a name
        model = f"Arm implementer {fields.get('CPU implementer', '?')} part {fields['CPU part']}"
    return model or "unknown", _named((fields.get("flags") or fields.get("Features", "")).split())


def _cpu() -> tuple[str, tuple[str, ...]]:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        return parse_cpuinfo(files.read_text(cpuinfo, errors="replace"))
    if platform.system() == "Darwin":
        return _sysctl("machdep.cpu.brand_string") or "unknown", _named(
            flag for flag in _FLAGS if flag.startswith("FEAT_") and _sysctl(f"hw.optional.arm.{flag}") == "1"
        )
    return platform.processor() or "unknown", ()


def _sysctl(name: str) -> str:
    found = subprocess.run(["sysctl", "-n", name], capture_output=True, text=True, check=False)
    return found.stdout.strip()


def _named(flags: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted({_FLAGS[flag] for flag in flags if flag in _FLAGS}))


def _system() -> str:
    """Distribution or system with its version; of a kernel release only the digits, since the rest is free text."""
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        version = re.match(r"[\d.]+", platform.mac_ver()[0] or platform.release())
        return f"{platform.system()} {version[0]}" if version else platform.system()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
