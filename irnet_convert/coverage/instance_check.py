"""All properties of a family's small instance, 4, 5 and 6 by value."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from irnet_convert.convert import binarize, plan_of
from irnet_convert.coverage import structure
from irnet_convert.coverage.autograd import run, tensors_of
from irnet_convert.coverage.instances import Instance
from irnet_convert.coverage.names import needs_values
from irnet_convert.coverage.skeleton import differences, skeleton, unedited
from irnet_convert.coverage.values import trained_once
from irnet_convert.graph.example import Example

#: "irnet" is the default; under "interior" downsample, depthwise and squeeze-excite layers are binary too.
POLICIES = ("irnet", "interior")


def check_instance(instance: Instance, *, by_value_only: bool = False) -> Iterator[tuple[int, str]]:
    """What falls short in one small instance.

    Args:
        instance: it is built here, once.
        by_value_only: leave out properties 1 to 3, which ``check`` asks of the whole architecture.

    Yields:
        Number of the property, and the reason.
    """
    original = instance.build()
    example = None if instance.shape is None else instance.inputs(original, 1)
    # Detectors are large and run slowly on real values; all names' plans under "interior" are in the report.
    for policy in POLICIES[:1] if needs_values(instance.name) else POLICIES:
        student = binarize(original, policy, example_input=example)
        if policy == "irnet":
            if not by_value_only:
                yield from _structure(instance, original, student)
            yield from ((6, reason) for reason in _sizes(instance, original, student))
            yield from ((6, reason) for reason in _trains(instance, original, student, example))
        inputs = instance.inputs(original, 4, training=True)
        values, gradients = trained_once(student, inputs, both_signs=policy == "irnet")
        yield from ((4, f"policy {policy}: {reason}") for reason in values)
        yield from ((5, f"policy {policy}: {reason}") for reason in gradients)


def _structure(instance: Instance, original: nn.Module, student: nn.Module) -> Iterator[tuple[int, str]]:
    """Properties 1 to 3 of the instance, as ``check`` asks them of every name on the meta device."""
    plan, boxes = plan_of(student), needs_values(instance.name)
    yield from ((1, reason) for reason in structure.decisions(original, student, plan))
    yield from ((3, reason) for reason in structure.sameness(original, student, plan))
    runs = []
    for training in (False, True):
        example = Example(args=instance.inputs(original, 2, training=training))
        mode = "training" if training else "evaluation"
        before, after = (
            run(copy.deepcopy(m), training=training, example=example) for m in (original, student)
        )
        yield from ((3, r) for r in structure.outputs(before.output, after.output, mode=mode, boxes=boxes))
        runs.append(before)
    yield from ((2, reason) for reason in structure.positions(plan, runs))


def _sizes(instance: Instance, original: nn.Module, student: nn.Module) -> Iterator[str]:
    """Other batch sizes, and other images where the original takes them: structure, shapes, finite values."""
    wanted = [("a batch of 3", instance.inputs(original, 3))]
    if instance.other is not None:
        wanted.append(("another image size", instance.inputs(original, 1, other=True)))
    for what, inputs in wanted:
        with torch.no_grad():
            before = original(*inputs)
            try:
                after = student(*inputs)
            except Exception as error:  # a rewritten forward may raise anything
                yield f"{what}: {type(error).__name__}: {error}"
                continue
        boxes = needs_values(instance.name)
        yield from (f"{what}: {r}" for r in structure.outputs(before, after, mode="evaluation", boxes=boxes))
        if not all(t.isfinite().all() for t in tensors_of(after) if t.is_floating_point()):
            yield f"{what}: an output is not finite"


def _trains(instance: Instance, original: nn.Module, student: nn.Module, example: Any) -> Iterator[str]:
    """Dropout, drop-path and batch statistics: the skeleton against the original under equal seeds."""
    others = {"the traced forwards": unedited(original, plan_of(student))}
    dense = skeleton(original, example)
    if dense is not None:
        others["the conversion with dense layers"] = dense
    for what, other in others.items():
        # Detectors are slow, and draw nothing in evaluation mode.
        for training in (True,) if needs_values(instance.name) else (True, False):
            inputs = instance.inputs(original, 4, training=training)
            yield from differences(original, other, inputs, training=training, what=what)
        if instance.other is not None:
            inputs = instance.inputs(original, 3, other=True)
            yield from differences(original, other, inputs, training=False, what=f"{what}, another size")
