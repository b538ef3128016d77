"""From measured numbers to a report: the ledger, the checks and what has to be said."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

import numpy as np

import qtools
from calibration.float_ops import DYNAMIC, IN_FLOAT, ISLAND
from calibration.method import method
from calibration.placement import predict
from calibration.weights import outliers
from qtools.core import files
from qtools.core.artifact import Artifact
from qtools.core.checks import Check, Status
from qtools.core.levelled import levelled, sources
from qtools.core.protocols import Target
from qtools.core.target import TargetSpec
from qtools.core.types import GraphView, OpKind, QuantPlan
from qtools.pipeline import aside
from qtools.pipeline.config import RunConfig
from qtools.pipeline.evaluate import Logits, float_weights_left
from qtools.pipeline.gate import drop_check, size_check
from qtools.pipeline.prepare import Prepared
from qtools.pipeline.task import Task, task_of
from qtools.pipeline.trial import Decision
from reports import environment
from reports.accuracy import wilson_interval
from reports.build import LedgerRow, Measured, Report, Size, Subject, Weights
from reports.fidelity import FidelityTally, differences, equal_images
from reports.islands import IslandRow, Islands
from reports.places import places
from reports.ranges import range_rows

BINDING_LIMIT = 1e-4
EQUAL_IMAGES_PERCENT = 99.9
ISLAND_AGREEMENT_PERCENT = 99.0
"""With float islands the kernels' float32 sums differ in the last bit, which moves codes now and then."""
AGREEMENT_TO_SHIP_PERCENT = 97.0
"""Below this the report warns; whether it is enough for an app is the user's call."""
Outputs = Mapping[str, Logits]
"""Stage name -> logits, from `qtools.pipeline.evaluate`."""
SATURATED = "saturated"
FLOAT_ARTIFACT, WEIGHTS_ONLY = "float artifact", "weights only"
NAMED = 12
"""Names that a notice lists in full."""
STAGES = {
    "float": "float",
    "fused": "fused",
    FLOAT_ARTIFACT: "float artifact",
    WEIGHTS_ONLY: "weights on their grids, float activations",
    "simulated": "simulated integers",
    SATURATED: "simulated, codes cut where the narrow grid ends",
}


def warnings(prepared: Prepared, decision: Decision, spec: TargetSpec, config: RunConfig) -> tuple[str, ...]:
    """What happened that the user did not ask for; `reports.verdict.notices` adds what the report's fields say."""
    plan = decision.plan
    found = list(prepared.loaded.weights.notes)
    if prepared.certificate.leftover:
        names = prepared.certificate.leftover
        found.append(f"{len(names)} BatchNorm layer(s) could not be folded, the first at {names[0]}")
    found += aside.notices(prepared.steps)
    found += _in_float(plan, spec, config)
    found += _kept_wide(prepared, plan)
    wide = [n for n in prepared.program.view.activations if (p := plan.params(n)) and p.scheme.wide]
    if wide and config.int16:
        found.append(f"--int16: {len(wide)} value(s) held at 16 bits: {_named(wide)}")
    if config.dynamic:
        kept = [op.id for op in prepared.program.view.ops if op.id in plan.float_ops and op.kind in spec.dynamic]
        found.append(f"--dynamic: {len(kept)} layer(s) on float activations over int8 weights: {_named(kept)}")
    narrow = {n: tensor.numpy() for n, tensor in decision.program.constants.items() if plan.params(n)}
    beyond, size = outliers.counted(plan, narrow)
    if size and not spec.float_results:
        found.append(f"{plan.scheme}: {spec.name} keeps narrow codes in bytes; only a compressed download gets smaller")
    if beyond:
        found.append(
            f"{beyond} of {size} weights ({100 * beyond / size:.2f} %) lie outside their narrow grid and keep "
            f"{spec.activation.bits} bits, so that the others get finer steps; --strict-weights keeps all inside"
        )
    return tuple(found)


