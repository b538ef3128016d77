"""Finds what can be folded: blocks by their structure, neighbours by watching one forward pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from qtools.fuse import affine_norm, branches, conv_bn, linear_bn
from qtools.fuse.rule import Match, Rule

RULES: tuple[Rule, ...] = (
    branches.REPVIT_HEAD,  # blocks before their parts: a head holds norm + linear, a mixer holds conv + norm
    branches.REPVIT_MIXER,
    branches.REPMIXER,
    branches.SUMMED_BLOCK,
    branches.MULTI_GROUP,
    branches.LARGE_KERNEL,
    linear_bn.SEQUENTIAL,
    conv_bn.SEQUENTIAL,
    conv_bn.NEIGHBOURS,  # by data flow, for whatever no structure claimed
    linear_bn.NORM_BEFORE,
    linear_bn.NORM_AFTER,
    conv_bn.NORM_BEFORE,
    affine_norm.LAYER_NORM,
    affine_norm.GROUP_NORM,
    conv_bn.ALONE,
)

PARTS = (nn.Conv2d, nn.Linear, nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)
"""Modules whose neighbours matter."""

ROWS = 2
"""Dimensions of what a linear layer makes of tokens in one row."""

_VIEWS = (torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default)


class Trace:
    """Which modules ran, and whose output went where, over one forward pass.

    Attributes:
        calls: Module path -> how often it ran.
        edges: (producer path, consumer path) where the consumer's input is the producer's output itself and no other
            operation read it, or a linear layer's output as one row of tokens. Such a pair may be folded whatever the
            code between them looks like.
    """

    def __init__(self, model: nn.Module, image: Tensor) -> None:
        """Runs the model once on one image, shape (1, 3, height, width)."""
        self.calls: Counter[str] = Counter()
        self._made: dict[int, tuple[str, Tensor]] = {}  # keeps the tensors alive, so that an id stays one tensor's
        self._tokens: dict[int, int | None] = {}  # what a linear layer made -> None; a view as one row -> what it views
        self._reads: Counter[int] = Counter()
        self._flows: list[tuple[int, str]] = []
        hooks = [h for path, module in model.named_modules() for h in self._watch(path, module)]
        try:
            with torch.no_grad(), _Reads(self._made, self._tokens, self._reads):
                model(image)
        finally:
            for hook in hooks:
                hook.remove()
        self.edges = tuple((self._made[key][0], consumer) for key, consumer in self._flows if self._alone(key))

    def _alone(self, key: int | None) -> bool:
        """Whether a tensor, and what it is a view of, was read once."""
        return key is None or (self._reads[key] == 1 and self._alone(self._tokens.get(key)))

    def _watch(self, path: str, module: nn.Module) -> Iterator[Any]:
        is_part = isinstance(module, PARTS)

        def before(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            self.calls[path] += 1
            if is_part and inputs and id(inputs[0]) in self._made:
                self._flows.append((id(inputs[0]), path))

        def behind(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            if is_part and isinstance(output, Tensor):
                self._made[id(output)] = (path, output)
                if isinstance(module, nn.Linear):
                    self._tokens[id(output)] = None

        yield module.register_forward_pre_hook(before)
        yield module.register_forward_hook(behind)


class _Reads(TorchDispatchMode):
    """Counts the operations that read each watched tensor, wherever in the code they are.

    The tokens of all images in one row, which a BatchNorm behind a linear layer wants, are the layer's results too.
    """

    def __init__(self, made: dict[int, tuple[str, Tensor]], tokens: dict[int, int | None], reads: Counter[int]) -> None:
        super().__init__()
        self._made, self._tokens, self._reads = made, tokens, reads

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, Tensor) and id(leaf) in self._made:
                self._reads[id(leaf)] += 1
        result = func(*args, **(kwargs or {}))
        if (
            func in _VIEWS
            and id(args[0]) in self._tokens
            and result.ndim == ROWS
            and result.shape[1:] == args[0].shape[-1:]
        ):
            self._made[id(result)] = (self._made[id(args[0])][0], result)
            self._tokens[id(result)] = id(args[0])
        return result


def find(model: nn.Module, trace: Trace, rules: Sequence[Rule]) -> tuple[Match, ...]:
    """Every fold to be made in `model`, in module order, no module in two of them.

    Blocks that did not run are left alone: nothing could be proven about them, and no graph will show them.
    """
    taken: list[str] = []
    matches = [*_blocks(model, trace, [rule for rule in rules if rule.length == 1 and not rule.last], taken)]
    matches += _neighbours(model, trace, [rule for rule in rules if rule.length == 2], taken)
    taken += [path for match in matches for path in match.paths]
    matches += _blocks(model, trace, [rule for rule in rules if rule.last], taken)
    order = {path: index for index, (path, _) in enumerate(model.named_modules())}
    return tuple(sorted(matches, key=lambda match: order[match.paths[0]]))


def _blocks(model: nn.Module, trace: Trace, rules: Sequence[Rule], taken: list[str]) -> Iterator[Match]:
    """Matches of single modules outside of `taken`, which grows by them."""
    for path, module in model.named_modules():
        if trace.calls[path] == 0 or _inside(path, taken):
            continue
        rule = next((rule for rule in rules if rule.matches(module)), None)
        if rule is not None:
            taken.append(path)
            yield Match(rule, (path,))


def _inside(path: str, taken: Sequence[str]) -> bool:
    return any(path == t or path.startswith(f"{t}.") or t == "" for t in taken)


def _neighbours(model: nn.Module, trace: Trace, rules: Sequence[Rule], taken: Sequence[str]) -> Iterator[Match]:
    used: set[str] = set()
    for edge in trace.edges:
        inside = any(_inside(path, taken) for path in edge)
        shared = any(trace.calls[path] != 1 or path in used for path in edge)  # one set of weights, two places
        if inside or shared:
            continue
        modules = [model.get_submodule(path) for path in edge]
        rule = next((rule for rule in rules if rule.matches(*modules)), None)
        if rule is not None:
            used.update(edge)
            yield Match(rule, edge)


def leftover_batch_norm(model: nn.Module, trace: Trace) -> tuple[str, ...]:
    """Paths of the BatchNorm layers that run in `model`."""
    norms = (p for p, m in model.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
    return tuple(path for path in norms if trace.calls[path])
