"""Ways in which a picture is fed wrongly. Each belongs to one of four steps, so that two of them can be put together.

geometry: which pixels; colours: what is in them; numbers: what a byte becomes; memory: where it lies.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

from numpy.typing import NDArray

from qtools.pipeline.contract import Whole
from qtools.pipeline.doctor._memory import memories
from qtools.pipeline.doctor._numbers import numbers
from qtools.pipeline.doctor._pixels import colours, geometries
from qtools.pipeline.doctor._way import RIGHT, Way
from qtools.pipeline.feeding import Raw


@dataclass(frozen=True)
class Fed:
    """What would lie in the input.

    Attributes:
        wrong: Steps that are done otherwise; () where none is.
        memory: The tensor, flat.
        table: What every byte became.
    """

    wrong: tuple[Way, ...]
    memory: NDArray[Any]
    table: NDArray[Any]


def each(whole: Whole, picture: Raw, most: int, length: int) -> Iterator[Fed]:
    """The right way first, then every single mistake, then two of them together, as far as `most` allows.

    Args:
        whole: What the app has to do.
        picture: RGB, shape (height, width, 3).
        most: Largest number of mistakes at once, 0 to 2.
        length: Of the tensor in bytes: others are left out.
    """
    steps = (geometries(whole), colours(whole), numbers(whole), memories(whole))
    fitted_once: dict[str, Raw] = {}
    choices = sorted(product(*steps), key=lambda ways: sum(way.name != RIGHT for way in ways))
    for ways in choices:
        wrong = tuple(way for way in ways if way.name != RIGHT)
        if len(wrong) > most:
            return
        shape, colour, number, lying = ways
        assert shape.pixels and colour.pixels and number.table is not None and lying.memory
        if number.table.itemsize * 3 * whole.size[0] * whole.size[1] != length:
            continue
        if shape.name not in fitted_once:
            fitted_once[shape.name] = shape.pixels(picture)
        yield Fed(wrong, lying.memory(colour.pixels(fitted_once[shape.name]), number.table), number.table)
