"""The user's own nn.Module, as an object or as `package.module:function`."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from qtools.core.boxes import CORNERS, Decoding
from qtools.core.errors import InputError, did_you_mean
from qtools.core.exits import Exits
from qtools.core.types import InputSpec
from qtools.models import _checkpoint, _timm
from qtools.models._spec import Loaded, ModelSpec, WeightsInfo

_HOW = "set model.pretrained_cfg = {'input_size': (3, 224, 224), 'mean': ..., 'std': ...}, or give input_size"
DETECTION, EARLY_EXIT = "detection", "early_exit"
_TASKS = {2: "classification", 4: "segmentation"}
"""Dimensions of an answer -> what the network is for."""


def load_builder(target: str, input_size: int | tuple[int, int] | InputSpec | None = None) -> Loaded:
    """Calls the user's function without arguments and wraps the module that it returns.

    Args:
        target: `package.module:function`; modules in the current directory can be named.
        input_size: As for `wrap_module`.

    Raises:
        InputError: If the name cannot be imported, the function fails or returns no module, or the module is unusable.
    """
    module_name, colon, function_name = target.partition(":")
    if not colon or not module_name or not function_name or "/" in module_name or module_name.endswith(".py"):
        raise InputError(f"--builder {target} is not of the form package.module:function", "e.g. my_models.net:build")
    with importable_here():
        source = _imported(module_name, target)
        function = getattr(source, function_name, None)
        if function is None:
            close = did_you_mean(function_name, [n for n in vars(source) if not n.startswith("_")])
            raise InputError(f"--builder: {module_name} has no '{function_name}'.{close}", "check the function's name")
        if not callable(function):
            raise InputError(f"--builder {target} is a {type(function).__name__}, not a function", "name a function")
        try:
            built = function()
        except Exception as error:  # the user's own code may raise anything
            raise InputError(
                f"--builder {target} raised {type(error).__name__}: {error}",
                "call it in Python to see where; it must work without arguments",
            ) from error
    if not isinstance(built, nn.Module):
        raise InputError(
            f"--builder {target} returned {type(built).__name__}, not torch.nn.Module", "return the model itself"
        )
    return wrap_module(built, name=module_name.rpartition(".")[2], source=target, input_size=input_size)


@torch.no_grad()
def wrap_module(
    module: nn.Module,
    *,
    name: str = "",
    source: str = "",
    input_size: int | tuple[int, int] | InputSpec | None = None,
) -> Loaded:
    """A Loaded of the user's module: a float32 copy in eval mode; the module itself is not touched.

    Args:
        module: Maps images, shape (n, 3, height, width), to logits, shape (n, classes); or, for a class per pixel, to
            shape (n, classes, h, w) at any fraction of the images' size, which makes its task "segmentation". With an
            attribute `decoding` (`qtools.core.boxes.Decoding`) and two results, logits (n, places, classes) and boxes
            (n, places, 4), its task is "detection". With an attribute `exits` (`qtools.core.exits.Exits`) and the
            logits (n, classes) of each exit, its task is "early_exit". Of named results, as classifiers of Hugging
            Face's transformers give them, `logits` is the answer.
        name: Name for tables and files; the class name where empty.
        source: Where it came from, for the report.
        input_size: Side in pixels, (height, width), or the whole preprocessing. May be left out where the module
            carries `pretrained_cfg` or `default_cfg`, as timm's models do, or `config.image_size`.

    Raises:
        InputError: If the input size is not known, a weight is not finite, or the module does not return logits.
    """
    picture, notes = _preprocessing(module, input_size)
    if module.training:
        notes += ("the module was in training mode; its copy is in eval mode",)
    own = copy.deepcopy(module).cpu().float().eval().requires_grad_(False)
    state = own.state_dict()
    label = name or type(module).__name__
    _checkpoint.check_finite(state, label)
    answer = _answer(own, picture, label)
    if isinstance(answer, Mapping) and isinstance(answer.get("logits"), Tensor):
        own, answer = LogitsOf(own).eval(), answer["logits"]
    classes, task = _told(own, answer, label)
    decoding: Decoding | None = getattr(module, "decoding", None) if task == DETECTION else None
    exits: Exits | None = getattr(module, "exits", None) if task == EARLY_EXIT else None
    spec = ModelSpec(
        name=label,
        aliases=(),
        family="own",
        input=picture,
        classes=classes,
        verified=False,
        architecture="",
        task=task,
        decoding=decoding,
        exits=exits,
    )
    info = WeightsInfo("builder", source or type(module).__name__, _checkpoint.digest_state(state), "unknown", notes)
    return Loaded(own, spec, info)


def _preprocessing(
    module: nn.Module, given: int | tuple[int, int] | InputSpec | None
) -> tuple[InputSpec, tuple[str, ...]]:
    if isinstance(given, InputSpec):
        return given, ()
    settings = _own_settings(module)
    if given is None and "input_size" not in settings:
        raise InputError("the module does not say what input it takes", _HOW)
    if given is not None:
        height, width = (given, given) if isinstance(given, int) else given
        if height < 1 or width < 1:
            raise InputError(f"input size {height}x{width} is not a size in pixels", "give e.g. 224")
        settings["input_size"] = (3, height, width)
    spec = _timm.input_spec(settings)
    assumed = [word for word in ("mean", "std", "interpolation", "crop_pct") if not settings.get(word)]
    note = f"preprocessing assumed to be timm's default for: {', '.join(assumed)}"
    return spec, (note,) if assumed else ()


def _own_settings(module: nn.Module) -> dict[str, Any]:
    """The module's own timm-like configuration, or the size that transformers' has; {} where it has none."""
    side = getattr(getattr(module, "config", None), "image_size", None)
    sides = tuple(side) if isinstance(side, (list, tuple)) else (side, side)
    size = {"input_size": (3, *sides)} if [type(each) for each in sides] == [int, int] else {}
    for attribute in ("pretrained_cfg", "default_cfg"):
        settings = getattr(module, attribute, None)
        if settings is not None and hasattr(settings, "to_dict"):
            settings = settings.to_dict()
        if isinstance(settings, Mapping):
            return size | dict(settings)
    return size


class LogitsOf(nn.Module):
    """A network of named results, for callers who want the logits alone."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Logits, shape (n, classes) or (n, classes, h, w)."""
        return self.network(images)["logits"]


