"""Drawn JSON, half of it damaged, and what Python's own reader makes of it, bit by bit."""

from __future__ import annotations

import json
from typing import Any

import numpy as np


def documents(draw: np.random.Generator, count: int) -> list[str]:
    """JSON, half of it damaged at one place."""

    def value(depth: int) -> Any:
        kind = int(draw.integers(0, 8 if depth else 6))
        if kind < 3:
            return [None, True, False][kind]
        if kind == 3:
            return float(draw.normal() * 10.0 ** draw.integers(-30, 30))
        if kind == 4:
            return int(draw.integers(-(2**60), 2**60))
        if kind == 5:
            return "".join(draw.choice(list('aä"\\/\n\t\x01€😀 {}[]:,'), draw.integers(0, 6)))
        if kind == 6:
            return [value(depth - 1) for _ in range(draw.integers(0, 4))]
        return {f"{name}": value(depth - 1) for name in draw.integers(0, 99, draw.integers(0, 4))}

    found = []
    for number in range(count):
        text = json.dumps([value(3)], ensure_ascii=number % 4 < 2, indent=None if number % 3 else 1)
        at = int(draw.integers(0, len(text)))
        if number % 2:
            text = text[:at] + str(draw.choice(["", "0", ",", '"', "e", "-", "}", "\\u00", ".", " x"])) + text[at + 1 :]
        found.append(text)
    return found


def bits(value: Any) -> str:
    """As the driver writes it."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{bits(name)}:{bits(each)}" for name, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(bits, value)) + "]"
    if isinstance(value, str):
        return "<" + value.encode("utf-16-be", "surrogatepass").hex() + ">"
    if isinstance(value, float):
        return np.array(value, ">f8").tobytes().hex()
    return {None: "null", True: "true", False: "false"}[value]


def read(text: str) -> str:
    """What Python's own reader makes of a document."""

    def refuse(name: str) -> None:
        raise ValueError(name)

    try:
        return bits(json.loads(text, parse_int=float, parse_constant=refuse))
    except ValueError:
        return "refused"
