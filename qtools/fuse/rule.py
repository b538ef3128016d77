"""What a fold is: a short chain of modules, and the modules that take their places."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

Chain = tuple[nn.Module, ...]


@dataclass(frozen=True)
class Rule:
    """One kind of fold, as data.

    Attributes:
        name: Word for the certificate.
        matches: Whether the rule folds these modules, which run one after another on each other's output.
        build: Returns their replacements, as many as came in, in the dtype they came in (the caller passes float64).
        length: How many modules the chain has: 1 for a block found by its structure, 2 for neighbours in the data flow.
        last: Whether it gets only what no other rule took.
    """

    name: str
    matches: Callable[..., bool]
    build: Callable[..., Chain]
    length: int = 1
    last: bool = False


@dataclass(frozen=True)
class Match:
    """A rule and the module paths it was found at, in the order they run."""

    rule: Rule
    paths: tuple[str, ...]

    @property
    def path(self) -> str:
        """The block as the certificate names it: where the folded weights live afterwards."""
        return self.paths[0] or "(model)"

    def modules(self, model: nn.Module) -> Chain:
        """The modules at the paths in `model`."""
        return tuple(model.get_submodule(path) for path in self.paths)
