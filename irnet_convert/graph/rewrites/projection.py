"""A layer whose weight is applied by its owner's forward is called there instead.

timm's BEiT, EVA and Swin V2 and torchvision's Swin pass ``self.qkv.weight`` to ``F.linear`` themselves. A
recording shows such an operator as a call of the layer that is bypassed; conversion makes it a real call.
nn.MultiheadAttention does so with its output projection.

Forms:
    linear: ``F.linear`` with the weight of a layer below the owner, in the owner's own forward.
    fused: PyTorch's transformer encoders hand all weights to one operator when they are run without
        gradients; that they must not do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from irnet_convert.graph.plan import Edit
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
        if call.bypassed
    }
    modules = dict(survey.model.named_modules())
    for path in binary:
        parts = path.split(".")
        for owner in (".".join(parts[:n]) for n in range(len(parts))):
            if isinstance(modules.get(owner), _FUSED):
                edits[Edit(rewrite=_NAME, form="fused", owner=owner, target=path)] = None
    return Findings(edits=list(edits))


def apply(editor: Any, edit: Edit) -> None:
    """Perform one edit. ``editor`` is a graph.apply.Editor."""
    inside = f"{edit.owner}." if edit.owner else ""
    if not edit.target.startswith(inside):
        raise editor.lost(edit)
    editor.module(edit.target)
    editor.route(edit.owner, edit.target.removeprefix(inside))
