"""The report as a value and in its four renderings."""

from __future__ import annotations

import dataclasses
import json
import re
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from qtools.core.checks import Check
from qtools.core.errors import InputError
from qtools.core.plugins import find, names
from reports import build
from reports.accuracy import paired_accuracy
from reports.build import Data, LedgerRow, Measured, Report, Size, Subject, Weights
from reports.environment import Environment
from reports.fidelity import SQNR_CAP_DB, Fidelity, differences
from reports.islands import WITH_ALL, WITHOUT, IslandRow, Islands
from reports.latency import summarize
from reports.places import PlaceRow, Places
from reports.ranges import RangeRow
from reports.render import terminal
from reports.steps import Step
from reports.verdict import notices, steps, verdict

CPU = "Intel(R) Xeon(R) Processor @ 2.60GHz"
HOSTILE = '<script>alert("x")</script>|`[a](http://b)`\x1b[31m[red]\u202e'


def _rows(rng: np.random.Generator) -> tuple[Fidelity, ...]:
    """250 tensors of a RepViT-like network, noise growing with depth and worst at the SE multiplications."""
    kinds = ("depthwise_conv", "mean", "conv", "sigmoid", "mul", "conv", "gelu", "conv", "add")
    rows = []
    for order in range(250):
        block, kind = order // 9, kinds[order % 9]
        module = f"stages.{min(3, block // 7)}.blocks.{block % 7}.channel_mixer.conv{order % 9}" if order else ""
        db = 46 - 9 * np.log2(1 + order / 25) + rng.normal(0, 1.6) - 7 * (kind == "mul")
        rows.append(
            Fidelity(
                value=f"value_{order}",
                order=order,
                kind=kind if order else "input",
                module=module,
                shape=(1, 64 * 2 ** min(3, block // 7), 28, 28),
                sqnr_simulated_db=SQNR_CAP_DB if order == 0 else round(float(db), 3),
                sqnr_real_db=None if order % 40 == 7 else SQNR_CAP_DB if order == 0 else round(float(db), 3),
                codes=0 if order % 40 == 7 else 50_176,
                differing=3 if kind == "gelu" and order > 200 else 0,
                max_difference=1 if kind == "gelu" and order > 200 else 0,
            )
        )
    return tuple(sorted(rows, key=lambda row: (row.worst_db, row.order)))


def _ranges(rng: np.random.Generator) -> tuple[RangeRow, ...]:
    rows = []
    for role, count in (("weight", 90), ("activation", 160)):
        for order in range(count):
            peak = float(np.exp(rng.normal(0.5, 0.8)))
            place = (f"stages.{order // 40}.blocks.{order % 9}.token_mixer", "conv")
            in_float = role == "activation" and order == 150
            scale = None if in_float else peak / 127
            lo = -peak if role == "weight" else -0.2 * peak
            spread = (peak * float(rng.uniform(0.02, 0.6)), peak)
            rows.append(
                RangeRow(
                    f"{role}_{order}",
                    role,
                    order,
                    *place,
                    lo,
                    peak,
                    lo,
                    peak * 1.02,
                    scale,  # type: ignore[arg-type]
                    None if in_float else 0,
                    0 if in_float else 64 if role == "weight" else 1,
                    *spread,
                    "float" if in_float else "percentile",
                )
            )
    return tuple(rows)


def _ledger(rng: np.random.Generator, labelled: bool, n: int = 1000) -> tuple[LedgerRow, ...]:
    labels = rng.integers(0, 12, n)
    exact = rng.normal(0, 1.0, (n, 12))
    exact[np.arange(n), labels] += 3.6
    simulated = exact + rng.normal(0, 0.07, exact.shape)
    real = simulated + rng.normal(0, 0.01, exact.shape)
    some = slice(0, 64)
    seen = labels if labelled else None
    few = labels[some] if labelled else None
    return (
        LedgerRow("float", "reference", paired_accuracy(seen, exact, exact)),
        LedgerRow("fused", "step", paired_accuracy(seen, exact, exact + 1e-6)),
        LedgerRow("simulated integers", "step", paired_accuracy(seen, exact, simulated)),
        LedgerRow("artifact (XNNPACK)", "step", paired_accuracy(seen, exact, real)),
        LedgerRow("artifact (reference kernels)", "side", paired_accuracy(few, exact[some], simulated[some])),
    )


def _measured(rng: np.random.Generator) -> Measured:
    samples = {"int8": 8.1 + rng.gamma(2, 0.12, 50), "float": 26.4 + rng.gamma(2, 0.4, 50)}
    latency = summarize(samples, host=CPU, threads=1, warmup=5)
    checks = (Check("latency int8 / float", "passed", latency.ratios[0].median, "×", 0.4),)
    return Measured(latency, {"calibrate": 31.2, "lower": 14.0, "simulate": 22.8}, 2_100_000_000, checks)


def make_report(*, labelled: bool = True, hostile: str = "", seed: int = 7) -> Report:
    """A report as a run of m1_1 would make it; `hostile` is put into every free text."""
    rng = np.random.default_rng(seed)
    rows = _rows(rng)
    if hostile:
        rows = tuple(dataclasses.replace(row, module=hostile, kind=hostile) for row in rows)
    return Report(
        tool_version="0.1.0",
        subject=Subject("m1_1" + hostile, "repvit", True, "tflite", "w8a8", "percentile",
                        "qtools quantize m1_1 --bits 8 --target tflite" + hostile),
        weights=Weights("reference", "shipped checkpoint m1_1" + hostile, "Apache-2.0"),
        data=Data("reference" if labelled else "procedural renders", 256, 1000, labelled),
        ledger=_ledger(rng, labelled),
        fidelity=rows,
        differences=differences(rows, {"gelu" + hostile: "table lookup rounds ties away" + hostile}),
        ranges=_ranges(rng),
        size=Size(8_400_000, 32_900_000),
        checks=(
            Check("top-1 drop against float" + hostile, "passed" if labelled else "not run", 0.1, "points", 0.5),
            Check("agreement with float", "passed", 99.2, "%", 99.0),
            Check("binding error", "passed", 3.1e-6, "", 1e-4, "every bound tensor of the float artifact" + hostile),
            Check("second runtime", "passed" if labelled else "not run", 99.9, "% equal", 99.0,
                  "" if labelled else "tensorflow is not installed"),
        ),
        environment=Environment("Debian GNU/Linux 12 (bookworm)", "x86_64", CPU + hostile,
                                ("avx2", "avx512_vnni"), 2, "3.11.2", {"numpy": "2.4.0", "torch": "2.14.0"}),
        digests={"artifact": "9f" * 32, "plan": "1c" * 32, "weights": "77" * 32, "data": "a0" * 32},
        warnings=(hostile,) if hostile else (),
        steps=(
            Step("equalize channels", True, None, None, hostile or "37 paths"),
            Step("correct biases", False, 0.0041, 0.0052, "judged on 64 others"),
        ),
        islands=Islands((
            IslandRow("add_1" + hostile, hostile or "stages.3.blocks.0", "float" + hostile, 0.0103, 0.006),
            IslandRow("mul_8", "", "16 bits", 0.0074, 0.05),
        ), "2 of 540 ways to raise a value taken" + hostile, 0.056),
        places=Places("XNNPACK", "LiteRT kernel", 26, (
            PlaceRow("gelu", 25, False, False, hostile or "no kernel", hostile or "train with ReLU", hostile or "stem"),
            PlaceRow("conv", 71, True, True, "", "", "stem.conv1"),
        )),
        measured=_measured(rng),
    )  # fmt: skip


def test_json_round_trip_is_exact() -> None:
    report = make_report()
    text = find("reports.render", "json", "RENDER")(report)
    assert build.parse_report(text) == report
    assert find("reports.render", "json", "RENDER")(build.parse_report(text)) == text
    assert "NaN" not in text and "Infinity" not in text


def test_two_runs_differ_only_in_measured() -> None:
    first = make_report()
    second = dataclasses.replace(first, measured=_measured(np.random.default_rng(99)))
    a, b = json.loads(build.report_text(first)), json.loads(build.report_text(second))
    assert a.pop("measured") != b.pop("measured")
    assert a == b


def test_not_finite_numbers_never_reach_json() -> None:
    report = make_report()
    odd = dataclasses.replace(report, checks=(Check("ratio", "failed", float("inf"), "dB"),))
    check = build.parse_report(build.report_text(odd)).checks[0]
    assert check.value is None and check.note == "value is inf"
    broken = dataclasses.replace(report, ranges=(dataclasses.replace(report.ranges[0], lo=float("nan")),))
    with pytest.raises(ValueError, match=r"report\.ranges\[0\]\.lo is nan"):
        build.report_text(broken)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a qtools report"),
        ("[1]", "not a qtools report"),
        ('{"schema_version": 99}', "schema 99"),
        ('{"schema_version": 1}', "damaged at"),
    ],
)
def test_bad_report_file_is_bad_input(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "report.json"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        build.read_report(path)
    with pytest.raises(InputError, match="cannot read"):
        build.read_report(tmp_path / "missing.json")


def test_a_later_field_is_ignored_and_the_schema_is_published() -> None:
    data = json.loads(build.report_text(make_report())) | {"findings": []}
    assert build.parse_report(json.dumps(data)) == make_report()
    assert "ledger" in build.report_schema()["properties"]


def test_verdict() -> None:
    report = make_report()
    assert verdict(report).word == "passed"
    failed = (*report.checks, Check("agreement", "failed", 90.0, "%", 99.0), Check("x", "not run"))
    assert verdict(dataclasses.replace(report, checks=failed)).word == "failed"
    assert "agreement" in verdict(dataclasses.replace(report, checks=failed)).sentence
    waiting = dataclasses.replace(report, checks=(*report.checks, Check("second runtime", "not run")))
    assert verdict(waiting).word == "incomplete" and "second runtime" in verdict(waiting).sentence
    nothing = dataclasses.replace(report, checks=(), measured=Measured())
    assert verdict(nothing).word == "incomplete"
    stopped = dataclasses.replace(report, ledger=(*report.ledger, LedgerRow("phone", "step", None, "no phone")))
    assert verdict(stopped).word == "incomplete" and "'phone' was not run" in verdict(stopped).sentence
    unlabelled = dataclasses.replace(make_report(labelled=False), checks=(Check("agreement", "passed"),))
    assert verdict(unlabelled).word == "incomplete" and "accuracy was not measured" in verdict(unlabelled).sentence


def test_notices_say_what_was_not_seen() -> None:
    said = " ".join(notices(make_report(labelled=False)))
    assert "Reference weights, not imagenet" in said
    assert "Your own images were not seen" in said and "Accuracy was not measured" in said
    own = dataclasses.replace(make_report(), weights=Weights("file", "w.safetensors", "own"))
    assert notices(own) == ()
    again = dataclasses.replace(own, warnings=("twice", "twice"))
    assert notices(again) == ("twice",)


def test_islands_are_told_with_their_price_and_whether_it_was_measured() -> None:
    report = make_report()
    names = ("add_1", "mul_8", WITH_ALL, WITHOUT)
    times = summarize(
        {n: np.full(9, t) for n, t in zip(names, (1.01, 1.2, 1.22, 1.0), strict=True)}, host="", threads=1
    )
    timed = dataclasses.replace(report, measured=dataclasses.replace(report.measured, islands=times))
    for form in ("terminal", "markdown", "html"):
        render = find("reports.render", form, "RENDER")
        predicted, measured = render(report), render(timed)
        assert "Precision islands" in predicted and "add\\_1" in predicted.replace("add_1", "add\\_1")
        assert "predicted" in predicted and "1.050 ×" in predicted and "1.056 ×" in predicted
        assert "this host" in measured and "1.220 × [1.220, 1.220]" in measured.replace("\\[", "[").replace("\\]", "]")
        assert "Precision islands" not in render(dataclasses.replace(report, islands=None))


def test_ledger_steps_sum_to_the_total() -> None:
    ledger = make_report().ledger
    changes = steps(ledger)
    assert changes[0] is None and changes[-1] is None
    last = ledger[3].accuracy
    assert last and last.drop is not None
    assert sum(c for c in changes if c is not None) == pytest.approx(-last.drop)
    assert last.lost is not None and last.gained is not None
    assert last.drop == pytest.approx(100 * (last.lost - last.gained) / last.n)


@pytest.mark.parametrize("name", ["terminal", "markdown", "html"])
def test_every_rendering_tells_the_same_story(name: str) -> None:
    report = make_report()
    text = find("reports.render", name, "RENDER")(report)
    flat = re.sub(r"\s+", " ", text.replace("\\", ""))
    last = report.ledger[3].accuracy
    assert last and last.drop is not None
    for needle in ("PASSED" if name != "html" else "passed", "reference weights", "Reference weights, not imagenet",
                   "artifact (XNNPACK)", f"{last.drop:.2f} [", "8.40 MB", "0.255", CPU, "not a phone"):  # fmt: skip
        assert needle in flat, needle
    assert text == find("reports.render", name, "RENDER")(build.parse_report(build.report_text(report)))
    assert report.fidelity[0].module in flat


@pytest.mark.parametrize("name", ["terminal", "markdown", "html"])
def test_not_run_never_looks_passed(name: str) -> None:
    report = dataclasses.replace(
        make_report(),
        checks=(Check("second runtime", "not run", 0.0, "codes", 1.0),),
        measured=Measured(),
        ledger=(LedgerRow("float", "reference", None), LedgerRow("artifact", "step", None, "no runtime here")),
        fidelity=(), differences=(), ranges=(),
    )  # fmt: skip
    text = find("reports.render", name, "RENDER")(report)
    assert text.count("not run") >= 4 and "no runtime here" in text
    shown = re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL)
    assert "passed" not in shown.lower()
    assert "second runtime" in shown and "0 codes" not in shown


