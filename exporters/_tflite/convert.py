"""Program -> float .tflite through litert-torch: images and maps with channels last, no TRANSPOSE at either end."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import nn

from exporters._quiet import quiet
from exporters._refused import refused
from exporters._room import check_room
from exporters._tflite.shorten import shorten
from qtools.core import files
from qtools.graph.capture import Program
from qtools.graph.rows import outputs_of

MAP = 4
"""Dimensions of an image or a feature map."""


class _ChannelsLast(nn.Module):
    """Takes images and maps as NHWC, and gives them so.

    The copy keeps strides as captured (a view must stay a view) and vanishes in the conversion.
    """

    def __init__(self, captured: nn.Module) -> None:
        super().__init__()
        self.captured = captured
        self.training = False

    def forward(self, *given: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        answer = self.captured(*(x.permute(0, 3, 1, 2).contiguous() if x.ndim == MAP else x for x in given))
        last = [_last(each) for each in outputs_of(answer)]
        return last[0] if len(last) == 1 else tuple(last)


def _last(answer: torch.Tensor) -> torch.Tensor:
    return answer.permute(0, 2, 3, 1).contiguous() if answer.ndim == MAP else answer


def convert(program: Program) -> bytes:
    """Converts the captured graph at batch 1.

    Raises:
        CheckFailed: If litert-torch refuses the graph; its own words are on stderr.
        InputError: If there is no room for temporary files.
    """
    check_room(program)
    with quiet():
        import litert_torch  # 10 s of imports: only when a conversion really happens

    shapes = [(1, *s[2:], s[1]) if len(s) == MAP else s for s in program.takes.shapes]
    examples = tuple(torch.zeros(shape) for shape in shapes)
    with tempfile.TemporaryDirectory() as folder, quiet():
        path = Path(folder) / "float.tflite"
        try:
            litert_torch.convert(_ChannelsLast(shorten(program.exported.module())), examples).export(str(path))
        except Exception as error:  # broad: the converter raises anything; the original stays attached
            raise refused("litert-torch could not convert the model", program.view, error) from error
        return files.read_bytes(path)
