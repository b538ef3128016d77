"""The words for an artifact's input and output, the same for every format."""

from __future__ import annotations

from dataclasses import dataclass

PIXELS = "pixels"


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
