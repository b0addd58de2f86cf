"""An explicit zero padding in front of a binarized layer moves behind the layer's sign.

sign(0) = +1, so a padded zero would count as +1; behind the sign it contributes exactly 0, as the
layer's own padding does. The layer takes the amounts as ``zero_pad``.

Forms:
    function: ``F.pad`` in the forward that calls the layer; amounts may be computed there.
    module: an ``nn.ZeroPad2d`` (or ConstantPad of 0) called there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from irnet_convert.graph.ops import REARRANGE
from irnet_convert.graph.plan import Edit
from irnet_convert.graph.record import Node, Record
from irnet_convert.graph.rewrites.common import Findings, nth_call
from irnet_convert.graph.survey import Survey
from irnet_convert.graph.traced import UntraceableError, distinct

FORMS = ("function", "module")

_NAME = "padding"
_PADS = ("pad", "constant_pad_nd")
_PAD_FUNCTIONS = (F.pad, torch.constant_pad_nd)


def collect(survey: Survey, binary: Mapping[str, int]) -> Findings:
    """Edits for paddings that a layer with 1-bit activations reads; layers whose padding cannot move are
    blocked.
    """
    found = Findings()
    edits: dict[Edit, None] = {}
    for rec in survey.records:
        for layer, act_bits in binary.items():
            for call in rec.calls.get(layer, ()) if act_bits == 1 else ():
                pad, direct = _pad_above(rec, call.inputs[0])
                if pad is None:
                    continue
                edit = _edit_for(survey, pad, call, layer) if direct else None
                if edit is not None:
                    edits[edit] = None
                elif any(_amounts(pad)):
                    found.blocked[layer] = (
                        f"its input is padded with zeros in {pad.owner or 'the model'}, where the padding "
                        "cannot be moved behind the sign: sign(0) = +1 would count it"
                    )
    found.edits = list(edits)
    return found


def _amounts(pad: Node) -> list[int]:
    return [int(a) for a in next((s for s in pad.scalars if isinstance(s, list | tuple)), [])]


def _pad_above(rec: Record, value: int) -> tuple[Node | None, bool]:
    """The zero padding that made ``value``, and whether nothing lies between."""
    direct = True
    while (node := rec.producer.get(value)) is not None and node.layer is None:
        if node.op in _PADS:
            return (node, direct) if _pads_zero(node) else (None, False)
        if node.op not in REARRANGE or not node.inputs:
            return None, False
        value, direct = node.inputs[0], False
    return None, False


def _pads_zero(node: Node) -> bool:
    mode = next((s for s in node.scalars if isinstance(s, str)), "constant")
    fills = [s for s in node.scalars if isinstance(s, int | float) and not isinstance(s, bool)]
    return mode == "constant" and all(f == 0 for f in fills)


def _edit_for(survey: Survey, pad: Node, call: Node, layer: str) -> Edit | None:
    if pad.frames == call.frames:
        form, target = "function", layer
    elif pad.frames[:-1] == call.frames and isinstance(
        survey.model.get_submodule(pad.owner), nn.modules.padding._ConstantPadNd
    ):
        form, target = "module", layer
    else:
        return None
    edit = Edit(rewrite=_NAME, form=form, owner=call.owner, target=target, ordinal=call.ordinal)
    try:
        graphs = distinct(survey.graphs(edit.owner))
    except UntraceableError:
        return None
    owner, module = survey.model.get_submodule(edit.owner), survey.layers[layer]
    return edit if all(_find(g, owner, module, edit) for g in graphs) else None


def _find(graph: fx.Graph, owner: nn.Module, layer: nn.Module, edit: Edit) -> tuple[fx.Node, fx.Node] | None:
    """The layer's call and the padding it reads."""
    call = nth_call(graph, owner, layer, edit.ordinal)
    if call is None or not call.args or not isinstance(call.args[0], fx.Node):
        return None
    pad = call.args[0]
    if edit.form == "function":
        right = pad.op == "call_function" and pad.target in _PAD_FUNCTIONS
    else:
        right = pad.op == "call_module" and isinstance(
            owner.get_submodule(str(pad.target)), nn.modules.padding._ConstantPadNd
        )
    return (call, pad) if right else None


def apply(editor: Any, edit: Edit) -> None:
    """Perform one edit. ``editor`` is a graph.apply.Editor."""
    owner, layer = editor.module(edit.owner), editor.module(edit.target)
    for graph in distinct(editor.graphs(edit.owner)):
        found = _find(graph, owner, layer, edit)
        if found is None:
            raise editor.lost(edit)
        call, pad = found
        if edit.form == "function":
            amounts = pad.args[1] if len(pad.args) > 1 else pad.kwargs["pad"]
        else:
            amounts = tuple(owner.get_submodule(str(pad.target)).padding)
        call.args = (pad.args[0] if pad.args else pad.kwargs["input"], *call.args[1:])
        call.kwargs = {**call.kwargs, "zero_pad": amounts}
        if not pad.users:
            graph.erase_node(pad)
