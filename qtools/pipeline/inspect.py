"""A file of any origin into its description: finds the target that reads it."""

from __future__ import annotations

from pathlib import Path

from qtools.core import plugins
from qtools.core.errors import InputError, did_you_mean
from qtools.core.protocols import Target
from reports.inspection import Description, describe


def run(path: Path) -> Description:
    """Reads an artifact and says what is in it.

    Args:
        path: A file or package whose suffix says its format.

    Raises:
        InputError: If there is no such file, no target reads its suffix, or it is broken.
        MissingPlatform: If it needs what this machine or this version does not have.
    """
    targets: list[Target] = [plugins.find("exporters", name, "TARGET") for name in plugins.names("exporters")]
    readers = {suffix: read for target in targets for suffix, read in target.inspectors.items()}
    suffix = path.suffix.lower()
    if suffix not in readers:
        raise InputError(
            f"qtools cannot tell the format of '{path.name}' by its suffix '{path.suffix}'."
            f"{did_you_mean(suffix, readers)}",
            f"give one of: {', '.join(sorted(readers))}",
        )
    if not path.exists():
        raise InputError(f"{path} does not exist", "check the path")
    return describe(readers[suffix](path))