def _in_float(plan: QuantPlan, spec: TargetSpec, config: RunConfig) -> list[str]:
    """How many operations do not run on codes, by whose wish."""
    found, reasons = [], list(plan.float_ops.values())
    pays = (IN_FLOAT,) if config.dynamic else (IN_FLOAT, DYNAMIC)
    light = [why for why in reasons if why in pays]
    raised = [why for why in reasons if why.startswith(ISLAND)]
    left = [why for why in reasons if why not in pays and not why.startswith(ISLAND)]
    if left:
        found.append(f"{len(left)} operation(s) stay in float, the first because {left[0]}")
    if light:
        layers = sum(why == DYNAMIC for why in light)
        over = f", {layers} of them layers over int8 weights" if layers else ""
        between = spec.between
        gives = layers or (between is not None and (between.given or between.returned))
        faster = "--max-slower 0 gives no time for it, " if gives and config.max_slower != 0 else ""
        found.append(
            f"{len(light)} operation(s) read floats, which rounds less{over}; {faster}"
            f"--max-islands 0 has them in {spec.activation.bits} bits, as NPUs want it"
        )
    if raised:
        found.append(f"{len(raised)} operation(s) are held in float as precision islands")
    return found


def _kept_wide(prepared: Prepared, plan: QuantPlan) -> list[str]:
    """Said where activations have two widths."""
    entries = [plan.values[name] for name in prepared.program.view.activations]
    own = [entry for entry in entries if entry.params is not None and entry.origin in ("explicit", "shared")]
    narrow = sum(entry.width is not None for entry in own)
    kept = [p.scheme.bits for entry in own if (p := entry.params) and entry.width is None and not p.scheme.wide]
    if not narrow or not kept:
        return []
    told = (
        f"{plan.scheme}: {len(kept)} of {len(own)} activations keep {kept[0]} bits, as no layer and no product of "
        "matrices reads them; --strict-activations narrows all"
    )
    return [told]


def _named(names: list[str]) -> str:
    """The first names of a list, and how many more."""
    more = f" and {len(names) - NAMED} more, see plan.json" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def agreement_warning(task: Task, outputs: Outputs, kernels: str) -> tuple[str, ...]:
    """Said where the artifact answers differently from float too often to ship unseen."""
    percent = 100 * task.agreement(outputs["float"], outputs[kernels])
    if percent >= AGREEMENT_TO_SHIP_PERCENT:
        return ()
    advice = "look at the weakest tensors, try another --method, or calibrate on more images"
    return (f"the artifact agrees with float on only {percent:.1f} % of the {task.agreed.rstrip(',')}: {advice}",)


def metadata(prepared: Prepared, plan: QuantPlan, config: RunConfig, notices: tuple[str, ...]) -> dict[str, Any]:
    """Facts stored inside the artifact, so that it can be asked what it is without its run folder."""
    loaded, images = prepared.loaded, prepared.images
    task = task_of(loaded.spec)
    own = {name: known for name, known in (("exits", task.exits), ("clip", task.clip)) if known is not None}
    return {
        **own,
        "schema_version": 1,
        "qtools": qtools.__version__,
        "model": loaded.spec.name,
        "task": loaded.spec.task,
        "family": loaded.spec.family,
        "verified": loaded.spec.verified,
        "weights": {"kind": loaded.weights.kind, "source": loaded.weights.source, "licence": loaded.weights.licence},
        "scheme": plan.scheme,
        "target": plan.target,
        "io": config.io,
        "method": config.method,
        "input": images.input,
        "classes": loaded.spec.classes,
        "data": images.described,
        "plan_sha256": files.digest_json(plan),
        "weights_sha256": loaded.weights.sha256,
        "calibration_sha256": images.calibration.digest,
        "notices": notices,
    }


def apply_options(prepared: Prepared, plan: QuantPlan, config: RunConfig, notices: tuple[str, ...]) -> dict[str, Any]:
    """Options of `Target.apply`: the ends, and the artifact's facts for the fields that formats have for them."""
    spec, images = prepared.loaded.spec, prepared.images
    task = task_of(spec)
    counted = f"{spec.classes} classes" if task.by_class else task.answer
    return {
        "io": config.io,
        "metadata": metadata(prepared, plan, config, notices),
        "name": spec.name,
        "description": f"{spec.name}: {counted}, {plan.scheme}, {prepared.loaded.weights.kind} weights",
        "author": f"qtools {qtools.__version__}",
        "licence": prepared.loaded.weights.licence,
        "version": plan.digests["weights"][:12],
        "picture": images.input,
        "labels": images.classes,
        "answer": task.answer,
    }


