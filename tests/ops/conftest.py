"""Fixtures for the tests of single operations."""

from __future__ import annotations

from contextlib import suppress

# Triton, which torch.export loads, ends the process where TensorFlow's own LLVM came first: coremltools loads that.
with suppress(ImportError):
    import triton  # noqa: F401