def test_unlabelled_report_shows_no_accuracy() -> None:
    report = make_report(labelled=False)
    for name in ("terminal", "markdown", "html"):
        text = find("reports.render", name, "RENDER")(report)
        assert "Accuracy was not measured" in re.sub(r"\s+", " ", text)
        assert "points (left is a loss)" not in text
    assert "not measured" in find("reports.render", "html", "RENDER")(report)


@pytest.mark.parametrize("name", ["html", "markdown", "terminal"])
def test_every_rendering_shows_where_operations_run(name: str) -> None:
    text = " ".join(find("reports.render", name, "RENDER")(make_report()).split())
    for said in ("Where each operation runs", "71 of 96 operations", "26 part(s)", "train with ReLU"):
        assert said in text.replace("\\", "")


def test_hostile_names_stay_text() -> None:
    report = make_report(hostile=HOSTILE)
    html = find("reports.render", "html", "RENDER")(report)
    assert "<script" not in html and "\x1b" not in html and "\u202e" not in html
    assert "&lt;script&gt;" in html
    markdown = find("reports.render", "markdown", "RENDER")(report)
    assert "<script" not in markdown and not re.search(r"[^\\]\]\(", markdown) and "\x1b" not in markdown
    widths = {len(re.findall(r"(?<!\\)\|", line)) for line in markdown.splitlines() if line.startswith("| ✓")}
    assert widths == {6}
    text = find("reports.render", "terminal", "RENDER")(report)
    assert "\x1b" not in text and "[red]" in re.sub(r"\s+", "", text)


def test_html_is_one_quiet_file() -> None:
    html = find("reports.render", "html", "RENDER")(make_report())
    assert not re.search(r"<(script|link|img|iframe|object)\b|url\(|@import|https?://", html)
    assert html.count("<svg") == 5 and html.count("</svg>") == 5
    assert "prefers-color-scheme: dark" in html and "nan" not in re.findall(r'[xyr][12]?="([^"]*)"', html)
    assert len(html) < 1_000_000
    assert html == find("reports.render", "html", "RENDER")(make_report())


def test_terminal_follows_the_callers_console() -> None:
    console = Console(width=80, record=True, color_system="standard", force_terminal=True, file=StringIO())
    terminal.show(make_report(), console)
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= 80
    assert max(map(len, terminal.RENDER(make_report()).splitlines())) <= terminal.WIDTH


def test_renderers_are_found_by_file_name() -> None:
    assert set(names("reports.render")) >= {"html", "json", "markdown", "terminal"}
