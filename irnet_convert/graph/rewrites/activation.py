"""ReLU → Hardtanh where a binarized layer would see an input that cannot be negative.

sign(ReLU(x)) with sign(0) = +1 is the constant +1: all information is lost. Hardtanh keeps the sign and
is what IR-Net trains with. A ReLU that feeds only real layers stays.

Forms:
    module: an ``nn.ReLU`` or ``nn.ReLU6`` all of whose calls change is replaced by ``nn.Hardtanh``.
    call: one call of a shared ReLU module in the forward of its caller.
    function: a functional ReLU in some module's forward.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from irnet_convert.graph.plan import Edit
from irnet_convert.graph.record import Node, Record
from irnet_convert.graph.rewrites.common import Findings, nth_call
from irnet_convert.graph.signs import is_relu, never_negative
from irnet_convert.graph.survey import Survey
from irnet_convert.graph.traced import UntraceableError, distinct
from irnet_convert.layers.hardtanh import Hardtanh, hardtanh

FORMS = ("module", "call", "function")

_NAME = "activation"

MODULES = (nn.ReLU, nn.ReLU6)

#: Spellings of a functional ReLU in a traced graph → the operator that a recording shows.
_FUNCTIONS: dict[Any, str] = {
    F.relu: "relu", torch.relu: "relu", torch.relu_: "relu", F.relu_: "relu", F.relu6: "relu6",
    "relu": "relu", "relu_": "relu",
}  # fmt: skip


def collect(survey: Survey, binary: Mapping[str, int]) -> Findings:
    """Edits for every ReLU that makes the input of a layer with 1-bit activations non-negative.

    Args:
        survey: the recordings.
        binary: path → activation bits of the layers that are to be binarized.
    """
    found = Findings(changed=[set() for _ in survey.records])
    needed = [_needed(rec, binary) for rec in survey.records]
    whole = _whole_modules(survey, needed)
    edits: dict[Edit, None] = {}
    places = [places_of(rec) for rec in survey.records]
    for changed, nodes, here in zip(found.changed, needed, places, strict=True):
        for node in nodes:
            if node.index in changed:
                continue
            edit = Edit(rewrite=_NAME, form="module", owner=node.owner) if node.owner in whole else None
            edit = edit or _in_graph(survey, node, found.notes)
            if edit is not None:
                edits[edit] = None
                changed.update(n.index for n in covered(here, edit))
    # An edit of one recording holds in the others too.
    for changed, here in zip(found.changed, places, strict=True):
        for edit in edits:
            changed.update(n.index for n in covered(here, edit))
    # Later calls first: an edit takes its ReLU out of the graph, and those behind it move up.
    found.edits = sorted(edits, key=lambda edit: -edit.ordinal)
    return found


def _needed(rec: Record, binary: Mapping[str, int]) -> list[Node]:
    signs = never_negative(rec)
    sources: set[int] = set()
    for layer, act_bits in binary.items():
        for call in rec.calls.get(layer, ()):
            if act_bits == 1 and call.inputs[0] in signs:
                sources |= signs[call.inputs[0]]
    return [rec.nodes[i] for i in sorted(sources) if is_relu(rec.nodes[i])]


def _is_relu_module(survey: Survey, path: str) -> bool:
    return type(survey.model.get_submodule(path)) in MODULES


def _whole_modules(survey: Survey, needed: list[list[Node]]) -> set[str]:
    """ReLU modules all of whose calls, in every recording, are needed."""
    calls: dict[str, list[bool]] = defaultdict(list)
    for rec, nodes in zip(survey.records, needed, strict=True):
        wanted = {n.index for n in nodes}
        for node in rec.nodes:
            if is_relu(node) and node.layer is None and _is_relu_module(survey, node.owner):
                calls[node.owner].append(node.index in wanted)
    return {path for path, wanted in calls.items() if all(wanted)}


def _in_graph(survey: Survey, node: Node, notes: list[str]) -> Edit | None:
    if _is_relu_module(survey, node.owner):
        if len(node.frames) < 2:
            return None
        edit = Edit(
            rewrite=_NAME, form="call", owner=node.frames[-2].path, target=node.owner,
            ordinal=node.frames[-1].ordinal,
        )  # fmt: skip
    else:
        edit = Edit(rewrite=_NAME, form="function", owner=node.owner, target=node.op, ordinal=node.ordinal)
    try:
        graphs = survey.graphs(edit.owner)
    except UntraceableError as reason:
        where = f"the forward of {edit.owner or 'the model'} cannot be traced: {reason}"
        note = f"{node.op} in {node.owner or 'the model'} stays, since {where}; an nn.ReLU needs no trace"
        if note not in notes:
            notes.append(note)
        return None
    module = survey.model.get_submodule(edit.owner)
    found = [find(g, module, edit, survey.model) is not None for g in distinct(graphs)]
    return edit if all(found) else None


Places = dict[tuple[object, ...], list[Node]]


def places_of(rec: Record) -> Places:
    """The ReLUs of a recording by what an edit can say of them: see :func:`covered`."""
    found: Places = defaultdict(list)
    for node in filter(is_relu, rec.nodes):
        found["module", node.owner].append(node)
        found["function", node.owner, node.op, node.ordinal].append(node)
        if len(node.frames) > 1:
            found["call", node.frames[-2].path, node.owner, node.frames[-1].ordinal].append(node)
    return found


def covered(places: Places, edit: Edit) -> list[Node]:
    """The nodes that ``edit`` changes: the same place in every call of its owner."""
    at = () if edit.form == "module" else (edit.target, edit.ordinal)
    return places.get((edit.form, edit.owner, *at), [])


def find(graph: fx.Graph, owner: nn.Module, edit: Edit, model: nn.Module) -> fx.Node | None:
    """The node of ``owner``'s graph that ``edit`` (a call or a function) is about."""
    if edit.form == "call":
        return nth_call(graph, owner, model.get_submodule(edit.target), edit.ordinal)
    same = [n for n in graph.nodes if n.op in ("call_function", "call_method")
            and _FUNCTIONS.get(n.target) == edit.target]  # fmt: skip
    return same[edit.ordinal] if edit.ordinal < len(same) else None


