"""Float interpreter of a Program that shows every value while it is alive."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from qtools.graph.capture import Program, is_getitem


def observe(program: Program, images: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """Runs the program and yields (value id, tensor) for every activation, inputs first, in execution order.

    A tensor is dropped once its last reader has run, so memory stays at the network's own peak.

    Args:
        program: The captured model.
        images: float32 of shape (batch, 3, height, width).
    """
    for node, value in walk(program, images):
        if isinstance(value, torch.Tensor) and node.name not in program.constants:
            yield node.name, value


def observer(program: Program, wanted: Set[str]) -> Callable[[NDArray[np.float32]], Iterator[tuple[str, torch.Tensor]]]:
    """`observe` for arrays of shape (batch, 3, height, width), showing some values only."""

    def show(images: NDArray[np.float32]) -> Iterator[tuple[str, torch.Tensor]]:
        return ((name, value) for name, value in observe(program, torch.from_numpy(images)) if name in wanted)

    return show


def run(program: Program, images: torch.Tensor) -> torch.Tensor:
    """The program's answers (`qtools.core.answers`), e.g. logits of shape (batch, classes)."""
    return answers(program, observe(program, images))


def answers(program: Program, seen: Iterable[tuple[str, torch.Tensor]]) -> torch.Tensor:
    """The program's answers among values as they come; what the last of its outputs leaves is not asked for."""
    wanted = dict.fromkeys(program.view.outputs)
    found: dict[str, torch.Tensor] = {}
    for name, value in seen:
        if name in wanted:
            found[name] = value
            if len(found) == len(wanted):
                break
    return joined([found[name] for name in wanted])


def joined(outputs: Sequence[torch.Tensor]) -> torch.Tensor:
    """Outputs as answers, as `qtools.core.answers.joined` lays them."""
    return outputs[0] if len(outputs) == 1 else torch.cat(list(outputs), -1).transpose(1, 2)


@torch.inference_mode()
def walk(
    program: Program,
    images: torch.Tensor,
    compute: Callable[[fx.Node, Mapping[str, Any]], Any] | None = None,
    enter: Callable[[str, torch.Tensor], Any] | None = None,
) -> Iterator[tuple[fx.Node, Any]]:
    """`steps` without a record for gradients."""
    yield from steps(program, images, compute, enter)


def steps(
    program: Program,
    images: torch.Tensor,
    compute: Callable[[fx.Node, Mapping[str, Any]], Any] | None = None,
    enter: Callable[[str, torch.Tensor], Any] | None = None,
) -> Iterator[tuple[fx.Node, Any]]:
    """Steps through the graph at the batch size of `images`; autograd records where the caller lets it.

    Args:
        program: The captured model.
        images: Value of the program's input.
        compute: Replaces the float evaluation of a node; gets the node and the values alive.
        enter: Turns the images into what the program's input holds; gets its value id and the images.
    """
    graph = program.graph(len(images))
    last_reader = {source: node for node in graph.nodes for source in node.all_input_nodes}
    alive: dict[str, Any] = {}
    for node in graph.nodes:
        if node.op == "output":
            return
        if node.op == "placeholder":
            alive[node.name] = _placeholder(program, node.name, images, enter)
        elif compute is None or is_getitem(node):
            alive[node.name] = evaluate(node, alive)
        else:
            alive[node.name] = compute(node, alive)
        yield node, alive[node.name]
        for source in node.all_input_nodes:
            if last_reader[source] is node:
                alive.pop(source.name, None)


def _placeholder(
    program: Program, name: str, images: torch.Tensor, enter: Callable[[str, torch.Tensor], Any] | None
) -> Any:
    if name in program.constants:
        return program.constants[name]
    return enter(name, images) if enter else images


def evaluate(node: fx.Node, alive: Mapping[str, Any]) -> Any:
    """The node's own operation on float values."""
    args = fx.node.map_arg(node.args, lambda n: alive[n.name])
    kwargs = fx.node.map_arg(node.kwargs, lambda n: alive[n.name])
    return node.target(*args, **kwargs)  # type: ignore[operator]
