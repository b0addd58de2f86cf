"""Nodes of an exported graph as pieces of steps: what all rules share.

A rule is a function of one operator. It returns None where no step does what the node does; such a node stays
in PyTorch.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from irnet_convert.errors import PackError
from irnet_convert.packed.flow import Flow
from irnet_convert.packed.pieces import AffinePiece, Piece, Weight
from irnet_convert.packed.steps import Layout

aten = torch.ops.aten


class NeedsFixedSizeError(PackError):
    """Internal: more can be fused if the size of the image is fixed."""


Rule = Callable[["Lowering", fx.Node], Piece | None]


class Lowering:
    """Pieces of a flow's nodes, in the order of the graph.

    Attributes:
        flow: the graph.
        pieces: node → piece. A node without one stays in PyTorch.
    """

    def __init__(self, flow: Flow, rules: Mapping[Any, Rule]) -> None:
        self.flow = flow
        self.pieces: dict[fx.Node, Piece] = {}
        for node in flow.captured.graph.nodes:
            if node.op != "call_function" or node in flow.tensors or node in flow.same:
                continue
            if node.target is operator.getitem:
                self._first_item(node)
            elif node.target in rules and (piece := rules[node.target](self, node)) is not None:
                self.pieces[node] = piece

    def _first_item(self, node: fx.Node) -> None:
        """The normalised map, or the pooled one without its indices: the piece stands for item 0."""
        above: Any = node.args[0]
        if above in self.pieces and node.args[1] == 0:
            self.flow.same[node] = above

    # -- what the functions of the table need

    def layout_of(self, node: Any) -> Layout | None:
        """The layout of what a step made; None for what comes from elsewhere."""
        return self.pieces[node].layout if node in self.pieces else None

    def arg(self, node: fx.Node, index: int, default: Any = None) -> Any:
        """A positional argument, identities looked through."""
        return self.flow.source(node.args[index]) if len(node.args) > index else default

    def pointwise(self, x: Any, *post: Any) -> Piece | None:
        """A piece that appends ``post`` to what a step made; what comes from elsewhere has no layout."""
        layout = self.layout_of(x)
        if layout is None:
            return None
        piece = self.pieces[x]
        return Piece(
            inputs=(x,), reads=layout, layout=layout, channels=piece.channels, rank=piece.rank, post=post
        )

    def vector(self, value: Any, x: Piece) -> Tensor | None:
        """A constant or number as one float64 per channel, if it broadcasts along channels alone."""
        if isinstance(value, int | float) and not isinstance(value, bool):
            return torch.full((x.channels,), float(value), dtype=torch.float64)
        if not self.flow.is_constant(value):
            return None
        tensor: Tensor = self.flow.tensors[value]  # type: ignore[index]
        if not tensor.is_floating_point() or tensor.dim() > x.rank:
            return None
        axis = x.rank - 3 if x.layout == "map" else x.rank - 1
        shape = (1,) * (x.rank - tensor.dim()) + tuple(tensor.shape)
        if shape[axis] not in (1, x.channels) or any(s != 1 for i, s in enumerate(shape) if i != axis):
            return None
        return tensor.double().reshape(-1).expand(x.channels)

    def affine(self, x: Any, scale: Any, shift: Any, source: Any) -> Piece | None:
        """x·scale + shift with constants or numbers; ``source`` gives the name."""
        if x not in self.pieces:
            return None
        a, b = self.vector(scale, self.pieces[x]), self.vector(shift, self.pieces[x])
        if a is None or b is None:
            return None
        return self.pointwise(x, AffinePiece(scale=a, shift=b, name=self.name(source)))

    def name(self, source: Any) -> str:
        """The path of the module that a constant belongs to."""
        if not isinstance(source, fx.Node):
            return "constant"
        return self.flow.names.get(source, source.name).rpartition(".")[0] or source.name

    def weight(self, node: Any, rank: int) -> Weight | None:
        """A real weight of that rank."""
        if not self.flow.is_constant(node):
            return None
        tensor = self.flow.tensors[node]
        if tensor.dim() != rank or tensor.dtype != torch.float32:
            return None
        return Weight(name=self.flow.names[node], tensor=tensor, shape=tuple(tensor.shape), bits=False)

    def bias(self, node: Any, channels: int) -> tuple[AffinePiece, ...] | None:
        """A layer's bias as what follows it; None if it is no constant."""
        if node is None:
            return ()
        if not self.flow.is_constant(node):
            return None
        ones = torch.ones(channels, dtype=torch.float64)
        return (AffinePiece(scale=ones, shift=self.flow.tensors[node].double(), name=self.name(node)),)

    def is_map(self, x: Any) -> bool:
        """Whether a node can be read as a map: (N, C, H, W), C known."""
        return self._is_value(x) and self.flow.value(x).dim() == 4 and self.flow.is_fixed(x, 1)

    def is_rows(self, x: Any) -> bool:
        """Whether a node can be read as rows: (..., C), C known."""
        return self._is_value(x) and 1 <= self.flow.value(x).dim() <= 8 and self.flow.is_fixed(x, -1)

    def fits(self, x: Any, fan_in: int) -> bool:
        """Whether a linear layer of that fan-in reads a node: its last size is then the same in all calls."""
        return self._is_value(x) and 1 <= len(self.flow.shape(x)) <= 8 and self.flow.shape(x)[-1] == fan_in

    def _is_value(self, x: Any) -> bool:
        return isinstance(x, fx.Node) and x not in self.flow.tensors and self.flow.is_real(x)


def map_piece(x: Any, step: type, channels: int, **more: Any) -> Piece:
    """A step from map to map."""
    return Piece(inputs=(x,), reads="map", layout="map", channels=channels, rank=4, step=step, **more)


def pair(value: Any) -> tuple[int, int]:
    """(high, wide) of an argument that may be one number, or a list of one."""
    values = [value] if isinstance(value, int) else list(value)
    return (values[0], values[-1])


def zeros_around(low: Lowering, node: fx.Node) -> list[int] | None:
    """The amounts of zeros that a node puts around its input, if it does no more than that."""
    if node.target == aten.pad.default:
        if low.arg(node, 2, "constant") != "constant":
            return None
        value = low.arg(node, 3)
    elif node.target == aten.constant_pad_nd.default:
        value = low.arg(node, 2, 0)
    else:
        return None
    amounts = list(low.arg(node, 1))
    fine = all(isinstance(a, int) and a >= 0 for a in amounts) and value in (None, 0)
    return amounts if fine else None
