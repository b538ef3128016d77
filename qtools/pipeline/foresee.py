"""Where a model's operations would run on each target, without converting, exporting or writing anything."""

from __future__ import annotations

import dataclasses

from calibration import plan as planning
from calibration.method import method
from calibration.placement import predict
from calibration.sides import wanted as may_be_in_float
from qtools.core.cache import NONE
from qtools.core.errors import InputError
from qtools.pipeline import sides
from qtools.pipeline.config import RunConfig
from qtools.pipeline.decide import recipe_of
from qtools.pipeline.prepare import Captured, capture_model, fuse_model
from qtools.pipeline.progress import Listener, Stopwatch
from qtools.pipeline.quantize import load, wanted
from qtools.pipeline.task import task_of
from reports.places import Foreseen, places

IMAGES = 8
"""Where operations run depends on scales only where two of them lie a factor of 256 apart: a handful shows it."""


def foresee(config: RunConfig, listener: Listener) -> tuple[Foreseen, ...]:
    """Loads, fuses, captures and plans as a run would, on fewer images, and predicts from the plan.

    Args:
        config: What a run would be asked for.
        listener: Told of each stage.

    Returns:
        One prediction per target.

    Raises:
        InputError: If precision islands or widths of single layers are asked for.
    """
    apart = config.apart
    if apart.raises or apart.size_budget is not None:
        raise InputError(
            "--dry-run measures nothing, and islands and widths of single layers are chosen by measured benefit",
            "leave out --dry-run, or --max-drop, --max-islands and --size-budget",
        )
    watch = Stopwatch(listener)
    targets = wanted(config)
    few = dataclasses.replace(config.images, calibration=config.images.calibration or IMAGES)
    with watch.stage("load"):
        loaded, images = load(dataclasses.replace(config, images=few))
    fused = fuse_model(loaded, images, watch)
    chosen, seen, found = method(config.method), list[Captured](), []
    for target, widths in targets:
        captured = capture_model(fused, target, (chosen, widths), seen, (NONE, watch))
        seen.append(captured)
        with watch.stage(f"plan for {target.spec.name}"):
            view = captured.program.view
            weights = {name: tensor.numpy() for name, tensor in captured.program.constants.items()}
            asked = (chosen, widths, apart)
            recipe = recipe_of(loaded.spec.name, view, target.spec, images, asked)
            plan = planning.plan(view, target.spec, captured.stats, weights, recipe, {})
            if may_be_in_float(asked, target.spec):
                shown = images.batches(images.calibration, 1)
                made = captured.program, plan, target.spec
                recipe = sides.foreseen(made, recipe, asked, (shown, task_of(loaded.spec).direction))
                plan = planning.plan(view, target.spec, captured.stats, weights, recipe, {})
            found.append(
                Foreseen(recipe.model, target.spec.name, plan.scheme, places(predict(view, plan, target.spec)))
            )
    return tuple(found)
