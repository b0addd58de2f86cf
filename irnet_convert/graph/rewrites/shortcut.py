"""Bi-Real shortcuts (Liu et al., ECCV 2018, section 3.1), the structure of IR-Net's ImageNet ResNets.

Forms:
    basic: a basic block y = act(bn2(conv2(act(bn1(conv1(x))))) + skip(x)) becomes
        h = act(bn1(conv1(x)) + skip(x)), y = act(bn2(conv2(h)) + h);
        skip is the block's own identity or downsample branch, and the outer skip is gone.
    identity: elsewhere a binarized convolution that keeps its shape gains an identity around itself:
        conv(x) + x. With identity_norm around its norm too: norm(conv(x)) + x; with identity_norm_act
        between a norm and the activation inside of it: act(norm(conv(x)) + x).
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from irnet_convert.graph.plan import Edit
from irnet_convert.graph.record import Node, Record
from irnet_convert.graph.rewrites.common import Findings, calls_of, node_args, nth_call, sole_user
from irnet_convert.graph.survey import Survey
from irnet_convert.graph.traced import UntraceableError, distinct, insert_input

FORMS = ("basic", "identity", "identity_norm", "identity_norm_act")

_NAME = "shortcut"
_ADDS = (operator.add, operator.iadd, torch.add, "add", "add_")
_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def add_shortcut(x: Tensor, shortcut: Tensor | None) -> Tensor:
    """``x + shortcut``, or ``x`` where the caller gives no shortcut."""
    return x if shortcut is None else x + shortcut


def collect(survey: Survey, binary: Mapping[str, int]) -> Findings:
    """Edits for the binarized convolutions: basic blocks first, identities for the rest."""
    found = Findings()
    # With real activations there is no sign for a shortcut to carry values past.
    convs = [p for p, act_bits in binary.items() if act_bits == 1 and isinstance(survey.layers[p], _CONVS)]
    in_basic: set[str] = set()
    for owner, inside in _by_owner(survey, convs).items():
        if len(inside) == 2 and _is_basic(survey, owner, inside):
            found.edits.append(Edit(rewrite=_NAME, form="basic", owner=owner, target=inside[0]))
            in_basic.update(inside)
    for conv in convs:
        if conv not in in_basic:
            _collect_identity(survey, conv, found)
    return found


def _by_owner(survey: Survey, convs: list[str]) -> dict[str, list[str]]:
    """Caller's path → the convolutions that it calls exactly once per call, in order."""
    owners: dict[str, list[str]] = {}
    for conv in convs:
        rec = survey.record_of(conv)
        callers = {(c.owner, c.ordinal) for c in rec.calls[conv]} if rec else set()
        if len(callers) == 1:
            owners.setdefault(callers.pop()[0], []).append(conv)
    return owners


# -- basic blocks -------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Basic:
    """The nodes of a basic block's graph that the rewrite touches."""

    conv2: fx.Node
    norm1: fx.Node
    add: fx.Node
    skip: fx.Node


def _is_basic(survey: Survey, owner: str, convs: list[str]) -> bool:
    conv1, conv2 = (_call(survey, c) for c in convs)
    rec = survey.record_of(convs[0])
    if rec is None or not (_keeps_shape(rec, conv2) and _out_shape(rec, conv1) == _out_shape(rec, conv2)):
        return False
    try:
        graphs = survey.graphs(owner)
    except UntraceableError:
        return False
    module = survey.model.get_submodule(owner)
    layers = [survey.layers[c] for c in convs]
    found = [_find_basic(g, module, layers, survey.norms) for g in distinct(graphs)]
    if not all(found):
        return False
    norm1 = _path(survey, module, found[0].norm1)  # pyright: ignore[reportOptionalMemberAccess]
    return norm1 not in survey.norms_with_more


def _call(survey: Survey, conv: str) -> Node:
    rec = survey.record_of(conv)
    assert rec is not None
    return rec.calls[conv][0]


