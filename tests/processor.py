"""What this processor is to the simulator."""

from __future__ import annotations

from reports.environment import describe

FOLLOWED = "avx2" in describe().isa
"""Whether the simulator knows its float kernels to the last bit."""
