"""Medians of interleaved runs in one process, and what they say.

Machines are noisy: what is compared runs in turns, so that a slow second is everybody's, and medians are
taken. Times are of whole calls, from a float32 tensor to a float32 tensor.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.box import SIMPLE
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table

from irnet_convert.packed.bench_steps import StepTime

#: Shortest sample, in seconds: what is faster is called several times a sample.
_SHORTEST = 2e-3
_FEWEST_ROUNDS = 9
_WARM_UP = 3  # calls, of one contestant after the other and then, two by two, in turns
_BAR = 40


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """Something to be timed.

    Attributes:
        name: short, as on the command line.
        what: one line for the table.
        run: one call.
    """

    name: str
    what: str
    run: Callable[[], Any]


@dataclass(frozen=True, kw_only=True)
class Timing:
    """What was measured of one contestant; seconds a call."""

    name: str
    what: str
    median: float
    fastest: float
    slowest: float
    calls: int


def time_in_turns(
    contestants: Sequence[Contestant], *, seconds: float = 10.0, progress: Callable[[str], None] | None = None
) -> list[Timing]:
    """Time every contestant, in turns.

    Args:
        contestants: each is called nine times beforehand.
        seconds: about how long to measure in all; at least nine rounds are measured whatever they take.
        progress: is told what happens.

    Returns:
        One timing for each, in their order.
    """
    say = progress or (lambda text: None)
    for one in contestants:
        say(f"warming up {one.name}")
        for _ in range(_WARM_UP):
            one.run()
    # In turns: while a process finds its memory, one call may take five times as long as the next. And two at
    # once: the first finds the caches filled by another, and counts for more in shorter samples.
    taken = [[min(_once(one, 1), _once(one, 1)) for one in contestants] for _ in range(_WARM_UP)]
    repeats = [max(1, round(_SHORTEST / max(min(of_one), 1e-7))) for of_one in zip(*taken, strict=True)]
    say("timing " + ", ".join(one.name for one in contestants))
    samples: list[list[float]] = [[] for _ in contestants]
    end = time.perf_counter() + seconds
    for number in itertools.count():
        if number >= _FEWEST_ROUNDS and time.perf_counter() > end:
            break
        for one, calls, found in zip(contestants, repeats, samples, strict=True):
            found.append(_once(one, calls))
    return [
        Timing(
            name=one.name, what=one.what, median=statistics.median(found), fastest=min(found),
            slowest=max(found), calls=calls * len(found),
        )
        for one, calls, found in zip(contestants, repeats, samples, strict=True)
    ]  # fmt: skip


def _once(one: Contestant, calls: int) -> float:
    begin = time.perf_counter()
    for _ in range(calls):
        one.run()
    return (time.perf_counter() - begin) / calls


@dataclass(frozen=True, kw_only=True)
class StepTable:
    """The steps of a network; printing it with rich shows a table.

    Attributes:
        steps: in execution order.
        limit: binary multiply-adds a second of one core, or 0.
    """

    steps: Sequence[StepTime]
    limit: float

    def __rich__(self) -> Table:
        joined = any(one.joined for one in self.steps)
        table = Table(box=SIMPLE, caption="↑ in the time of a step above" if joined else None)
        for name in ("step", "layer", "output", "µs", "GMAC/s", "limit"):
            table.add_column(name, justify="left" if name in ("step", "layer") else "right", no_wrap=True)
        for one in self.steps:
            rate = one.macs / one.seconds if one.seconds else 0.0
            binary = one.kind.startswith("binary") and self.limit
            table.add_row(
                one.kind, one.name, "×".join(map(str, one.shape[1:])),
                "↑" if one.joined else f"{one.seconds * 1e6:.0f}",
                f"{rate / 1e9:.0f}" if one.macs else "", f"{rate / self.limit:.0%}" if binary else "",
            )  # fmt: skip
        return table


@dataclass(frozen=True, kw_only=True)
class Result:
    """A benchmark; printing it with rich shows a table.

    Attributes:
        model: what was benchmarked.
        machine: the processor's name and what else matters.
        kernel: the kernels that ran the packed network, or "reference".
        batch: images a call.
        threads: threads of every contestant.
        timings: the packed network's first.
        facts: further figures by name.
        warnings: what a reader must know.
        chart: show bars.
        steps: show what each step takes.
    """

    model: str
    machine: str
    kernel: str
    batch: int
    threads: int
    timings: list[Timing]
    facts: Mapping[str, str] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    chart: bool = False
    steps: StepTable | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data; seconds a call, and each contestant's ratio to the packed network."""
        found = {**asdict(self), "timings": []}
        for one in self.timings:
            found["timings"].append({**asdict(one), "ratio": one.median / self.timings[0].median})
        return found

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        threads = f"{self.threads} thread" + ("s" if self.threads > 1 else "")
        yield f"[bold]{self.model}[/bold], batch {self.batch}, {threads}, {self.machine}"
        yield self._table()
        yield "; ".join(f"{one.name}: {one.what}" for one in self.timings)
        if self.chart:
            yield self._bars()
        if self.steps:
            yield self.steps
        for name, value in self.facts.items():
            yield f"{name}: {value}"
        for warning in self.warnings:
            yield f"[bold red]warning[/bold red]: {warning}"

    def _table(self) -> Table:
        table = Table()
        for name in ("", "ms", "an image", "packed is", "fastest–slowest", "calls"):
            table.add_column(name, justify="right" if name else "left", no_wrap=True)
        for one in self.timings:
            ratio = "" if one is self.timings[0] else f"{one.median / self.timings[0].median:.2f}×"
            table.add_row(
                one.name, _ms(one.median), _ms(one.median / self.batch), ratio,
                f"{_ms(one.fastest)}–{_ms(one.slowest)}", str(one.calls),
            )  # fmt: skip
        return table

    def _bars(self) -> Table:
        table = Table(box=None, show_header=False)
        longest = max(one.median for one in self.timings)
        for one in self.timings:
            length = max(1, round(_BAR * one.median / longest))
            table.add_row(one.name, "█" * length + " " + _ms(one.median) + " ms")
        return table


def _ms(seconds: float) -> str:
    digits = 3 if seconds < 1e-2 else 2 if seconds < 1e-1 else 1
    return f"{seconds * 1e3:.{digits}f}"
