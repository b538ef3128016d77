"""A package opened: by qtools' own evaluator anywhere, by Core ML itself on a Mac."""

from __future__ import annotations

import platform
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from exporters._coreml.apply import STORED
from exporters._coreml.bind import TensorBinding
from exporters._coreml.describe import CLASSES, PROBABILITIES
from exporters._coreml.evaluator import Evaluator
from exporters._coreml.package import main_block
from exporters._coreml.sdk import coremltools
from qtools.core.errors import MissingPlatform
from qtools.core.ports import Ports

PRECISIONS = {"evaluator": "float32", "evaluator_fp16": "float16"}
"""Kernel sets that run anywhere, and what each rounds its results to."""


class _Package(ABC):
    """What both ways of running a package share: floats at its ends, one image after the other."""

    _takes: Ports
    _last: NDArray[np.float32] | None = None

    def as_program(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Output tensors in the program's layout, which they have."""
        return rows

    def logits(self, codes: NDArray[Any]) -> NDArray[np.float32]:
        """The logits themselves."""
        return codes.astype(np.float32)

    def feed(self, image: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """The inputs for one image of shape (3, height, width), or one row, by name."""
        return dict(zip(self._takes.names, self._takes.split(image[None]), strict=True))

    def invoke(self) -> None:
        """One inference on the last image; where the evaluator makes it, its time says nothing of a phone's."""
        assert self._last is not None, "codes() puts an image in first"
        self._run(self._last)

    @abstractmethod
    def _run(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """The outputs for one image."""


class EvaluatedPackage(_Package):
    """Runs an .mlpackage image by image with qtools' reading of the ML Program."""

    def __init__(
        self,
        path: Path,
        kernels: str,
        binding: Mapping[str, tuple[TensorBinding, tuple[int, ...]]],
        ends: tuple[Ports, Ports],
    ) -> None:
        self.kernels = kernels
        self._takes, self._gives = ends
        self._binding = dict(binding)
        self._evaluator = Evaluator(path, PRECISIONS[kernels])

    def codes(self, images: NDArray[np.float32]) -> NDArray[Any]:
        """Float32 logits, shape (batch, classes, ...): Core ML gives floats whatever is inside."""
        return np.concatenate([self._run(image[None]) for image in images])

    def values(self, image: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """Every bound value for one image of shape (3, height, width): codes where only they exist, else float32."""
        seen = dict(self._evaluator.observe(self.feed(image)))
        found = {}
        for value, (binding, shape) in self._binding.items():
            tensor = seen.get(binding.tensor + STORED, seen.get(binding.tensor))
            if isinstance(tensor, torch.Tensor):
                found[value] = tensor.numpy().reshape(shape).copy()
        return found

    def _run(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        self._last = image
        # a classifier answers with labels: its logits are an inner value
        found = {n: v for n, v in self._evaluator.observe(self.feed(image[0])) if n in self._gives.names}
        return self._gives.join([found[name].numpy() for name in self._gives.names])


class NativePackage(_Package):
    """Runs an .mlpackage with Core ML, on macOS only."""

    def __init__(self, path: Path, ends: tuple[Ports, Ports]) -> None:
        if platform.system() != "Darwin":
            raise MissingPlatform(
                "Core ML runs on macOS only", "this machine evaluates the package with qtools instead"
            )
        self.kernels = "coreml"
        self._takes, self._gives = ends
        self._model: Any = coremltools().models.MLModel(str(path))
        described = self._model.get_spec().description
        self._takes_image = described.input[0].type.WhichOneof("Type") == "imageType"
        self._labels = labels_of(self._model.get_spec())

    def codes(self, images: NDArray[np.float32]) -> NDArray[Any]:
        """Float32 logits, shape (batch, classes); of a classifier the logarithms of its probabilities.

        They differ from the logits by one number per image, which softmax and the order of the classes do not see.
        """
        return np.stack([self._run(image[None]) for image in images])

    def values(self, image: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """Core ML shows no inner values."""
        return {}

    def _run(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        self._last = image
        given: dict[str, Any] = self.feed(image[0])
        if self._takes_image:
            given = dict.fromkeys(given, Image.fromarray(np.rint(image[0].transpose(1, 2, 0)).astype(np.uint8)))
        answer = self._model.predict(given)
        if not self._labels:
            return self._gives.join([np.asarray(answer[name], np.float32) for name in self._gives.names])[0]
        found = np.array([answer[PROBABILITIES][label] for label in self._labels], np.float32)
        return np.log(np.maximum(found, np.finfo(np.float32).tiny))


class PackageSession:
    """A package of any origin, evaluated on tensors as they are."""

    def __init__(self, path: Path, precision: str = "float32") -> None:
        self._evaluator = Evaluator(path, precision)

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Output name -> array; a class label is an array of text."""
        return {name: np.asarray(value) for name, value in self._evaluator.run(inputs).items()}


def labels_of(spec: Any) -> tuple[str, ...]:
    """Names of the classes in the order of the logits; () where the package gives logits."""
    _, block = main_block(spec)
    for operation in block.operations:
        for output in operation.outputs:
            if operation.type == "const" and output.name == CLASSES:
                content = operation.attributes["val"].immediateValue.list.values
                return tuple(str(item.immediateValue.tensor.strings.values[0]) for item in content)
    return ()
