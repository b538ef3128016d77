"""coremltools, loaded without what it does not need."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from exporters._quiet import quiet


def coremltools() -> Any:
    """The SDK.

    It imports TensorFlow wherever that is installed, for a converter that is not used here. That takes seconds, and
    Triton, which torch.export loads, ends the process where TensorFlow's own LLVM came first.
    """
    with quiet(), _absent("tensorflow"):  # it complains about the missing Core ML framework
        import coremltools as ct
    return ct


@contextmanager
def _absent(module: str) -> Iterator[None]:
    """Imports inside find no such module, unless it is there already."""
    if module in sys.modules:
        yield
        return
    # None there is how Python is told that a module does not exist; the stub of sys.modules knows modules only
    sys.modules[module] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[module]
