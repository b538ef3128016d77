"""What a run was asked for is checked before anything heavy is imported."""

import dataclasses
import subprocess
import sys

import pytest

from qtools.core.errors import InputError
from qtools.pipeline.config import DEFAULT_METHOD, Images, RunConfig


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
    monkeypatch.setattr(quantize, "_stages", lambda config, watch: seen.append(torch.get_num_threads()))
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        quantize._run(RunConfig("m1_1"), Stopwatch(Silent()))
        assert (seen, torch.get_num_threads()) == ([1], 3)
    finally:
        torch.set_num_threads(before)
