"""The tensors of any .onnx by name. Scales and zero points are tensors of their own there."""

from __future__ import annotations

from pathlib import Path

import onnx

from exporters._onnx import model as files
from exporters._onnx import storage
from qtools.core.errors import InputError
from qtools.core.inspection import Tensor


def read(path: Path) -> dict[str, Tensor]:
    """Constants of the graph and of those inside its nodes.

    Raises:
        InputError: If it is no ONNX model, a broken one, or reaches outside its folder.
    """
    model = files.read(path)
    storage.check(model, path)
    found = {}
    for place, tensor in enumerate(files.tensors(model.graph)):
        try:
            codes = onnx.numpy_helper.to_array(tensor, base_dir=str(path.parent))
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(f"the constant '{tensor.name}' cannot be read: {error}", files.NEXT_STEP) from error
        name = tensor.name if tensor.name and tensor.name not in found else f"{tensor.name} #{place}"
        found[name] = Tensor(storage.dtype_name(tensor.data_type), tuple(tensor.dims), codes.reshape(-1))
    return found
