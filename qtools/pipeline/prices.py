"""What each kind of operation of an artifact takes on this host: one profile of a few inferences."""

from __future__ import annotations

from pathlib import Path

from calibration.placement import predict
from qtools.core.errors import InputError, MissingPlatform
from qtools.core.protocols import Lowered, Target
from qtools.core.types import QuantPlan
from qtools.graph.capture import Program
from reports.prices import Prices, prices

THREADS, RUNS = 1, 10
NO_PROFILER = "this machine has no runtime of the target that tells the time of an operation"


def of_artifact(target: Target, files: tuple[Lowered, Path], program: Program, plan: QuantPlan) -> Prices:
    """The rows of the report's places with their time; where there is no profiler, why.

    Args:
        target: What the artifact is for.
        files: The float artifact, and the one to be timed.
        program: The captured graph.
        plan: What the artifact was made from.
    """
    lowered, path = files
    if target.trace is None:
        return Prices(note=f"not run: {NO_PROFILER}")
    try:
        trace = target.trace(path, lowered, program, THREADS, RUNS)
    except (MissingPlatform, InputError) as missing:
        return Prices(note=f"not run: {missing.what}")
    return prices(trace, program.view, predict(program.view, plan, target.spec))
