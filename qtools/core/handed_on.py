"""Moves that hand floats on: what a float operation gives, on its way to another one.

A move has no kernel that rounds. Where what it moves was made in float and float operations read it in the end, they
get it as it was made, and whoever reads it in integers makes codes of it for itself: rounding comes last, wherever the
file has the QUANTIZE. Codes are the same in front of a move and behind it.
"""

from __future__ import annotations

from collections import deque

from qtools.core.types import TRACELESS, GraphView, QuantPlan, ValuePlan


def handed_on(view: GraphView, plan: QuantPlan) -> frozenset[str]:
    """Ids of such moves, of those that the plan has in integers because integer operations read them as well.

    Args:
        view: The captured graph.
        plan: What runs where.
    """
    floats = plan.float_ops.keys()
    ends: set[str] = set()
    for op in reversed(view.ops):
        readers = {reader.id for name in op.outputs for reader in view.consumers[name]}
        if op.id not in floats and op.kind in TRACELESS and not readers.isdisjoint(floats | ends):
            ends.add(op.id)
    made = {name for op in view.ops if op.id in floats for name in op.outputs}
    found = []
    for op in view.ops:
        if op.id in ends and op.inputs[0] in made:
            found.append(op.id)
            made.update(op.outputs)
    return frozenset(found)


def behind_moves(view: GraphView, plan: QuantPlan, value: str) -> ValuePlan | None:
    """The grid on which integer operations read a value, perhaps behind moves of floats; None where none does.

    A file may have an operation in another order of dimensions than the program: in front of such a move, whose grid is
    then the one that it reads on.

    Args:
        view: The captured graph.
        plan: Every grid.
        value: Its id.
    """
    to_ask = deque([value])
    while to_ask:
        name = to_ask.popleft()
        entry = plan.values.get(name)
        if entry is not None and entry.params is not None:
            return entry
        moves = (reader for reader in view.consumers[name] if reader.kind in TRACELESS)
        to_ask.extend(out for move in moves for out in move.outputs)
    return None
