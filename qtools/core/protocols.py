"""Shapes of the callables that stages hand to each other. They document; nothing inherits from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from qtools.core import numerics
from qtools.core.artifact import Artifact, Runtime
from qtools.core.errors import InputError
from qtools.core.inspection import Inspection, Tensor
from qtools.core.target import TargetSpec
from qtools.core.timing import Profile, Start, Trace
from qtools.core.types import QuantParams, QuantPlan, QuantScheme, TensorStats


class RangeMethod(Protocol):
    """A calibrator: statistics in, the interval to quantize out. Lives in calibration/ranges as RANGE."""

    def __call__(self, stats: TensorStats, scheme: QuantScheme) -> tuple[float, float]:
        """Returns (lo, hi) with stats.lo <= lo <= hi <= stats.hi, before zero is included."""
        ...


class ImageSource(Protocol):
    """Labelled images, one at a time; nothing is kept in memory."""

    @property
    def digest(self) -> str:
        """sha256 that changes when any image, label or their order changes."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], int | None]:
        """Returns an RGB image, shape (height, width, 3), and its label or None."""
        ...


class Batches(Protocol):
    """Preprocessed model inputs that can be walked any number of times."""

    def __len__(self) -> int:
        """Number of images."""
        ...

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        """Yields float32 arrays of shape (batch, 3, height, width), normalised as the model wants them."""
        ...


class Runner(Protocol):
    """An artifact opened in a runtime."""

    kernels: str

    def codes(self, images: NDArray[np.float32]) -> NDArray[Any]:
        """Output codes (floats where the output is float) in the program's layout, for float32 NCHW inputs."""
        ...

    def as_program(self, rows: NDArray[Any]) -> NDArray[Any]:
        """The artifact's output tensors, one row of numbers per image, in the program's layout."""
        ...

    def logits(self, codes: NDArray[Any]) -> NDArray[np.float32]:
        """Output codes as an app dequantizes them."""
        ...

    def feed(self, image: NDArray[np.float32]) -> Mapping[str, NDArray[Any]]:
        """What `codes` puts into the artifact's inputs for one image of shape (3, height, width), by name."""
        ...

    def invoke(self) -> None:
        """One inference on whatever the input holds; for timing."""
        ...

    def values(self, image: NDArray[np.float32]) -> Mapping[str, NDArray[Any]]:
        """Every bound value for one image, in the program's own layout: codes where quantized, else float32."""
        ...


@dataclass(frozen=True)
class Lowered:
    """A program converted to a target's float artifact, with the proof of which tensor is which value.

    Attributes:
        target: Name of the TargetSpec.
        path: The float artifact.
        binding: Value id -> tensor of the artifact (a name or an index, the exporter's business); also of values that
            it will have only when a plan is written (`Target.levelled`).
        unbound: Value id -> why it has no tensor of its own.
        max_error: Largest |artifact - program| / max(1, |program|) over every bound value of the proof run.
        sha256: Digest of the float artifact.
    """

    target: str
    path: Path
    binding: Mapping[str, Any]
    unbound: Mapping[str, str]
    max_error: float
    sha256: str


class Session(Protocol):
    """A file of any origin, opened once: it answers as often as it is asked."""

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        """Output name -> array, for tensors as they are, by the names of the inputs."""
        ...


@dataclass(frozen=True)
class SecondRuntime:
    """A runtime of the same format that other people built, asked for a second opinion.

    Attributes:
        name: What a report calls it.
        run: (path, inputs as the artifact takes them, images first) -> outputs, shape (images, classes); raises
            MissingPlatform where it is not installed.
    """

    name: str
    run: Callable[[Path, NDArray[Any]], NDArray[Any]]


class TimedFile(Protocol):
    """A file of any origin, opened in a process of its own that measures and is told when."""

    start: Start

    def warm(self, runs: int) -> None:
        """Untimed inferences."""
        ...

    def turn(self) -> float:
        """Milliseconds of one inference, directly behind an untimed one."""
        ...

    def stream(self, seconds: float, queries: int, progress: Progress) -> Sequence[float]:
        """Milliseconds of inferences one behind the other, for at least so long and so many."""
        ...

    def peak_bytes(self) -> int | None:
        """Largest resident memory since just before the file was opened; None where unknown."""
        ...

    def close(self) -> None:
        """Ends the process."""
        ...


@dataclass(frozen=True)
class Timer:
    """How files of a format are timed on this machine.

    Attributes:
        runtime: What a report calls the runtime, without its version.
        packages: Whose versions decide the time.
        open: (path of any origin, threads) -> TimedFile; raises InputError where the runtime refuses the file.
        profile: (path of any origin, threads, inferences) -> Profile; raises MissingPlatform where the runtime has no
            profiler.
    """

    runtime: str
    packages: tuple[str, ...]
    open: Callable[[Path, int], TimedFile]
    profile: Callable[[Path, int, int], Profile]


