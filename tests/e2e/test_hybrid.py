"""The shipped attention hybrid: LayerNorm, softmax and SiLU with trained weights, from its name to an artifact."""

from __future__ import annotations

import json
from typing import Any

import pytest

from calibration.float_ops import DYNAMIC
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


def test_layers_multiply_integers_and_what_does_not_says_why(ended) -> None:
    plan = json.loads((ended.folder() / "plan.json").read_text())
    assert all(plan["float_ops"].values())
    kinds = {name.rstrip("_0123456789") for name in plan["float_ops"]}
    assert kinds >= {"layer_norm", "softmax", "add", "sigmoid", "mul", "conv2d"}
    places = ended.report()["places"]
    assert 0.95 < places["integer_macs"] < 1 and 0.02 < places["dynamic_macs"] < 0.5
    layers = [row for row in places["rows"] if row["kind"] in ("conv", "linear") and not row["integer"]]
    at_run_time = [row for row in layers if row["reason"] == DYNAMIC]
    others = [row for row in layers if row not in at_run_time]
    assert at_run_time
    assert all(row["module"] == "stem.conv" and row["count"] == 1 for row in others)  # its padding has no other kernel


def test_the_time_that_is_given_brings_it_nearer_to_float(ended) -> None:
    (step,) = (step for step in ended.report()["steps"] if step["name"] == "float where it pays")
    assert step["kept"] and step["after"] < 0.8 * step["before"]


def test_keys_and_values_of_every_attention_lie_around_zero(ended) -> None:
    (step,) = (step for step in ended.report()["steps"] if step["name"] == "center heads")
    assert step["kept"] and "9 of 9" in step["note"]


def test_the_affine_maps_went_into_the_linear_layers(ended) -> None:
    blocks = json.loads((ended.folder() / "fusion.json").read_text())["blocks"]
    assert sum(block["rule"] == "layer norm + linear" for block in blocks) == 18  # two in each of nine layers
