"""A bench as tables on a terminal. What it claims, it claims of the machine it names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from qtools.core.timing import Fed, Profile
from reports.bench import STREAM_PERCENTILE, Bench, Comparison, Timing, fast_share
from reports.render import _wording as words
from reports.render._plain import plain_text
from reports.render._tables import plain_table
from reports.render.terminal import WIDTH

SHOWN_KERNELS = 12
MEAN = "*"
"""Behind a mean that stands where medians do."""


def render(bench: Bench) -> str:
    """Plain text without colours, WIDTH columns wide."""
    return plain_text(partial(show, bench), WIDTH)


def show(bench: Bench, console: Console) -> None:
    """Prints to the caller's console, in its width and colours. Names enter as Text, never as markup."""
    bench = words.cleaned(bench)
    letters = {subject.name: _letter(place) for place, subject in enumerate(bench.artifacts)}
    parts: list[RenderableType] = [
        _headline(bench),
        _legend(bench, letters),
        *(Text.assemble(("! ", "bold yellow"), (text, "yellow")) for text in bench.warnings),
        _times(bench, letters),
        *_footnote(bench),
        *_stream(bench, letters),
        *_ratios(bench.comparisons, letters),
        *_left_out(bench, letters),
        *_profiles(bench, letters),
        *(Text(f"{note[:1].upper()}{note[1:]}.", style="dim") for note in bench.notes),
    ]
    console.print(Group(*parts), highlight=False)


def _letter(place: int) -> str:
    """A to Z, then AA, AB, ...: tables stay narrow, whatever files are called."""
    more, last = divmod(place, 26)
    return (_letter(more - 1) if more else "") + chr(ord("A") + last)


def _headline(bench: Bench) -> Text:
    machine = bench.machine
    what = "This host, not a phone" if machine.kind == "host" else machine.kind
    name = ", ".join(filter(None, (machine.name, machine.chip, machine.system)))
    line = Text(f"\n{what}: {name}\n", style="bold")
    if bench.environment is not None and machine.kind == "host":
        isa = ", ".join(bench.environment.isa) or "no vector extensions that matter here"
        versions = ", ".join(f"{package} {version}" for package, version in bench.environment.packages.items())
        line.append(f"{bench.environment.cores} cores, {isa}; {versions}\n", style="dim")
    return line