@dataclass(frozen=True)
class Target:
    """What a file in exporters/ exposes as TARGET.

    Attributes:
        spec: The runtime as data.
        lower: (program, example input, folder) -> Lowered.
        apply: (lowered, plan, program, path, options) -> Artifact.
        open: (path, kernels, threads, program, lowered or None) -> Runner; kernels is one of `kernels`.
        kernels: Kernel sets this machine can run the artifact with, the one that ships first.
        simulator: File in qtools/simulate with the rounding rules of the kernels that ship.
        labels: What a report calls each of `kernels`.
        slow: Those of `kernels` that take many times as long as the first and get fewer images.
        quantized: What a report calls the artifact beside "float" where both are timed.
        timed: False where this machine has no runtime of the target, so that no latency can be measured.
        configure: The user's choices for this target (option -> value) -> the Target that has them; None where there
            are none to make.
        options: The choices that it has.
        whole: The choices under which all that a kernel takes is in codes, whatever that costs on this machine.
        inspectors: File suffix -> what reads such a file, of any origin, into an Inspection.
        tensors: File suffix -> what reads the tensors of such a file, of any origin, by name.
        session: (path, kernels, threads) -> Session in this process; kernels is one of `kernels`.
        confined: The same for files of any origin, in a process of its own; None where what runs them is our own code.
        second: Another runtime of the format, where there is one.
        timer: How files with the target's suffix are timed; None where this machine has no runtime for them.
        codes: (float32 array, per-tensor grid) -> codes of an integer input, as the runtime's own kernel makes them.
        needs: What a file of the format needs to run; None where nobody has looked.
        toolchain: Packages that write into an artifact.
        rough: Further kernel sets of `session`, less exact, that a device may run in place of the first.
        bound: What a file kept of an entry of `Lowered.binding` -> the entry; None where none is ever kept.
        trace: (path, lowered, program, threads, inferences) -> Trace of an artifact of ours; raises MissingPlatform
            where the runtime has no profiler. None where this machine has no runtime of the target.
        levelled: (lowered, value of `qtools.core.levelled` -> number of layers that read it) -> Lowered, in which they
            have tensors that `apply` will write, but for those that others read in the float artifact too; None where
            a file of the target can have no such products.
    """

    spec: TargetSpec
    lower: Callable[..., Lowered]
    apply: Callable[..., Artifact]
    open: Callable[..., Runner]
    kernels: Sequence[str]
    simulator: str
    session: Callable[[Path, str, int], Session]
    timed: bool = True
    labels: Mapping[str, str] = field(default_factory=dict)
    slow: frozenset[str] = frozenset()
    quantized: str = "int8"
    configure: Callable[[Mapping[str, str]], Target] | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    whole: Mapping[str, str] = field(default_factory=dict)
    inspectors: Mapping[str, Callable[[Path], Inspection]] = field(default_factory=dict)
    tensors: Mapping[str, Callable[[Path], Mapping[str, Tensor]]] = field(default_factory=dict)
    confined: Callable[[Path, str, int], Session] | None = None
    second: SecondRuntime | None = None
    timer: Timer | None = None
    codes: Callable[[NDArray[np.float32], QuantParams], NDArray[Any]] = numerics.quantize_float32
    needs: Callable[[Path], Runtime] | None = None
    toolchain: Sequence[str] = ()
    rough: Sequence[str] = ()
    bound: Callable[[Mapping[str, Any]], Any] | None = None
    trace: Callable[[Path, Lowered, Any, int, int], Trace] | None = None
    levelled: Callable[[Lowered, Mapping[str, int]], Lowered] | None = None

    def foreign(self, path: Path, kernels: str, threads: int) -> Session:
        """A session of a file of any origin."""
        return (self.confined or self.session)(path, kernels, threads)

    def configured(self, options: Mapping[str, str]) -> Target:
        """This target with the user's choices.

        Raises:
            InputError: If it has no such option or the value is unknown.
        """
        if not options:
            return self
        if self.configure is None:
            raise InputError(
                f"the {self.spec.name} target has no option '{min(options)}'", "leave it out, it is another target's"
            )
        return replace(self.configure(options), options=options)


class Progress(Protocol):
    """How long work reports itself."""

    def __call__(self, label: str, done: int, total: int) -> None:
        """Says that `done` of `total` steps of `label` are behind us."""
        ...


__all__ = [
    "Batches",
    "ImageSource",
    "Lowered",
    "Progress",
    "QuantParams",
    "QuantPlan",
    "RangeMethod",
    "Runner",
    "Target",
]
