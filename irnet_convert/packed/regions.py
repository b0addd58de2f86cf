"""Which pieces form a region: one call in which values never leave the program.

Every node gets a level. A piece is on the level of the pieces it reads in place, what stays in PyTorch is one
above the pieces that it reads, and a piece that reads another in another layout is one above it too. Levels
never fall along an edge, and rise on every path that leaves the pieces of a level; so all pieces of one level
can be one call, and calls and operators have an order.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import fx
from torch.fx.node import map_arg

from irnet_convert.packed.captured import CAPTURED
from irnet_convert.packed.flow import Flow
from irnet_convert.packed.pieces import Piece


class Regions:
    """The parts of a network.

    Attributes:
        flow: the graph.
        pieces: those that became part of a region.
        level: of every node that is needed.
        order: needed nodes, in the order of the graph.
        uses: how often a node's value is read, by nodes and by the network's output.
    """

    def __init__(self, flow: Flow, pieces: dict[fx.Node, Piece]) -> None:
        self.flow = flow
        self.pieces = dict(pieces)
        self.outputs = [flow.source(n) for n in flow.captured.outputs if isinstance(n, fx.Node)]
        while True:
            self._assign()
            packed = {self.level[n] for n in self.fused() if n.target in CAPTURED}
            rest = [n for n in self.fused() if self.level[n] not in packed]
            if not rest:
                break
            # Without a captured layer there is nothing to gain; PyTorch's own kernels stay.
            for node in rest:
                del self.pieces[node]

    def fused(self) -> list[fx.Node]:
        """Needed nodes that are pieces, in order."""
        return [n for n in self.order if n in self.pieces]

    def levels(self) -> list[int]:
        """The levels that have a region."""
        return sorted({self.level[n] for n in self.fused()})

    def members(self, level: int) -> list[fx.Node]:
        """The pieces of one region, in order."""
        return [n for n in self.fused() if self.level[n] == level]

    def sources(self, node: fx.Node) -> tuple[fx.Node, ...]:
        """What a node reads, as often as it reads it; constants are left out."""
        if node in self.pieces:
            found: Iterable[fx.Node] = self.pieces[node].sources()
        else:
            found = _arguments(node)
        return tuple(s for s in map(self.flow.source, found) if s not in self.flow.tensors)

    def stays_inside(self, source: fx.Node, node: fx.Node) -> bool:
        """Whether a value goes from piece to piece without leaving the program."""
        return (
            source in self.pieces and node in self.pieces
            and self.pieces[source].layout == self.pieces[node].reads
        )  # fmt: skip

    def _assign(self) -> None:
        needed: set[fx.Node] = set()
        queue = list(self.outputs)
        while queue:
            node = queue.pop()
            if node not in needed and node not in self.flow.tensors:
                needed.add(node)
                queue += self.sources(node)
        self.order = [n for n in self.flow.captured.graph.nodes if n in needed]
        self.level: dict[fx.Node, int] = {}
        self.uses: dict[fx.Node, int] = {}
        for node in self.order:
            self.level[node] = max((self._above(s, node) for s in self.sources(node)), default=0)
            for source in self.sources(node):
                self.uses[source] = self.uses.get(source, 0) + 1
        for node in self.outputs:
            self.uses[node] = self.uses.get(node, 0) + 1

    def _above(self, source: fx.Node, node: fx.Node) -> int:
        rises = source in self.pieces and not self.stays_inside(source, node)
        return self.level[source] + rises


def _arguments(node: fx.Node) -> list[fx.Node]:
    found: list[fx.Node] = []
    map_arg((node.args, node.kwargs), found.append)
    return found
