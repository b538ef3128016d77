"""A network that reads another's answers: what an error of these is worth shows in what the reader makes of them.

Features point a little elsewhere everywhere once they are codes, and their cosine cannot tell which of that the next
network takes in. So an encoder is held to what its decoder draws, and slopes go on backwards through the decoder.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from qtools.pipeline.sensitivity import Direction
from qtools.pipeline.task import Answers, Task


@dataclass(frozen=True)
class Reader:
    """The float network behind another, and what else it is given for each calibration image.

    Attributes:
        network: Takes rows (n, numbers): the other's answers, and what it is asked.
        asked: What it is asked of each calibration image, in their order, shape (images, numbers).
        task: What its own answers mean.
    """

    network: nn.Module
    asked: NDArray[np.float32]
    task: Task

    def answers(self, batches: Iterable[torch.Tensor], first: int) -> Answers:
        """What the reader makes of the other's answers to calibration images from number `first` on."""
        found = []
        for batch in batches:
            with torch.inference_mode():
                found.append(self.network(self._rows(batch, first)).numpy())
            first += len(batch)
        return np.concatenate(found)

    def direction(self, image: int) -> Direction:
        """Random vectors at the other's answers to a calibration image that count by the reader's distance.

        For small errors e of the other's answers, the reader's move by J e; with u random as the reader's task has it,
        (u' J e)^2 has twice the square of its distance for a mean, and u' J is one run backwards.
        """
        draw = self.task.direction
        assert draw is not None  # nobody makes a reader of a task without

        def drawn(answer: torch.Tensor, chance: torch.Generator) -> torch.Tensor:
            entering = answer.detach().clone().requires_grad_()
            told = self.network(self._rows(entering, image))
            (slope,) = torch.autograd.grad((told * draw(told.detach(), chance)).sum(), entering)
            return slope

        return drawn

    def _rows(self, answers: torch.Tensor, first: int) -> torch.Tensor:
        asked = torch.from_numpy(self.asked[first : first + len(answers)])
        return torch.cat([answers.flatten(1), asked], 1)
