"""Replays the vectors: exit status 0 where every tensor has the recorded bytes and every answer is near enough."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from qtools_client import Client, prepare, read_png, real_numbers
from qtools_detect import detect

HERE = Path(__file__).resolve().parent
ENDS = {"output": ("tolerance", "answer"), "boxes": ("boxes_tolerance", "boxes")}
"""Outputs by their entry in the contract: entry of their tolerance, and what they are called."""
SAME = 1e-6
"""Of scores and of shares of a side, made of the recorded outputs."""


def main() -> int:
    """Prints a line per vector."""
    client = Client(HERE)
    contract = client.contract
    recorded = json.loads((HERE / "vectors" / "vectors.json").read_text(encoding="utf-8"))
    failed = 0
    for vector in recorded["vectors"]:
        files = {part: HERE / "vectors" / vector[part] for part in ("png", "rgb", "input")}
        pixels = np.frombuffer(files["rgb"].read_bytes(), np.uint8).reshape(vector["height"], vector["width"], 3)
        decoded = np.array_equal(read_png(files["png"]), pixels)
        tensor = prepare(pixels, contract)
        prepared = tensor.tobytes() == files["input"].read_bytes()
        words = ["decoded" if decoded else "DECODED OTHERWISE", "tensor equal" if prepared else "TENSOR DIFFERS"]
        passed = decoded and prepared
        outputs, exact = client.outputs(tensor), {}
        for end, (tolerance, title) in ENDS.items():
            if contract[end] is None:
                continue
            found = outputs[contract[end]["name"]]
            exact[end] = np.frombuffer((HERE / "vectors" / vector[end]).read_bytes(), found.dtype).reshape(found.shape)
            sides = [real_numbers(each, contract, end) for each in (found, exact[end])]
            gap, limit = float(np.abs(sides[0] - sides[1]).max()), recorded[tolerance]["value"]
            passed &= gap <= limit
            words.append(_words(title, gap, limit))
        if contract["decoding"] is not None:
            real = [real_numbers(exact[end], contract, end) for end in ENDS]
            same = _same(detect(*real, contract), vector["found"])
            passed &= same
            words.append(f"{len(vector['found'])} objects" if same else "OBJECTS DECODED OTHERWISE")
        failed += not passed
        sys.stdout.write(f"vector {vector['name']}: {', '.join(words)}\n")
    sys.stdout.write(f"{len(recorded['vectors']) - failed} of {len(recorded['vectors'])} vectors passed\n")
    return int(failed > 0)


def _words(title: str, gap: float, limit: float) -> str:
    if gap == 0:
        return f"{title} equal"
    return f"{title} within {gap:.3g}" if gap <= limit else f"{title.upper()} OFF BY {gap:.3g}"


def _same(here: list, recorded: list) -> bool:
    """Whether the recorded outputs are the recorded objects to the code beside this file."""
    if [each[0] for each in here] != [each["index"] for each in recorded]:
        return False
    ours = np.array([[score, *box] for _, _, score, box in here]).reshape(-1)
    theirs = np.array([[each["score"], *each["box"]] for each in recorded]).reshape(-1)
    return bool((np.abs(ours - theirs) <= SAME).all())


if __name__ == "__main__":
    sys.exit(main())
