"""What the cards say, against timm: counted, not copied."""

from __future__ import annotations

from collections import Counter

import pytest
import timm
import torch
from timm.models import get_pretrained_cfg
from timm.utils import reparameterize_model
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from qtools import architectures
from qtools.models import Family, ModelCard, cards, families, resolve
from tests.unit.test_architectures import printed

architectures.register()

SPELLED = {"Apache-2.0": "apache-2.0", "MIT": "mit", "CC-BY-NC-4.0": "cc-by-nc-4.0"}
SMALLEST = [min(family.cards, key=lambda card: card.macs_billions) for family in families()]
OTHERS = [card for card in cards() if card not in SMALLEST]


def _count(card: ModelCard) -> None:
    """Weights and products of timm's own inference form, without memory: on the meta device."""
    spec = resolve(card.name)
    with torch.device("meta"):
        model = timm.create_model(card.architecture, num_classes=spec.classes).eval().requires_grad_(False)
        model = reparameterize_model(model)
        image = torch.zeros(1, 3, *spec.input.size)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(card.params_millions, rel=0.01)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.inference_mode():
        model(image)
    assert counter.get_total_flops() / 2e9 == pytest.approx(card.macs_billions, rel=0.01)


@pytest.mark.parametrize("card", SMALLEST, ids=lambda card: card.name)
def test_counts_of_the_smallest(card: ModelCard) -> None:
    _count(card)


@pytest.mark.all_models
@pytest.mark.parametrize("card", OTHERS, ids=lambda card: card.name)
def test_counts_of_the_others(card: ModelCard) -> None:
    _count(card)


@pytest.mark.parametrize("card", cards(), ids=lambda card: card.name)
def test_weights_are_those_that_timm_knows(card: ModelCard) -> None:
    if _is_written_here(card):  # timm has the configuration and no address: see test_architectures.py
        assert all(known.source.startswith("https://") or not known.source for known in card.pretrained)
        return
    assert {f"{card.architecture}.{known.tag}" for known in card.pretrained} == set(
        timm.list_pretrained(f"{card.architecture}.*")
    )
    for known in card.pretrained:
        settings = get_pretrained_cfg(f"{card.architecture}.{known.tag}")
        assert settings.license == SPELLED.get(known.licence, known.licence)
        assert known.source == f"hub: {settings.hf_hub_id}"
        assert known.top1 is None or (settings.num_classes == 1000 and 50 < known.top1 < 90)
    assert resolve(card.name).classes == 1000  # the default weights answer in ImageNet-1k's classes


@pytest.mark.parametrize("family", families(), ids=lambda family: family.name)
def test_a_family_is_a_module_of_timm_and_has_a_paper(family: Family) -> None:
    for card in family.cards:
        home = "qtools.architectures" if _is_written_here(card) else "timm.models"
        assert timm.models.model_entrypoint(card.architecture).__module__ == f"{home}.{family.name}"
        assert bool(family.note) == _is_written_here(card)
    assert family.paper.startswith("https://arxiv.org/abs/")


PUBLISHED = {
    # millions of parameters, billions of multiply-accumulates, as printed; "" where no source within reach says
    "fmvit_t": ("2.0", "0.3"),  # the table of arXiv 2311.05707: github.com/igm503/heedless-backbones, FMViT.yml
    "fmvit_s": ("6.4", "0.8"),
    "fmvit_m": ("12.8", "2.0"),
    "fmvit_b": ("24.3", "4.2"),
    "fmvit_l": ("35.3", "7.1"),
    "ssdlite_mobilevitv2_050": ("2.0", "0.9"),  # arXiv 2206.02680, table 4
    "ssdlite_mobilevitv2_075": ("3.6", "1.8"),
    "ssdlite_mobilevitv2_100": ("5.6", ""),  # github.com/apple/ml-cvnets, README-model-zoo.md
    "segformer_b0": ("3.8", "8.4"),  # arXiv 2105.15203, table 2
    "segformer_b0_cityscapes": ("3.719", "17.7"),  # parameters: 3,719,027 in keras-hub's presets
    "vivit_b_16x2": ("88.9", "455.2"),  # arXiv 2103.15691, table 2
    "vivit_b_16x2_fe": ("115.1", "284.4"),
    "mask2former_swin_tiny": ("47", ""),  # arXiv 2205.14756's table of ADE20K, whose 74 G are counted otherwise
}
FILES = {
    # bytes of the authors' weights, as printed, of four bytes each
    "detr_resnet_50": 159 * 2**20,  # github.com/facebookresearch/detr, README.md
    "mask2former_swin_tiny": 190e6,  # huggingface.co/facebook/mask2former-swin-tiny-ade-semantic
    "vivit_b_16x2": 356e6,  # huggingface.co/google/vivit-b-16x2-kinetics400
}
DETR_SIZE, DETR_PUBLISHED = (800, 1137), 174.4708 / 2
"""(height, width), billions of multiply-accumulates: github.com/openvinotoolkit/open_model_zoo, detr-resnet50."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_are_those_published(name: str) -> None:
    card = next(card for card in cards() if card.name == name)
    for counted, text in zip((card.params_millions, card.macs_billions), PUBLISHED[name], strict=True):
        assert not text or printed(counted, text), counted


@pytest.mark.parametrize("name", FILES)
def test_sizes_are_those_of_the_authors_files(name: str) -> None:
    card = next(card for card in cards() if card.name == name)
    assert 4e6 * card.params_millions == pytest.approx(FILES[name], rel=0.005)


@pytest.mark.all_models
def test_detr_takes_what_another_counter_counts() -> None:
    card = next(card for card in cards() if card.name == "detr_resnet_50")
    with torch.device("meta"):
        model = timm.create_model(card.architecture).eval().requires_grad_(False)
        image = torch.zeros(1, 3, *DETR_SIZE)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.inference_mode():
        model(image)
    assert counter.get_total_flops() / 2e9 == pytest.approx(DETR_PUBLISHED, rel=0.01)


def _is_written_here(card: ModelCard) -> bool:
    return str(timm.models.model_entrypoint(card.architecture).__module__).startswith("qtools.")


def test_a_name_means_one_model() -> None:
    names = Counter(name for card in cards() for name in (card.name, *{*card.aliases} - {card.name}))
    assert max(names.values()) == 1
    for card in cards():
        others = {alias for alias in card.aliases if alias != card.architecture}
        assert not others & set(timm.list_models()), "an alias hides a model of timm"
        assert all(resolve(alias).architecture == card.architecture for alias in others)
