"""MobileViT (Mehta and Rastegari, ICLR 2022, arXiv 2110.02178) and MobileViTv2 (the same authors, arXiv 2206.02680).

Accuracy, size and multiply-accumulates at 256 pixels: tables of the two papers. The one layout
known here is timm's.
"""

from __future__ import annotations

from qtools.models._spec import Family, ModelCard, PretrainedTag

LICENCE = "cvnets-license"  # Apple's sample code licence, as timm names it


def _card(name: str, params: float, macs: float, top1: float) -> ModelCard:
    tag = PretrainedTag("cvnets_in1k", top1, LICENCE, f"hub: timm/{name}.cvnets_in1k")
    return ModelCard(name, (name,), name, params, macs, (tag,))


FAMILY = Family(
    name="mobilevit",
    cards=(
        _card("mobilevit_xxs", 1.3, 0.4, 69.0),
        _card("mobilevit_xs", 2.3, 1.0, 74.8),
        _card("mobilevit_s", 5.6, 2.0, 78.4),
        _card("mobilevitv2_050", 1.4, 0.5, 70.2),
        _card("mobilevitv2_075", 2.9, 1.0, 75.6),
        _card("mobilevitv2_100", 4.9, 1.8, 78.1),
    ),
)
