"""A second runtime's opinion that is not to be had: the run goes on, and its report has the reason."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from qtools.core.errors import InputError, MissingPlatform, QtoolsError
from qtools.core.protocols import SecondRuntime
from qtools.pipeline import second

PIXELS = np.zeros((1, 3, 4, 4), np.float32)


def leg(answer: QtoolsError) -> Any:
    def run(path: Path, inputs: Any) -> Any:
        raise answer

    images = SimpleNamespace(batches=lambda source, size: [PIXELS, PIXELS], evaluation=None, labels=None)
    program = SimpleNamespace(takes=SimpleNamespace(single=True))
    target = SimpleNamespace(second=SecondRuntime("another runtime", run), kernels=("first",))
    runner = SimpleNamespace(feed=lambda image: {"image": PIXELS}, as_program=lambda rows: rows)
    prepared = SimpleNamespace(program=program, images=images)
    return SimpleNamespace(target=target, prepared=prepared, runners={"first": runner}, path=Path("model"))


def test_a_file_that_it_refuses_is_not_run_in_its_own_words() -> None:
    words = "another runtime cannot open model: no kernel for 16-bit QUANTIZE"
    (opinion,) = second.ask(leg(InputError(words, "export it again")), PIXELS)
    assert opinion.row.accuracy is None and opinion.row.note == words
    (check,) = opinion.checks
    assert (check.status, check.note, check.value) == ("not run", words, None)


def test_a_runtime_that_is_not_here_is_not_run() -> None:
    (opinion,) = second.ask(leg(MissingPlatform("it is not installed", "install it")), PIXELS)
    assert opinion.row.accuracy is None and opinion.row.note == "install it" and opinion.checks == ()


def test_what_is_no_answer_of_the_runtime_goes_on() -> None:
    with pytest.raises(QtoolsError, match="a bug"):
        second.ask(leg(QtoolsError("a bug")), PIXELS)
