"""A layer whose weight is applied by its owner's forward is called there instead.

timm's BEiT, EVA and Swin V2 and torchvision's Swin pass ``self.qkv.weight`` to ``F.linear`` themselves. A
recording shows such an operator as a call of the layer that is bypassed; conversion makes it a real call.
nn.MultiheadAttention does so with its output projection, unless it becomes a binary layer itself.

Forms:
    linear: ``F.linear`` with the weight of a layer below the owner, in the owner's own forward.
    fused: PyTorch's transformer encoders hand all weights to one operator when they are run without
        gradients; that they must not do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from irnet_convert.graph.ops import REARRANGE, WEIGHTED
from irnet_convert.graph.plan import Edit
from irnet_convert.graph.record import Record, is_layer
from irnet_convert.graph.rewrites.common import Findings
from irnet_convert.graph.survey import Survey

FORMS = ("linear", "fused")

_NAME = "projection"
_FUSED = (nn.TransformerEncoder, nn.TransformerEncoderLayer)


def collect(survey: Survey, binary: Mapping[str, int]) -> Findings:
    """An edit for every layer to be binarized and every module that applies its weight."""
    edits = {
        Edit(rewrite=_NAME, form="linear", owner=call.owner, target=path): None
        for rec in survey.records
        for path in binary
        for call in rec.calls.get(path, ())
        if call.bypassed and call.owner not in binary  # a binary attention calls its projections itself
    }
    modules = dict(survey.model.named_modules())
    for path in binary:
        parts = path.split(".")
        for owner in (".".join(parts[:n]) for n in range(len(parts))):
            if isinstance(modules.get(owner), _FUSED):
                edits[Edit(rewrite=_NAME, form="fused", owner=owner, target=path)] = None
    return Findings(edits=list(edits), notes=_outside_layers(survey))


def _outside_layers(survey: Survey) -> list[str]:
    """What is said of weights that are applied and belong to no layer, one note for a class of owners."""
    found: dict[str, dict[str, None]] = {}
    for rec in survey.records:
        for node in rec.nodes:
            if node.layer is None and node.op in WEIGHTED:
                for name in filter(None, (weight_read(rec, value) for value in node.inputs)):
                    holder = survey.model.get_submodule(name.rpartition(".")[0])
                    if not is_layer(holder):
                        found.setdefault(type(holder).__name__, {})[name] = None
    return [
        f"weights that {kind} applies and no layer holds stay real: {next(iter(names))}"
        + (f" and {len(names) - 1} more" if len(names) > 1 else "")
        for kind, names in found.items()
    ]


def weight_read(rec: Record, value: int) -> str | None:
    """The name of the matrix that ``value`` is, or is a part or another view of."""
    while value not in rec.params and (node := rec.producer.get(value)) is not None:
        if node.op not in REARRANGE or not node.inputs:
            return None
        value = node.inputs[0]
    return rec.params.get(value) if len(rec.shapes[value]) > 1 else None


def apply(editor: Any, edit: Edit) -> None:
    """Perform one edit. ``editor`` is a graph.apply.Editor."""
    inside = f"{edit.owner}." if edit.owner else ""
    if not edit.target.startswith(inside):
        raise editor.lost(edit)
    editor.module(edit.target)
    editor.route(edit.owner, edit.target.removeprefix(inside))
