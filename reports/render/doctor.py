"""What the doctor found, on a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from reports.doctor import Diagnosis, Explanation, Host

STYLES = {"equal": "green", "within tolerance": "green", "close": "yellow"}
GROUPS = {
    "make": "make an artifact for",
    "run": "run one of",
    "time": "time one of",
    "device": "reach",
    "bundle": "build the bundle of",
}


def show(found: Diagnosis, console: Console) -> None:
    """One diagnosis: the verdict, what explains it, what to do."""
    words = Text.assemble(
        f"{found.side} of vector {found.vector}: ", (found.verdict, STYLES.get(found.verdict, "bold red"))
    )
    if found.gap:
        limit = "" if found.tolerance is None else f", {found.tolerance:.3g} allowed"
        words.append(f" ({found.gap:.3g} {found.unit}{limit})")
    console.print(words, highlight=False)
    if found.explanations:
        table = Table(box=None, pad_edge=False)
        table.add_column("nearest" if found.verdict in ("unknown", "close") else "explained by", overflow="fold")
        table.add_column("gap then", justify="right")
        for each in found.explanations:
            table.add_row(Text(" and ".join(each.mistakes)), _gap(each))
        console.print(table)
    if found.tried:
        console.print(f"{found.tried} ways of feeding or reading it wrongly were compared", highlight=False)
    console.print(Text.assemble(("next: ", "bold"), found.next_step), highlight=False)


def show_host(host: Host, console: Console) -> None:
    """The machine, its packages, and what can be done here."""
    seen = host.environment
    memory = "" if host.memory_bytes is None else f", {host.memory_bytes / 2**30:.1f} GiB"
    console.print(f"qtools {host.version}, Python {seen.python}, {seen.system}", highlight=False)
    console.print(f"{seen.cpu} ({seen.machine}), {seen.cores} cores{memory}; {', '.join(seen.isa)}", highlight=False)
    packages = Table(box=None, pad_edge=False)
    packages.add_column("package")
    packages.add_column("version")
    packages.add_column("made for")
    for name, version in seen.packages.items():
        style = "bold red" if name in host.missing else ""
        packages.add_row(name, Text(version, style), host.wanted.get(name, ""))
    console.print(packages)
    abilities = Table(box=None, pad_edge=False)
    for title in ("", "here", "how, or why not", "what to do"):
        abilities.add_column(title, overflow="fold")
    for each in host.abilities:
        mark = Text("yes", "green") if each.here else Text("no", "yellow")
        abilities.add_row(f"{GROUPS[each.group]} {each.name}", mark, Text(each.how), Text(each.next_step))
    console.print(abilities)


def _gap(each: Explanation) -> str:
    return "none" if each.gap == 0 else f"{each.gap:.3g}"
