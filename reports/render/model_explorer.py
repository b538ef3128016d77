"""SQNR of every tensor as node data for Google's Model Explorer, to be laid over the artifact's graph.

Format: GraphNodeData of https://github.com/google-ai-edge/model-explorer, file
src/server/package/src/model_explorer/node_data_builder.py: "results" by the name of any output tensor of a node,
"thresholds" as upper ends of coloured ranges. qtools' TFLite and ONNX files name their tensors by value ids, so the
keys find their nodes; a tensor that a converter has merged away finds none and is not drawn.
"""

from __future__ import annotations

from qtools.core import files
from reports.build import Report
from reports.fidelity import Fidelity
from reports.render import _wording as words

THRESHOLDS = ((10.0, "#d73027"), (20.0, "#fc8d59"), (30.0, "#fee08b"), (40.0, "#d9ef8b"))
"""Upper end in dB and colour: an error of a third, a tenth, a thirtieth, a hundredth of the signal; white above."""
INPUT, OUTPUT = "image", "logits"
"""Names of the ends in every artifact that qtools writes."""


def render(report: Report) -> str:
    """Measured SQNR in dB where the artifact's values were read, else the simulated one."""
    rows = words.cleaned(report.fidelity)
    found = {_key(row, rows): {"value": value} for row in rows if (value := _decibels(row)) is not None}
    thresholds = [{"value": value, "bgColor": colour} for value, colour in THRESHOLDS]
    return files.to_json({"results": found, "thresholds": thresholds})


def _decibels(row: Fidelity) -> float | None:
    return row.sqnr_simulated_db if row.sqnr_real_db is None else row.sqnr_real_db


def _key(row: Fidelity, rows: tuple[Fidelity, ...]) -> str:
    if row.kind == "input":
        return INPUT
    return OUTPUT if row.order == max(other.order for other in rows) else row.value


RENDER = render
