"""Which float kernels this processor takes: XNNPACK and MLAS have some for AVX-512, others for AVX2."""

from __future__ import annotations

import torch

AVX512 = torch.backends.cpu.get_cpu_capability() == "AVX512"
LANES = 16 if AVX512 else 8
"""float32 numbers in a register. Kernels for processors without AVX2, Arm's among them, are not followed so far."""
