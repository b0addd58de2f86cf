"""Which rule is for which operator."""

from __future__ import annotations

from torch import fx

from irnet_convert.packed import rules_layers, rules_pointwise, rules_shapes
from irnet_convert.packed.flow import Flow
from irnet_convert.packed.lowering import Lowering
from irnet_convert.packed.pieces import Piece

_RULES = {**rules_layers.RULES, **rules_pointwise.RULES, **rules_shapes.RULES}


def lower(flow: Flow) -> dict[fx.Node, Piece]:
    """What each node is in terms of steps; a node without a piece stays in PyTorch.

    Args:
        flow: the graph. Items of tuples that a piece stands for become known as the same value.
    """
    return Lowering(flow, _RULES).pieces
