"""Training-time branches and BatchNorm folded into plain convolutions, with a proof of each fold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qtools.fuse.apply import fuse as fuse
    from qtools.fuse.certificate import BlockProof as BlockProof
    from qtools.fuse.certificate import FusionCertificate as FusionCertificate

_PUBLIC = {
    "fuse": "qtools.fuse.apply",
    "BlockProof": "qtools.fuse.certificate",
    "FusionCertificate": "qtools.fuse.certificate",
}


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        import importlib

        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'qtools.fuse' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
