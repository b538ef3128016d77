"""Names to specs: families first, then timm."""

from __future__ import annotations

import importlib

from qtools.core import plugins
from qtools.core.errors import InputError, did_you_mean
from qtools.models._spec import Family, ModelCard, ModelSpec

_PACKAGE = "qtools.models"


def families() -> tuple[Family, ...]:
    """Every family file's FAMILY, in order of file names; loads no framework."""
    return tuple(importlib.import_module(f"{_PACKAGE}.{name}").FAMILY for name in plugins.names(_PACKAGE))


def family_of(spec: ModelSpec) -> Family:
    """The family a spec belongs to; one that changes nothing where qtools has no file for it."""
    return next((family for family in families() if family.name == spec.family), Family(spec.family, ()))


def cards() -> tuple[ModelCard, ...]:
    """Every model that a family file describes, for tables; loads no framework."""
    return tuple(card for family in families() for card in family.cards)


def resolve(name: str) -> ModelSpec:
    """The model a user means.

    Args:
        name: A name or alias (`m1_1`), a timm name (`resnet18`), either with a tag of published weights behind a dot
            (`m1_1.dist_300e_in1k`).

    Raises:
        InputError: If no family and no timm model has that name, or the model is no classifier; says what is close.
    """
    from qtools.models import _timm

    word = name.strip()
    base, _, tag = word.partition(".")
    for family in families():
        for card in family.cards:
            if base.lower() in (card.name, *card.aliases):
                return _timm.listed_spec(card, family, tag)
    if not _timm.exists(base):
        known = [alias for card in cards() for alias in (card.name, *card.aliases)]
        raise InputError(
            f"unknown model '{name}'.{did_you_mean(base.lower(), [*known, *_timm.all_names()])}",
            "`qtools models` lists those known by name; any timm classifier works by its own, unverified",
        )
    return _timm.unlisted_spec(base, tag)
