"""The artifact in a second runtime that other people built: whether it gives the same codes."""

from __future__ import annotations

from itertools import islice

import numpy as np

from qtools.core.checks import Check, Status
from qtools.core.errors import InputError, MissingPlatform
from qtools.pipeline.evaluate import SLOW_KERNEL_IMAGES, Logits
from qtools.pipeline.leg import Leg, SecondOpinion
from qtools.pipeline.task import task_of
from reports.build import LedgerRow

EQUAL_PERCENT = 100.0
"""Both run the same kernels on the same integers."""


def ask(leg: Leg, exact: Logits) -> tuple[SecondOpinion, ...]:
    """Runs the first evaluation images; nothing where the target knows no second runtime.

    Args:
        leg: The artifact.
        exact: Logits of the float network on the evaluation images.
    """
    second = leg.target.second
    if second is None:
        return ()
    if not leg.prepared.program.takes.single:
        return (SecondOpinion(LedgerRow(f"artifact, {second.name}", "side", None, "asked about pictures only")),)
    images, runner = leg.prepared.images, leg.runners[leg.target.kernels[0]]
    pixels = list(islice(images.batches(images.evaluation, 1), SLOW_KERNEL_IMAGES))
    feeds = np.concatenate([array for each in pixels for array in runner.feed(each[0]).values()])
    try:
        codes = runner.as_program(second.run(leg.path, feeds))
    except MissingPlatform as missing:
        return (SecondOpinion(LedgerRow(f"artifact, {second.name}", "side", None, missing.next_step)),)
    except InputError as refused:  # an opinion that is not to be had says nothing against the artifact
        row = LedgerRow(f"artifact, {second.name}", "side", None, refused.what)
        return (SecondOpinion(row, (Check(f"{second.name} agrees", "not run", note=refused.what),)),)
    ours = runner.codes(np.concatenate(pixels))
    same, count = int((codes == ours).reshape(len(ours), -1).all(1).sum()), len(ours)
    labels = None if images.labels is None else images.labels[:count]
    judge = task_of(leg.prepared.loaded.spec).judge
    accuracy = judge(labels, exact[:count], runner.logits(codes), images.input.size, images.classes)
    note = f"every code equal on {same} of {count} images"
    row = LedgerRow(f"artifact, {second.name}", "side", accuracy, note)
    if leg.decision.plan.float_ops:  # their float32 sums may be added in another order: the row stands for itself
        return (SecondOpinion(row),)
    value = 100 * same / count
    status: Status = "passed" if value >= EQUAL_PERCENT else "failed"
    return (SecondOpinion(row, (Check(f"{second.name} agrees", status, value, "%", EQUAL_PERCENT, note),)),)
