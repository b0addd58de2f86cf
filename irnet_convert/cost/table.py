"""What was measured, as a table and as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table


@dataclass(frozen=True, kw_only=True)
class Row:
    """One way to train one network.

    Attributes:
        network: its name.
        batch: images a step.
        size: of an image, (C, H, W).
        name: which way.
        seconds: median of a step.
        time_ratio: median over the rounds of this step's time by that of ``against`` in the same round.
        against: the way that the ratios compare with.
        kept: bytes kept for the backward pass.
        memory_ratio: ``kept`` by that of ``against``.
        waiting: share of the time that passes before a batch is there, 0 to 1; None: not measured.
    """

    network: str
    batch: int
    size: tuple[int, ...]
    name: str
    seconds: float
    time_ratio: float
    against: str
    kept: int
    memory_ratio: float
    waiting: float | None = None


@dataclass(frozen=True, kw_only=True)
class Cost:
    """A benchmark of training; printing it with rich shows a table.

    Attributes:
        rows: one for each network and way.
        machine: the processor's or GPU's name.
        threads: of PyTorch.
        rounds: how often every step was timed.
        precision: float32, or what autocast made of it.
        passes: the native passes that ran: their instruction set, or what took their place.
    """

    rows: Sequence[Row]
    machine: str
    threads: int
    rounds: int
    precision: str
    passes: str

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield (
            f"Training steps, {self.precision}, {self.threads} thread{'s' if self.threads > 1 else ''}, "
            f"medians of {self.rounds} rounds in turns; native passes: {self.passes}; {self.machine}"
        )
        table = Table()
        for name in ("network", "step"):
            table.add_column(name, overflow="fold")
        for name in ("ms", "time", "kept, MB", "memory", "waiting"):
            # Narrow terminals, and files, fold names and leave numbers whole.
            table.add_column(name, justify="right", no_wrap=True, min_width=7)
        last = None
        for row in self.rows:
            first = row.network != last
            if first and last:
                table.add_section()
            last = row.network
            size = "×".join(map(str, (row.batch, *row.size)))
            is_base = row.name == row.against
            table.add_row(
                f"{row.network} {size}" if first else "", row.name, f"{row.seconds * 1e3:.1f}",
                "" if is_base else f"{row.time_ratio:.2f}×", f"{row.kept / 1e6:.1f}",
                "" if is_base else f"{row.memory_ratio:.2f}×",
                "" if row.waiting is None else f"{100 * row.waiting:.1f} %",
            )  # fmt: skip
        yield table
        yield (
            "Ratios are to full precision, of compiled steps to compiled full precision. Waiting is the "
            "share of the time that passes before a batch of JPEG images is decoded, cropped and there."
        )
