"""A slice of `make conformance`: two families a run, and what the kept matrix has to say for the level of a family.

Which two is settled by the sources: the same tree always tests the same, and every change of it moves on.
"""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest
import yaml

from qtools.models import families
from tests.bench import conformance

SLICE = (("onnx", 0), ("coreml", 1))  # TFLite has end-to-end tests of its own
SEEN = [family for family in families() if family.level == "converted"]
WITHIN_DB = 1.0


def _turn(root: Path) -> int:
    """A number that every change of the sources changes."""
    digest = sha256()
    for folder in ("qtools", "calibration", "exporters"):
        for path in sorted((root / folder).rglob("*.py")):
            digest.update(path.read_bytes())
    return int.from_bytes(digest.digest()[:4], "big")


@pytest.mark.e2e
@pytest.mark.parametrize(("target", "place"), SLICE)
def test_a_family_in_turn_goes_through_a_target(target: str, place: int, root: Path, capsys) -> None:
    light = sorted(SEEN, key=lambda family: min(card.macs_billions for card in family.cards))[:5]
    family = light[(_turn(root) + place) % len(light)]
    card = min(family.cards, key=lambda card: card.macs_billions)
    assert conformance.work(card.name, "w8a8", [target], None) == 0
    found = yaml.safe_load(capsys.readouterr().out)
    assert found["status"] != "failed", f"{card.name}, {target}: {found}"
    assert found["fused_max_error"] < 1e-4
    assert found["snr_db"] > found["snr_simulated_db"] - WITHIN_DB


def test_a_converted_family_was_seen_through_every_target() -> None:
    known = yaml.safe_load(conformance.KEPT.read_text())
    smallest = {card.name for card in conformance.smallest()}
    for family in SEEN:
        (name,) = {card.name for card in family.cards} & smallest
        cells = [known.get(f"{name} w8a8 {target}", {"status": "not run"}) for target in conformance.TARGETS]
        assert {cell["status"] for cell in cells} <= {"ok", "differs"}, name


def test_every_kept_cell_says_how_it_went() -> None:
    names = {card.name for family in families() for card in family.cards}
    for key, cell in yaml.safe_load(conformance.KEPT.read_text()).items():
        row, scheme, target = key.split()
        assert row in names and scheme in conformance.SCHEMES and target in conformance.TARGETS
        assert cell["reason"] if cell["status"] == "failed" else cell["size_bytes"] > 0
