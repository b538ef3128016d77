"""plan.json."""

from __future__ import annotations

from pathlib import Path

from calibration.plan_file import read_plan
from qtools.core import files
from qtools.core.types import QuantParams, QuantPlan, QuantScheme, ValuePlan

LONGEST = 2048


def SEEDS() -> list[bytes]:  # noqa: N802 - what run.py asks for
    """A plan with one value of each kind."""
    grid = QuantParams(QuantScheme(8, False, None, -128, 127), (0.05,), (3,))
    weight = QuantParams(QuantScheme(8, True, 0, -127, 127), (0.1, 0.2), (0, 0))
    values = {
        "image": ValuePlan(grid, "explicit", "calibrated"),
        "w": ValuePlan(weight, "explicit", "weight"),
        "softmax": ValuePlan(None, "float", "no integer kernel"),
    }
    return [
        files.to_json(QuantPlan("m", "tflite", "w8a8", values, {"softmax": "float"}, {"weights": "0" * 64})).encode()
    ]


def read(data: bytes, folder: Path) -> None:
    """As qtools audit, compare and verify read it."""
    path = folder / "plan.json"
    path.write_bytes(data)
    files.to_json(read_plan(path))
