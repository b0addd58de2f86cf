"""BatchNorm before the classifier, as in the CIFAR networks of IR-Net and others.

Forms:
    layer: a real linear layer that comes last and reads (N, features) gains a BatchNorm of its inputs, as its
        child ``norm``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from irnet_convert.graph.ops import DROP, NORMS, REARRANGE
from irnet_convert.graph.plan import Edit
from irnet_convert.graph.record import Record
from irnet_convert.graph.rewrites.common import Findings
from irnet_convert.graph.survey import Survey
from irnet_convert.layers.normed import NormedLinear

FORMS = ("layer",)

_NAME = "head_norm"


def collect(survey: Survey, binary: Mapping[str, int]) -> Findings:
    """An edit for every classifier whose input is not normalised already."""
    found = Findings()
    for path, layer in survey.layers.items():
        if path in binary or "last" not in survey.infos[path].positions:
            continue
        why = _why_not(survey, path, layer)
        if why is None:
            found.edits.append(Edit(rewrite=_NAME, form="layer", owner=path))
        else:
            found.notes.append(f"no BatchNorm before {path}: {why}")
    return found


def _why_not(survey: Survey, path: str, layer: nn.Module) -> str | None:
    if type(layer) is not nn.Linear:
        return f"it is a {type(layer).__name__}, no nn.Linear"
    calls = [(rec, call) for rec in survey.records for call in rec.calls.get(path, ())]
    if any(call.bypassed for _, call in calls):
        return "its owner applies its weight"
    if any(len(rec.shapes[call.inputs[0]]) != 2 for rec, call in calls):
        return "its input is not of shape (N, features)"
    if all(_is_normalised(rec, call.inputs[0]) for rec, call in calls):
        return "its input is normalised already"
    return None


def _is_normalised(rec: Record, value: int) -> bool:
    while (node := rec.producer.get(value)) is not None and node.layer is None:
        if node.op in NORMS:
            return True
        if node.op not in REARRANGE | DROP or not node.inputs:
            return False
        value = node.inputs[0]
    return False


def adds(edit: Edit) -> tuple[str, ...]:
    """Keys that the edit adds to the state dict, below its owner's path."""
    names = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    return tuple(f"norm.{name}" for name in names)


def apply(editor: Any, edit: Edit) -> None:
    """Perform one edit. ``editor`` is a graph.apply.Editor."""
    layer = editor.module(edit.owner)
    if type(layer) is not nn.Linear:
        raise editor.lost(edit)
    editor.replace(edit.owner, NormedLinear.of(layer))