def apply(editor: Any, edit: Edit) -> None:
    """Perform one edit. ``editor`` is a graph.apply.Editor."""
    if edit.form == "module":
        relu = editor.module(edit.owner)
        if type(relu) not in MODULES:
            raise editor.lost(edit)
        editor.replace(edit.owner, _hardtanh_for(relu))
        return
    owner = editor.module(edit.owner)
    for graph in distinct(editor.graphs(edit.owner)):
        node = find(graph, owner, edit, editor.model)
        if node is None:
            raise editor.lost(edit)
        # In place where the ReLU was: the forward may go on with the tensor that it was handed.
        in_place: dict[str, Any] = {"inplace": True} if is_in_place(node, owner) else {}
        with graph.inserting_before(node):
            new = graph.call_function(hardtanh, (node.args[0],), in_place)
        node.replace_all_uses_with(new)
        graph.erase_node(node)


def is_in_place(node: fx.Node, owner: nn.Module) -> bool:
    """Whether a ReLU's node writes into what it is given."""
    if node.op == "call_module":
        return bool(getattr(owner.get_submodule(str(node.target)), "inplace", False))
    if node.target in (torch.relu_, F.relu_, "relu_"):
        return True
    return bool(node.kwargs.get("inplace", node.args[1] if len(node.args) > 1 else False))


def _hardtanh_for(relu: nn.Module) -> Hardtanh:
    """A Hardtanh with the hooks, flags and attributes of ``relu`` (ReLU6 has bounds of its own)."""
    new = Hardtanh(inplace=bool(getattr(relu, "inplace", False)))
    kept = {k: v for k, v in vars(relu).items() if k not in ("min_val", "max_val")}
    new.__dict__.update(kept)
    return new
