"""The last two files of a run folder: a bill of materials, and the digest of every other file."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from qtools.core import files
from qtools.core.checks import Check
from qtools.core.errors import InputError
from reports import sbom
from reports.build import Report

SUMS, BILL = "SHA256SUMS", "sbom.cdx.json"
CHECK = f"files are those of {SUMS}"
LONGEST = 16 << 20
_LINE = re.compile(r"([0-9a-f]{64})  (\S.*)")


def bill(folder: Path, report: Report, artifact: Path) -> Path:
    """Writes the bill of materials of one artifact."""
    document = sbom.bill(report, artifact.name, report.digests)
    return files.write_text(folder / BILL, files.to_json(document))


def sums(folder: Path) -> Path:
    """Writes the digest of every file in a folder, as `sha256sum --check` reads them."""
    members = [path for path in sorted(folder.rglob("*")) if path.is_file() and path != folder / SUMS]
    lines = [f"{files.digest_file(path)}  {path.relative_to(folder).as_posix()}\n" for path in members]
    return files.write_text(folder / SUMS, "".join(lines))


def check(folder: Path) -> Check:
    """Every file that the list names, hashed again; files that came later are nobody's business.

    Raises:
        InputError: If the list is damaged, or names a file outside the folder.
    """
    path = folder / SUMS
    if not path.is_file():
        return Check(CHECK, "not run", note=f"there is no {SUMS}")
    changed, count = [], 0
    for digest, name in _read(path):
        count += 1
        file = folder / name
        if not file.is_file():
            changed.append(f"{name} is missing")
        elif files.digest_file(file) != digest:
            changed.append(f"{name} is another")
    note = f"{count} files" if not changed else "; ".join(changed[:5]) + ("; ..." if len(changed) > 5 else "")
    return Check(CHECK, "failed" if changed else "passed", float(len(changed)), "files", 0.0, note)


def _read(path: Path) -> list[tuple[str, str]]:
    try:
        lines = files.read_text(path, LONGEST).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}", "run qtools quantize again") from error
    found = []
    for number, line in enumerate(lines, 1):
        match = _LINE.fullmatch(line)
        if match is None or _outside(match[2]):
            raise InputError(f"{path} line {number} names no file of its folder", "run qtools quantize again")
        found.append((match[1], match[2]))
    return found


def _outside(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return name.startswith("/") or ".." in parts or "\\" in name or not name.isprintable()
