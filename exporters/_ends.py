"""The words for an artifact's input and output, the same for every format."""

from __future__ import annotations

from dataclasses import dataclass

from qtools.core.errors import CheckFailed
from qtools.core.types import GraphView, QuantPlan

PIXELS = "pixels"
LEVELS = 255


@dataclass(frozen=True)
class EndTypes:
    """What an app puts in and gets out.

    Attributes:
        integer_input: Whether the input holds codes.
        integer_output: Whether the output holds codes.
        bytes: Whether the codes of the input are the bytes of a picture, in an unsigned tensor.
    """

    integer_input: bool
    integer_output: bool
    bytes: bool = False


def end_types(io: str) -> EndTypes:
    """What "int8" (codes at both ends), "float32" (floats at both) and "pixels" (bytes in, floats out) stand for."""
    return EndTypes(io != "float32", io == "int8", io == PIXELS)


def check_bytes(ends: EndTypes, plan: QuantPlan, view: GraphView) -> None:
    """Refuses pixels where the input has no code for each of them: bytes would be read as other numbers.

    Raises:
        CheckFailed: If pixels are to go into a program that was not made or not planned for them.
    """
    name = view.inputs[0]
    params = plan.params(name)
    if ends.bytes and (params is None or (params.scheme.bits, params.lo, params.hi) != (8, 0, LEVELS)):
        raise CheckFailed(f"pixels cannot go into '{name}': the plan has no code for every byte 0 to {LEVELS}")
