"""AP against the definition in loops, closed forms and a bootstrap of its own; what a report makes of it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from qtools.core.answers import NAMES, of_boxes, of_classes
from qtools.core.boxes import Anchors, Decoding, Detections, ious
from qtools.core.errors import CheckFailed, InputError
from qtools.core.ports import Ports
from qtools.pipeline.sensitivity import direction
from reports import detection
from reports.accuracy import divergence
from reports.build import LedgerRow, parse_report, report_text
from reports.detection import NOTHING, OVERLAPS, ROW, paired_ap, precisions, ranked, shared
from reports.render import html, markdown, model_card, terminal
from reports.scores import PairedScore
from tests.unit.test_report import make_report

GRID = Anchors(((3, 3), (1, 1)), ((2.0,), ()), 0.25, 0.7)
DECODING = Decoding(GRID, least=0.2)
KINDS = 3


def _laid(outputs: list[np.ndarray]) -> np.ndarray:
    return Ports(NAMES, tuple((1, *each.shape[1:]) for each in outputs)).join(outputs)


def _answers(n: int, seed: int = 0, noise: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    logits, boxes = rng.normal(0, 2, (n, GRID.count, 1 + KINDS)), rng.normal(0, 0.6, (n, GRID.count, 4))
    answers = _laid([logits.astype(np.float32), boxes.astype(np.float32)])
    return answers + noise * np.random.default_rng(seed + 99).normal(0, 1, answers.shape).astype(np.float32)


def _labels(answers: np.ndarray, seed: int = 0) -> np.ndarray:
    """Some of what is found, moved a little; a quarter are crowds; others are nowhere near."""
    rng = np.random.default_rng(seed + 5)
    table = np.zeros((len(answers), 6, ROW))
    table[..., 0] = NOTHING
    for index, found in enumerate(detection.detections(answers, DECODING)):
        for row in range(int(rng.integers(0, 6))):
            at = int(rng.integers(0, min(5, len(found.boxes))))
            box = found.boxes[at] + rng.normal(0, 0.03, 4)
            table[index, row] = [found.classes[at], *box, float(rng.random() < 0.25)]
    return table


def by_definition(labels: np.ndarray, found: list[Detections], weights: np.ndarray | None = None) -> float:
    """AP in percent with plain loops: every class, overlap, recall; images repeated by their weights."""
    repeats = range(len(found)) if weights is None else np.repeat(np.arange(len(found)), weights)
    scores = []
    for label in sorted({int(row[0]) for rows in labels for row in rows if row[0] >= 0 and not row[5]}):
        at_overlaps = []
        for overlap in OVERLAPS:
            hits: list[tuple[float, bool]] = []
            objects = 0
            for image in repeats:
                rows = [row for row in labels[image] if row[0] == label]
                left = [row for row in rows if not row[5]]
                objects += len(left)
                for box, kind, score in zip(found[image].boxes, found[image].classes, found[image].scores, strict=True):
                    if kind != label:
                        continue
                    near = [float(ious(box[None], row[None, 1:5])[0, 0]) for row in left]
                    if near and max(near) >= overlap:
                        left.pop(int(np.argmax(near)))
                        hits.append((score, True))
                        continue
                    in_crowd = False
                    for row in (row for row in rows if row[5]):
                        w = min(box[2], row[3]) - max(box[0], row[1])
                        h = min(box[3], row[4]) - max(box[1], row[2])
                        area = (box[2] - box[0]) * (box[3] - box[1])
                        in_crowd |= max(w, 0) * max(h, 0) / area >= overlap
                    if not in_crowd:
                        hits.append((score, False))
            if not objects:
                continue
            hits.sort(key=lambda hit: -hit[0])
            right = np.cumsum([hit for _, hit in hits])
            total = 0.0
            for recall in range(101):
                reached = [right[i] / (i + 1) for i in range(len(hits)) if 100 * right[i] >= recall * objects]
                total += max(reached, default=0.0)
            at_overlaps.append(total / 101)
        if at_overlaps:
            scores.append(np.mean(at_overlaps))
    return 100 * float(np.mean(scores))


def test_the_score_is_that_of_the_definition() -> None:
    exact, other = _answers(8), _answers(8, noise=0.3)
    labels = _labels(exact)
    found = paired_ap(labels, exact, other, DECODING)
    sides = [detection.detections(each, DECODING) for each in (exact, other)]
    assert found.score_reference == pytest.approx(by_definition(labels, sides[0]))
    assert found.score == pytest.approx(by_definition(labels, sides[1]))
    assert found.drop == pytest.approx(found.score_reference - found.score)
    assert 5 < found.score != found.score_reference < 95, "neither end of the scale proves much"
    assert found.score_reference == pytest.approx(np.mean([part.reference for part in found.parts]))


def _one_class(*images: tuple[list[tuple[float, ...]], list[tuple[float, ...]]]) -> tuple[np.ndarray, list[Detections]]:
    """Images of (objects, detections with their score last)."""
    labels = np.zeros((len(images), 5, ROW))
    labels[..., 0] = NOTHING
    found = []
    for index, (objects, hits) in enumerate(images):
        for row, box in enumerate(objects):
            labels[index, row] = [0, *box[:4], box[4] if len(box) > 4 else 0]
        rows = np.asarray(hits, float).reshape(-1, 5)
        found.append(Detections(rows[:, :4], np.zeros(len(rows), np.int64), rows[:, 4]))
    return labels, found


LEFT, RIGHT = (0.0, 0.0, 0.4, 0.4), (0.5, 0.5, 0.9, 0.9)


@pytest.mark.parametrize(
    ("images", "wanted"),
    [
        ([([LEFT], [(*LEFT, 0.9)])], 1.0),
        ([([LEFT], [])], 0.0),
        ([([LEFT], [(*RIGHT, 0.9), (*LEFT, 0.8)])], 0.5),  # a wrong one first: precision 1/2 at every recall
        ([([LEFT], [(*LEFT, 0.9), (*LEFT, 0.8)])], 1.0),  # the second is one too many, behind full recall
        ([([LEFT, RIGHT], [(*LEFT, 0.9)])], 51 / 101),  # recalls 0 to 0.5
        ([([LEFT], [(*LEFT, 0.9)]), ([], [(*RIGHT, 0.95)])], 0.5),  # an image without objects has errors too
        ([([LEFT, (*RIGHT, 1)], [(*RIGHT, 0.99), (*LEFT, 0.9)])], 1.0),  # what lies in a crowd is no error
        ([([(0.0, 0.0, 0.4, 0.4)], [(0.0, 0.0, 0.4, 0.31, 0.9)])], 0.6),  # overlap 0.775: right at 0.5 to 0.75
    ],
)
def test_closed_forms(images: list[tuple[list[tuple[float, ...]], list[tuple[float, ...]]]], wanted: float) -> None:
    labels, found = _one_class(*images)
    got = precisions(ranked(labels, found, 0), np.ones((1, len(images)), np.int64))
    assert got.mean() == pytest.approx(wanted)


def test_a_draw_of_images_is_those_images_again() -> None:
    exact = _answers(6)
    labels, found = _labels(exact), detection.detections(exact, DECODING)
    draws = np.random.default_rng(3).multinomial(6, np.full(6, 1 / 6), 3)
    shown = sorted({int(row[0]) for rows in labels for row in rows if row[0] >= 0 and not row[5]})
    per_class = np.stack([precisions(ranked(labels, found, label), draws) for label in shown])
    for at, weights in enumerate(draws):
        assert 100 * np.nanmean(per_class[:, at]) == pytest.approx(by_definition(labels, found, weights))


def test_the_interval_holds_the_drop_and_noise_on_every_image_is_a_loss() -> None:
    exact = _answers(30)
    labels = _labels(exact)
    found = paired_ap(labels, exact, _answers(30, noise=0.5), DECODING)
    assert found.drop is not None and found.drop_interval is not None
    assert 0 < found.drop_interval[0] < found.drop < found.drop_interval[1]
    same = paired_ap(labels, exact, exact, DECODING)
    assert same.drop == 0 and same.drop_interval == (0, 0) and same.agreement == 100 and same.kl == 0
    unlabelled = paired_ap(None, exact, exact, DECODING)
    assert not unlabelled.labelled and unlabelled.score is None and unlabelled.beside == ()


def test_agreement_pairs_what_both_show() -> None:
    def show(*rows: tuple[tuple[float, ...], int, float]) -> Detections:
        boxes = np.asarray([row[0] for row in rows], float).reshape(-1, 4)
        return Detections(boxes, np.asarray([row[1] for row in rows], np.int64), np.asarray([row[2] for row in rows]))

    assert shared(show(), show()) == 1
    assert shared(show((LEFT, 0, 0.9)), show()) == 0
    assert shared(show((LEFT, 0, 0.9)), show((LEFT, 1, 0.9))) == 0
    assert shared(show((LEFT, 0, 0.9), (RIGHT, 1, 0.4)), show((LEFT, 0, 0.6))) == 1  # the unsure one is not shown
    assert shared(show((LEFT, 0, 0.9), (RIGHT, 1, 0.8)), show((LEFT, 0, 0.6))) == pytest.approx(2 / 3)
    assert shared(show((LEFT, 0, 0.9)), show((LEFT, 0, 0.9), (LEFT, 0, 0.8))) == pytest.approx(2 / 3)


def test_answers_have_classes_before_boxes() -> None:
    logits, boxes = (np.arange(2 * 5 * k).reshape(2, 5, k) for k in (3, 4))
    answers = _laid([logits, boxes])
    assert answers.shape == (2, 7, 5)
    assert (of_classes(answers) == logits.swapaxes(1, 2)).all() and (of_boxes(answers) == boxes.swapaxes(1, 2)).all()
    plain = np.zeros((2, 7))
    assert of_classes(plain) is plain and of_boxes(plain).size == 0


def test_divergence_adds_normal_distributions_of_variance_one() -> None:
    """By torch's own KL of categorical and of normal distributions, place by place."""
    a, b = _answers(3), _answers(3, noise=0.4)
    kinds = [
        torch.distributions.Categorical(logits=torch.from_numpy(of_classes(x)).double().transpose(1, 2)) for x in (a, b)
    ]
    places = [torch.distributions.Normal(torch.from_numpy(of_boxes(x)).double(), 1.0) for x in (a, b)]
    wanted = torch.distributions.kl_divergence(*kinds).mean(1) + torch.distributions.kl_divergence(*places).sum(1).mean(
        1
    )
    np.testing.assert_allclose(divergence(a, b), wanted.numpy(), rtol=1e-9)


