"""The shipped attention hybrid: LayerNorm, softmax and SiLU with trained weights, from its name to an artifact."""

from __future__ import annotations

import json
from typing import Any

import pytest

from qtools import reference

pytestmark = pytest.mark.e2e

WORDS = ("quantize", "mobilevit_xxs", "--weights", "reference", "--calibration", "32", "--evaluation", "24")


@pytest.fixture(scope="module")
def ended(tmp_path_factory, qtools) -> Any:
    assert reference.checkpoint("mobilevit_xxs")
    return qtools(tmp_path_factory.mktemp("hybrid"), *WORDS, "--target", "tflite")


def test_it_ends_well(ended) -> None:
    assert ended.code in (0, 1), ended.err
    checks = {check["name"]: check["status"] for check in ended.report()["checks"]}
    failed = {name for name, status in checks.items() if status == "failed"}
    assert failed <= {"not slower than float"}  # a clock's, on a machine that does other things


def test_hardly_any_answer_changes(ended) -> None:
    """Float itself errs on five in a hundred: where it hardly decides, answers may differ. KL says that no more did."""
    rows = {row["stage"]: row for row in ended.report()["ledger"]}
    for name in ("simulated integers", "artifact, XNNPACK"):
        accuracy = rows[name]["accuracy"]
        assert accuracy["agreement"] > 90
        assert accuracy["kl"] < 0.01


def test_linear_layers_run_in_integers_and_islands_say_why(ended) -> None:
    plan = json.loads((ended.folder() / "plan.json").read_text())
    kinds = {name.rstrip("_0123456789") for name in plan["float_ops"]}
    assert kinds == {"layer_norm", "scaled_dot_product_attention", "unbind", "add"}
    assert all(plan["float_ops"].values())
    places = ended.report()["places"]
    assert 0.75 < places["integer_macs"] < 1
    assert not [row for row in places["rows"] if row["kind"] in ("conv", "linear") and not row["integer"]]


def test_the_affine_maps_went_into_the_linear_layers(ended) -> None:
    blocks = json.loads((ended.folder() / "fusion.json").read_text())["blocks"]
    assert sum(block["rule"] == "layer norm + linear" for block in blocks) == 18  # two in each of nine layers
