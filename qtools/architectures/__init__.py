"""Networks that timm does not carry, written here after their papers; they join timm's registry under their names.

A file is an architecture, found by its name. What is registered is built, configured and counted like timm's own, so
that nothing above this folder tells them apart. Parameter names are those of the authors' code where that is public.
Importing this loads no framework; `register` does.
"""

from __future__ import annotations

import importlib

from qtools.core import plugins


def register() -> None:
    """Adds every architecture of this folder to timm's registry; a second call does nothing."""
    for name in plugins.names(__name__):
        importlib.import_module(f"{__name__}.{name}")
