"""A package opened: by qtools' own evaluator anywhere, by Core ML itself on a Mac."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from exporters._coreml.apply import STORED
from exporters._coreml.bind import TensorBinding
from exporters._coreml.convert import INPUT, OUTPUT
from exporters._coreml.evaluator import Evaluator
from exporters._quiet import quiet
from qtools.core.errors import MissingPlatform

PRECISIONS = {"evaluator": "float32", "evaluator_fp16": "float16"}
"""Kernel sets that run anywhere, and what each rounds its results to."""


class EvaluatedPackage:
    """Runs an .mlpackage image by image with qtools' reading of the ML Program."""

    def __init__(self, path: Path, kernels: str, binding: Mapping[str, tuple[TensorBinding, tuple[int, ...]]]) -> None:
        self.kernels = kernels
        self._binding = dict(binding)
        self._evaluator = Evaluator(path, PRECISIONS[kernels])
        self._last: NDArray[np.float32] | None = None

    def codes(self, images: NDArray[np.float32]) -> NDArray[Any]:
        """Float32 logits, shape (batch, classes): Core ML gives floats whatever is inside."""
        return np.stack([self._run(image[None]).reshape(-1) for image in images])

    def logits(self, codes: NDArray[Any]) -> NDArray[np.float32]:
        """The logits themselves."""
        return codes.astype(np.float32)

    def invoke(self) -> None:
        """One evaluation of the last image; says nothing about a phone's speed."""
        assert self._last is not None, "codes() puts an image in first"
        self._run(self._last)

    def values(self, image: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """Every bound value for one image of shape (3, height, width): codes where only they exist, else float32."""
        seen = dict(self._evaluator.observe({INPUT: image[None]}))
        found = {}
        for value, (binding, shape) in self._binding.items():
            tensor = seen.get(binding.tensor + STORED, seen.get(binding.tensor))
            if isinstance(tensor, torch.Tensor):
                found[value] = tensor.numpy().reshape(shape).copy()
        return found

    def _run(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        self._last = image
        return np.asarray(self._evaluator.run({INPUT: image})[OUTPUT])


class NativePackage:
    """Runs an .mlpackage with Core ML, on macOS only."""

    def __init__(self, path: Path) -> None:
        if platform.system() != "Darwin":
            raise MissingPlatform(
                "Core ML runs on macOS only", "this machine evaluates the package with qtools instead"
            )
        with quiet():
            import coremltools as ct
        self.kernels = "coreml"
        self._model: Any = ct.models.MLModel(str(path))
        self._last: NDArray[np.float32] | None = None

    def codes(self, images: NDArray[np.float32]) -> NDArray[Any]:
        """Float32 logits, shape (batch, classes)."""
        return np.stack([self._run(image[None]).reshape(-1) for image in images])

    def logits(self, codes: NDArray[Any]) -> NDArray[np.float32]:
        """The logits themselves."""
        return codes.astype(np.float32)

    def invoke(self) -> None:
        """One inference on the last image."""
        assert self._last is not None, "codes() puts an image in first"
        self._run(self._last)

    def values(self, image: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """Core ML shows no inner values."""
        return {}

    def _run(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        self._last = image
        return np.asarray(self._model.predict({INPUT: image})[OUTPUT], np.float32)
