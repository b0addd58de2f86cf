"""The command that shows for every architecture of timm and torchvision whether it converts."""

from __future__ import annotations

import os
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from irnet_convert.cli.options import out
from irnet_convert.errors import ArgumentError

if TYPE_CHECKING:
    from irnet_convert.coverage.rows import Row


def coverage(
    library: Annotated[
        str | None, typer.Option(help="timm or torchvision. Default: both.", show_default=False)
    ] = None,
    match: Annotated[
        str | None, typer.Option(help="Glob over names, as in 'resnet*'.", show_default=False)
    ] = None,
    jobs: Annotated[int, typer.Option(help="Worker processes of one thread each.", min=1)] = min(
        os.cpu_count() or 1, 8
    ),
    report: Annotated[
        Path | None,
        typer.Option(
            help="FILE.csv: a row a name. FILE.md: a page, with the rows beside it in FILE.csv.",
            show_default=False,
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Keep the rows of the report's CSV, and check the other names.")
    ] = False,
    time_limit: Annotated[float, typer.Option(help="Seconds for one name.", min=1)] = 600,
) -> None:
    """Check that architectures convert: one line for each that falls short, and a summary by property.

    Ends with status 1 if one falls short. An interrupted run goes on with --resume.

    Examples: `irnet-convert coverage --match 'resnet*'`, `irnet-convert coverage --report coverage.md`
    """
    from irnet_convert.coverage.names import list_names

    names = list_names(library, match)
    rows_file = _rows_file(report)
    done = _rows_so_far(rows_file, names, resume)
    start = time.monotonic()
    rows = done + _run([n for n in names if n not in {r.name for r in done}], rows_file, jobs, time_limit)
    taken = time.monotonic() - start
    _print_summary(rows, taken)
    if report is not None and report.suffix == ".md":
        from irnet_convert.coverage.page import page

        # With rows of an earlier run the time of this one says nothing: the checks' own is what it took.
        seconds = sum(r.seconds for r in rows) / jobs if done else taken
        command = shlex.join(["irnet-convert", "coverage", *sys.argv[2:]])
        report.write_text(page(rows, seconds=seconds, jobs=jobs, command=command), encoding="utf-8")
    if any(r.problems for r in rows):
        raise typer.Exit(1)


def _rows_file(report: Path | None) -> Path | None:
    if report is None:
        return None
    if report.suffix not in (".csv", ".md"):
        raise ArgumentError(
            f"--report {str(report)!r}",
            expected="a file that ends in .csv or .md",
            mend="write --report coverage.csv or --report coverage.md",
        )
    if not report.parent.is_dir():
        raise ArgumentError(
            f"--report {str(report)!r}: there is no directory {str(report.parent)!r}",
            expected="a file in a directory that exists",
            mend="make the directory first",
        )
    return report.with_suffix(".csv")


def _rows_so_far(file: Path | None, names: list[str], resume: bool) -> list[Row]:
    from irnet_convert.coverage.rows import append_rows, read_rows

    if resume and file is None:
        raise ArgumentError(
            "--resume without --report", expected="both", mend="name the report to go on with"
        )
    if file is None:
        return []
    rows = read_rows(file) if resume and file.exists() else []
    file.unlink(missing_ok=True)
    append_rows(file, rows)  # anew: the last line of an interrupted run may be half
    return [r for r in rows if r.name in set(names)]


def _run(names: list[str], file: Path | None, jobs: int, time_limit: float) -> list[Row]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from irnet_convert.coverage.check import check
    from irnet_convert.coverage.instances import longest_first
    from irnet_convert.coverage.rows import append_rows
    from irnet_convert.coverage.runner import run_checks

    rows: list[Row] = []
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=out) as progress:
        task = progress.add_task("", total=len(names))
        for row in run_checks(longest_first(names), check, jobs=jobs, time_limit=time_limit):
            rows.append(row)
            if file is not None:
                append_rows(file, [row])
            for problem in row.problems:
                out.print(f"{row.name}: property {problem.property}: {problem.reason}",
                          markup=False, highlight=False, soft_wrap=True)  # fmt: skip
            progress.update(task, advance=1, description=row.name)
    return rows


def _print_summary(rows: list[Row], seconds: float) -> None:
    from rich.table import Table

    from irnet_convert.coverage.rows import PROPERTIES

    table = Table("", "property", "asked", "hold", "fall short")
    for number, text in PROPERTIES.items():
        asked = [r for r in rows if number in r.checked]
        short = sum(any(p.property == number for p in r.problems) for r in asked)
        table.add_row(str(number), text, str(len(asked)), str(len(asked) - short), str(short))
    out.print(table)
    total, binary = sum(r.interior_macs for r in rows), sum(r.binary_macs for r in rows)
    whole = sum(not r.problems for r in rows)
    out.print(f"{whole} of {len(rows)} names whole, {seconds:.0f} s", highlight=False)
    if total:
        out.print(f"{100 * binary / total:.2f} % of the interior's multiply-adds are binarized by the policy "
                  f"interior", highlight=False, soft_wrap=True)  # fmt: skip