def test_probes_of_detectors_have_the_divergence_as_their_square() -> None:
    answers = torch.from_numpy(_answers(1)).double()
    step = 1e-3 * torch.from_numpy(np.random.default_rng(1).normal(size=answers.shape))
    chance = torch.Generator().manual_seed(0)
    squares = [float((direction(answers, chance).double() * step).sum() ** 2) for _ in range(3000)]
    wanted = 2 * divergence(answers.numpy(), (answers + step).numpy())[0]
    assert np.mean(squares) == pytest.approx(wanted, abs=4 * np.std(squares) / np.sqrt(len(squares)))


def test_what_cannot_be_compared_is_refused() -> None:
    exact = _answers(2)
    labels = np.array([[[0, 0, 0, 0.5, 0.5, 0]]] * 2, float)
    with pytest.raises(ValueError, match="are no pair"):
        paired_ap(labels, exact, exact[:1], DECODING)
    with pytest.raises(ValueError, match="labels of shape"):
        paired_ap(labels[:1], exact, exact, DECODING)
    with pytest.raises(InputError, match="class 9, and the network has 3"):
        paired_ap(np.where(np.arange(6) == 0, 9, labels), exact, exact, DECODING)
    with pytest.raises(InputError, match="no image to judge on shows an object"):
        paired_ap(np.full_like(labels, NOTHING), exact, exact, DECODING)
    with pytest.raises(CheckFailed, match="NaN"):
        paired_ap(labels, exact, np.full_like(exact, np.nan), DECODING)


def test_reports_say_ap_and_keep_it() -> None:
    exact, other = _answers(8), _answers(8, noise=0.1)
    labels = _labels(exact)
    rows = tuple(
        LedgerRow(stage, role, dataclasses.replace(paired_ap(labels, exact, each, DECODING), classes=("cup",)))  # type: ignore[arg-type]
        for stage, role, each in (("float", "reference", exact), ("artifact", "step", other))
    )
    base = make_report()
    report = dataclasses.replace(
        base, ledger=rows, subject=dataclasses.replace(base.subject, task="detection"), checks=()
    )
    again = parse_report(report_text(report))
    assert again.ledger == rows and isinstance(again.ledger[1].accuracy, PairedScore)
    for form in (terminal, markdown, html, model_card):
        text = form.RENDER(report)
        assert "AP" in text and "top-1" not in text.lower(), form.__name__
    assert "cup" in markdown.RENDER(report) and "AP50" in markdown.RENDER(report)
    assert "object-detection" in model_card.RENDER(report)
