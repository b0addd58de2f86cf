"""The report: what a coverage run found, as a page in Markdown."""

from __future__ import annotations

import math
import platform
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from statistics import median

from irnet_convert.coverage.rows import MOST_COST, PROPERTIES, Row

_BELOW = 0.9


def page(rows: Iterable[Row], *, seconds: float, jobs: int, command: str) -> str:
    """The report on ``rows``.

    Args:
        rows: of one run.
        seconds: how long it took.
        jobs: by how many worker processes.
        command: with what it was made.
    """
    ordered = sorted(rows, key=lambda r: r.name)
    parts = [
        _head(ordered, seconds, jobs, command), _properties(ordered), _short(ordered), _share(ordered),
        _cost(ordered), _instances(ordered),
    ]  # fmt: skip
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(rows: Sequence[Row], seconds: float, jobs: int, command: str) -> str:
    table = []
    for library in sorted({r.name.split("/")[0] for r in rows}):
        mine = [r for r in rows if r.name.startswith(library + "/")]
        whole = sum(not r.problems for r in mine)
        layers, binary = sum(r.layers for r in mine), sum(r.binarized for r in mine)
        table.append((library, len(mine), whole, len(mine) - whole, f"{layers:,}", f"{binary:,}"))
    versions = ", ".join(f"{p} {version(p)}" for p in ("irnet-convert", "torch", "torchvision", "timm"))
    return "\n\n".join(
        [
            "# Coverage",
            f"Made by `{command}`, {seconds / 60:.1f} minutes with {jobs} worker processes of one thread "
            f"each. {versions}, Python {platform.python_version()}.",
            "Every name that the libraries list is built without weights on the meta device (detectors: with "
            "real, random weights and small images), converted with default arguments, and checked by means "
            "that the conversion itself does not use: the module tree, PyTorch's autograd graph of an "
            "ordinary run, hooks. One architecture of each family is also built small, with real weights, "
            "and checked by value.",
            _table(("library", "names", "whole", "fall short", "layers", "binarized by default"), table),
        ]
    )


def _properties(rows: Sequence[Row]) -> str:
    lines = []
    for number, text in PROPERTIES.items():
        asked = [r for r in rows if number in r.checked]
        short = sum(any(p.property == number for p in r.problems) for r in asked)
        lines.append((number, text, len(asked), len(asked) - short, short))
    return "## By property\n\n" + _table(("", "property", "asked", "hold", "fall short"), lines)


def _short(rows: Sequence[Row]) -> str:
    lines = [(r.name, p.property, p.reason) for r in rows for p in r.problems]
    body = _table(("name", "property", "reason"), lines) if lines else "None."
    return "## Names that fall short\n\n" + body


def _share(rows: Sequence[Row]) -> str:
    counted = [r for r in rows if r.interior_macs]
    total, binary = sum(r.interior_macs for r in counted), sum(r.binary_macs for r in counted)
    if not total:
        return ""
    rest: Counter[str] = Counter()
    names: Counter[str] = Counter()
    for row in counted:
        for reason, macs in row.rest.items():
            rest[_any_place(reason)] += macs
        names.update({_any_place(reason) for reason in row.rest})
    lines = [
        (reason, f"{macs / 1e9:,.2f}", f"{100 * macs / total:.2f} %", names[reason])
        for reason, macs in rest.most_common()
    ]
    shares = sorted((r.binary_macs / r.interior_macs, r.name, r) for r in counted)
    few = [
        (name, f"{100 * share:.1f} %", max(r.rest, key=r.rest.__getitem__) if r.rest else "")
        for share, name, r in shares
        if share < _BELOW
    ]
    return "\n\n".join(
        [
            "## Share of the interior",
            f"Of the multiply-adds in layers that are neither first nor last, all names together, "
            f"**{100 * binary / total:.2f} %** are binarized under the policy `interior`, which lifts the "
            f"rules on downsample, depthwise and squeeze-excite layers "
            f"({binary / 1e9:,.1f} of {total / 1e9:,.1f} G). "
            "The rest:",
            _table(("why", "G multiply-adds", "share", "names"), lines) if lines else "Nothing.",
            f"Names below {100 * _BELOW:.0f} %, with the reason that weighs most:" if few else "",
            _table(("name", "binarized", "most of the rest"), few) if few else "",
        ]
    ).strip()


def _any_place(reason: str) -> str:
    """``in blocks.3`` → ``in blocks.*``: a reason is one line, wherever it holds."""
    return re.sub(r"(?<=\.)\d+\b", "*", reason)


def _cost(rows: Sequence[Row]) -> str:
    costs = sorted((r.cost, r.name) for r in rows if not math.isnan(r.cost))
    if not costs:
        return ""
    values = [c for c, _ in costs]
    over = [name for cost, name in reversed(costs) if cost > MOST_COST]
    seconds = sorted(r.binarize_s for r in rows if not math.isnan(r.cost))
    lines = [
        ("binarize ÷ (one recorded forward + the copy)", f"{median(values):.1f}", f"{_p90(values):.1f}",
         f"{values[-1]:.1f} ({costs[-1][1]})", len(over)),
        ("binarize, seconds of processor time", f"{median(seconds):.2f}",
         f"{_p90(seconds):.2f}", f"{seconds[-1]:.2f}", ""),
    ]  # fmt: skip
    extra = sorted((r.inplace_extra, r.name) for r in rows if not math.isnan(r.inplace_extra))
    if extra:
        shares = [share for share, _ in extra]
        lines.append(
            ("bytes that inplace=True makes ÷ bytes of the parameters", f"{median(shares):.3f}",
             f"{_p90(shares):.3f}", f"{shares[-1]:.3f} ({extra[-1][1]})", "")
        )  # fmt: skip
    return (
        "## Cost\n\n" + _table(("", "median", "90 %", "most", f"names above {MOST_COST}×"), lines)
        + "\n\nBytes are counted on the small instances; parameters held twice would be 1 or more. "
        f"A name above {MOST_COST}× is measured up to five times, and the fastest of each kind counts. "
        "Detectors have no forward on the meta device; theirs is with values, and costs more the more boxes "
        "come out."
        + (f"\n\nAbove {MOST_COST}×: {', '.join(over)}." if over else "")
    )  # fmt: skip


def _p90(ordered: Sequence[float]) -> float:
    return ordered[math.ceil(0.9 * len(ordered)) - 1]


def _instances(rows: Sequence[Row]) -> str:
    found = [r for r in rows if r.by_value]
    if not found:
        return ""
    lines = [(r.family, r.name, "falls short" if r.problems else "whole") for r in found]
    lines.sort()
    return (
        f"## Families checked by value\n\n{len(lines)} small instances with real, random weights: values "
        "of every binary layer, gradients of every latent, training against the original at equal seeds.\n\n"
        + _table(("family", "instance", ""), lines)
    )


def _table(head: Sequence[object], lines: Iterable[Sequence[object]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(str(c).replace("|", "\\|") for c in row) + " |" for row in rows)
