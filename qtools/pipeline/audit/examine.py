"""Which causes can be proven in a quantized network, on images of its own: some name suspects, others judge them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from calibration.batches import ImageBatches
from calibration.collect import collect
from calibration.sampling import Subset
from calibration.weights.correct import correct
from qtools.causes._case import Case, Constants
from qtools.core.protocols import Target
from qtools.core.types import WEIGHTED
from qtools.graph.execute import observer
from qtools.pipeline.audit.prove import Prover, findings
from qtools.pipeline.prepare import Prepared
from qtools.pipeline.trial import Decision
from qtools.simulate.run import open_simulator
from reports.audit import Audit

NAMING_IMAGES = 32
"""Images that suspects are named from."""
PROVING_IMAGES = 48
"""Other images that they are proven on."""


def examine(prepared: Prepared, decision: Decision, target: Target, bits: int) -> Audit:
    """Names suspects from the first evaluation images and proves them on the last.

    Args:
        prepared: The float network, its images, and what calibration saw.
        decision: The plan, and the weights that ship.
        target: What the plan is for.
        bits: Width of activations that was asked for.
    """
    images = prepared.images
    available = len(images.evaluation)
    naming = max(1, min(NAMING_IMAGES, available // 2))
    proving = max(1, min(PROVING_IMAGES, available - naming))
    case = case_of(prepared, decision, (target, bits), Subset(images.evaluation, range(naming)))
    others = Subset(images.evaluation, range(available - proving, available))
    batches = batches_of(prepared, others)
    prover = Prover(prepared.program, decision.program, decision.plan, list(batches))
    found, distance = findings(case, prover)
    return Audit(found, distance, naming)


def case_of(prepared: Prepared, decision: Decision, what: tuple[Target, int], some: Subset) -> Case:
    """What causes look at, from some of the images. `what`: the target, and the width that was asked for."""
    target, bits = what
    program, shipped, plan, images = prepared.program, decision.program, decision.plan, prepared.images
    floats = set(program.view.activations)
    axes = {name: program.view.values[name].channel_axis for name in floats}
    batches = batches_of(prepared, some)
    seen = collect(batches, observer(program, floats), axes)

    def corrected() -> Constants:
        biases = {op.inputs[2] for op in program.view.ops if op.kind in WEIGHTED and len(op.inputs) > 2}
        start = shipped.with_constants({name: program.constants[name] for name in biases})
        simulator = open_simulator(start, plan, target.simulator)
        return _numpy(correct(program, plan, simulator, batches, rounding=False))

    return Case(
        view=program.view,
        plan=plan,
        exact=_numpy(program.constants),
        shipped=_numpy(shipped.constants),
        calibrated=prepared.stats,
        seen=seen,
        folded={block.path for block in prepared.certificate.blocks},
        corrected=corrected,
        bits=bits,
        input=None if images.pixels else images.input,
    )


def batches_of(prepared: Prepared, some: Subset) -> ImageBatches:
    """Some of the images, as many at once as the program takes, where that divides their number."""
    return prepared.images.batches(some, prepared.batch if len(some) % prepared.batch == 0 else 1)


def _numpy(constants: Mapping[str, torch.Tensor]) -> dict[str, NDArray[np.float32]]:
    return {name: tensor.numpy() for name, tensor in constants.items()}
