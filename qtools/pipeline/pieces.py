"""A network with early exits as one program per exit: each takes the features of the one before.

Each piece is a model of its own, with a task of its own, and goes the way of every other model. All but the first read
features of the float network, which lie in a file, because every stage walks over them again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from calibration.batches import ImageBatches
from qtools.core import files
from qtools.core.answers import EXIT
from qtools.core.errors import InputError
from qtools.core.exits import Exits
from qtools.core.ports import IMAGE, Ports
from qtools.graph.rows import Rows
from qtools.models import Loaded
from qtools.pipeline.data import RunImages
from qtools.pipeline.prepare import BATCH
from qtools.pipeline.rows import RowImages, RowSource, written
from qtools.pipeline.task import PIECE, task_of

FEATURES = "features_"
"""What passes on, with the number of the exit beside it: an artifact may not call input and output alike."""


@dataclass(frozen=True)
class Piece:
    """One program of a cascade.

    Attributes:
        name: Of its folder, and what patterns of --int16 and --dynamic begin with.
        loaded: The network between two exits.
        takes: An image, or features.
        gives: Features and the logits of its exit; the last one the logits alone.
    """

    name: str
    loaded: Loaded
    takes: Ports
    gives: Ports


def pieces_of(loaded: Loaded) -> tuple[tuple[Piece, ...], Exits]:
    """Takes a network apart behind its exits, and runs it once for the shapes of what passes.

    Raises:
        InputError: If it has one exit, or cannot say where it may be cut.
    """
    spec, exits = loaded.spec, task_of(loaded.spec).exits
    if exits is None:
        raise InputError(f"{spec.name} has no early exits to cut it at", "leave --cascade out")
    if not hasattr(loaded.module, "pieces"):
        raise InputError(
            f"{spec.name} does not say where it may be cut",
            "give the module a method `pieces` that returns one module per exit, or leave --cascade out",
        )
    network: Any = loaded.module
    found = []
    x, takes = torch.zeros(1, 3, *spec.input.size), Ports((IMAGE,), ((1, 3, *spec.input.size),))
    for at, part in enumerate(network.pieces(), 1):
        last = at == exits.count
        with torch.inference_mode():
            answers = part(x)
        parts = (answers,) if last else answers
        names = (f"{EXIT}{at}",) if last else (f"{FEATURES}{at}", f"{EXIT}{at}")
        gives = Ports(names, tuple(tuple(each.shape) for each in parts))
        own = dataclasses.replace(spec, name=f"{spec.name}_{at}", aliases=(), task=PIECE, exits=None)
        module = Rows(part, takes, gives)
        found.append(Piece(f"exit_{at}", dataclasses.replace(loaded, module=module, spec=own), takes, gives))
        x, takes = parts[0], Ports(names[:1], (tuple(parts[0].shape),))
    return tuple(found), exits


def passed_on(piece: Piece, images: RunImages, folder: Path) -> RowImages:
    """What the next piece reads: this one's features, in float, of all images.

    Args:
        piece: Not the last.
        images: What it reads itself.
        folder: Where the features go; it has to last as long as they are read.
    """
    sets = []
    for name, source in (("calibration", images.calibration), ("evaluation", images.evaluation)):
        shape = (len(source), *piece.gives.shapes[0][1:])
        features = written(folder / f"{name}.npy", shape, _features(piece, images.batches(source, BATCH)))
        told = [source.digest, piece.loaded.weights.sha256, piece.name, images.input]
        sets.append(RowSource(features, files.digest_json(told)))
    calibration, evaluation = sets
    known = images.labels, images.described, images.input, images.classes
    return RowImages(calibration, evaluation, *known)  # type: ignore[arg-type]


def _features(piece: Piece, batches: ImageBatches) -> Iterator[NDArray[np.float32]]:
    """What a piece passes on, batch by batch."""
    for batch in batches:
        with torch.inference_mode():
            rows = piece.loaded.module(torch.from_numpy(batch)).numpy()
        yield piece.gives.split(rows)[0]