def _legend(bench: Bench, letters: Mapping[str, str]) -> Table:
    """Which artifact a letter stands for, what it is, and what ran it on what."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for subject in bench.artifacts:
        size = "" if subject.size_bytes is None else words.sized(subject.size_bytes)
        facts = ", ".join(filter(None, (subject.format, size, subject.made_by and f"by {subject.made_by.rstrip('.')}")))
        fed = "; ".join(map(_fed, subject.inputs))
        notes = dict.fromkeys(t.note for t in bench.timings if t.artifact == subject.name and t.note)
        runs = "; ".join(filter(None, (subject.runtime, *notes)))
        lines = ". ".join(filter(None, (facts, runs and f"Run by {runs}", fed and f"On {fed}")))
        table.add_row(Text(letters[subject.name]), Text.assemble((subject.name, "bold"), f"\n{lines}"))
    return table


def _fed(end: Fed) -> str:
    """An input in words; a dimension that was open is said to be."""
    shape = " × ".join(f"{size} (open)" if axis in end.opened else str(size) for axis, size in enumerate(end.shape))
    return f"{shape or 'scalar'} {end.dtype}, {end.values}"


def _times(bench: Bench, letters: Mapping[str, str]) -> Table:
    heads = (">threads", ">init", ">first", ">median", ">p90", ">p99", ">std", ">memory")
    table = plain_table("Milliseconds; what each adds to the memory of its process at its peak", "", *heads)
    table.columns[0].no_wrap = True
    for timing in bench.timings:
        opening, spread, letter = timing.opening, timing.spread, letters[timing.artifact]
        cells = [f"{letter}\n{timing.where}".strip(), str(timing.threads) if timing.threads else words.DASH]
        if spread is None:
            cells += [words.NOT_RUN, *[words.DASH] * 6]
        else:
            middle = spread.mean_ms if spread.median_ms is None else spread.median_ms
            times = (opening.init_ms, opening.first_ms, middle, spread.p90_ms, spread.p99_ms, spread.std_ms)
            cells += [*map(_ms, times), _memory(timing)]
            cells[4] += MEAN if spread.median_ms is None else ""
        table.add_row(*map(Text, cells), style=None if spread else "yellow")
    return table


def _footnote(bench: Bench) -> list[RenderableType]:
    means = any(timing.spread is not None and timing.spread.median_ms is None for timing in bench.timings)
    return [Text(f"{MEAN} mean: the tool prints no median\n", style="dim")] if means else []


def _ms(value: float | None) -> str:
    """Three significant digits at least: kernels of microseconds and networks of seconds stand in one column."""
    if value is None:
        return words.DASH
    return words.number(value, 3 if value < 10 else 2 if value < 100 else 1)


def _memory(timing: Timing) -> str:
    return words.DASH if timing.memory is None else words.sized(timing.memory.added_bytes)


def _stream(bench: Bench, letters: Mapping[str, str]) -> list[RenderableType]:
    """The metric of the single-stream scenario, and its neighbours."""
    if bench.mode != "single-stream":
        return []
    found: list[RenderableType] = []
    for timing in bench.timings:
        spread = timing.spread
        if spread is not None:
            who = f"{letters[timing.artifact]}, {_threads(timing.threads)}"
            head = f"{who}: {STREAM_PERCENTILE}th percentile {_ms(spread.p90_ms)} ms"
            bound = f"with 99 % confidence at most {_ms(spread.p90_bound_ms)}, " if spread.p90_bound_ms else ""
            rest = f"{bound}p50 {_ms(spread.median_ms)}, p97 {_ms(spread.p97_ms)}, p99 {_ms(spread.p99_ms)}"
            found.append(Text.assemble((head, "bold"), f" ({rest}; {spread.runs:,} queries one behind the other)"))
    return [*found, Text("")]


def _threads(count: int) -> str:
    return "threads as the runtime likes" if not count else f"{count} thread{'s' if count > 1 else ''}"


def _ratios(comparisons: Iterable[Comparison], letters: Mapping[str, str]) -> list[RenderableType]:
    lines = [
        Text(
            f"{letters[ratio.name]} / {letters[ratio.against]} = {words.number(ratio.median, 3)} "
            f"{words.interval((ratio.lo, ratio.hi), 3)} ({_threads(each.threads)})"
        )
        for each in comparisons
        for ratio in each.ratios
    ]
    return [Text("Ratio of one round, median and 95 % interval", style="bold"), *lines, Text("")] if lines else []


def _left_out(bench: Bench, letters: Mapping[str, str]) -> list[RenderableType]:
    reasons = dict.fromkeys((t.artifact, t.reason) for t in bench.timings if t.status == "not run")
    lines = [Text(f"{letters[name]}: not run: {reason}", style="yellow") for name, reason in reasons]
    return [*lines, Text("")] if lines else []


def _profiles(bench: Bench, letters: Mapping[str, str]) -> list[RenderableType]:
    found: list[RenderableType] = []
    for timing in bench.timings:
        title = f"{letters[timing.artifact]}, {_threads(timing.threads)}"
        if timing.profile is not None:
            found += [_kernels(timing.profile, title), Text(_summary(timing.profile) + "\n")]
        elif timing.profile_note:
            found.append(Text(f"Profile of {title}: {timing.profile_note}\n", style="yellow"))
    return found


def _kernels(profile: Profile, title: str) -> Table:
    total = sum(kernel.ms for kernel in profile.kernels) or 1.0
    table = plain_table(f"Profile of {title}", "Kernel", ">n", ">ms", ">share", f"in {profile.fast_path}")
    for kernel in profile.kernels[:SHOWN_KERNELS]:
        fast = {True: "yes", False: "no", None: words.DASH}[kernel.fast]
        cells = kernel.kind, f"{kernel.count:g}", words.number(kernel.ms, 3), _percent(kernel.ms / total), fast
        table.add_row(*map(Text, cells), style="yellow" if kernel.fast is False else None)
    rest = profile.kernels[SHOWN_KERNELS:]
    if rest:
        ms = sum(kernel.ms for kernel in rest)
        count = f"{sum(kernel.count for kernel in rest):g}"
        table.add_row(f"{len(rest)} other kinds", count, words.number(ms, 3), _percent(ms / total), "", style="dim")
    return table


def _summary(profile: Profile) -> str:
    total, share = sum(kernel.ms for kernel in profile.kernels), fast_share(profile)
    inside = (
        f"{_percent(share)} in {profile.fast_path}" if share is not None else "The runtime does not say what is fast"
    )
    return (
        f"{inside}; kernels add up to {words.number(total, 3)} of {words.number(profile.wall_ms, 3)} ms while profiled "
        f"({profile.source}, mean of {profile.runs})."
    )


def _percent(share: float) -> str:
    return f"{words.number(100 * share, 1)} %"
