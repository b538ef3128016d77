"""Exit codes are a contract with scripts; messages say what, and what next."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtools.core.errors import CheckFailed, ExitStatus, InputError, MissingPlatform, QtoolsError, did_you_mean

TARGETS = ["tflite", "coreml", "onnx_qdq"]


@pytest.mark.parametrize(("kind", "code"), [(QtoolsError, 70), (InputError, 2), (CheckFailed, 1), (MissingPlatform, 3)])
def test_each_error_ends_in_its_exit_code(kind: type[QtoolsError], code: int) -> None:
    assert issubclass(kind, QtoolsError)
    assert kind("x").exit_status == code


def test_exit_codes_are_fixed() -> None:
    assert {s.name: s.value for s in ExitStatus} == {
        "OK": 0,
        "CHECK_FAILED": 1,
        "BAD_INPUT": 2,
        "MISSING_PLATFORM": 3,
        "INTERNAL": 70,
        "INTERRUPTED": 130,
    }


def test_a_message_says_what_and_what_next() -> None:
    error = InputError("cannot read x.png", "remove it")
    assert str(error) == "cannot read x.png\n  next: remove it"
    assert str(InputError("cannot read x.png")) == "cannot read x.png"
    assert error.args == ("cannot read x.png",)


@pytest.mark.parametrize(
    ("word", "meant"), [("tflit", "tflite"), ("onnx", "onnx_qdq"), ("core_ml", "coreml"), ("TFLite", "tflite")]
)
def test_near_misses_are_named(word: str, meant: str) -> None:
    assert meant in did_you_mean(word, TARGETS)


@pytest.mark.parametrize("word", ["", "zzzz"])
def test_nothing_is_guessed_from_nothing(word: str) -> None:
    assert did_you_mean(word, TARGETS) == ""


@given(st.text(max_size=8), st.lists(st.text(min_size=1, max_size=6), max_size=12))
def test_a_guess_is_short_known_and_not_doubled(word: str, known: list[str]) -> None:
    guess = did_you_mean(word, (name.replace(",", "") or "n" for name in known), limit=2)
    named = guess.removeprefix(" Did you mean ").removesuffix("?").split(", ") if guess else []
    assert len(named) == len(set(named)) <= 2