def report(
    prepared: Prepared,
    decision: Decision,
    what: tuple[RunConfig, Target, Artifact],
    seen: tuple[Outputs, FidelityTally],
    rest: tuple[Size, Measured, tuple[str, ...]],
) -> Report:
    """Joins everything a run measured."""
    (config, target, artifact), (outputs, tally), (size, measured, notices) = what, seen, rest
    plan = decision.plan
    loaded, images, view = prepared.loaded, prepared.images, prepared.program.view
    subject = Subject(
        loaded.spec.name,
        loaded.spec.family,
        loaded.spec.verified,
        target.spec.name,
        plan.scheme,
        config.method,
        config.command,
        loaded.spec.task,
    )
    ledger = _ledger(prepared, outputs, target)
    rows = tally.rows()
    reasons = _reasons(plan)
    weights = {
        op.inputs[1]: prepared.program.constants[op.inputs[1]].numpy()
        for op in view.ops
        if len(op.inputs) > 1 and view.values[op.inputs[1]].channel_axis == 0 and view.values[op.inputs[1]].const
    }
    return Report(
        tool_version=qtools.__version__,
        subject=subject,
        weights=Weights(loaded.weights.kind, loaded.weights.source, loaded.weights.licence),
        data=images.described,
        ledger=ledger,
        fidelity=rows,
        differences=differences(rows, reasons),
        ranges=range_rows(view, plan, prepared.stats, weights, method(config.method).source),
        size=size,
        steps=decision.steps,
        islands=_islands(decision, view, task_of(loaded.spec) if images.reader is None else images.reader.task),
        checks=(
            *_checks(prepared, plan, outputs, target, artifact),
            *_gate(prepared, decision, ledger[list(outputs).index(target.kernels[0])], what),
            *size_check(config.apart.size_budget, size.quantized_bytes, size.float_bytes or 0),
        ),
        environment=environment.describe(_packages(artifact)),
        digests={
            "artifact": artifact.sha256,
            "plan": artifact.plan_sha256,
            "weights": loaded.weights.sha256,
            "calibration": images.calibration.digest,
            "evaluation": images.evaluation.digest,
        },
        warnings=notices,
        places=places(predict(view, plan, target.spec)),
        measured=measured,
    )


def _gate(
    prepared: Prepared, decision: Decision, shipped: LedgerRow, what: tuple[RunConfig, Target, Artifact]
) -> tuple[Check, ...]:
    config, target, _ = what
    if prepared.images.reader is not None:
        return ()  # what its reader makes of it is judged with the reader
    assert shipped.accuracy is not None  # it was run
    return drop_check(config.apart, shipped.accuracy, decision.islands, target.spec)


def _islands(decision: Decision, view: GraphView, task: Task) -> Islands | None:
    """The islands for a reader."""
    found = decision.islands
    if found is None:
        return None
    rows = [
        IslandRow(each.value, view.producer[each.value].module, each.held, spared, each.price)
        for each, spared in zip(found.candidates, found.spared, strict=True)
    ]
    return Islands(tuple(rows), found.told, sum(row.price for row in rows), task.measure)


def _packages(artifact: Artifact) -> tuple[str, ...]:
    """What had a hand in the run, as far as it is installed."""
    return tuple(p for p in dict.fromkeys(("torch", "timm", *artifact.toolchain, "numpy")) if _installed(p))


def _reasons(plan: QuantPlan) -> dict[str, str]:
    """Why codes may differ: with float islands, everything behind them inherits their last bits."""
    if not plan.float_ops:
        return {}
    text = "reads a float island, whose float32 sums the runtime orders differently"
    return dict.fromkeys([kind.value for kind in OpKind], text)


