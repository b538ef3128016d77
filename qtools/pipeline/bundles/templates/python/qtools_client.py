"""Feeds a network exactly as it was audited; knows only the contract.

Needs Python 3.10, numpy, and LiteRT or onnxruntime to run the artifact.

Copy this file beside contract.json and the artifact:

    from qtools_client import Client, read_png
    client = Client(".")
    print(client.classify(read_png("vectors/0.png")))  # a detector: client.detect(...)

A picture is RGB, upright, 8 bits per channel, shape (height, width, 3). Decoders of JPEG differ by a few levels among
each other; what happens behind the decoder is the same everywhere, to the byte.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Sides = tuple[float, float, float, float]
PRECISION = 22
"""Bits behind the binary point of a weight: 32, less 8 of the pixel, less 2 for sums beyond it."""


def _bilinear(x: float) -> float:
    x = abs(x)
    return 1.0 - x if x < 1.0 else 0.0


def _bicubic(x: float) -> float:
    a, x = -0.5, abs(x)
    if x < 1.0:
        return ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * a if x < 2.0 else 0.0


def _box(x: float) -> float:
    return 1.0 if -0.5 < x <= 0.5 else 0.0


def _hamming(x: float) -> float:
    x = abs(x)
    if x == 0.0:
        return 1.0
    if x >= 1.0:
        return 0.0
    x *= math.pi
    return math.sin(x) / x * (0.5400000214576721 + 0.46000000834465027 * math.cos(x))  # float32 in C


def _sinc(x: float) -> float:
    if x == 0.0:
        return 1.0
    x *= math.pi
    return math.sin(x) / x


def _lanczos(x: float) -> float:
    return _sinc(x) * _sinc(x / 3) if -3.0 <= x < 3.0 else 0.0


FILTERS: dict[str, tuple[Callable[[float], float], float]] = {
    "box": (_box, 0.5),
    "bilinear": (_bilinear, 1.0),
    "hamming": (_hamming, 1.0),
    "bicubic": (_bicubic, 2.0),
    "lanczos": (_lanczos, 3.0),
}
"""Name -> (weight at a distance, distance beyond which it is zero)."""


def weights(source: int, goal: int, name: str) -> list[tuple[int, list[int]]]:
    """For every pixel of the result, the first pixel it reads and the integer weights from there on.

    Args:
        source: Length of a side before.
        goal: Length after.
        name: Of the filter.
    """
    weigh, support = FILTERS[name]
    scale = source / goal
    wide = max(scale, 1.0)
    support *= wide
    inverse = 1.0 / wide
    found = []
    for x in range(goal):
        center = (x + 0.5) * scale
        first = max(int(center - support + 0.5), 0)
        last = min(int(center + support + 0.5), source)
        real = [weigh((k - center + 0.5) * inverse) for k in range(first, last)]
        total = 0.0
        for weight in real:
            total += weight
        parts = [weight / total if total != 0.0 else weight for weight in real]
        found.append((first, [int(part * (1 << PRECISION) + (-0.5 if part < 0 else 0.5)) for part in parts]))
    return found


def _along_rows(picture: np.ndarray, goal: int, name: str) -> np.ndarray:
    source = picture.shape[1]
    if source == goal:
        return picture
    result = np.empty((picture.shape[0], goal, picture.shape[2]), np.uint8)
    wide = picture.astype(np.int64)
    for x, (first, parts) in enumerate(weights(source, goal, name)):
        total = np.tensordot(wide[:, first : first + len(parts)], np.array(parts, np.int64), ((1,), (0,)))
        result[:, x] = np.clip((total + (1 << (PRECISION - 1))) >> PRECISION, 0, 255)
    return result


def _nearest(source: int, goal: int) -> list[int]:
    scale = source / goal
    at, found = scale * 0.5, []
    for _ in range(goal):  # added one after the other: the sum rounds as it goes
        found.append(min(int(at), source - 1))
        at += scale
    return found


def resize(picture: np.ndarray, height: int, width: int, name: str) -> np.ndarray:
    """A picture in another size, one side after the other, rounded to bytes in between.

    Args:
        picture: uint8, shape (height, width, channels).
        height: Rows of the result.
        width: Columns of the result.
        name: Of the filter.
    """
    if picture.shape[:2] == (height, width):
        return picture
    if name == "nearest":
        return picture[_nearest(picture.shape[0], height)][:, _nearest(picture.shape[1], width)]
    lost = picture.shape[0] - height
    if lost > 0 and lost > 2 * (picture.shape[1] - width):  # what shrinks most goes first
        columns = _along_rows(picture.transpose(1, 0, 2), height, name).transpose(1, 0, 2)
        return _along_rows(columns, width, name)
    rows = _along_rows(picture, width, name)
    return _along_rows(rows.transpose(1, 0, 2), height, name).transpose(1, 0, 2)


def goal_size(height: int, width: int, preparation: dict[str, Any]) -> tuple[int, int]:
    """Height and width of a picture before the crop."""
    goal_h, goal_w = (math.floor(side / preparation["keep"]) for side in preparation["size"])
    if preparation["crop"] == "squash":
        return goal_h, goal_w
    if preparation["crop"] == "center" and goal_h == goal_w:
        grown = goal_h * max(height, width) // min(height, width)
        return (goal_h, grown) if height <= width else (grown, goal_h)
    choose = max if preparation["crop"] == "border" else min
    ratio = choose(height / goal_h, width / goal_w)
    return max(1, round(height / ratio)), max(1, round(width / ratio))  # Python rounds half to even


def start(have: int, goal: int) -> int:
    """Where the middle of `goal` pixels begins among `have`; below 0 where there are fewer."""
    return -((goal - have) // 2) if have < goal else round((have - goal) / 2)  # Python rounds half to even


def crop(picture: np.ndarray, size: tuple[int, int], fill: list[int]) -> np.ndarray:
    """The middle of a picture, with `fill` around where it is smaller."""
    top, left = start(picture.shape[0], size[0]), start(picture.shape[1], size[1])
    inside = picture[max(top, 0) : top + size[0], max(left, 0) : left + size[1]]
    framed = np.empty((*size, 3), np.uint8)
    framed[:] = fill
    top, left = max(-top, 0), max(-left, 0)
    framed[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
    return framed


def uncut(box: Sides, height: int, width: int, said: dict[str, Any]) -> Sides:
    """A box of the picture behind resize and crop, as shares of the whole picture; it may reach beyond that.

    Args:
        box: Left, top, right and bottom as shares of its sides, as `detect` gives them.
        height: Of the whole picture.
        width: Of the whole picture.
        said: The contract's `preparation`.
    """
    (high, wide), (tall, broad) = said["size"], goal_size(height, width, said)
    top, left = start(tall, high), start(broad, wide)
    x0, y0, x1, y1 = box
    return (x0 * wide + left) / broad, (y0 * high + top) / tall, (x1 * wide + left) / broad, (y1 * high + top) / tall


def prepare(picture: np.ndarray, contract: dict[str, Any]) -> np.ndarray:
    """A picture as the input tensor; of an input that is an image, its rows of interleaved channels."""
    said, taken = contract["preparation"], contract["input"]
    height, width = goal_size(picture.shape[0], picture.shape[1], said)
    cut = crop(resize(picture, height, width, said["resize"]), tuple(said["size"]), said["fill"])
    if said["colours"] == "BGR":
        cut = cut[..., ::-1]
    table = np.asarray(taken["table"], np.float64).astype(taken["dtype"])
    numbers = table[np.arange(3), cut]
    if said["layout"] == "NCHW":
        numbers = numbers.transpose(2, 0, 1)
    return np.ascontiguousarray(numbers[None])


def real_numbers(output: np.ndarray, contract: dict[str, Any], end: str = "output") -> np.ndarray:
    """What the codes of an output, by its entry in the contract, are worth, flat, in float32."""
    said = contract[end]
    flat = output.reshape(-1)
    if said["scale"] is None:
        return flat.astype(np.float32)
    return (flat.astype(np.int32) - said["zero_point"]).astype(np.float32) * np.float32(said["scale"])


def probabilities(numbers: np.ndarray, contract: dict[str, Any]) -> np.ndarray:
    """The same as shares of 1."""
    if contract["output"]["meaning"] == "probabilities":
        return numbers
    powers = np.exp(numbers - numbers.max())
    return powers / powers.sum()


class Client:
    """An artifact and its contract.

    Attributes:
        contract: The content of contract.json.
    """

    def __init__(self, folder: str | Path, threads: int = 1) -> None:
        """Opens the artifact that lies beside a contract.

        Args:
            folder: Where contract.json is.
            threads: Of the runtime.
        """
        folder = Path(folder)
        self.contract: dict[str, Any] = json.loads((folder / "contract.json").read_text(encoding="utf-8"))
        file = self.contract["artifact"]
        opened = {"tflite": _open_tflite, "onnx": _open_onnx}[file["format"]]
        options = (self.contract.get("runtime") or {}).get("options", {})
        self._run = opened(str(folder / file["name"]), threads, options)

    def run(self, tensor: np.ndarray) -> np.ndarray:
        """The output for an input tensor, both as they are."""
        return self.outputs(tensor)[self.contract["output"]["name"]]

    def outputs(self, tensor: np.ndarray) -> dict[str, np.ndarray]:
        """All outputs for an input tensor, by name: of a detector there are two."""
        return self._run(tensor, self.contract)

    def detect(self, picture: np.ndarray) -> list[tuple[int, str, float, Sides]]:
        """What a detector finds: index of the class, label, score, and the box as shares of the picture that goes in.

        That is the picture behind resize and crop, and `uncut` makes shares of the whole picture of them; the surest
        comes first. Needs qtools_detect.py beside this file.
        """
        from qtools_detect import detect

        given = self.outputs(prepare(picture, self.contract))
        ends = [(end, given[self.contract[end]["name"]]) for end in ("output", "boxes")]
        return detect(*(real_numbers(array, self.contract, end) for end, array in ends), self.contract)

    def classify(self, picture: np.ndarray, count: int = 5) -> list[tuple[int, str, float]]:
        """The likeliest classes: index of the output, label, probability."""
        numbers = real_numbers(self.run(prepare(picture, self.contract)), self.contract)
        shares, labels = probabilities(numbers, self.contract), self.contract["labels"]
        order = np.argsort(-shares, kind="stable")[:count]
        return [(int(i), labels[i] if i < len(labels) else "", float(shares[i])) for i in order]


Run = Callable[[np.ndarray, dict[str, Any]], dict[str, np.ndarray]]


def _names(contract: dict[str, Any]) -> list[str]:
    """Names of the outputs."""
    return [contract[end]["name"] for end in ("output", "boxes") if contract[end] is not None]


def _open_tflite(path: str, threads: int, needed: dict[str, str]) -> Run:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=path, num_threads=threads)
    interpreter.allocate_tensors()
    call = interpreter.get_signature_runner()

    def run(tensor: np.ndarray, contract: dict[str, Any]) -> dict[str, np.ndarray]:
        answers = call(**{contract["input"]["name"]: tensor})
        return {name: answers[name] for name in _names(contract)}

    return run


def _open_onnx(path: str, threads: int, needed: dict[str, str]) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    for name, value in needed.items():
        options.add_session_config_entry(name, value)
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(tensor: np.ndarray, contract: dict[str, Any]) -> dict[str, np.ndarray]:
        names = _names(contract)
        return dict(zip(names, session.run(names, {contract["input"]["name"]: tensor}), strict=True))

    return run


def read_png(path: str | Path) -> np.ndarray:
    """A PNG with 8 bits per channel, RGB, not interlaced: what the vectors are. Use an image library for others.

    Raises:
        ValueError: If the file is another kind.
    """
    data = Path(path).read_bytes()
    if data[:8] != b"\x89PNG\r\n\x1a\n":
        raise ValueError(f"{path} is no PNG")
    at, packed, head = 8, b"", b""
    while at < len(data):
        (length,), kind = struct.unpack(">I", data[at : at + 4]), data[at + 4 : at + 8]
        body = data[at + 8 : at + 8 + length]
        head = body if kind == b"IHDR" else head
        packed += body if kind == b"IDAT" else b""
        at += length + 12
    width, height, depth, colours, _, _, interlaced = struct.unpack(">IIBBBBB", head)
    if (depth, colours, interlaced) != (8, 2, 0):
        raise ValueError(f"{path} is no plain RGB PNG")
    lines = np.frombuffer(zlib.decompress(packed), np.uint8).reshape(height, 1 + 3 * width)
    rows = np.zeros((height + 1, 3 * width), np.uint8)
    for y, line in enumerate(lines):
        rows[y + 1] = _unfiltered(int(line[0]), line[1:], rows[y])
    return rows[1:].reshape(height, width, 3)


def _unfiltered(kind: int, line: np.ndarray, above: np.ndarray) -> np.ndarray:
    """A row of a PNG, of which the file holds the differences from its neighbours."""
    if kind in (0, 2):  # as it is, or from the row above
        return line + above if kind else line
    row = line.copy()
    if kind == 1:  # from the pixel to the left
        return np.cumsum(row.reshape(-1, 3), 0, dtype=np.uint8).reshape(-1)
    for x in range(len(row)):
        left, up, corner = (int(row[x - 3]), int(above[x]), int(above[x - 3])) if x >= 3 else (0, int(above[x]), 0)
        if kind == 3:
            guess = (left + up) // 2
        else:
            distances = abs(up - corner), abs(left - corner), abs(left + up - 2 * corner)
            guess = (left, up, corner)[distances.index(min(distances))]
        row[x] = (int(row[x]) + guess) & 255
    return row
