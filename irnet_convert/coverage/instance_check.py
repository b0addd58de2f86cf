"""Properties 4, 5 and 6 of a family's small instance."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from irnet_convert.convert import binarize, plan_of
from irnet_convert.coverage.autograd import tensors_of
from irnet_convert.coverage.instances import Instance
from irnet_convert.coverage.names import needs_values
from irnet_convert.coverage.skeleton import differences, skeleton, unedited
from irnet_convert.coverage.structure import outputs
from irnet_convert.coverage.values import trained_once

#: "irnet" is the default; under "interior" downsample, depthwise and squeeze-excite layers are binary too.
POLICIES = ("irnet", "interior")


def check_instance(instance: Instance) -> Iterator[tuple[int, str]]:
    """What falls short in one small instance.

    Args:
        instance: it is built here, once.

    Yields:
        Number of the property, and the reason.
    """
    original = instance.build()
    example = None if instance.shape is None else instance.inputs(original, 1)
    for policy in POLICIES:
        student = binarize(original, policy, example_input=example)
        if policy == "irnet":
            yield from ((6, reason) for reason in _sizes(instance, original, student))
            yield from ((6, reason) for reason in _trains(instance, original, student, example))
        inputs = instance.inputs(original, 4, training=True)
        values, gradients = trained_once(student, inputs, both_signs=policy == "irnet")
        yield from ((4, f"policy {policy}: {reason}") for reason in values)
        yield from ((5, f"policy {policy}: {reason}") for reason in gradients)


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
        yield from (f"{what}: {r}" for r in outputs(before, after, mode="evaluation", boxes=boxes))
        if not all(t.isfinite().all() for t in tensors_of(after) if t.is_floating_point()):
            yield f"{what}: an output is not finite"


def _trains(instance: Instance, original: nn.Module, student: nn.Module, example: Any) -> Iterator[str]:
    """Dropout, drop-path and batch statistics: the skeleton against the original under equal seeds."""
    others = {"the traced forwards": unedited(original, plan_of(student))}
    dense = skeleton(original, example)
    if dense is not None:
        others["the conversion with dense layers"] = dense
    for what, other in others.items():
        for training in (True, False):
            inputs = instance.inputs(original, 4, training=training)
            yield from differences(original, other, inputs, training=training, what=what)
        if instance.other is not None:
            inputs = instance.inputs(original, 3, other=True)
            yield from differences(original, other, inputs, training=False, what=f"{what}, another size")
