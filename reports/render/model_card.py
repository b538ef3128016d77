"""The report as a Hugging Face model card: YAML front matter for the hub, Markdown for readers.

Keys: https://github.com/huggingface/hub-docs/blob/main/modelcard.md. Only what the report holds is said: no licence is
guessed, no intended use is made up, and accuracy appears where it was measured.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from reports.build import Report
from reports.render import _wording as words
from reports.render import markdown
from reports.verdict import final_row, measured_accuracy

LICENCES = frozenset(
    {
        "apache-2.0", "mit", "bsd", "bsd-2-clause", "bsd-3-clause", "bsd-3-clause-clear", "cc0-1.0", "cc-by-4.0",
        "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "gpl-2.0", "gpl-3.0", "lgpl-3.0", "agpl-3.0", "mpl-2.0",
        "isc", "unlicense", "openrail", "apple-amlr", "unknown",
    }
)  # fmt: skip
"""Words of the hub for licences of weights; any other is "other" with its name."""
HUB_TASKS = {
    "classification": ("image-classification", "accuracy"),
    "segmentation": ("image-segmentation", "mean_iou"),
    "detection": ("object-detection", "mean_average_precision"),
    "early_exit": ("image-classification", "accuracy"),
    "video": ("video-classification", "accuracy"),
}
"""The hub's words for a task and for its measure."""
HUB = "hub: "
"""What the source of published weights starts with."""
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def render(report: Report) -> str:
    """Front matter between two lines of ---, then the Markdown report."""
    report = words.cleaned(report)
    return "\n".join(["---", *_front(report), "---", "", markdown.RENDER(report)])


def _front(report: Report) -> Iterator[str]:
    subject, weights = report.subject, report.weights
    licence = weights.licence.lower()
    yield f"license: {licence if licence in LICENCES else 'other'}"
    if licence not in LICENCES:
        yield f"license_name: {_quoted(weights.licence)}"
    if base := _base_model(report):
        yield f"base_model: {_quoted(base)}"
        yield "base_model_relation: quantized"
    kind, metric = HUB_TASKS.get(report.subject.task, (report.subject.task, report.subject.task))
    yield f"pipeline_tag: {kind}"
    yield "tags:"
    for tag in dict.fromkeys(filter(None, ("qtools", "quantized", subject.target, subject.scheme, subject.family))):
        yield f"- {_quoted(tag)}"
    if not measured_accuracy(report):
        return
    row = final_row(report)
    assert row is not None and row.accuracy is not None
    yield "metrics:"
    yield f"- {metric}"
    yield "model-index:"
    yield f"- name: {_quoted(words.title(report))}"
    yield "  results:"
    yield "  - task:"
    yield f"      type: {kind}"
    yield "    dataset:"
    yield f"      name: {_quoted(words.data_text(report))}"
    yield f"      type: {_quoted(report.data.kind)}"
    yield "    metrics:"
    on = f"{row.accuracy.n} images"
    for name, value in (
        (f"{row.accuracy.metric} in percent, {row.stage}, {on}", row.accuracy.score),
        (f"{row.accuracy.metric} in percent of the float network on the same {on}", row.accuracy.score_reference),
    ):
        yield f"    - type: {metric}"
        yield f"      name: {_quoted(name)}"
        yield f"      value: {value}"
        yield "      verified: false"


def _base_model(report: Report) -> str:
    """Where the weights are published, as the report names it; "" for weights that are not."""
    name = report.weights.source.removeprefix(HUB)
    known = report.weights.kind == "imagenet" and name != report.weights.source and _HUB_NAME.fullmatch(name)
    return name if known else ""


def _quoted(text: str) -> str:
    """A YAML double-quoted scalar; JSON's are, once no character is left that YAML has not."""
    return json.dumps(text, ensure_ascii=False)


RENDER = render
