"""Early exits: which one answers, against loops; what is lost, against counts by hand; a network cut at its exits."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from qtools import architectures
from qtools.architectures.lgvit import DEEP, LgVit
from qtools.core.answers import EXIT
from qtools.core.errors import CheckFailed, InputError
from qtools.core.exits import Exits, answered
from qtools.core.inspection import End
from qtools.core.ports import Ports
from qtools.graph.rows import gives_of, joined
from qtools.models import resolve, wrap_module
from qtools.models.lgvit import THRESHOLD
from qtools.models.lgvit import exits as exits_of
from qtools.pipeline import contract_of_run, vectors
from qtools.pipeline.task import task_of
from qtools.reference.exercises import early_exit
from reports import pieces
from reports.accuracy import divergence, paired_accuracy
from reports.build import parse_report, report_text
from reports.exits import COST, agreement, paired_exits
from reports.render import html, markdown
from tests.unit.test_fuse_families import randomized
from tests.unit.test_report import make_report

EXITS = Exits((0.6, 0.8), (0.25, 0.5, 1.0))
CLASSES = 5


def _answers(n: int, seed: int = 0, sharp: float = 3.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, sharp, (n, CLASSES, EXITS.count, 1)).astype(np.float32)


def _by_loops(answers: np.ndarray, exits: Exits) -> list[tuple[int, int]]:
    """Exit and class of each image."""
    found = []
    for image in answers[..., 0]:
        for at in range(exits.count):
            logits = [float(x) for x in image[:, at]]
            whole = sum(np.exp(x) for x in logits)
            shares = [np.exp(x) / whole for x in logits]
            if at == exits.count - 1 or max(shares) > exits.thresholds[at]:
                found.append((at, shares.index(max(shares))))
                break
    return found


@given(st.integers(1, 12), st.integers(0, 999), st.floats(0.1, 5), st.floats(0, 1), st.floats(0, 1))
def test_the_first_sure_exit_answers(n: int, seed: int, sharp: float, first: float, second: float) -> None:
    exits, answers = dataclasses.replace(EXITS, thresholds=(first, second)), _answers(n, seed, sharp)
    taken = exits.taken(answers)
    named = answered(answers, taken).argmax(1)
    assert list(zip(taken.tolist(), named.tolist(), strict=True)) == _by_loops(answers, exits)


def test_a_probability_has_to_be_above_the_threshold() -> None:
    tie = np.zeros((1, 2, 2, 1), np.float32)
    assert Exits((0.5,), (0.5, 1.0)).taken(tie).tolist() == [1]
    assert Exits((0.49,), (0.5, 1.0)).taken(tie).tolist() == [0]


@pytest.mark.parametrize(
    ("thresholds", "costs"),
    [((), (1.0,)), ((0.5,), (1.0,)), ((1.5,), (0.5, 1.0)), ((0.5,), (0.5, 0.9)), ((0.5, 0.5), (0.6, 0.5, 1.0))],
)
def test_what_no_exits_are_is_refused(thresholds: tuple[float, ...], costs: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="exit|threshold|cost"):
        Exits(thresholds, costs)


def test_answers_of_other_exits_are_refused() -> None:
    with pytest.raises(ValueError, match="not those of 3 exits"):
        EXITS.taken(_answers(2)[:, :, :2])


@given(st.integers(1, 3), st.integers(2, 4), st.integers(1, 4))
def test_exits_travel_beside_each_other(count: int, exits: int, classes: int) -> None:
    draw = np.random.default_rng(0)
    arrays = [draw.normal(size=(count, classes)).astype(np.float32) for _ in range(exits)]
    tensors = [torch.from_numpy(array) for array in arrays]
    ports = gives_of(tensors)
    assert ports.names == tuple(f"{EXIT}{at}" for at in range(1, exits + 1)) and ports.exits
    travelling = ports.join(arrays)
    assert travelling.shape == (count, classes, exits, 1)
    flat = np.concatenate(arrays, 1)
    for parts in (ports.split(travelling), ports.cut(flat), ports.split(torch.from_numpy(travelling))):
        assert all((np.asarray(ours) == theirs).all() for ours, theirs in zip(parts, arrays, strict=True))
    assert torch.equal(joined(ports, tensors), torch.from_numpy(travelling))


AUTHORS: dict[str, tuple[str, tuple[int, ...], int]] = {
    # backbone, channels at the exits, what else a classifier has per channel (times two: a norm's scale and shift)
    "lgvit_vit_b": ("vit_base_patch16_224", (768,) * 8, 0),
    "lgvit_deit_b": ("deit_base_distilled_patch16_224", (768,) * 8, 0),
    "lgvit_swin_b": ("swin_base_patch4_window7_224", (256, *(512,) * 6, 1024), 2),
}


@pytest.mark.all_models
@pytest.mark.parametrize("name", AUTHORS)
def test_the_exits_have_the_authors_parameters(name: str) -> None:
    """Written out from github.com/falcon-xu/LGViT, highway.py of either backbone: two heads of two convolutions around
    a depthwise one, two of two convolutions, four of attention without a bias at its entry, and classifiers."""
    backbone, channels, norm = AUTHORS[name]
    depthwise = [2 * d * d + 18 * d for d in channels[:2]]
    pointwise = [2 * d * d + 6 * d for d in channels[2:4]]
    attention = [4 * d * d + d for d in channels[4:]]
    votes = 2 if name == "lgvit_deit_b" else 1
    classifiers = [norm * d + votes * 100 * (d + 1) for d in channels]
    with torch.device("meta"):
        sizes = [sum(p.numel() for p in timm.create_model(n, num_classes=100).parameters()) for n in (name, backbone)]
    assert sizes[0] - sizes[1] == sum(depthwise + pointwise + attention + classifiers)


def test_exits_of_another_number_do_not_come_apart() -> None:
    ports = Ports((f"{EXIT}1", f"{EXIT}2"), ((1, 3), (1, 3)))
    with pytest.raises(ValueError, match="do not hold"):
        ports.split(np.zeros((2, 3, 3, 1)))


def test_scores_are_what_loops_count() -> None:
    reference, labels = _answers(40), np.arange(40) % CLASSES
    other = reference + np.random.default_rng(1).normal(0, 1.5, reference.shape).astype(np.float32)
    found = paired_exits(labels, reference, other, EXITS)
    sides = [_by_loops(each, EXITS) for each in (reference, other)]
    same = [a == b for a, b in zip(*sides, strict=True)]
    assert 0 < sum(same) < 40
    assert found.agreement == pytest.approx(100 * sum(same) / 40)
    assert agreement(reference, other, EXITS) == sum(same) / 40
    tops = [100 * sum(named == label for (_, named), label in zip(side, labels, strict=True)) / 40 for side in sides]
    assert (found.score_reference, found.score) == (tops[0], tops[1]) and found.drop == pytest.approx(tops[0] - tops[1])
    beside = {name: (before, after) for name, before, after in found.beside}
    cost = [100 * np.mean([EXITS.costs[at] for at, _ in side]) for side in sides]
    assert beside.pop(COST) == pytest.approx(tuple(cost))
    for number, rates in enumerate(beside.values()):
        assert rates == pytest.approx(tuple(100 * sum(at == number for at, _ in side) / 40 for side in sides))
    assert sum(before for before, _ in beside.values()) == pytest.approx(100)
    for part in found.parts:
        alone = paired_accuracy(labels, *(each[:, :, part.index, 0] for each in (reference, other)))
        assert (part.reference, part.score) == pytest.approx((alone.top1_reference, alone.top1))
    assert found.kl == pytest.approx(
        np.mean([divergence(reference[..., at, 0], other[..., at, 0]).mean() for at in range(EXITS.count)])
    )


def test_an_image_that_leaves_at_another_exit_with_the_same_class_does_not_agree() -> None:
    early = np.zeros((1, 2, 2, 1), np.float32)
    early[0, 0] = 4.0
    late = early.copy()
    late[0, 0, 0] = 0.1
    found = paired_exits(None, early, late, Exits((0.8,), (0.4, 1.0)))
    assert found.agreement == 0 and not found.labelled
    assert found.beside[0] == (COST, 40.0, 100.0)


def test_answers_that_are_not_numbers_fail() -> None:
    broken = _answers(2)
    broken[1, 0, 2] = np.nan
    with pytest.raises(CheckFailed, match="NaN"):
        paired_exits(None, _answers(2), broken, EXITS)
    with pytest.raises(InputError, match="no image"):
        paired_exits(None, _answers(0), _answers(0), EXITS)


def test_a_report_says_who_answers_and_at_what_cost() -> None:
    reference = _answers(30)
    report = make_report()
    score = paired_exits(np.arange(30) % CLASSES, reference, reference + 0.5 * _answers(30, 3, 1.0), EXITS)
    ledger = tuple(dataclasses.replace(row, accuracy=score if row.accuracy else None) for row in report.ledger)
    report = dataclasses.replace(report, ledger=ledger)
    assert parse_report(report_text(report)).ledger == ledger
    for text in (markdown.RENDER(report), html.RENDER(report)):
        for word in ("top-1 at the exits by exit", COST, "exit 1 answers", "exit 3 answers", "exit 2 alone"):
            assert word in text


def test_a_piece_is_judged_by_its_exit_and_its_features() -> None:
    draw = np.random.default_rng(0)
    rows = draw.normal(size=(20, 7 + CLASSES)).astype(np.float32)
    other = rows.copy()
    other[:, :7] *= 3  # as long as it likes: the cosine stays
    found = pieces.paired_piece(None, rows, other, CLASSES)
    assert (found.agreement, found.kl) == (100, 0) and found.beside[0][2] == pytest.approx(100)
    assert pieces.distances(rows, other, CLASSES) == pytest.approx(0, abs=1e-3)
    other[:, -CLASSES:] = np.roll(other[:, -CLASSES:], 1, 1)
    labels = rows[:, 7:].argmax(1)
    found = pieces.paired_piece(labels, rows, other, CLASSES)
    assert (found.agreement, found.score_reference, found.score) == (0, 100, 0)
    assert pieces.alike(rows, other, CLASSES) == 0 and pieces.distances(rows, other, CLASSES).mean() > 0.5
    with pytest.raises(ValueError, match="no logits"):
        pieces.taken_apart(rows, 99)


def test_a_contract_has_exits_by_their_numbers() -> None:
    names = [f"{EXIT}{at}" for at in range(1, 12)]
    ends = tuple(End(name, (1, 3), "float32") for name in sorted(names))  # exit_10 before exit_2
    seen = vectors.Vector({}, {name: np.zeros((1, 3), np.float32) for name in sorted(names)})
    last, earlier = contract_of_run._output(ends, seen, "early_exit"), contract_of_run._exits(ends, seen)[:-1]
    assert [end.name for end in (*earlier, last)] == names


class Two(nn.Module):
    """Two exits; `count` says how many it claims."""

    pretrained_cfg = {"input_size": (3, 8, 8), "mean": (0.5,) * 3, "std": (0.5,) * 3}  # noqa: RUF012

    def __init__(self, count: int = 2) -> None:
        super().__init__()
        self.exits = Exits((0.7,) * (count - 1), tuple((at + 1) / count for at in range(count)))
        self.early, self.late = nn.Conv2d(3, 4, 8), nn.Conv2d(3, 4, 8)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.early(x).flatten(1), self.late(x).flatten(1)


def test_an_own_module_says_when_it_answers_early() -> None:
    loaded = wrap_module(Two())
    assert (loaded.spec.task, loaded.spec.classes) == ("early_exit", 4)
    assert task_of(loaded.spec).exits == Exits((0.7,), (0.5, 1.0))
    with pytest.raises(InputError, match="at each of 3 exits"):
        wrap_module(Two(3))


@pytest.fixture(scope="module")
def thin() -> LgVit:
    architectures.register()
    torch.manual_seed(0)
    return randomized(timm.create_model("lgvit_deit_thin", num_classes=7).eval())


@torch.no_grad()
def test_pieces_one_behind_the_other_are_the_network(thin: LgVit) -> None:
    x = torch.randn(2, 3, 64, 64)
    expected = thin(x)
    assert [tuple(each.shape) for each in expected] == [(2, 7)] * 3
    for piece, answer in zip(thin.pieces(), expected, strict=True):
        found = piece(x)
        x, logits = (None, found) if piece.last else found
        torch.testing.assert_close(logits, answer, rtol=0, atol=0)


def test_maps_pass_with_their_channels_second() -> None:
    body = {"embed_dim": 16, "depths": (1, 2), "num_heads": (2, 2), "window_size": 4}
    torch.manual_seed(0)
    swin = LgVit("swin_tiny_patch4_window7_224", ((1, DEEP), (2, "every2")), 3, 32, body).eval()
    x = torch.randn(1, 3, 32, 32)
    expected, shapes = swin(x), []
    for piece, answer in zip(swin.pieces(), expected, strict=True):
        found = piece(x)
        x, logits = (x, found) if piece.last else found
        shapes.append(tuple(x.shape))
        torch.testing.assert_close(logits, answer)
    assert shapes[:2] == [(1, 16, 8, 8), (1, 32, 4, 4)]


@torch.no_grad()
def test_an_exit_is_what_the_paper_says_it_is(thin: LgVit) -> None:
    """Exits of both kinds from loops over places, on the thin network's own weights."""
    tokens = torch.randn(1, 2 + 64, 96)
    local, wide = thin.exits[0], thin.exits[1]
    patches = tokens[:, 2:].transpose(1, 2).reshape(1, 96, 8, 8)
    mixed = (local.mix.conv2(local.mix.proj(local.mix.conv1(patches))) + patches).mean((2, 3))
    told = [head(tokens[:, at] + mixed) for at, head in enumerate(local.votes.heads)]
    torch.testing.assert_close(local(tokens), (told[0] + told[1]) / 2)
    cells = torch.stack([tokens[0, 2 + 8 * row + column] for row in range(0, 8, 2) for column in range(0, 8, 2)])
    query, key, value = wide.mix.qkv(cells).reshape(16, 3, 8, 12).permute(1, 2, 0, 3)
    seen = torch.softmax(query @ key.transpose(1, 2) / 12**0.5, -1) @ value
    mean = wide.mix.proj(seen.transpose(0, 1).reshape(16, 96)).mean(0)
    told = [head(tokens[0, at] + mean) for at, head in enumerate(wide.votes.heads)]
    torch.testing.assert_close(wide(tokens)[0], (told[0] + told[1]) / 2)


