"""Several inputs and outputs as rows: nothing is lost on the way, and a network does not notice."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from qtools.core.ports import Ports
from qtools.graph import execute
from qtools.graph.capture import capture
from qtools.graph.rows import Rows, joined

shapes = st.lists(st.lists(st.integers(1, 4), min_size=0, max_size=3).map(tuple), min_size=1, max_size=4)


@given(shapes, st.integers(1, 3))
def test_what_is_joined_comes_apart_again(found: list[tuple[int, ...]], count: int) -> None:
    ports = Ports(tuple(f"n{at}" for at in range(len(found))), tuple((1, *shape) for shape in found))
    draw = np.random.default_rng(0)
    arrays = [draw.normal(size=(count, *shape)).astype(np.float32) for shape in found]
    rows = ports.join(arrays)
    assert len(rows) == count and (ports.single or rows.ndim == 2)
    for ours, theirs in zip(ports.split(rows), arrays, strict=True):
        assert ours.shape == theirs.shape and (ours == theirs).all()
    tensors = [torch.from_numpy(array) for array in arrays]
    assert torch.equal(joined(ports, tensors), torch.from_numpy(rows))
    flat = np.concatenate([array.reshape(count, -1) for array in arrays], 1)
    for ours, theirs in zip(ports.cut(flat), arrays, strict=True):
        assert ours.shape == theirs.shape and (ours == theirs).all()


@given(st.integers(1, 3), st.integers(1, 5), st.integers(1, 4))
def test_a_detectors_outputs_travel_side_by_side(count: int, places: int, classes: int) -> None:
    ports = Ports(("logits", "boxes"), ((1, places, classes), (1, places, 4)))
    draw = np.random.default_rng(0)
    arrays = [draw.normal(size=(count, *shape[1:])).astype(np.float32) for shape in ports.shapes]
    travelling = ports.join(arrays)
    assert travelling.shape == (count, classes + 4, places)
    for at in range(places):
        assert (travelling[:, :, at] == np.concatenate([array[:, at] for array in arrays], 1)).all()
    flat = np.concatenate([array.reshape(count, -1) for array in arrays], 1)
    for parts in (ports.split(travelling), ports.cut(flat), ports.split(torch.from_numpy(travelling))):
        assert all((np.asarray(ours) == theirs).all() for ours, theirs in zip(parts, arrays, strict=True))
    assert torch.equal(joined(ports, [torch.from_numpy(array) for array in arrays]), torch.from_numpy(travelling))


def test_rows_of_another_length_are_refused() -> None:
    ports = Ports(("a", "b"), ((1, 2), (1, 3)))
    with pytest.raises(ValueError, match=r"do not hold \{'a': 2, 'b': 3\}"):
        ports.split(np.zeros((4, 6)))
    with pytest.raises(ValueError, match=r"do not hold \{'logits': 2, 'boxes': 4\}"):
        Ports(("logits", "boxes"), ((1, 3, 2), (1, 3, 4))).split(np.zeros((4, 7, 3)))


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, image: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        mixed = self.layer(image.mean((2, 3))) * weights
        return mixed.relu(), mixed.sum(1, keepdim=True)


def test_a_captured_program_takes_and_gives_rows() -> None:
    torch.manual_seed(0)
    takes = Ports(("image", "weights"), ((1, 4, 3, 5), (1, 4)))
    network = Rows(Two(), takes, Ports(("kept", "total"), ((1, 4), (1, 1))))
    rows = torch.randn(3, 64)
    program = capture(network, rows[:1])
    assert program.view.inputs == ("image", "weights") and len(program.view.outputs) == 2
    with torch.inference_mode():
        expected = Two.forward(network.network, rows[:, :60].reshape(3, 4, 3, 5), rows[:, 60:])
    for size in (1, 3):
        found = torch.cat([execute.run(program, piece) for piece in rows.split(size)])
        torch.testing.assert_close(found, torch.cat(expected, 1))
