"""In-place operators of an exported graph made functional.

``run_decompositions`` does it for any graph, and takes half a minute for a ResNet. Nearly all in-place
operators write to the fresh result of a convolution, normalisation or addition; these are replaced here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

aten = torch.ops.aten

#: Operators without a declared alias that still may return their argument, or a view of it.
_MAY_ALIAS = {
    aten.contiguous.default,
    aten.dropout.default,
    aten.expand_as.default,
    aten.feature_dropout.default,
    aten.flatten.using_ints,
    aten.reshape.default,
    aten.reshape_as.default,
    aten.to.device,
    aten.to.dtype,
    aten.to.dtype_layout,
    aten.type_as.default,
    aten.chunk.default,
    aten.movedim.int,
    aten.movedim.intlist,
    aten.unflatten.int,
    aten.view_as.default,
}


def make_functional(graph: fx.Graph) -> bool:
    """Replace in-place operators where that is safe.

    Args:
        graph: an exported graph; it is changed.

    Returns:
        Whether no in-place operator is left.
    """
    for node in list(graph.nodes):
        if not _writes(node):
            continue
        target, functional = node.args[0], _functional(node.target)
        if functional is None or not isinstance(target, fx.Node) or not _is_own(target):
            return False
        node.target = functional
        later = set(graph.nodes)
        for before in graph.nodes:
            later.discard(before)
            if before is node:
                break
        target.replace_all_uses_with(node, delete_user_cb=lambda user, later=later: user in later)
    return True


def _writes(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _functional(op: Any) -> Any:
    """add_.Tensor → add.Tensor, if its arguments are the same."""
    schema = op._schema
    name = schema.name.removeprefix("aten::")
    if name == schema.name or not name.endswith("_"):
        return None
    found = getattr(getattr(aten, name[:-1], None), schema.overload_name or "default", None)
    if found is None or found._schema.is_mutable:
        return None
    same = [a.name for a in found._schema.arguments] == [a.name for a in schema.arguments]
    return found if same else None


def _is_own(node: fx.Node) -> bool:
    """Whether a node's result is new memory that nothing else views."""
    return node.op == "call_function" and not _may_alias(node) and not any(map(_may_alias, node.users))


def _may_alias(node: fx.Node) -> bool:
    if node.op == "output":
        return False
    if not isinstance(node.target, torch._ops.OpOverload) or node.target in _MAY_ALIAS:
        return True
    # A write returns its argument too; it has been replaced before, or is about to be.
    if node.target._schema.is_mutable:
        return False
    return any(r.alias_info is not None for r in node.target._schema.returns)
