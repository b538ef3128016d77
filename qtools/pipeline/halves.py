"""A promptable network as the two programs that ship: one runs once for a picture, one for each set of prompts.

Each half is a model of its own, with a task of its own, and goes the way of every other model. The second reads rows:
the embedding of a picture by the float network, and a prompt. Rows lie in a file, because embeddings are as large as
pictures and every stage walks over them again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from calibration.batches import ImageBatches
from qtools.core import files
from qtools.core.errors import InputError
from qtools.core.ports import Ports
from qtools.core.protocols import ImageSource
from qtools.core.types import InputSpec
from qtools.graph.rows import Rows
from qtools.models import Loaded
from qtools.pipeline.data import RunImages
from qtools.pipeline.prepare import BATCH
from qtools.pipeline.reader import Reader
from qtools.pipeline.rows import RowImages, RowSource, written
from qtools.pipeline.task import task_of
from qtools.reference import prompts

ENCODER, DECODER = "encoder", "decoder"
EMBEDDING, POINTS, LABELS = "embedding", "points", "labels"
MASKS, SCORES = "masks", "scores"
GOLDEN = (0.7549, 0.5698)
"""Steps that spread clicks evenly over a square (M. Roberts' R2 sequence)."""


@dataclass(frozen=True)
class Halves:
    """The two programs of a promptable network.

    Attributes:
        encoder: Pictures to embeddings.
        decoder: Rows of embedding, points and labels to rows of masks and scores.
        takes: Inputs of the decoder.
        gives: Its outputs.
        frame: Side of a picture in the units of points.
    """

    encoder: Loaded
    decoder: Loaded
    takes: Ports
    gives: Ports
    frame: int


def halves_of(loaded: Loaded) -> Halves:
    """Takes a network apart, and runs it once for the shapes of what passes between the two.

    Raises:
        InputError: If it is one program.
    """
    module, spec = loaded.module, loaded.spec
    if not task_of(spec).halves:
        raise InputError(f"{spec.name} is one program, and has no prompts", "call qtools.quantize")
    encoder, decoder = module.image_encoder, module.decoder.eval()
    assert isinstance(encoder, nn.Module) and isinstance(decoder, nn.Module)  # networks of the task have both
    count = prompts.POINTS
    asked = torch.zeros(1, count, 2), torch.zeros(1, count)
    with torch.inference_mode():
        embedding = encoder(torch.zeros(1, 3, *spec.input.size))
        masks, scores = decoder(embedding, *asked)
    takes = Ports((EMBEDDING, POINTS, LABELS), tuple(tuple(x.shape) for x in (embedding, *asked)))
    gives = Ports((MASKS, SCORES), (tuple(masks.shape), tuple(scores.shape)))
    channels = int(embedding.shape[1])

    def half(name: str, task: str, network: nn.Module, classes: int) -> Loaded:
        own = dataclasses.replace(spec, name=f"{spec.name}_{name}", aliases=(), task=task, classes=classes)
        return dataclasses.replace(loaded, module=network, spec=own)

    return Halves(
        half(ENCODER, "features", encoder, channels),
        half(DECODER, "masks", Rows(decoder, takes, gives), spec.classes),
        takes,
        gives,
        int(module.frame),  # type: ignore[arg-type]
    )


def rows_of(halves: Halves, images: RunImages, folder: Path) -> RowImages:
    """The decoder's images: the network's own embeddings of the pictures, and a prompt for each.

    Args:
        halves: The network.
        images: The pictures, and the right masks where they are known.
        folder: Where the rows go; it has to last as long as they are read.
    """
    sets = []
    for name, source in (("calibration", images.calibration), ("evaluation", images.evaluation)):
        asked = prompted(source, images.input, halves.frame)
        shape = (len(source), sum(map(_size, halves.takes.shapes)))
        rows = written(folder / f"{name}.npy", shape, _rows(halves, images.batches(source, BATCH), asked))
        told = [source.digest, halves.encoder.weights.sha256, images.input, *(each.tolist() for each in asked)]
        sets.append(RowSource(rows, files.digest_json(told)))
    calibration, evaluation = sets
    described = images.described
    return RowImages(calibration, evaluation, images.labels, described, images.input, ())  # type: ignore[arg-type]


def reader_of(halves: Halves, images: RunImages) -> Reader:
    """The decoder in float, with a prompt for each calibration picture."""
    asked = prompted(images.calibration, images.input, halves.frame)
    rows = np.concatenate([each.reshape(len(each), -1) for each in asked], 1)
    return Reader(halves.decoder.module, rows, task_of(halves.decoder.spec))


def _rows(
    halves: Halves, pictures: ImageBatches, asked: tuple[NDArray[np.float32], NDArray[np.float32]]
) -> Iterator[NDArray[np.float32]]:
    """Embedding and prompt of each picture, batch by batch."""
    at = 0
    for pixels in pictures:
        with torch.inference_mode():
            embedding = halves.encoder.module(torch.from_numpy(pixels)).numpy()
        some = slice(at, at + len(pixels))
        yield halves.takes.join([embedding, asked[0][some], asked[1][some]])
        at += len(pixels)


def prompted(source: ImageSource, spec: InputSpec, frame: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Points (n, count, 2) in the frame, and labels (n, count): the source's own where it has some."""
    own = getattr(source, "asked", None)
    found = [own(index)[0] if own else spread(index, spec.size) for index in range(len(source))]
    scale = np.float32(frame / spec.size[1]), np.float32(frame / spec.size[0])
    points = np.stack([each.points for each in found]) * np.array(scale, np.float32)
    return points, np.stack([each.labels for each in found])


def spread(index: int, size: tuple[int, int]) -> prompts.Prompt:
    """A prompt for a picture of which nobody says what is to be asked: two clicks of three, then a box.

    Clicks cover all pictures evenly, boxes the middle half of theirs.
    """
    points = np.zeros((prompts.POINTS, 2), np.float32)
    labels = np.full(prompts.POINTS, prompts.NOTHING, np.float32)
    width, height = size[1], size[0]
    if index % 3 == 2:
        points[:2] = (width / 4, height / 4), (3 * width / 4, 3 * height / 4)
        labels[:2] = prompts.TOP_LEFT, prompts.BOTTOM_RIGHT
    else:
        points[0] = (0.5 + index * GOLDEN[0]) % 1 * width, (0.5 + index * GOLDEN[1]) % 1 * height
        labels[0] = prompts.FOREGROUND
    return prompts.Prompt(points, labels)


def with_embeddings(halves: Halves, rows: NDArray[np.float32], embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows with other embeddings, for the same prompts."""
    return halves.takes.join([embeddings, *halves.takes.split(rows)[1:]])


def _size(shape: Sequence[int]) -> int:
    return int(np.prod(shape))
