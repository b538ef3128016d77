"""Size, names and habits that a reader relies on. Each list of exceptions is empty until one earns a reason."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

import pytest

LINES_PER_FILE = 400
LINES_PER_FUNCTION = 60  # from def to the last statement, docstring not counted: explaining is free
PARAMETERS = 6
PARAMETER_EXCEPTIONS: dict[str, str] = {}  # "path:function" -> reason
BANNED_NAMES = {"utils", "util", "helpers", "helper", "common", "manager", "factory", "misc"}
PRINTING = ("qtools/cli/", "reports/render/")

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(tree: ast.Module) -> Iterator[tuple[Function, bool]]:
    """Each function, and whether it is a method that is handed its object."""
    methods = {
        item
        for cls in ast.walk(tree)
        if isinstance(cls, ast.ClassDef)
        for item in cls.body
        if isinstance(item, Function) and not any(getattr(d, "id", "") == "staticmethod" for d in item.decorator_list)
    }
    for node in ast.walk(tree):
        if isinstance(node, Function):
            yield node, node in methods


def body_lines(function: Function) -> int:
    lines = (function.end_lineno or function.lineno) - function.lineno + 1
    first = function.body[0]
    if ast.get_docstring(function) is not None:
        lines -= (first.end_lineno or first.lineno) - first.lineno + 1
    return lines


def test_files_are_short(all_sources: list[Any]) -> None:
    long = [f"{s.path}: {len(s.lines)} lines" for s in all_sources if len(s.lines) > LINES_PER_FILE]
    assert not long, f"over {LINES_PER_FILE}: " + "; ".join(long)


def test_functions_are_short(all_sources: list[Any]) -> None:
    long = [
        f"{s.at(f)} {f.name}: {body_lines(f)} lines"
        for s in all_sources
        for f, _ in functions(s.tree)
        if body_lines(f) > LINES_PER_FUNCTION
    ]
    assert not long, f"over {LINES_PER_FUNCTION}: " + "; ".join(long)


def test_parameters_are_few(sources: list[Any]) -> None:
    many = []
    for source in sources:
        if source.path.startswith("qtools/cli/"):  # typer turns every option into a parameter
            continue
        for function, method in functions(source.tree):
            a = function.args
            count = len(a.posonlyargs) + len(a.args) + len(a.kwonlyargs) - method
            if count > PARAMETERS and f"{source.path}:{function.name}" not in PARAMETER_EXCEPTIONS:
                many.append(f"{source.at(function)} {function.name}: {count}")
    assert not many, f"over {PARAMETERS} parameters: " + "; ".join(many)


def test_names_say_what_is_inside(all_sources: list[Any]) -> None:
    parts = {part for s in all_sources for part in PurePosixPath(s.path).with_suffix("").parts}
    vague = {part for part in parts if part.strip("_") in BANNED_NAMES}
    assert not vague, f"name files for what they do, not {sorted(vague)}"


def test_targets_are_data(sources: list[Any]) -> None:
    """No branch on a target's name outside exporters/: what differs is in the TargetSpec."""
    branches = [
        s.at(node)
        for s in sources
        if not s.path.startswith("exporters/")
        for node in ast.walk(s.tree)
        if (isinstance(node, ast.Compare) and _names_target([node.left, *node.comparators]))
        or (isinstance(node, ast.Match) and _is_target(node.subject))
    ]
    assert not branches, "a branch on the target's name: " + ", ".join(branches)


def test_only_the_shell_and_the_renderers_print(sources: list[Any]) -> None:
    prints = [
        s.at(node)
        for s in sources
        if not s.path.startswith(PRINTING)
        for node in ast.walk(s.tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert not prints, ", ".join(prints)


def test_broad_excepts_give_their_reason(all_sources: list[Any]) -> None:
    """`except Exception` may clean up and raise again; otherwise its line says why in a comment."""
    silent = [
        s.at(node)
        for s in all_sources
        for node in ast.walk(s.tree)
        if isinstance(node, ast.ExceptHandler) and _is_broad(node) and not _explained(node, s.lines)
    ]
    assert not silent, "a broad except without a reason: " + ", ".join(silent)


def test_tests_are_no_packages(tracked: list[str]) -> None:
    """An __init__.py in tests/exporters would shadow the real exporters."""
    assert not [p for p in tracked if re.match(r"tests/(.*/)?__init__\.py$", p)]


@pytest.mark.parametrize(
    ("code", "found"),
    [("if target == 'tflite': pass", 1), ("if a.target.name in ('x', 'y'): pass", 1), ("if target is None: pass", 0)],
)
def test_the_search_for_target_branches_finds_them(code: str, found: int) -> None:
    nodes = [n for n in ast.walk(ast.parse(code)) if isinstance(n, ast.Compare)]
    assert sum(_names_target([n.left, *n.comparators]) for n in nodes) == found


def _names_target(operands: list[ast.expr]) -> bool:
    words = [c for o in operands for c in ast.walk(o) if isinstance(c, ast.Constant) and isinstance(c.value, str)]
    return bool(words) and any(_is_target(o) for o in operands)


def _is_target(node: ast.expr) -> bool:
    """`target`, `x.target`, `target.name`, `target.spec.name`."""
    chain = []
    while isinstance(node, ast.Attribute):
        chain.append(node.attr)
        node = node.value
    chain.append(getattr(node, "id", ""))
    return chain[0] == "target" or (chain[0] == "name" and "target" in chain)


def _is_broad(handler: ast.ExceptHandler) -> bool:
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(kind is None or getattr(kind, "id", "") in {"Exception", "BaseException"} for kind in kinds)


def _explained(handler: ast.ExceptHandler, lines: list[str]) -> bool:
    raises_again = isinstance(handler.body[-1], ast.Raise)
    return raises_again or "#" in lines[handler.lineno - 1]
