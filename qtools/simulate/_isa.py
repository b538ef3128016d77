"""Which float kernels this processor takes: XNNPACK and MLAS have some for AVX-512, others for AVX2."""

from __future__ import annotations

import torch

AVX512 = bool(torch.cpu.get_capabilities().get("avx512_f"))
"""As the processor says and the runtimes ask it; what torch itself uses may be less (ATEN_CPU_CAPABILITY)."""
LANES = 16 if AVX512 else 8
"""float32 numbers in a register. Kernels for processors without AVX2, Arm's among them, are not followed so far."""
