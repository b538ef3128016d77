"""Which models there are, and their weights. Importing this loads neither torch nor timm.

A family is one public file in this folder, found by its name, exposing `FAMILY`. Everything else starts with an
underscore. Names that no family knows fall through to timm and are marked unverified.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtools.models._catalogue import cards as cards
from qtools.models._catalogue import families as families
from qtools.models._catalogue import resolve as resolve
from qtools.models._spec import Family as Family
from qtools.models._spec import Loaded as Loaded
from qtools.models._spec import ModelCard as ModelCard
from qtools.models._spec import ModelSpec as ModelSpec
from qtools.models._spec import PretrainedTag as PretrainedTag
from qtools.models._spec import WeightsInfo as WeightsInfo

if TYPE_CHECKING:
    from qtools.models._builder import importable_here as importable_here
    from qtools.models._builder import load_builder as load_builder
    from qtools.models._builder import wrap_module as wrap_module
    from qtools.models._load import load as load
    from qtools.models._timm import create as create

_LATE = {
    "create": "qtools.models._timm",
    "importable_here": "qtools.models._builder",
    "load": "qtools.models._load",
    "load_builder": "qtools.models._builder",
    "wrap_module": "qtools.models._builder",
}


def __getattr__(name: str) -> Any:
    if name in _LATE:
        import importlib

        return getattr(importlib.import_module(_LATE[name]), name)
    raise AttributeError(f"module 'qtools.models' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *_LATE])
