"""MobileViT (Mehta and Rastegari, ICLR 2022, arXiv 2110.02178) and MobileViTv2 (the same authors, arXiv 2206.02680).

Accuracy at 256 pixels: tables of the two papers; of MobileViTv2 from 1.25 on, timm's results table
(results-imagenet.csv of its repository). Parameters and multiply-accumulates: counted. The one layout known here is
timm's.
"""

from __future__ import annotations

from qtools.models._spec import Family, ModelCard, hub_card

LICENCE = "cvnets-license"  # Apple's sample code licence, as timm names it


def _pretrained(name: str, params: float, macs: float, top1: tuple[float, float, float]) -> ModelCard:
    """A size that was also pretrained on ImageNet-22k: trained on ImageNet-1k, fine-tuned at 256 and at 384 pixels."""
    tags = ("cvnets_in1k", "cvnets_in22k_ft_in1k", "cvnets_in22k_ft_in1k_384")
    return hub_card(name, params, macs, LICENCE, dict(zip(tags, top1, strict=True)))


FAMILY = Family(
    name="mobilevit",
    level="verified",
    paper="https://arxiv.org/abs/2110.02178",
    cards=(
        hub_card("mobilevit_xxs", 1.272, 0.4074, LICENCE, {"cvnets_in1k": 69.0}),
        hub_card("mobilevit_xs", 2.318, 1.026, LICENCE, {"cvnets_in1k": 74.8}),
        hub_card("mobilevit_s", 5.579, 2.001, LICENCE, {"cvnets_in1k": 78.4}),
        hub_card("mobilevitv2_050", 1.371, 0.4646, LICENCE, {"cvnets_in1k": 70.2}),
        hub_card("mobilevitv2_075", 2.866, 1.028, LICENCE, {"cvnets_in1k": 75.6}),
        hub_card("mobilevitv2_100", 4.902, 1.812, LICENCE, {"cvnets_in1k": 78.1}),
        hub_card("mobilevitv2_125", 7.478, 2.817, LICENCE, {"cvnets_in1k": 79.68}),
        _pretrained("mobilevitv2_150", 10.59, 4.042, (80.37, 81.488, 82.586)),
        _pretrained("mobilevitv2_175", 14.25, 5.489, (80.86, 81.938, 82.938)),
        _pretrained("mobilevitv2_200", 18.45, 7.156, (81.134, 82.332, 83.4)),
    ),
)
