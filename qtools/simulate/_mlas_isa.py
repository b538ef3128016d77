"""Which of MLAS's kernels this processor takes: they differ in how many sums lie side by side."""

from __future__ import annotations

import torch

AVX512 = torch.backends.cpu.get_cpu_capability() == "AVX512"
LANES = 16 if AVX512 else 8
"""float32 numbers in a register. Of processors without AVX2, Arm's among them, the order of sums is not followed."""
