"""Post-training quantization and mobile export for hybrid CNN/ViT models.

Public names load on first use (PEP 562), so that `qtools --help` never pays for torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from qtools.pipeline.cascade import quantize_cascade as quantize_cascade
    from qtools.pipeline.prompted import quantize_prompted as quantize_prompted
    from qtools.pipeline.quantize import quantize as quantize
    from qtools.pipeline.quantize import quantize_all as quantize_all

_PUBLIC = dict.fromkeys(("quantize", "quantize_all"), "qtools.pipeline.quantize") | {
    "quantize_cascade": "qtools.pipeline.cascade",
    "quantize_prompted": "qtools.pipeline.prompted",
}


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        import importlib

        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'qtools' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
