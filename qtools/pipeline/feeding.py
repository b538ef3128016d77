"""A picture put into an artifact of any origin as its file, its user or the custom of its format says; answers out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from calibration.images import fitted, normalise
from qtools.core import numerics
from qtools.core.answers import BOXES, NAMES
from qtools.core.errors import InputError
from qtools.core.inspection import End, Inspection
from qtools.core.protocols import Session
from qtools.core.types import InputSpec, QuantParams, QuantScheme
from qtools.pipeline.contract import Bytes3, Contract, Preparation, Triple

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""What torch's networks are trained with where nothing else is said."""
LEVELS = 255
IMAGE = "image"
"""What the type of an input begins with where the runtime takes a picture (Core ML)."""
BACKGROUND = frozenset({"background", "dummy", "???"})
"""First names of label files whose output 0 stands for no class."""
IMAGENET_AND_BACKGROUND = 1001
CONTRACT_NEXT = "describe the preprocessing in a JSON file and give it with --contract"
Answers = NDArray[np.float64]
Raw = NDArray[np.uint8]


@dataclass(frozen=True)
class Reading:
    """How a picture becomes the input of a file.

    Attributes:
        end: The input.
        spec: Size, resizing, crop and, unless `pixels`, normalisation.
        colours: Order of the channels, which the numbers of `spec` follow.
        channels_last: Layout of the tensor.
        pixels: Whether pixels 0 to 255 go in as they are, into an integer tensor as its codes.
        offset: Output that stands for label 0.
        labels: Names of the outputs; () where nothing names them.
        source: Who says so, in words.
        assumed: Whether nobody does.
        fill: Bytes around a picture that is too small, in RGB; None makes them of the mean for "border", else zero.
        table: What every byte becomes, shape (3, 256), in the order of the channels; None computes it.
    """

    end: End
    spec: InputSpec
    colours: Literal["RGB", "BGR"] = "RGB"
    channels_last: bool = False
    pixels: bool = False
    offset: int = 0
    labels: tuple[str, ...] = ()
    source: str = ""
    assumed: bool = False
    fill: Bytes3 | None = None
    table: NDArray[Any] | None = None

    def tensor(self, picture: Raw) -> NDArray[Any]:
        """A picture, RGB of shape (height, width, 3), as what the input takes."""
        laid: NDArray[Any] = fitted(picture, self.spec, self.fill)
        laid = laid[::-1] if self.colours == "BGR" else laid
        if self.table is not None:
            laid = self.table[np.arange(3)[:, None, None], laid]
        elif not self.pixels:
            laid = normalise(laid, self.spec)
        laid = np.ascontiguousarray((laid.transpose(1, 2, 0) if self.channels_last else laid)[None])
        if not is_integer(self.end):
            return laid.astype(np.float32)
        if self.table is not None:
            return laid.astype(self.end.dtype)
        dtype, params = np.dtype(self.end.dtype), params_of(self.end)
        if self.pixels:  # what a byte means is the file's business: an app copies it
            return (laid.astype(np.int32) + min(0, int(np.iinfo(dtype).min))).astype(dtype)
        if params is None:
            return np.clip(np.rint(laid), np.iinfo(dtype).min, np.iinfo(dtype).max).astype(dtype)
        return numerics.quantize_float32(laid.astype(np.float32), params).astype(dtype)


def reading(inspection: Inspection, given: Contract | None = None) -> Reading:
    """How pictures go into a file: as the user says, else as qtools or the format's metadata in it say, else as usual.

    Raises:
        InputError: If no picture can go in, or what is said does not fit the tensor.
    """
    if len(inspection.inputs) != 1:
        raise InputError(f"{inspection.file} has {len(inspection.inputs)} inputs, and a picture is one", CONTRACT_NEXT)
    (end,) = inspection.inputs
    if "clip" in (inspection.metadata or {}):
        raise InputError(f"{inspection.file} takes clips, and a picture is none", "audit the run folder it came from")
    if given is not None:
        found = _as_given(inspection, end, given)
    elif "input" in (inspection.metadata or {}):
        found = _as_recorded(inspection, end)
    else:
        found = _as_usual(inspection, end)
    _check_size(inspection.file, found)
    return found


