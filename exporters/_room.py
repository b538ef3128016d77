"""Whether there is room for what converters write for a while: without it, one of them ends the process wordlessly.

LLVM's streams call exit() where a disk is full, past every handler of ours, and what it said lies on that disk.
"""

from __future__ import annotations

import shutil
import tempfile

from qtools.core.errors import InputError
from qtools.graph.capture import Program

TIMES, MORE = 4, 16 << 20
"""Bytes that a conversion may need: so many times the weights, and so many more."""


def check_room(program: Program) -> None:
    """Looks at the place for temporary files, before a conversion.

    Raises:
        InputError: If it has less room than a conversion may need.
    """
    place = tempfile.gettempdir()
    wanted = TIMES * sum(tensor.nbytes for tensor in program.constants.values()) + MORE
    free = shutil.disk_usage(place).free
    if free < wanted:
        raise InputError(
            f"{place} has {free >> 20:,} MB left, and a conversion may need {wanted >> 20:,} MB for temporary files",
            "make room there, or name another place with TMPDIR",
        )
