"""Float interpreter of a Program that shows every value while it is alive."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from qtools.graph.capture import Program, is_getitem
from qtools.graph.rows import joined


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
    """What the program gives, as it travels (`qtools.core.ports`), e.g. logits of shape (batch, classes)."""
    return answers(program, observe(program, images))


def answers(program: Program, seen: Iterable[tuple[str, torch.Tensor]]) -> torch.Tensor:
    """The program's answers among values as they come; what the last of its outputs leaves is not asked for."""
    wanted = set(program.view.outputs)
    found: dict[str, torch.Tensor] = {}
    for name, value in seen:
        if name in wanted:
            found[name] = value
            if len(found) == len(wanted):
                break
    return joined(program.gives, [found[name] for name in program.view.outputs])


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
        images: Value of the program's input; rows where it has several.
        compute: Replaces the float evaluation of a node; gets the node and the values alive.
        enter: Turns the images into what the program's input holds; gets its value id and its part of the images.
    """
    graph = program.graph(len(images))
    last_reader = {source: node for node in graph.nodes for source in node.all_input_nodes}
    alive: dict[str, Any] = {}
    given = entering(program, images)
    for node in graph.nodes:
        if node.op == "output":
            return
        if node.op == "placeholder":
            alive[node.name] = _placeholder(program, node.name, given, enter)
        elif compute is None or is_getitem(node):
            alive[node.name] = evaluate(node, alive)
        else:
            alive[node.name] = compute(node, alive)
        yield node, alive[node.name]
        for source in node.all_input_nodes:
            if last_reader[source] is node:
                alive.pop(source.name, None)


def entering(program: Program, images: torch.Tensor) -> Mapping[str, torch.Tensor]:
    """Value id of each input -> its part of the images."""
    return dict(zip(program.view.inputs, program.takes.split(images), strict=True))


def _placeholder(
    program: Program,
    name: str,
    given: Mapping[str, torch.Tensor],
    enter: Callable[[str, torch.Tensor], Any] | None,
) -> Any:
    if name in program.constants:
        return program.constants[name]
    return enter(name, given[name]) if enter else given[name]


def evaluate(node: fx.Node, alive: Mapping[str, Any]) -> Any:
    """The node's own operation on float values."""
    args = fx.node.map_arg(node.args, lambda n: alive[n.name])
    kwargs = fx.node.map_arg(node.kwargs, lambda n: alive[n.name])
    return node.target(*args, **kwargs)  # type: ignore[operator]