def contract_of(found: Reading) -> Contract:
    """The contract that says the same."""
    spec = found.spec
    scaling = (None, None) if found.pixels else (spec.mean, spec.std)
    preparation = TypeAdapter(Preparation).validate_python(
        {"size": spec.size, "colours": found.colours, "resize": spec.interpolation, "crop": spec.crop_mode}
        | {"keep": spec.crop_pct, "mean": scaling[0], "std": scaling[1], "fill": found.fill}
    )
    return Contract(preparation, found.offset)


def _as_given(inspection: Inspection, end: End, given: Contract) -> Reading:
    said = given.preparation
    last = channels_last(end) if said.layout is None or end.dtype.startswith(IMAGE) else said.layout == "NHWC"
    size = said.size or _size(inspection.file, end, last)
    mean, std = said.scaling or (said.mean or (0.0,) * 3, said.std or (1.0,) * 3)
    spec = InputSpec(size, mean, std, said.resize, said.keep, said.crop)
    names = given.labels or (inspection.picture.labels if inspection.picture else ())
    found = Reading(
        end, spec, said.colours, last, said.scaling is None, given.labels_offset, names, "the contract says how"
    )
    table = None if given.input is None else np.asarray(given.input.table)
    return dataclasses.replace(found, fill=said.fill, table=table)


def _as_recorded(inspection: Inspection, end: End) -> Reading:
    """As qtools wrote it into the file."""
    facts = inspection.metadata or {}
    try:
        spec = TypeAdapter(InputSpec).validate_python(facts["input"])
    except ValidationError as error:
        raise InputError(f"{inspection.file}: the preprocessing in its metadata is damaged") from error
    names = inspection.picture.labels if inspection.picture else ()
    pixels = facts.get("io") == "pixels"
    return Reading(end, spec, "RGB", channels_last(end), pixels, 0, names, "preprocessing as qtools wrote it into it")


def _as_usual(inspection: Inspection, end: End) -> Reading:
    """As the format's own metadata say, or as networks of its kind are fed."""
    last, facts = channels_last(end), inspection.picture
    names = facts.labels if facts else ()
    spec = InputSpec(_size(inspection.file, end, last), (0.0,) * 3, (1.0,) * 3, "bilinear", 1.0, "squash")
    offset, background = _background(inspection, names)
    resized = f"squashed to {spec.size[0]} x {spec.size[1]} bilinearly, RGB{background}"
    found = Reading(end, spec, "RGB", last, True, offset, names, assumed=True)
    if end.dtype == "uint8":
        # Android's Task Library copies bytes into a uint8 tensor, whatever normalisation the metadata name
        return dataclasses.replace(found, source=f"assumed: bytes as they are, {resized}")
    if facts and facts.mean:
        mean, std = (_triple(numbers) for numbers in (facts.mean, facts.std))
        scaled, why = dataclasses.replace(spec, mean=mean, std=std), "normalised as its metadata say; assumed"
    elif is_integer(end):
        return dataclasses.replace(found, source=f"assumed: bytes - 128 as codes, {resized}")
    elif last:
        scaled, why = dataclasses.replace(spec, mean=(0.5,) * 3, std=(0.5,) * 3), "assumed: -1 to 1"
    else:
        scaled, why = dataclasses.replace(spec, mean=IMAGENET[0], std=IMAGENET[1]), "assumed: ImageNet's mean and std"
    return dataclasses.replace(found, spec=scaled, pixels=False, source=f"{why}, {resized}")


def _background(inspection: Inspection, names: tuple[str, ...]) -> tuple[int, str]:
    """Output of label 0 where the names or their number show that a class stands before it, and words for it."""
    if names and names[0].strip().lower() in BACKGROUND:
        return 1, "; output 0 is the background by its label file"
    if not names and outputs_of(inspection) == IMAGENET_AND_BACKGROUND:
        return 1, f"; {IMAGENET_AND_BACKGROUND:,} outputs: the first taken for the background"
    return 0, ""


def outputs_of(inspection: Inspection) -> int | None:
    """Numbers in the first output; None where the file does not fix it."""
    sizes = inspection.outputs[0].shape[1:] if inspection.outputs else ()
    whole = [size for size in sizes if isinstance(size, int)]
    return int(np.prod(whole)) if whole and len(whole) == len(sizes) else None


