"""The tensors of any ML Program package by name. Scales, zero points and palettes are tensors of their own there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from exporters._coreml import values
from exporters._coreml.archive import package_folder
from exporters._coreml.inspect import literals
from exporters._coreml.package import Package, main_block
from qtools.core.inspection import Tensor


def read(path: Path) -> dict[str, Tensor]:
    """Constants by the name of their operation, and where that is no constant itself, of its argument.

    Raises:
        InputError: If it is broken or no ML Program.
        MissingPlatform: If it stores a type of numbers that qtools does not know.
    """
    with package_folder(path) as folder:
        package = Package(folder)
        return dict(_walk(main_block(package.spec)[1], package))


def _walk(block: Any, package: Package) -> Iterator[tuple[str, Tensor]]:
    for operation in block.operations:
        for argument, value in literals(operation).items():
            tensor = value.type.tensorType
            dtype = values.dtype_of(tensor)
            if dtype != "string" and operation.outputs:
                own = operation.outputs[0].name
                name = own if operation.type == "const" else f"{own}.{argument}"
                array = np.asarray(values.read(value, package))
                yield name, Tensor(dtype, values.shape_of(tensor), array.reshape(-1))
        for inner in operation.blocks:
            yield from _walk(inner, package)
