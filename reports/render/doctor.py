"""What the doctor found, on a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from reports.doctor import Diagnosis, Explanation, Host
from reports.render import _wording as words
from reports.render._tables import plain_table

GREEN, YELLOW, RED = "green", "yellow", "bold red"
STYLES = {"equal": GREEN, "within tolerance": GREEN, "close": YELLOW}
GROUPS = {"make": "make", "run": "run", "time": "time", "device": "reach", "bundle": "build a bundle for"}


def show(found: Diagnosis, console: Console) -> None:
    """One diagnosis: the verdict, what explains it, what to do."""
    found = words.cleaned(found)
    line = Text.assemble(f"{found.side} of vector {found.vector}: ", (found.verdict, STYLES.get(found.verdict, RED)))
    if found.gap:
        limit = "" if found.tolerance is None else f", {found.tolerance:.3g} allowed"
        line.append(f" ({found.gap:.3g} {found.unit}{limit})")
    console.print(line, highlight=False)
    if found.explanations:
        guess = found.verdict in ("unknown", "close")
        table = plain_table("", "comes nearest" if guess else "explained by", ">gap then")
        for each in found.explanations:
            table.add_row(Text(" and ".join(each.mistakes)), _gap(each))
        console.print(table, highlight=False)
    if found.tried:
        console.print(f"{found.tried} ways of feeding or reading it wrongly were compared", highlight=False)
    console.print(Text.assemble(("next: ", "bold"), found.next_step), highlight=False)


def show_host(host: Host, console: Console) -> None:
    """The machine, its packages, and what can be done here."""
    host = words.cleaned(host)
    seen = host.environment
    memory = "" if host.memory_bytes is None else f", {host.memory_bytes / 2**30:.1f} GiB"
    console.print(Text(f"qtools {host.version}, Python {seen.python}, {seen.system}"))
    console.print(Text(f"{seen.cpu} ({seen.machine}), {seen.cores} cores{memory}; {', '.join(seen.isa)}"))
    packages = plain_table("", "package", "version", "made for")
    for name, version in seen.packages.items():
        style = RED if name in host.missing else ""
        packages.add_row(Text(name), Text(version, style), Text(host.wanted.get(name, "")))
    abilities = plain_table("", "can it", "what", "here", "how, or why not; what to do")
    for each in host.abilities:
        mark = Text("yes", GREEN) if each.here else Text("no", YELLOW)
        said = each.how + (f"; {each.next_step}" if each.next_step else "")
        abilities.add_row(GROUPS[each.group], Text(each.name), mark, Text(said))
    console.print(packages, abilities, highlight=False)
    if host.missing:
        console.print(Text(f"missing: {', '.join(host.missing)}; make install, or pip install -e .", RED))


def _gap(each: Explanation) -> str:
    return "none" if each.gap == 0 else f"{each.gap:.3g}"