def _triple(numbers: tuple[float, ...]) -> Triple:
    """One number or three, on the scale 0 to 255, as three on the scale 0 to 1."""
    first, second, third = numbers * 3 if len(numbers) == 1 else numbers
    return first / LEVELS, second / LEVELS, third / LEVELS


def channels_last(end: End) -> bool:
    """Whether an input lays a picture out as rows of pixels, (1, height, width, 3).

    Raises:
        InputError: If it takes no RGB picture.
    """
    if len(end.shape) == 4 and 3 in (end.shape[1], end.shape[3]):
        return end.shape[3] == 3 and end.shape[1] != 3
    raise InputError(f"the input '{end.name}' of shape {end.shape} takes no RGB picture", CONTRACT_NEXT)


def _size(file: str, end: End, last: bool) -> tuple[int, int]:
    height, width = end.shape[1:3] if last else end.shape[2:4]
    if not isinstance(height, int) or not isinstance(width, int):
        raise InputError(f"{file} leaves the size of its input open", 'give "size": [height, width] with --contract')
    return height, width


def _check_size(file: str, found: Reading) -> None:
    sides = found.end.shape[1:3] if found.channels_last else found.end.shape[2:4]
    if any(isinstance(have, int) and have != want for have, want in zip(sides, found.spec.size, strict=True)):
        raise InputError(f"{file} takes pictures of {sides}, not of {found.spec.size}", "correct the size")


def is_integer(end: End) -> bool:
    """Whether an end holds whole numbers."""
    return end.dtype.startswith(("int", "uint"))


def params_of(end: End) -> QuantParams | None:
    """Grid of an integer end; None for floats and for plain numbers."""
    if end.grid is None or not is_integer(end):
        return None
    limits = np.iinfo(np.dtype(end.dtype))
    scheme = QuantScheme(limits.bits, False, None, int(limits.min), int(limits.max))
    return QuantParams(scheme, end.grid.scales, end.grid.zero_points)


def answers(session: Session, ends: Iterable[End], inputs: Iterable[Mapping[str, NDArray[Any]]]) -> Answers:
    """First output of numbers as an app reads it, shape (n, numbers); of a detector both, one behind the other.

    Args:
        session: The opened file.
        ends: Its outputs.
        inputs: Tensors for each inference, by name.
    """
    known = {end.name: end for end in ends}
    rows = []
    for given in inputs:
        answer = session(given)
        names = NAMES if BOXES in answer else [next(n for n, x in answer.items() if x.dtype.kind in "fiu")]
        rows.append(np.concatenate([_real(answer[name].reshape(-1), known.get(name)) for name in names]))
    return np.stack(rows).astype(np.float64)


def _real(flat: NDArray[Any], end: End | None) -> NDArray[Any]:
    params = params_of(end) if end is not None else None
    return flat if params is None else numerics.dequantize(flat.astype(np.int32), params)


def as_logits(rows: Answers, end: End) -> Answers:
    """Probabilities, shape (n, classes), as their logarithms, whose softmax gives them back.

    On a grid most of a thousand classes read zero. What the others leave of 1 is theirs together, between half a step
    for all of them and half a step for each: a whole half step each would outweigh the rest.
    """
    params = params_of(end)
    half = params.scale[0] / 2 if params is not None else 1e-9
    none = rows <= 0
    share = (1 - rows.sum(1, keepdims=True)) / np.maximum(none.sum(1, keepdims=True), 1)
    found: Answers = np.log(np.where(none, np.clip(share, half / rows.shape[1], half), rows))
    return found


def are_probabilities(rows: Answers, end: End) -> bool:
    """Whether answers, shape (n, classes), are the results of a softmax.

    On a grid their sum says little: with a thousand classes rounding takes up to a third of it away. There the grid
    tells, which runtimes fix for a softmax at 0 to 1.
    """
    params = params_of(end)
    if rows.min() < 0:
        return False
    if params is not None:
        return abs(params.hi - 1) <= 0.01
    return bool(np.all(np.abs(rows.sum(1) - 1) <= 0.01))