def _ledger(prepared: Prepared, outputs: Outputs, target: Target) -> tuple[LedgerRow, ...]:
    images, exact, task = prepared.images, outputs["float"], task_of(prepared.loaded.spec)
    size, classes = images.input.size, images.classes
    words = {**STAGES, **target.labels}
    rows = []
    for name, logits in outputs.items():
        n = len(logits)
        labels = None if images.labels is None else images.labels[:n]
        accuracy = task.judge(labels, exact[:n], logits, size, classes)
        role: Literal["reference", "step", "side"] = "side" if name in (*target.kernels[1:], SATURATED) else "step"
        role = "reference" if name == "float" else role
        note = f"first {n} images" if n < len(exact) else ""
        rows.append(LedgerRow(words.get(name, name), role, accuracy, note))
    return tuple(rows)


def _checks(
    prepared: Prepared, plan: QuantPlan, outputs: Outputs, target: Target, artifact: Artifact
) -> tuple[Check, ...]:
    certificate = prepared.certificate
    proofs = f"{len(certificate.blocks)} blocks in float64; BatchNorm statistics: {certificate.bn_statistics}"
    left: tuple[Check, ...] = ()
    if artifact.float_constants is not None:
        names = float_weights_left(artifact.float_constants, prepared.program.view, plan)
        left = (_at_most("float weights without a reason", float(len(names)), 0.0, ("tensors", ", ".join(names[:3]))),)
    return (
        _at_most(
            "fusion equals training graph",
            certificate.model_max_error_float64,
            certificate.tolerance_float64,
            ("relative", proofs),
        ),
        _at_most("float artifact equals program", *_float_error(prepared, outputs)),
        _simulation_check(plan, outputs, target.kernels[0], task_of(prepared.loaded.spec)),
        *left,
    )


def _float_error(prepared: Prepared, outputs: Outputs) -> tuple[float, float, tuple[str, str]]:
    """How far the float artifact is off the program: on its logits where they were evaluated, else as it was bound."""
    lowered = prepared.lowered
    if FLOAT_ARTIFACT not in outputs:
        own = lowered.binding.keys() - {levelled(value) for value in sources(prepared.program.constants)}
        bound = f"{len(own)} values bound, {len(lowered.unbound)} without a tensor"
        return lowered.max_error, BINDING_LIMIT, ("relative", bound)
    exact, plain = outputs["fused"].astype(np.float64), outputs[FLOAT_ARTIFACT].astype(np.float64)
    error = np.abs(plain - exact).max(1) / np.maximum(1, np.abs(exact).max(1))
    return float(error.max()), BINDING_LIMIT, ("relative", f"logits of {len(exact)} images")


def _simulation_check(plan: QuantPlan, outputs: Outputs, kernels: str, task: Task) -> Check:
    equal = equal_images(outputs["simulated"], outputs[kernels])  # dequantizing keeps unequal codes apart
    if not plan.float_ops:
        note = f"images with every output code equal under {kernels}"
        return _at_least("simulation equals artifact", equal, EQUAL_IMAGES_PERCENT, note)
    agreement, images = task.agreement(outputs["simulated"], outputs[kernels]), len(outputs["simulated"])
    named = task.by_class and task.decoding is None
    lo, hi = wilson_interval(round(agreement * images) if named else agreement * images, images)
    status: Status = "passed" if hi >= ISLAND_AGREEMENT_PERCENT else "failed"  # few images with a tie prove nothing
    what = "agreement on the class named" if named else f"likeness of the {task.agreed}"
    what = what if task.exits is None else "agreement on exit and class"
    note = (
        f"{what} under {kernels} (float islands), 95 % interval [{lo:.1f}, {hi:.1f}], which must "
        f"reach the limit; every code equal on {equal:.1f} % of images"
    )
    return Check("simulation agrees with artifact", status, 100 * agreement, "%", ISLAND_AGREEMENT_PERCENT, note)


def _at_most(name: str, value: float, limit: float, words: tuple[str, str]) -> Check:
    """A check that passes at or below its limit; a number that is not finite fails. `words`: unit, note."""
    unit, note = words
    return Check(name, "passed" if value <= limit else "failed", value, unit, limit, note)


def _at_least(name: str, percent: float, limit: float, note: str) -> Check:
    return Check(name, "passed" if percent >= limit else "failed", percent, "%", limit, note)


def _installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True
