"""What may lie in the repository, and whether the lock files say what pyproject.toml asks for."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ADDRESSES = {
    "a path of one machine": re.compile(r"(?<![\w.~}/-])/(?:work|home|root|Users|opt|mnt|tmp|data)/\w"),
    "a folder beside the checkout": re.compile(r"\.\./shared\b"),
    "a package index": re.compile(
        r"(?i)pypi\.(?:org|python\.org)/simple|pythonhosted\.org|pytorch\.org/whl|(?:index-url|find-links)[ =]+\w+:/"
    ),
    "a login inside an address": re.compile(r"\w://[^/\s:@\"'{]+:[^/\s@\"'{]+@"),
    "a token": re.compile(r"\b(?:gh[pousr]_\w{30,}|hf_[A-Za-z]{30,}|AKIA[0-9A-Z]{16}|-----BEGIN [A-Z ]*PRIVATE KEY)"),
}
PIN = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;]+)(?: ; (?P<marker>[^\\]+?))?(?: \\)?$")


def pins(path: Path) -> list[tuple[Requirement, list[str]]]:
    """Each pinned requirement of a lock file with its hashes."""
    found: list[tuple[Requirement, list[str]]] = []
    for line in path.read_text().splitlines():
        if match := PIN.match(line):
            found.append((Requirement(line.removesuffix("\\").strip()), []))
            assert match["version"]
        else:
            hash_line = re.fullmatch(r"    --hash=sha256:([0-9a-f]{64})(?: \\)?", line)
            assert hash_line, f"{path.name}: neither a pin nor a hash: {line!r}"
            found[-1][1].append(hash_line[1])
    return found


def here(path: Path) -> dict[str, str]:
    """Name -> version of what a lock file installs on this machine."""
    wanted = [r for r, _ in pins(path) if r.marker is None or r.marker.evaluate()]
    versions = {canonicalize_name(r.name): next(iter(r.specifier)).version for r in wanted}
    assert len(versions) == len(wanted), f"{path.name} pins a name twice for this machine"
    return versions


@pytest.fixture(scope="module")
def project(root: Path) -> dict[str, list[Requirement]]:
    data = tomllib.loads((root / "pyproject.toml").read_text())
    named = {"runtime": data["project"]["dependencies"], **data["dependency-groups"]}
    named |= data["project"]["optional-dependencies"]
    return {group: [Requirement(r) for r in requirements] for group, requirements in named.items()}


def test_no_file_names_a_machine_or_an_index(root: Path, tracked: list[str]) -> None:
    found = []
    for name in tracked:
        try:
            text = (root / name).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            found += [f"{name}:{number} has {what}" for what, pattern in ADDRESSES.items() if pattern.search(line)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("lock", "groups"),
    [
        ("requirements.lock", ["runtime", "build"]),
        ("requirements-dev.lock", ["runtime", "build", "dev", "tensorflow"]),
        ("requirements-uv.lock", ["bootstrap"]),
        ("requirements-fuzz.lock", ["fuzz"]),
        ("requirements-audit.lock", ["audit"]),
    ],
)
def test_lock_is_in_step_with_the_project(
    root: Path, project: dict[str, list[Requirement]], lock: str, groups: list[str]
) -> None:
    locked = here(root / lock)
    stale = [
        f"{r} ({group}), locked: {locked.get(canonicalize_name(r.name))}"
        for group in groups
        for r in project[group]
        if (r.marker is None or r.marker.evaluate())
        and not r.specifier.contains(locked.get(canonicalize_name(r.name), "0"), prereleases=True)
    ]
    assert not stale, "run `make lock`: " + "; ".join(stale)


@pytest.mark.parametrize("lock", [f"requirements{part}.lock" for part in ("", "-dev", "-uv", "-fuzz", "-audit")])
def test_lock_holds_names_versions_and_hashes_only(root: Path, lock: str) -> None:
    bare = [str(requirement) for requirement, hashes in pins(root / lock) if not hashes]
    assert not bare, "without a hash: " + ", ".join(bare)
    assert "://" not in (root / lock).read_text()


def test_hashes_cover_every_platform(root: Path) -> None:
    """A lock made from one machine's own folder of wheels would carry one hash where the release has dozens."""
    hashes = {canonicalize_name(r.name): len(h) for r, h in pins(root / "requirements.lock")}
    assert hashes["numpy"] > 20
    assert hashes["torch"] > 10


def test_test_environment_holds_the_runtime_one(root: Path) -> None:
    runtime, dev = pins(root / "requirements.lock"), pins(root / "requirements-dev.lock")
    test_pins = {str(r): sorted(h) for r, h in dev}
    assert not [str(r) for r, h in runtime if test_pins.get(str(r)) != sorted(h)]


def test_this_environment_is_the_locked_one(root: Path) -> None:
    """What is tested is what is locked; a wheel found elsewhere (a CPU build of torch, say) shows here."""
    installed = {canonicalize_name(d.name): d.version for d in metadata.distributions()}
    other = {
        name: f"{installed.get(name)} instead of {version}"
        for name, version in here(root / "requirements-dev.lock").items()
        if installed.get(name) != version
    }
    assert not other, f"run `make install-dev`: {other}"


def test_every_dependency_has_its_reason(root: Path) -> None:
    text = (root / "pyproject.toml").read_text()
    bare = [line for line in text.splitlines() if re.match(r'\s+"[\w-]+[<>=].*",?\s*$', line)]
    assert not bare, f"no reason given: {bare}"


def anchors(page: Path) -> set[str]:
    """What GitHub makes of a page's headings: small letters, no signs but hyphens, hyphens for spaces."""
    heads = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def test_links_between_pages_lead_somewhere(root: Path, tracked: list[str]) -> None:
    lost, seen = [], 0
    for page in (root / name for name in tracked if name.endswith(".md")):
        for link in re.findall(r"\]\((?!\w+:)([^)\s]+)\)", page.read_text()):
            file, _, anchor = link.partition("#")
            target, seen = (page.parent / file if file else page), seen + 1
            if not target.is_file() or (anchor and anchor not in anchors(target)):
                lost.append(f"{page.relative_to(root)}: {link}")
    assert not lost and seen > 10
