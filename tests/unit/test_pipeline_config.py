"""What a run was asked for is checked before anything heavy is imported."""

import dataclasses
import subprocess
import sys
from typing import Any

import pytest

from qtools.core.errors import InputError
from qtools.core.types import OpKind
from qtools.pipeline.config import DEFAULT_METHOD, Images, RunConfig
from qtools.pipeline.quantize import wanted


def test_it_loads_no_framework():
    code = (
        "import sys; from qtools.pipeline.config import RunConfig; RunConfig('m1_1');"
        "heavy = {'torch', 'timm', 'litert_torch'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_defaults_are_the_documented_ones():
    config = RunConfig("m1_1")
    assert (config.bits, config.target, config.weights, config.io) == (8, "tflite", "auto", "int8")
    assert config.method == DEFAULT_METHOD and config.images == Images() and config.out is None and not config.force


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": "tflight"}, "Did you mean tflite"),
        ({"target": "_tflite"}, "target"),
        ({"method": "entropie"}, "Did you mean entropy"),
        ({"io": "uint8"}, "int8, float32, pixels"),
    ],
)
def test_words_that_are_unknown(changes, message):
    with pytest.raises(InputError) as caught:
        dataclasses.replace(RunConfig("m1_1"), **changes)
    assert message in str(caught.value) and caught.value.next_step


@pytest.mark.parametrize("name", ["calibration", "evaluation"])
@pytest.mark.parametrize("count", [0, -1])
def test_no_image_is_no_set_of_images(name, count):
    with pytest.raises(InputError, match=f"{name} needs at least one image, got {count}"):
        Images(**{name: count})


def test_a_run_sums_on_one_thread_and_gives_torch_its_own_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums of two threads are added in another order: numbers of a report would depend on the number of cores."""
    import torch

    from qtools.pipeline import quantize
    from qtools.pipeline.progress import Silent, Stopwatch

    seen: list[int] = []

    def load(config: RunConfig) -> None:
        seen.append(torch.get_num_threads())
        raise InputError("no more is needed")

    monkeypatch.setattr(quantize, "load", load)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with pytest.raises(InputError, match="no more"):
            quantize._run(RunConfig("m1_1"), Stopwatch(Silent()))
        assert (seen, torch.get_num_threads()) == ([1], 3)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("asked", "options"),
    [
        ({}, {}),
        ({"max_islands": 4}, {}),
        ({"max_islands": 0}, {"softmax": "int8"}),
        ({"max_islands": 0, "target_options": {"softmax": "float"}}, {"softmax": "float"}),
    ],
)
def test_all_in_8_bits_is_a_choice_of_the_target_unless_one_was_made(
    asked: dict[str, Any], options: dict[str, str]
) -> None:
    """An audit reads the choice among the run's facts."""
    ((target, _),) = wanted(RunConfig("mobilevit_xxs", **asked))
    assert target.options == options
    assert (OpKind.SOFTMAX in target.spec.rules) is (options == {"softmax": "int8"})


@pytest.mark.parametrize("options", [{"softmax": "int4"}, {"activations": "int8"}])
def test_an_unknown_choice_of_the_target_is_bad_input(options: dict[str, str]) -> None:
    with pytest.raises(InputError, match=r"softmax cannot be|no option 'activations'"):
        wanted(RunConfig("mobilevit_xxs", target_options=options))
