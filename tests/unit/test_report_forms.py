"""`qtools report`: every form against its own parser, with names that try to leave their place."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard

from qtools.cli import main
from qtools.core.checks import Check
from qtools.core.plugins import find
from qtools.pipeline.report import forms
from reports import build
from reports.accuracy import paired_accuracy
from reports.build import Data, LedgerRow, Report, Size, Subject, Weights
from reports.environment import Environment
from reports.fidelity import Fidelity

HOSTILE = "\"]]>&<x a='1'>\n---\nlicense: mit #\x1b\ufffe\u202e\U0001f600 {[%: -"


def report(hostile: str = "", labelled: bool = True) -> Report:
    """A small report; `hostile` stands in every free text."""
    rng = np.random.default_rng(1)
    exact = rng.normal(0, 3, (64, 12))
    labels = exact.argmax(1) if labelled else None
    scores = paired_accuracy(labels, exact, exact + rng.normal(0, 0.5, exact.shape))
    rows = [(f"conv_{i}" + hostile, 12.5 + i, None if i == 2 else 11.5 + i) for i in range(4)]
    return Report(
        "0.1.0",
        Subject("m1_1" + hostile, "repvit" + hostile, True, "tflite", "w8a8", "auto", "qtools quantize m1_1" + hostile),
        Weights("file", "own.safetensors" + hostile, "Apache-2.0" + hostile),
        Data("folder", 256, 64, labelled, hostile),
        (
            LedgerRow("float", "reference", scores),
            LedgerRow("artifact" + hostile, "step", scores, hostile),
            LedgerRow("second" + hostile, "step", None, "not here" + hostile),
        ),
        tuple(
            Fidelity(v, i, "conv" if i else "input", "stem" + hostile, (1, 2), a, b, 9, 0, 0)
            for i, (v, a, b) in enumerate(rows)
        ),
        (),
        (),
        Size(100, 400),
        (
            Check("agreement" + hostile, "failed", 90.0, "%", 97.0, "too low" + hostile),
            Check("runtime" + hostile, "not run", note="no such runtime" + hostile),
            Check("binding" + hostile, "passed", 1e-6, "", 1e-4),
        ),
        Environment("Debian", "x86_64", "a CPU" + hostile, ("avx2",), 2, "3.11", {}),
        {"artifact": "ab" * 32},
        (hostile,) if hostile else (),
    )


def rendered(form: str, of: Report) -> str:
    text: str = find("reports.render", form, "RENDER")(of)
    return text


@pytest.mark.parametrize("hostile", ["", HOSTILE])
def test_every_form_renders_every_report(hostile: str) -> None:
    """What is in the folder with a RENDER takes a report; a file that shows something else has none."""
    assert {"html", "json", "junit", "markdown", "model_card", "model_explorer", "terminal"} <= set(forms())
    for form in forms():
        once = rendered(form, report(hostile))
        assert once == rendered(form, build.parse_report(build.report_text(report(hostile))))
        assert "\x1b" not in once or form == "json"


def parsed(text: str) -> ET.Element:
    return ET.fromstring(text)  # noqa: S314 - our own text, which this parser has to accept


@pytest.mark.parametrize("hostile", ["", HOSTILE])
def test_junit_gates(hostile: str) -> None:
    root = parsed(rendered("junit", report(hostile)))
    (suite,) = root
    cases = {case.get("name", "")[:7]: case for case in suite.iter("testcase")}
    counted = {word: int(suite.get(word, "")) for word in ("tests", "failures", "errors", "skipped")}
    assert counted == {"tests": 5, "failures": 1, "errors": 0, "skipped": 2} and len(cases) == 5
    said = {n.strip('"'): [c.tag for c in case if c.tag != "system-out"] for n, case in cases.items()}
    assert said == {
        "agreeme": ["failure"],
        "runtime": ["skipped"],
        "binding": [],
        "artifac": [],
        "second": ["skipped"],
    }
    failure = cases["agreeme"].find("failure")
    assert failure is not None and failure.get("message") == "90 %, limit 97 %"
    assert (failure.text or "").startswith("too low")
    for word in ("failures", "skipped", "tests"):
        assert root.get(word) == suite.get(word)


def test_junit_of_a_good_run_has_nothing_to_show() -> None:
    good = dataclasses.replace(report(), checks=report().checks[2:], ledger=report().ledger[:2])
    root = parsed(rendered("junit", good))
    assert root.get("failures") == root.get("skipped") == "0" and not list(root.iter("failure"))


def front(card: str) -> dict[str, Any]:
    _, head, _ = card.split("---\n", 2)
    found = yaml.safe_load(head)
    assert isinstance(found, dict)
    return found


def test_model_card_as_the_hub_reads_it() -> None:
    card = rendered("model_card", report())
    data = ModelCard(card).data
    assert (data.license, data.pipeline_tag) == ("apache-2.0", "image-classification")
    assert data.tags == ["qtools", "quantized", "tflite", "w8a8", "repvit"] and data.base_model is None
    scores = report().ledger[1].accuracy
    assert scores is not None and data.eval_results is not None
    assert [r.metric_value for r in data.eval_results] == [scores.top1, scores.top1_reference]
    assert {r.task_type for r in data.eval_results} == {"image-classification"}
    assert "# m1\\_1 (own weights) → tflite, w8a8" in card


def test_model_card_says_nothing_that_was_not_measured() -> None:
    found = front(rendered("model_card", report(labelled=False)))
    assert "metrics" not in found and "model-index" not in found
    own = dataclasses.replace(report(), weights=Weights("file", "w.pth", "My own terms"))
    found = front(rendered("model_card", own))
    assert (found["license"], found["license_name"]) == ("other", "My own terms") and "base_model" not in found
    published = Weights("imagenet", "hub: timm/repvit_m1_1.dist_450e_in1k", "unknown")
    found = front(rendered("model_card", dataclasses.replace(report(), weights=published)))
    assert (found["license"], found["base_model"]) == ("unknown", "timm/repvit_m1_1.dist_450e_in1k")
    assert found["base_model_relation"] == "quantized"


def test_hostile_names_stay_in_their_scalar() -> None:
    found = front(rendered("model_card", report(HOSTILE)))
    assert set(found) == {"license", "license_name", "pipeline_tag", "tags", "metrics", "model-index"}
    assert found["license"] == "other" and found["license_name"].startswith('Apache-2.0"]]>&<x')
    assert "\U0001f600" in found["license_name"] and "\n" not in found["license_name"]


def test_model_explorer_overlay() -> None:
    found = json.loads(rendered("model_explorer", report()))
    assert set(found) == {"results", "thresholds"}
    # the second of both numbers where the artifact was read
    values = {name: entry["value"] for name, entry in found["results"].items()}
    assert values == {"image": 11.5, "conv_1": 12.5, "conv_2": 14.5, "logits": 14.5}
    ends = [entry["value"] for entry in found["thresholds"]]
    assert ends == sorted(ends) and all(entry["bgColor"].startswith("#") for entry in found["thresholds"])


def faults(value: Any, schema: dict[str, Any], root: dict[str, Any], where: str = "report") -> list[str]:
    """The part of JSON Schema that ours uses, written out."""
    known = {"$ref", "$defs", "additionalProperties", "anyOf", "const", "default", "description", "enum", "items",
             "maxItems", "minItems", "prefixItems", "properties", "required", "title", "type"}  # fmt: skip
    assert schema.keys() <= known, f"{where}: {schema.keys() - known}"
    if "$ref" in schema:
        return faults(value, root["$defs"][schema["$ref"].rpartition("/")[2]], root, where)
    if "anyOf" in schema:
        tried = [faults(value, each, root, where) for each in schema["anyOf"]]
        return [] if [] in tried else tried[0]
    types = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "null": type(None)}
    kind = schema.get("type")
    if kind == "boolean" or isinstance(value, bool):
        return [] if kind == "boolean" and isinstance(value, bool) else [f"{where}: {value!r} is no {kind}"]
    if kind is not None and not isinstance(value, types[kind]):
        return [f"{where}: {value!r} is no {kind}"]
    if value not in schema.get("enum", [value]) or value != schema.get("const", value):
        return [f"{where}: {value!r} is not allowed"]
    found = [f"{where}.{name} is missing" for name in schema.get("required", ()) if name not in value]
    if kind == "object":
        rest = schema.get("additionalProperties", {})
        for name, item in value.items():
            found += faults(item, schema.get("properties", {}).get(name, rest or {}), root, f"{where}.{name}")
    if kind == "array":
        first = schema.get("prefixItems", [])
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
            found.append(f"{where} has {len(value)} items")
        for i, item in enumerate(value):
            found += faults(item, first[i] if i < len(first) else schema.get("items", {}), root, f"{where}[{i}]")
    return found


def test_report_json_fits_the_published_schema(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="^0$"):
        main(["report", "--schema"])
    schema = json.loads(capsys.readouterr().out)
    data = json.loads(rendered("json", report()))
    assert faults(data, schema, schema) == []
    del data["subject"]["model"]
    data["checks"][0]["status"], data["ledger"][1]["accuracy"]["drop_interval"] = "fine", [1.0]
    assert len(faults(data, schema, schema)) == 3, "planted: a field gone, a word that is none, half an interval"


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def call(*words: Any) -> tuple[int, str, str]:
        try:
            main(["report", *map(str, words)])
        except SystemExit as end:
            return int(end.code or 0), *capsys.readouterr()
        raise AssertionError("a command ends with an exit code")

    folder = tmp_path / "all"
    (folder / "tflite").mkdir(parents=True)
    (folder / "tflite" / "report.json").write_text(build.report_text(report()))
    code, out, err = call(folder / "tflite", "--format", "markdown")
    assert (code, out, err) == (0, rendered("markdown", report()), "")
    assert call(folder / "tflite" / "report.json", "--format", "junit", "-o", tmp_path / "new" / "a.xml")[:2] == (0, "")
    assert (tmp_path / "new" / "a.xml").read_text() == rendered("junit", report())
    for words, said in (
        ((folder,), "give one of its runs: tflite"),
        ((folder / "tflite", "--format", "cross"), "unknown format 'cross'"),
        ((folder / "tflite", "--format", "junti"), "Did you mean junit?"),
        ((), "one of the two"),
        ((folder / "tflite", "--schema"), "one of the two"),
        ((tmp_path / "none",), "cannot read the report"),
    ):
        code, out, err = call(*words)
        assert (code, out) == (2, "") and said in err, words
