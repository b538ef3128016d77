"""How much each element of a layer's results weighs: squared gradients of a loss, by autograd through the graph.

The diagonal of the Fisher information stands in for the Hessian of the loss in the results (BRECQ, arXiv 2102.05426,
and the methods here that build on it). Images do not count alike in it: on a MobileViT-XXS at 64 pixels, one of 32
images had gradients a hundred times as large as most others' in front of the last attention stages, and so nearly all
the weight.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any

import torch
from torch import fx
from torch.nn import functional as F

from qtools.graph.capture import Program
from qtools.graph.execute import steps

Loss = Callable[[torch.Tensor, int], Sequence[torch.Tensor]]
"""(logits of a batch, number of the batch) -> sums over its images, each of which counts alike."""
DRAWS = 8
"""Labels drawn for each image; the mean over several has less variance."""
Compute = Callable[[fx.Node, Mapping[str, Any]], Any]


def sampled_labels(program: Program, batches: Sequence[torch.Tensor], seed: int = 0) -> Loss:
    """Cross entropy to labels drawn from the network's own answers: its squared gradient is the true Fisher diagonal.

    The divergence of the network from itself, which PTQ4ViT's published code differentiates with nothing quantized, has
    gradient zero everywhere: what it measures there is rounding noise seen through the Jacobian. Drawn labels measure
    what the paper's derivation asks for.
    """
    generator = torch.Generator().manual_seed(seed)
    known = [logits.softmax(1) for logits in answers(program, batches)]
    drawn = [_draw(chances, generator) for chances in known]
    return lambda logits, at: [F.cross_entropy(logits, labels, reduction="sum") for labels in drawn[at]]


def _draw(chances: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Labels of the chances (images, classes, ...), shape (DRAWS, images, ...)."""
    last = chances.movedim(1, -1)
    rows = last.reshape(-1, last.shape[-1]).multinomial(DRAWS, replacement=True, generator=generator)
    return rows.T.reshape(DRAWS, *last.shape[:-1])


def divergence(program: Program, batches: Sequence[torch.Tensor]) -> Loss:
    """KL of the float network's answers from those of a quantized one; zero, with its gradient, where they agree."""
    exact = [logits.softmax(1) for logits in answers(program, batches)]
    return lambda logits, at: [F.kl_div(logits.log_softmax(1), exact[at], reduction="sum")]


def answers(program: Program, batches: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Logits in float, as tensors that autograd may read; of a detector those of its first output, the classes."""
    wanted = program.view.outputs[0]
    with torch.no_grad():
        return [next(v for node, v in steps(program, x) if node.name == wanted) for x in batches]


def squared_gradients(
    program: Program, batch: torch.Tensor, at: int, wanted: Set[str], how: tuple[Loss, Compute | None]
) -> dict[str, torch.Tensor]:
    """Value id -> squared gradient of the loss, in the shape of the value; the mean where the loss has several.

    Args:
        program: The captured model.
        batch: Images.
        at: Number of the batch, for the loss.
        wanted: Ids of values.
        how: The loss, and what computes a node (None: float).
    """
    loss, compute = how
    kept: dict[str, torch.Tensor] = {}
    with torch.enable_grad():
        images = batch.clone().requires_grad_()  # so that every value depends on something autograd follows
        for node, value in steps(program, images, compute):
            if node.name in wanted or node.name == program.view.outputs[0]:
                kept[node.name] = value
        losses = loss(kept[program.view.outputs[0]], at)
    names = sorted(wanted)
    found = {name: torch.zeros_like(kept[name]) for name in names}
    for each in losses:
        gradients = torch.autograd.grad(each, [kept[name] for name in names], retain_graph=True)
        for name, gradient in zip(names, gradients, strict=True):
            found[name].addcmul_(gradient, gradient, value=1 / len(losses))
    return found