def _answer(module: nn.Module, picture: InputSpec, label: str) -> Any:
    """What the module gives for zeros."""
    try:
        return module(torch.zeros(1, 3, *picture.size))
    except Exception as error:  # the user's own code may raise anything
        size = "x".join(map(str, (1, 3, *picture.size)))
        raise InputError(f"{label} fails on an input of {size}: {type(error).__name__}: {error}", _HOW) from error


def _told(module: nn.Module, output: Any, label: str) -> tuple[int, str]:
    """The number of classes and the task, read off an answer to one picture."""
    if isinstance(output, tuple) and isinstance(how := getattr(module, "decoding", None), Decoding):
        return _kinds(output, how, label), DETECTION
    if isinstance(output, tuple) and isinstance(exits := getattr(module, "exits", None), Exits):
        return _named(output, exits, label), EARLY_EXIT
    if not isinstance(output, Tensor) or output.ndim not in _TASKS or output.shape[0] != 1:
        got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise InputError(
            f"{label} returns {got}, not logits of shape (1, classes) or (1, classes, h, w)",
            "return only the logits in eval mode",
        )
    return int(output.shape[1]), _TASKS[output.ndim]


def _kinds(outputs: tuple[Any, ...], how: Decoding, label: str) -> int:
    """Kinds of objects that a detector knows, the background not counted."""
    shapes = [tuple(each.shape) if isinstance(each, Tensor) else () for each in outputs]
    places = how.anchors.count if how.anchors else (shapes[0][1:2] or (0,))[0]
    if len(shapes) != 2 or len(shapes[0]) != 3 or shapes[1] != (1, places, CORNERS) or shapes[0][:2] != (1, places):
        raise InputError(
            f"{label} returns {shapes}, not logits of shape (1, {places}, classes) and boxes of (1, {places}, 4)",
            "return both, and say in `decoding` where the anchors are",
        )
    return shapes[0][2] - 1


def _named(outputs: tuple[Any, ...], exits: Exits, label: str) -> int:
    """Classes that every exit of a network has."""
    shapes = [tuple(each.shape) if isinstance(each, Tensor) else () for each in outputs]
    if len(shapes) != exits.count or len(shapes[0]) != 2 or set(shapes) != {(1, shapes[0][1])}:
        raise InputError(
            f"{label} returns {shapes}, not logits of shape (1, classes) at each of {exits.count} exits",
            "return one tensor per exit, and say in `exits` when each is taken",
        )
    return int(shapes[0][1])


def _imported(name: str, target: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or name
        if name == missing or name.startswith(f"{missing}."):
            raise InputError(
                f"--builder {target}: there is no module '{missing}'",
                "run from the folder that holds it, or install its package",
            ) from error
        raise InputError(
            f"--builder {target}: {name} needs '{missing}', which is not installed", "install it"
        ) from error
    except Exception as error:  # the user's own code may raise anything
        raise InputError(
            f"--builder {target}: importing {name} raised {type(error).__name__}: {error}",
            "import it in Python to see where",
        ) from error


@contextmanager
def importable_here() -> Iterator[None]:
    """The current directory is importable while inside, as it is for `python -m`, whatever started this process."""
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        if folder in sys.path:  # the user's code may have tidied up itself
            sys.path.remove(folder)
