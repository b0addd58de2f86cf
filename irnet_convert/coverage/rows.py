"""One row per architecture: what was found, and the CSV that holds the rows."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from irnet_convert.errors import ArgumentError

#: ``binarize`` may take this often the time of one recorded forward and the copy.
MOST_COST = 4
#: Number → what is promised. 4 and 5 are asked by data flow of each name, by value of a family's small
#: instance; 6 of the small instance alone.
PROPERTIES: Mapping[int, str] = {
    1: "recorded, planned and binarized; one decision with a reason for every layer",
    2: "first and last layers are right by data flow",
    3: "same class, state-dict keys, output structure and shapes in both modes",
    4: "every binarized layer is called, on ±1 weights and inputs of both signs",
    5: "gradients reach every latent weight that is used",
    6: "training mode trains as the original does; other batch and image sizes",
}


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One way in which a name falls short."""

    property: int
    reason: str


@dataclass(kw_only=True)
class Row:
    """What one check found.

    Attributes:
        name: ``LIBRARY/NAME``.
        family: the module that defines it.
        problems: where it falls short; none means that every checked property holds.
        checked: the properties that were asked.
        by_value: whether a small instance with real weights was checked too.
        layers: how many convolution and linear layers it has.
        binarized: how many of them are binarized under the default policy.
        interior_macs: multiply-adds of layers that are neither first nor last, one sample.
        binary_macs: those of them that the policy "interior" binarizes.
        rest: why the others stay real → multiply-adds.
        binarize_s: seconds that ``binarize`` took.
        reference_s: seconds of one recorded forward and one copy; NaN where it was not measured.
        inplace_extra: bytes that ``inplace=True`` made on the small instance, as a share of its parameters'
            bytes; NaN where it was not measured. Parameters held twice would give 1 or more.
        seconds: of processor time, of the whole check.
        notes: remarks of the plan.
    """

    name: str
    family: str = ""
    problems: list[Problem] = field(default_factory=list)
    checked: list[int] = field(default_factory=list)
    by_value: bool = False
    layers: int = 0
    binarized: int = 0
    interior_macs: int = 0
    binary_macs: int = 0
    rest: dict[str, int] = field(default_factory=dict)
    binarize_s: float = float("nan")
    reference_s: float = float("nan")
    inplace_extra: float = float("nan")
    seconds: float = 0.0
    notes: int = 0

    @property
    def cost(self) -> float:
        """``binarize`` as a multiple of one recorded forward plus the copy; NaN if not measured."""
        return self.binarize_s / self.reference_s if self.reference_s > 0 else float("nan")

    def falls_short(self, number: int, reason: str) -> None:
        """Note a problem, once."""
        problem = Problem(property=number, reason=" ".join(reason.split())[:500])
        if problem not in self.problems:
            self.problems.append(problem)

    def to_csv(self) -> dict[str, str]:
        """The row as CSV cells; lists and mappings as JSON."""
        cells = asdict(self)
        return {k: json.dumps(v) if isinstance(v, list | dict) else _cell(v) for k, v in cells.items()}

    @classmethod
    def from_csv(cls, cells: Mapping[str, str]) -> Row:
        """The row that :meth:`to_csv` wrote.

        Raises:
            KeyError, ValueError: it is not one.
        """
        default = cls(name="")
        values: dict[str, Any] = {}
        for f in fields(cls):
            was, text = getattr(default, f.name), cells[f.name]
            if isinstance(was, list | dict):
                values[f.name] = json.loads(text)
            else:
                values[f.name] = text == "True" if isinstance(was, bool) else type(was)(text)
        values["problems"] = [Problem(**p) for p in values["problems"]]
        return cls(**values)


def _cell(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def append_rows(path: Path, rows: Iterable[Row]) -> None:
    """Add rows to a CSV file; a new file gets a header."""
    new = not path.exists() or path.stat().st_size == 0
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Row)])
        if new:
            writer.writeheader()
        writer.writerows(row.to_csv() for row in rows)


def read_rows(path: Path) -> list[Row]:
    """The rows of a CSV file, the last one for each name; a last line that was cut off is left out.

    Raises:
        ArgumentError: the file is not such a CSV.
    """
    with path.open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    found: dict[str, Row] = {}
    for i, cells in enumerate(lines):
        try:
            row = Row.from_csv(cells)
        except (KeyError, ValueError, TypeError) as error:
            if i == len(lines) - 1 and found:
                continue
            raise ArgumentError(
                f"{str(path)!r}, row {i + 1}, is no row of a coverage run ({type(error).__name__}: {error})",
                expected="a CSV that irnet-convert coverage wrote",
                mend="name another file, or leave out --resume to write it anew",
            ) from error
        found[row.name] = row
    return list(found.values())