def test_costs_are_those_of_a_closed_form() -> None:
    spec = resolve("lgvit_deit_thin")
    width, tokens, cells, classes = 96, 66, 64, spec.classes
    block = tokens * 12 * width**2 + 2 * tokens**2 * width
    votes = 2 * width * classes
    local = cells * (2 * width**2 + 9 * width) + votes
    wide = (cells // 4) * 4 * width**2 + 2 * (cells // 4) ** 2 * width + votes
    first = cells * 3 * 64 * width + 2 * block + local
    all_ = first + 4 * block + wide + votes
    found = exits_of(spec)
    assert found.costs == pytest.approx((first / all_, (first + 2 * block + wide) / all_, 1.0), rel=1e-6)


@pytest.mark.parametrize(
    "exits", [((2, "conv2"),), ((2, "every9"),), ((4, DEEP), (2, DEEP)), ((6, DEEP),), ((0, DEEP),)]
)
def test_exits_that_cannot_be_are_refused(exits: tuple[tuple[int, str], ...]) -> None:
    with pytest.raises(ValueError, match="exit"):
        LgVit(
            "deit_tiny_distilled_patch16_224",
            exits,
            4,
            16,
            {"patch_size": 8, "embed_dim": 24, "depth": 6, "num_heads": 3},
        )


def test_a_reference_network_is_scored_at_the_exit_that_answers() -> None:
    """Against `Exits`, which the report goes by."""
    answers = np.random.default_rng(0).normal(0, 3, (64, 16, 3, 1)).astype(np.float32)
    labels = torch.arange(64) % 16
    rule = Exits((THRESHOLD, THRESHOLD), (0.2, 0.5, 1.0))
    named = answered(answers, rule.taken(answers)).argmax(1)
    assert 0 < (rule.taken(answers) < 2).sum() < 64
    sums = early_exit.EXERCISE.tally(tuple(torch.from_numpy(answers[:, :, at, 0]) for at in range(3)), labels)
    assert int(sums[0].sum()) == int((named == labels.numpy()).sum()) and int(sums[1].sum()) == 64
