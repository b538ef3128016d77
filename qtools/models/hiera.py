"""Hiera-Tiny (Ryali et al., ICML 2023, arXiv 2306.00989).

Accuracy: the paper's table. Parameters and multiply-accumulates: counted.
"""

from __future__ import annotations

from qtools.models._spec import Family, hub_card

LICENCE = "CC-BY-NC-4.0"  # no commercial use

FAMILY = Family(
    name="hiera",
    paper="https://arxiv.org/abs/2306.00989",
    level="converted",
    cards=(
        hub_card(
            "hiera_tiny_224", 27.91, 4.901, LICENCE, {"mae_in1k_ft_in1k": 82.8, "mae": None}, ("hiera_tiny", "hiera_t")
        ),
    ),
)
