"""This machine: versions, SDKs, and what can be made, run, timed and built here. Touches no network and no device."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from importlib import metadata

import qtools
from qtools.core import plugins
from qtools.core.protocols import Target
from qtools.pipeline.bundle import FOLDER as BUNDLES
from qtools.pipeline.bundles._bundle import Bundle
from qtools.pipeline.devices._device import Device
from reports import environment
from reports.doctor import Ability, Host

DEVICES = "qtools.pipeline.devices"
REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)(?:\[[^\]]*\])?\s*(?P<versions>[^;]*)(?:;(?P<when>.*))?")
EXTRA = re.compile(r"extra\s*==\s*['\"]([\w-]+)['\"]")
ABSENT = "not installed"
REPAIR = "make install, or pip install -e ."


def look() -> Host:
    """Everything that can be said without running anything."""
    wanted, extras = _requirements()
    seen = environment.describe((*wanted, *extras))
    missing = tuple(name for name in wanted if seen.packages[name] == ABSENT)
    said = wanted | {name: f"{versions}, extra" for name, versions in extras.items()}
    abilities = (*_targets(), *_devices(), *_bundles())
    return Host(qtools.__version__, seen, _memory(), abilities, said, missing)


def _requirements() -> tuple[dict[str, str], dict[str, str]]:
    """Package -> versions: those that every installation has, and those of extras."""
    always: dict[str, str] = {}
    extras: dict[str, str] = {}
    try:
        lines = metadata.requires("qtools") or []
    except metadata.PackageNotFoundError:  # a checkout on the path, installed nowhere
        lines = [name for target in _all_targets() for name in target.toolchain]
    for line in lines:
        found = REQUIREMENT.match(line)
        if found:
            into = extras if EXTRA.search(found["when"] or "") else always
            into[found["name"]] = found["versions"].strip()
    return always, extras


def _all_targets() -> list[Target]:
    return [plugins.find("exporters", name, "TARGET") for name in plugins.names("exporters")]


def _targets() -> Iterator[Ability]:
    for target in _all_targets():
        name = target.spec.name
        gone = [each for each in target.toolchain if not _installed(each)]
        how = f"lacks {', '.join(gone)}" if gone else f"with {', '.join(target.toolchain)}"
        yield Ability("make", name, not gone, how, REPAIR if gone else "")
        kernels = [target.labels.get(each, each).removeprefix("artifact, ") for each in target.kernels]
        needed = target.timer.packages if target.timer else target.toolchain
        idle = [each for each in needed if not _installed(each)]
        how = f"lacks {', '.join(idle)}" if idle else "; ".join(kernels)
        yield Ability("run", name, not idle, how, REPAIR if idle else "")
        if target.timer is not None:
            yield Ability("time", name, True, target.timer.runtime)
        else:
            step = f"qtools bench FILE{target.spec.suffix} --device macos or ios leaves a folder to run elsewhere"
            yield Ability("time", name, target.timed, "no runtime of it on this machine", step)


def _devices() -> Iterator[Ability]:
    for name in plugins.having(DEVICES, "DEVICE"):
        device: Device = plugins.find(DEVICES, name, "DEVICE")
        why = device.absent()
        step = "qtools bench FILE --device " + name + " leaves a folder to run elsewhere" if why else ""
        yield Ability("device", name, not why, why or device.title, step)


def _bundles() -> Iterator[Ability]:
    for name in plugins.names(BUNDLES):
        kind: Bundle = plugins.find(BUNDLES, name, "BUNDLE")
        gone = [f"{tool} ({use})" for tool, use in kind.tools.items() if shutil.which(tool) is None]
        how = f"not on PATH: {', '.join(gone)}" if gone else ", ".join(kind.tools) or "needs nothing that is not here"
        step = f"qtools bundle RUN --platform {name} makes it all the same, to be built elsewhere" if gone else ""
        yield Ability("bundle", name, not gone, how, step)


def _installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return None
