"""The check of one architecture: build, convert, ask."""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from irnet_convert.convert import binarize, plan_of
from irnet_convert.coverage import structure
from irnet_convert.coverage.autograd import Run, run
from irnet_convert.coverage.instance_check import check_instance
from irnet_convert.coverage.instances import BY_NAME
from irnet_convert.coverage.memory import conversion_peak
from irnet_convert.coverage.names import build, family_of, needs_values
from irnet_convert.coverage.rows import MOST_COST, Row
from irnet_convert.coverage.share import interior_share
from irnet_convert.graph.example import example_of
from irnet_convert.graph.record import record
from irnet_convert.graph.survey import survey

_MORE_TURNS = 4  # of measuring the cost of a conversion that seems to cost too much


def check(name: str) -> Row:
    """Check properties 1 to 5, the share and the cost of one architecture, and its family's small instance.

    Args:
        name: ``LIBRARY/NAME``. If it stands for its family, the family's small instance is checked too.

    Returns:
        Its row; whatever goes wrong is a problem in it, not an exception.
    """
    row = Row(name=name, family=family_of(name), checked=[1])
    start = time.process_time()
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with _failures_of(row, 1):
            _check_conversion(row)
        if name in BY_NAME:
            row.by_value = True
            row.checked.append(6)
            with _failures_of(row, 6):
                _check_instance(row)
    row.seconds = time.process_time() - start
    return row


def _check_conversion(row: Row) -> None:
    original = build(row.name)
    before = time.process_time()
    student = binarize(original)
    row.binarize_s = time.process_time() - before
    row.checked += [2, 3, 4, 5]
    _check_structure(row, original, student)
    _measure(row, original)


def _check_structure(row: Row, original: nn.Module, student: nn.Module) -> None:
    plan = plan_of(student)
    row.layers, row.binarized, row.notes = len(plan.decisions), len(plan.binarized), len(plan.notes)
    _collect(row, 1, structure.decisions(original, student, plan))
    _collect(row, 3, structure.sameness(original, student, plan))
    calls = structure.Calls(student)
    runs: list[Run] = []
    boxes, lost = needs_values(row.name), set[str]()
    for training in (False, True):
        # To save time, gradients in training mode only where evaluation mode leaves something open.
        graph = not runs or bool(lost) or runs[0].used != set(runs[0].weights.values())
        before = _run(row, original, training, graph)
        if before is None:
            continue
        runs.append(before)
        mode = "training" if training else "evaluation"
        with _failures_of(row, 3):
            with calls.watched():
                after = run(student, training=training, graph=graph)
            _collect(row, 3, structure.outputs(before.output, after.output, mode=mode, boxes=boxes))
            if graph:
                # A detector that finds no box in evaluation mode does not ask its heads; in training it does.
                lost = (lost - after.used if boxes else lost) | structure.disconnected(before, after)
    _collect(row, 4, calls.problems())
    _collect(row, 5, (f"the output no longer depends on {path}" for path in sorted(lost)))
    if runs:
        _collect(row, 2, structure.positions(plan, runs))


def _run(row: Row, original: nn.Module, training: bool, graph: bool) -> Run | None:
    """A run of the original, or None if it does not run so on its default input."""
    try:
        return run(original, training=training, graph=graph)
    except Exception as error:  # a library's model may raise anything at all
        if not training:
            row.falls_short(1, f"the original does not run: {_text(error)}")
        return None


def _measure(row: Row, original: nn.Module) -> None:
    """The share of the interior, and what conversion costs beside a recording and a copy."""
    original.eval()
    row.reference_s = _reference(original)
    for _ in range(_MORE_TURNS):
        if row.cost <= MOST_COST:
            break
        # Both again: a first conversion starts cold, and what else the machine does only adds to a time.
        before = time.process_time()
        binarize(original)
        row.binarize_s = min(row.binarize_s, time.process_time() - before)
        row.reference_s = min(row.reference_s, _reference(original))
    row.interior_macs, row.binary_macs, row.rest = interior_share(survey(original))


def _reference(original: nn.Module) -> float:
    """Seconds of processor time that one recorded forward and the copy take."""
    example = example_of(original)
    before = time.process_time()
    copy.deepcopy(original)
    record(original, example)
    return time.process_time() - before


def _check_instance(row: Row) -> None:
    instance = BY_NAME[row.name]
    for number, reason in check_instance(instance, by_value_only=True):
        row.falls_short(number, f"small instance: {reason}")
    if not needs_values(row.name):  # a detector is recorded with real activations, which count
        model = instance.build()
        example = None if instance.shape is None else instance.inputs(model, 1)
        made, own = conversion_peak(model, example)
        row.inplace_extra = made / own


def _collect(row: Row, number: int, problems: Iterator[str]) -> None:
    """Note problems; of many, the first few and how many more there are."""
    found = list(problems)
    for reason in found[:5]:
        row.falls_short(number, reason)
    if len(found) > 5:
        row.falls_short(number, f"and {len(found) - 5} more like these")


@contextmanager
def _failures_of(row: Row, number: int) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # a library's model may raise anything at all
        row.falls_short(number, _text(error))


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
