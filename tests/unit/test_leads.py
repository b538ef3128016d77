"""Operations of an artifact belong to the value that their results first become, and conversions to both sides."""

from __future__ import annotations

from exporters._leads import Leads, Step
from qtools.core.timing import OpTime

STEPS = [
    Step(("image",), ("c",)),  # 0: conv
    Step(("c",), ("c.real",), True),  # 1: into float
    Step(("c.real",), ("mean",)),  # 2 to 4: a norm taken apart
    Step(("c.real", "mean"), ("centred",)),
    Step(("centred", "gain"), ("n",)),
    Step(("n",), ("n.codes",), True),  # 5: back
    Step(("n.codes",), ("l",)),  # 6, 7: two readers, one of them at the end
    Step(("n.codes", "l"), ("out",)),
    Step(("out",), ("out.real",), True),  # 8: for the app
]
VALUES = {name: f"<{name}>" for name in ("image", "c", "n", "l", "out")}


def test_what_a_converter_took_apart_leads_to_its_result() -> None:
    leads = Leads(STEPS, VALUES)
    expected = ["<c>", "<n>", "<n>", "<n>", "<n>", "<l>", "<l>", "<out>"]
    assert [leads.of(at)[:1] for at in range(8)] == [(name,) for name in expected]
    assert leads.of(8) == ()


def test_a_constant_is_known_by_its_readers() -> None:
    leads = Leads(STEPS, VALUES)
    assert leads.readers("gain") == ("<n>",) and leads.readers("nobody reads it") == ()


def test_a_conversion_has_two_sides() -> None:
    leads = Leads(STEPS, VALUES)
    assert leads.timed(1, 2.0) == OpTime(2.0, ("<n>",), True, ("<c>",))
    assert leads.timed(5, 1.0) == OpTime(1.0, ("<l>", "<out>"), True, ("<n>",))
    assert leads.timed(8, 1.0) == OpTime(1.0, (), True, ("<out>",))
    assert leads.timed(3, 4.0) == OpTime(4.0, ("<n>",))


def test_conversions_behind_each_other_are_passed() -> None:
    steps = [Step(("a",), ("b",)), Step(("b",), ("c",), True), Step(("c",), ("d",), True), Step(("d",), ("e",))]
    leads = Leads(steps, {"b": "B", "e": "E"})
    assert leads.timed(1, 1.0).values == leads.timed(2, 1.0).values == ("E",)
    assert leads.timed(1, 1.0).made == ("B",)