def _out_shape(rec: Record, call: Node) -> tuple[int, ...]:
    return rec.shapes[call.outputs[0]]


def _keeps_shape(rec: Record, call: Node) -> bool:
    return rec.shapes[call.inputs[0]] == _out_shape(rec, call)


def _path(survey: Survey, owner: nn.Module, node: fx.Node) -> str:
    module = owner.get_submodule(str(node.target))
    return survey.path_of[module]


def _find_basic(
    graph: fx.Graph, owner: nn.Module, convs: list[nn.Module], norms: set[nn.Module]
) -> _Basic | None:
    """The basic block's pattern, or None. It reads: conv → norm → … → conv → norm → … → add ← skip."""
    calls = [calls_of(graph, owner, c) for c in convs]
    if any(len(c) != 1 for c in calls):
        return None
    (conv1,), (conv2,) = calls
    norm1, norm2 = sole_user(conv1), sole_user(conv2)
    if not (_is_norm(norm1, owner, norms) and _is_norm(norm2, owner, norms)):
        return None
    assert norm1 is not None
    assert norm2 is not None
    if not _single_chain_up(conv2, norm1):
        return None
    add, branch = _next_addition(norm2)
    if add is None or branch is None:
        return None
    skip = next((a for a in node_args(add) if a is not branch), None)
    if skip is None or {conv1, conv2} & _ancestors(skip):
        return None
    return _Basic(conv2=conv2, norm1=norm1, add=add, skip=skip)


def _is_norm(node: fx.Node | None, owner: nn.Module, norms: set[nn.Module]) -> bool:
    return node is not None and node.op == "call_module" and owner.get_submodule(str(node.target)) in norms


def _single_chain_up(node: fx.Node, goal: fx.Node) -> bool:
    while (args := node_args(node)) and len(args) == 1:
        node = args[0]
        if node is goal:
            return True
    return False


def _next_addition(node: fx.Node) -> tuple[fx.Node | None, fx.Node | None]:
    """The addition that ends the single chain below ``node``, and its operand on that chain."""
    while (user := sole_user(node)) is not None:
        if user.target in _ADDS and len(node_args(user)) == 2:
            return user, node
        if len(node_args(user)) != 1:
            break
        node = user
    return None, None


def _ancestors(node: fx.Node) -> set[fx.Node]:
    found, queue = {node}, [node]
    while queue:
        for above in queue.pop().all_input_nodes:
            if above not in found:
                found.add(above)
                queue.append(above)
    return found


def _apply_basic(editor: Any, edit: Edit) -> None:
    owner = editor.module(edit.owner)
    convs = [editor.module(edit.target), None]
    for graph in distinct(editor.graphs(edit.owner)):
        convs[1] = _second_conv(graph, owner, convs[0])
        norms = {m for m in owner.modules() if m is not owner}
        found = _find_basic(graph, owner, [c for c in convs if c is not None], norms)
        if found is None:
            raise editor.lost(edit)
        # The downsample branch may be computed late: it moves in front of the first addition.
        branch = _ancestors(found.skip)
        order = list(graph.nodes)
        for node in order[order.index(found.norm1) + 1 :]:
            if node in branch:
                found.norm1.prepend(node)
        _add_after(graph, found.norm1, found.skip)
        h = found.conv2.args[0]
        found.add.args = tuple(h if a is found.skip else a for a in found.add.args)
        _make_functional(found.add)


def _second_conv(graph: fx.Graph, owner: nn.Module, first: nn.Module) -> nn.Module | None:
    """The binarized convolution that the graph calls beside ``first``."""
    from irnet_convert.layers import BinaryLayer

    called = [owner.get_submodule(str(n.target)) for n in graph.nodes if n.op == "call_module"]
    return next(
        (m for m in called if isinstance(m, BinaryLayer) and isinstance(m, _CONVS) and m is not first), None
    )


