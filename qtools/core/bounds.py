"""How much memory a reader may ask for while it reads a file of unknown origin."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

STATM = Path("/proc/self/statm")


@contextmanager
def memory_bounded(more: int) -> Iterator[None]:
    """Inside, this process may map so many more bytes than it has; whoever asks for more gets a MemoryError.

    A pickle may ask for a terabyte in ten bytes, and the system would give it away page by page until something else is
    killed. Where the system does not say what is mapped (anything but Linux), nothing is bounded.

    Args:
        more: Bytes.
    """
    try:
        pages = int(STATM.read_text().split()[0])
    except (OSError, ValueError):
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = pages * resource.getpagesize() + more
    if soft != resource.RLIM_INFINITY:
        wanted = min(wanted, soft)
    resource.setrlimit(resource.RLIMIT_AS, (wanted, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
