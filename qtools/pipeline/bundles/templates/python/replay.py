"""Replays the vectors: exit status 0 where every tensor has the recorded bytes and every answer is near enough."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from qtools_client import Client, prepare, read_png, real_numbers

HERE = Path(__file__).resolve().parent


def main() -> int:
    """Prints a line per vector."""
    client = Client(HERE)
    contract = client.contract
    recorded = json.loads((HERE / "vectors" / "vectors.json").read_text(encoding="utf-8"))
    tolerance, failed = recorded["tolerance"]["value"], 0
    for vector in recorded["vectors"]:
        files = {part: HERE / "vectors" / vector[part] for part in ("png", "rgb", "input", "output")}
        pixels = np.frombuffer(files["rgb"].read_bytes(), np.uint8).reshape(vector["height"], vector["width"], 3)
        decoded = np.array_equal(read_png(files["png"]), pixels)
        tensor = prepare(pixels, contract)
        prepared = tensor.tobytes() == files["input"].read_bytes()
        output = client.run(tensor)
        expected = np.frombuffer(files["output"].read_bytes(), output.dtype).reshape(output.shape)
        gap = float(np.abs(real_numbers(output, contract) - real_numbers(expected, contract)).max())
        passed = decoded and prepared and gap <= tolerance
        failed += not passed
        words = (
            "decoded" if decoded else "DECODED OTHERWISE",
            "tensor equal" if prepared else "TENSOR DIFFERS",
            "answer equal"
            if gap == 0
            else f"answer within {gap:.3g}"
            if gap <= tolerance
            else f"ANSWER OFF BY {gap:.3g}",
        )
        sys.stdout.write(f"vector {vector['name']}: {', '.join(words)}\n")
    sys.stdout.write(f"{len(recorded['vectors']) - failed} of {len(recorded['vectors'])} vectors passed\n")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