def _add_after(graph: fx.Graph, node: fx.Node, other: fx.Node) -> None:
    with graph.inserting_after(node):
        total = graph.call_function(operator.add, (node, other))
    node.replace_all_uses_with(total, delete_user_cb=lambda user: user is not total)


def _make_functional(add: fx.Node) -> None:
    """An in-place addition may write into an operand that the backward pass of another op still needs."""
    if add.op == "call_method":
        add.op = "call_function"
    add.target = operator.add
    add.kwargs = {}


# -- identities -----------------------------------------------------------------------------------------


def _collect_identity(survey: Survey, conv: str, found: Findings) -> None:
    rec = survey.record_of(conv)
    assert rec is not None
    if not all(_keeps_shape(rec, call) for call in rec.calls[conv]):
        return
    places = dict.fromkeys((call.owner, call.ordinal) for call in rec.calls[conv])
    for owner, ordinal in places:
        try:
            edit = _identity_edit(survey, conv, owner, ordinal)
            found.edits.append(edit)
        except UntraceableError as reason:
            found.notes.append(f"no shortcut around {conv}: the forward of {owner or 'the model'}: {reason}")


def _identity_edit(survey: Survey, conv: str, owner: str, ordinal: int) -> Edit:
    """Which of three forms: behind a plain norm, inside a norm with its own activation, or no norm."""
    module = survey.model.get_submodule(owner)
    forms = set()
    for graph in distinct(survey.graphs(owner)):
        call = nth_call(graph, module, survey.layers[conv], ordinal)
        if call is None:
            raise UntraceableError("its graph does not show this call")
        user = sole_user(call)
        if user is None or not _is_norm(user, module, survey.norms):
            forms.add("identity")
            continue
        norm = _path(survey, module, user)
        if norm not in survey.norms_with_more:
            forms.add("identity_norm")
            continue
        if not all(_before_activation(g) for g in distinct(survey.graphs(norm))):
            raise UntraceableError(f"{norm} does not call its activation as a child")
        forms.add("identity_norm_act")
    if len(forms) != 1:
        raise UntraceableError("it differs between training and evaluation")
    return Edit(rewrite=_NAME, form=forms.pop(), owner=owner, target=conv, ordinal=ordinal)


def _before_activation(graph: fx.Graph) -> fx.Node | None:
    """The first child that a norm-and-activation module calls (its dropout or its activation)."""
    return next((n for n in graph.nodes if n.op == "call_module"), None)


def _apply_identity(editor: Any, edit: Edit) -> None:
    owner, conv = editor.module(edit.owner), editor.module(edit.target)
    for graph in distinct(editor.graphs(edit.owner)):
        call = nth_call(graph, owner, conv, edit.ordinal)
        if call is None:
            raise editor.lost(edit)
        x = node_args(call)[0]
        norm = sole_user(call)
        if edit.form == "identity":
            _add_after(graph, call, x)
        elif norm is None:
            raise editor.lost(edit)
        elif edit.form == "identity_norm":
            _add_after(graph, norm, x)
        else:
            _open_norm(editor, edit, owner.get_submodule(str(norm.target)))
            norm.kwargs = {**norm.kwargs, "shortcut": x}


def _open_norm(editor: Any, edit: Edit, norm: nn.Module) -> None:
    """Give a norm-and-activation module an input that is added between the two."""
    for graph in distinct(editor.graphs(editor.path_of(norm))):
        if any(n.op == "placeholder" and n.target == "shortcut" for n in graph.nodes):
            continue
        place = _before_activation(graph)
        if place is None:
            raise editor.lost(edit)
        shortcut = insert_input(graph, "shortcut")
        with graph.inserting_before(place):
            total = graph.call_function(add_shortcut, (place.args[0], shortcut))
        place.args = (total, *place.args[1:])


def apply(editor: Any, edit: Edit) -> None:
    """Perform one edit. ``editor`` is a graph.apply.Editor."""
    if edit.form == "basic":
        _apply_basic(editor, edit)
    else:
        _apply_identity(editor, edit)
