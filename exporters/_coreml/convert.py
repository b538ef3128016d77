"""Program -> float32 ML Program through coremltools."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import torch

from exporters._coreml.blob import BlobWriter
from exporters._coreml.package import WEIGHTS_FOLDER, Package, write
from exporters._coreml.sdk import coremltools
from exporters._quiet import quiet
from exporters._refused import refused
from exporters._room import check_room
from qtools.core import files
from qtools.graph.capture import Program


def convert(program: Program, path: Path) -> Path:
    """Converts the captured graph at batch 1 for iOS 17, in float32 so that the binding can be proven tightly.

    Args:
        program: The captured graph.
        path: Where the package goes; the same program gives the same bytes.

    Raises:
        CheckFailed: If coremltools refuses the graph; its own words are on stderr.
        InputError: If there is no room for temporary files.
    """
    check_room(program)
    ct = coremltools()
    takes, gives = program.takes, program.gives
    with tempfile.TemporaryDirectory() as folder, quiet():
        raw = Path(folder) / "float.mlpackage"
        try:
            ct.convert(
                _convertible(program.exported),
                inputs=[ct.TensorType(*end) for end in zip(takes.names, takes.shapes, strict=True)],
                outputs=[ct.TensorType(name) for name in gives.names],
                minimum_deployment_target=ct.target.iOS17,
                compute_precision=ct.precision.FLOAT32,
                skip_model_load=True,
                package_dir=str(raw),  # its own temporary package would lie there until the process ends
            )
        except Exception as error:  # broad: the converter raises anything; the original stays attached
            raise refused("coremltools could not convert the model", program.view, error) from error
        spec = Package(raw).spec
        spec.description.metadata.userDefined.clear()  # has the date of the conversion
        weights = raw / "Data" / WEIGHTS_FOLDER / "weight.bin"
        return write(path, spec, files.regular(weights).read_bytes() if weights.exists() else BlobWriter().getvalue())


def _gelu(x: torch.Tensor, approximate: str = "none") -> Any:
    """coremltools 9 reads no keyword argument of an exported gelu and would take the exact one; it fuses this again."""
    if approximate != "tanh":
        return NotImplemented
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))


def _max_pool(x: torch.Tensor, window: list[int], stride: tuple[int, ...] = (), *rest: Any) -> Any:
    """coremltools 9 wants the stride, which is the window's size where it is left out."""
    return NotImplemented if stride else torch.ops.aten.max_pool2d(x, window, window, *rest)


def _itself(x: torch.Tensor) -> torch.Tensor:
    return x


_REWRITES = {torch.ops.aten.alias.default: _itself, torch.ops.aten.detach.default: _itself}


def _convertible(exported: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """The same program without what coremltools refuses or misreads."""
    calls = [node for node in exported.graph.nodes if node.op == "call_function"]
    table: dict[Any, Any] = {kind: rule for kind, rule in _REWRITES.items() if any(n.target is kind for n in calls)}
    if any(n.kwargs.get("approximate") == "tanh" for n in calls):
        table[torch.ops.aten.gelu.default] = _gelu
    if any(n.target is torch.ops.aten.max_pool2d.default and len(n.args) == 2 for n in calls):
        table[torch.ops.aten.max_pool2d.default] = _max_pool
    return exported.run_decompositions(table) if table else exported
