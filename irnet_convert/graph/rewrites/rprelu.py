"""ReLU → RPReLU (Liu et al., ReActNet, ECCV 2020) where a binarized layer would see no negative input.

The places are those of ``activation``, which puts Hardtanh there; RPReLU is learnable, per channel, and not
bounded. Where the channels are not dimension 1 (tokens), Hardtanh it is.

Forms:
    module: an ``nn.ReLU`` or ``nn.ReLU6`` that is called once.
    call: one of several calls of a shared ReLU module, in the forward of its caller, which gains a child.
    function: a functional ReLU in some module's forward, which gains a child.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from irnet_convert.graph.plan import Edit
from irnet_convert.graph.record import Node, Record
from irnet_convert.graph.rewrites import activation
from irnet_convert.graph.rewrites.common import Findings
from irnet_convert.graph.signs import never_negative
from irnet_convert.graph.survey import Survey
from irnet_convert.graph.traced import UntraceableError, distinct
from irnet_convert.layers.rprelu import RPReLU

FORMS = ("module", "call", "function")

_NAME = "rprelu"
_PARAMETERS = ("shift_in", "slope", "shift_out")


def collect(survey: Survey, binary: Mapping[str, int]) -> Findings:
    """The edits of ``activation``, as RPReLU where that can be."""
    found = activation.collect(survey, binary)
    seen = [_Seen(rec=r, places=activation.places_of(r), signs=never_negative(r)) for r in survey.records]
    edits: dict[Edit, None] = {}
    for edit in found.edits:
        for one in _calls(survey, seen, edit):
            channels = _channels(survey, seen, one, binary)
            as_ours = Edit(rewrite=_NAME, form=one.form, owner=one.owner, target=one.target,
                           ordinal=one.ordinal, channels=channels)  # fmt: skip
            edits[as_ours if channels and _has_room(survey, one) else one] = None
    found.edits = sorted(edits, key=lambda edit: -edit.ordinal)
    return found


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """A recording, its ReLUs by place, and its values that cannot be negative."""

    rec: Record
    places: activation.Places
    signs: Mapping[int, frozenset[int]]


def _calls(survey: Survey, seen: list[_Seen], edit: Edit) -> list[Edit]:
    """A module's edit as edits of its calls, if there are several: each is to learn alone."""
    if edit.form != "module":
        return [edit]
    places = dict.fromkeys(
        (node.frames[-2].path, node.frames[-1].ordinal)
        for each in seen
        for node in activation.covered(each.places, edit)
        if len(node.frames) > 1
    )
    if len(places) < 2:
        return [edit]
    edits = [
        Edit(rewrite=edit.rewrite, form="call", owner=owner, target=edit.owner, ordinal=ordinal)
        for owner, ordinal in places
    ]
    return edits if all(_is_there(survey, one) for one in edits) else [edit]


def _is_there(survey: Survey, edit: Edit) -> bool:
    try:
        graphs = distinct(survey.graphs(edit.owner))
    except UntraceableError:
        return False
    owner = survey.model.get_submodule(edit.owner)
    return all(activation.find(graph, owner, edit, survey.model) is not None for graph in graphs)


def _channels(survey: Survey, seen: list[_Seen], edit: Edit, binary: Mapping[str, int]) -> int:
    """How many channels the value has, along dimension 1; 0 where that is not known, or not one number."""
    found = set()
    for each in seen:
        for node in activation.covered(each.places, edit):
            shape = list(each.rec.shapes[node.inputs[0]])
            along = len(shape) == 2 or (
                len(shape) > 2 and all(_channels_first(survey, *one) for one in _readers(each, node, binary))
            )
            found.add(shape[1] if along else 0)
    return found.pop() if len(found) == 1 else 0


def _readers(seen: _Seen, node: Node, binary: Mapping[str, int]) -> Iterator[tuple[str, int, int]]:
    """The layers with 1-bit activations that the ReLU makes non-negative; ranks of their input and of its."""
    rec = seen.rec
    for path, act_bits in binary.items():
        for call in rec.calls.get(path, ()) if act_bits == 1 else ():
            if node.index in seen.signs.get(call.inputs[0], ()):
                yield path, len(rec.shapes[call.inputs[0]]), len(rec.shapes[node.inputs[0]])


def _channels_first(survey: Survey, path: str, rank: int, own: int) -> bool:
    """A convolution reads channels first. So was a map that was flattened for a linear layer."""
    return not isinstance(survey.layers[path], nn.Linear | nn.MultiheadAttention) or rank < own


def _has_room(survey: Survey, edit: Edit) -> bool:
    return edit.form == "module" or not hasattr(survey.model.get_submodule(edit.owner), _child(edit))


def _child(edit: Edit) -> str:
    return f"{edit.target.rpartition('.')[2]}_rprelu{edit.ordinal}"


def adds(edit: Edit) -> tuple[str, ...]:
    """Keys that the edit adds to the state dict, below its owner's path."""
    child = "" if edit.form == "module" else f"{_child(edit)}."
    return tuple(f"{child}{name}" for name in _PARAMETERS)


def apply(editor: Any, edit: Edit) -> None:
    """Perform one edit. ``editor`` is a graph.apply.Editor."""
    owner = editor.module(edit.owner)
    new = _made(editor.model, owner, edit)
    if edit.form == "module":
        if type(owner) not in activation.MODULES:
            raise editor.lost(edit)
        _adopt(new, owner)
        editor.replace(edit.owner, new)
        return
    editor.add(edit.owner, _child(edit), new)
    for graph in distinct(editor.graphs(edit.owner)):
        node = activation.find(graph, owner, edit, editor.model)
        if node is None:
            raise editor.lost(edit)
        given: Any = node.args[0]
        with graph.inserting_before(node):
            call = graph.call_module(_child(edit), (given,))
        node.replace_all_uses_with(call)
        if activation.is_in_place(node, owner):
            # The forward may go on with the tensor that it handed over, whose content had changed.
            order = {each: place for place, each in enumerate(graph.nodes)}
            for user in [u for u in given.users if order[u] > order[node]]:
                user.replace_input_with(given, call)
        graph.erase_node(node)


def _made(model: nn.Module, owner: nn.Module, edit: Edit) -> RPReLU:
    like = next(p for p in model.parameters() if p.is_floating_point())
    return RPReLU(edit.channels, device=like.device, dtype=like.dtype).train(owner.training)


def _adopt(new: RPReLU, relu: nn.Module) -> None:
    """Take over hooks and attributes."""
    held = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")
    own = ("inplace", "min_val", "max_val")
    new.__dict__.update({k: v for k, v in vars(relu).items() if k not in (*held, *own)})
