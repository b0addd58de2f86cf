"""A validated network as an fx.GraphModule: inputs, calls of programs, and the operators between them.

The module's code is written by fx from a graph that is made here of numbers, names of the own choice and
operators of a literal table; no text of a file becomes code.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from irnet_convert.packed import ops
from irnet_convert.packed.network import (
    Arg,
    ConstantArg,
    DeviceArg,
    DictArg,
    DTypeArg,
    FloatArg,
    InputArg,
    LayoutArg,
    ListArg,
    Network,
    NodeArg,
    OpNode,
    RegionNode,
)
from irnet_convert.packed.operators import operator_of
from irnet_convert.packed.steps import Program


def graph_module(
    network: Network, programs: Sequence[Program], blobs: Sequence[Tensor], constants: Sequence[Tensor]
) -> fx.GraphModule:
    """The network as a module.

    Args:
        network: validated.
        programs: validated, as many as the network says.
        blobs: the constants of each program.
        constants: those of the PyTorch parts, as they are computed with.

    Returns:
        A module with the buffers ``blob0``, ``blob1``, ... and ``constant0``, ...; it takes the
        network's inputs by position.
    """
    root = nn.Module()
    for stem, tensors in (("blob", blobs), ("constant", constants)):
        for i, tensor in enumerate(tensors):
            root.register_buffer(f"{stem}{i}", tensor)
    return fx.GraphModule(root, _Builder(network, programs).graph, class_name="PackedGraph")


class _Builder:
    def __init__(self, network: Network, programs: Sequence[Program]) -> None:
        self.graph = fx.Graph()
        self.attributes: dict[str, fx.Node] = {}
        self.inputs = [self.graph.placeholder(f"input{i}") for i in range(len(network.inputs))]
        self.nodes: list[fx.Node] = []
        texts = [p.to_json() for p in programs]
        # Operators of PyTorch were recorded on contiguous maps, and some (view) refuse others.
        kept = () if any(isinstance(node, OpNode) for node in network.nodes) else (True,)
        for node in network.nodes:
            args = [self._arg(a) for a in node.args]
            if isinstance(node, RegionNode):
                blob = self._attribute(f"blob{node.program}")
                made = self.graph.call_function(ops.run_program, (args, blob, texts[node.program], *kept))
            else:
                assert isinstance(node, OpNode)
                kwargs = {k.name: self._arg(k.value) for k in node.kwargs}
                made = self.graph.call_function(operator_of(node.op), tuple(args), kwargs)
            self.nodes.append(made)
        self.graph.output(self._arg(network.output))
        self.graph.lint()

    def _attribute(self, name: str) -> fx.Node:
        if name not in self.attributes:
            self.attributes[name] = self.graph.get_attr(name)
        return self.attributes[name]

    def _arg(self, arg: Arg) -> Any:
        if isinstance(arg, InputArg):
            return self.inputs[arg.index]
        if isinstance(arg, NodeArg):
            node = self.nodes[arg.node]
            return node if arg.item is None else self._item(node, arg.item)
        if isinstance(arg, ConstantArg):
            return self._attribute(f"constant{arg.index}")
        if isinstance(arg, DTypeArg | LayoutArg):
            return getattr(torch, arg.name)
        if isinstance(arg, DeviceArg):
            # Read from the input, so that the module may be moved.
            return self.graph.call_function(getattr, (self.inputs[0], "device"))
        if isinstance(arg, FloatArg):
            return float(arg.value)
        if isinstance(arg, DictArg):
            return {k: self._arg(v) for k, v in zip(arg.keys, arg.items, strict=True)}
        if isinstance(arg, ListArg):
            items = [self._arg(a) for a in arg.items]
            return tuple(items) if arg.is_tuple else items
        return arg

    def _item(self, node: fx.Node, item: int) -> fx.Node:
        return self.graph.call_function(operator.getitem, (node, item))
