"""A captured model as a network: regions as programs, and what stays in PyTorch between them."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_unflatten

from irnet_convert.errors import PackError
from irnet_convert.packed import network as net
from irnet_convert.packed.blob import make_blob
from irnet_convert.packed.capture import Captured
from irnet_convert.packed.emit import Emitted, emit, unique
from irnet_convert.packed.flow import Flow, fixed_size
from irnet_convert.packed.lower import lower
from irnet_convert.packed.operators import name_of
from irnet_convert.packed.regions import Regions
from irnet_convert.packed.steps import Program

_DTYPES = {getattr(torch, n): n for n in net.RealDType.__args__}
_LAYOUTS = {
    getattr(torch, n): n for n in ("strided", "contiguous_format", "preserve_format", "channels_last")
}


@dataclass(frozen=True, kw_only=True)
class Fused:
    """All that a PackedModel is made of."""

    network: net.Network
    programs: list[Program]
    blobs: list[Tensor]
    constants: dict[str, Tensor]


def fuse(captured: Captured, real_dtype: torch.dtype) -> Fused:
    """Fuse a captured model.

    Args:
        captured: the exported graph.
        real_dtype: of real weights in storage.

    Raises:
        PackError: an operator outside of every region is not one that a packed network may call.
    """
    flow = Flow(captured)
    regions = Regions(flow, lower(flow))
    return _Assembling(regions, real_dtype).fused()


class _Assembling:
    """Numbers for nodes and constants of the network."""

    def __init__(self, regions: Regions, real_dtype: torch.dtype) -> None:
        self.r, self.flow, self.real_dtype = regions, regions.flow, real_dtype
        self.inputs = {node: i for i, (_, node) in enumerate(self.flow.captured.inputs)}
        self.nodes: list[net.Node] = []
        self.place: dict[fx.Node, net.NodeArg] = {}
        self.emitted: list[Emitted] = []
        self.specs: list[net.TensorSpec] = []
        self.tensors: dict[str, Tensor] = {}
        self.constant_of: dict[fx.Node, int] = {}

    def fused(self) -> Fused:
        """The whole network."""
        levels = self.r.levels()
        for level in range(max([*self.r.level.values(), 0]) + 1):
            for node in self.r.order:
                if self.r.level[node] == level and node not in self.r.pieces and node.op == "call_function":
                    self._operator(node)
            if level in levels:
                self._region(emit(self.r, level, self.real_dtype))
        outputs = [self._arg(n, "the output") for n in self.flow.captured.outputs]
        network = net.Network(
            programs=len(self.emitted), inputs=tuple(self._input(n, x) for n, x in self.flow.captured.inputs),
            constants=tuple(self.specs), nodes=tuple(self.nodes),
            output=self._structure(tree_unflatten(outputs, self.flow.captured.out_spec)),
        )  # fmt: skip
        programs = [e.program for e in self.emitted]
        blobs = [make_blob(e.program, e.tensors) for e in self.emitted]
        return Fused(network=network, programs=programs, blobs=blobs, constants=self.tensors)

    def _region(self, emitted: Emitted) -> None:
        args = tuple(self._arg(n, "a region") for n in emitted.inputs)
        for item, node in enumerate(emitted.outputs):
            self.place[node] = net.NodeArg(node=len(self.nodes), item=item)
        self.nodes.append(net.RegionNode(program=len(self.emitted), args=args))
        self.emitted.append(emitted)

    def _operator(self, node: fx.Node) -> None:
        if node.target is operator.getitem:
            above = self._arg(node.args[0], "getitem")
            assert isinstance(above, net.NodeArg)
            item: Any = node.args[1]
            self.place[node] = net.NodeArg(node=above.node, item=item)
            return
        # What was a view of the recorded memory layout need not be one of another's; the values are the same.
        as_view = node.target in (torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default)
        name = "aten.reshape.default" if as_view else name_of(node.target)
        if name is None:
            raise PackError(
                f"the model calls {node.target} in a part that cannot be fused",
                expected="operators of irnet_convert/packed/operators.py",
                mend="replace the operator in the model, or ask for it to be added to the table",
            )
        kwargs = tuple(
            net.Keyword(name=k, value=self._arg(v, name)) for k, v in node.kwargs.items()
            if k not in ("pin_memory", "memory_format") and v is not None
        )  # fmt: skip
        args = tuple(self._arg(a, name) for a in node.args)
        self.place[node] = net.NodeArg(node=len(self.nodes))
        self.nodes.append(net.OpNode(op=name, args=args, kwargs=kwargs))

    # -- arguments

    def _arg(self, value: Any, where: str) -> net.Arg:
        if isinstance(value, fx.Node):
            return self._reference(value, where)
        if isinstance(value, list | tuple):
            items = tuple(self._arg(v, where) for v in value)
            return net.ListArg(items=items, is_tuple=isinstance(value, tuple))
        if isinstance(value, torch.dtype):
            return net.DTypeArg(name=_DTYPES[value])
        if isinstance(value, torch.device):
            return net.DeviceArg()
        if isinstance(value, torch.layout | torch.memory_format):
            return net.LayoutArg(name=_LAYOUTS[value])  # type: ignore[arg-type]
        if isinstance(value, float) and value in (torch.inf, -torch.inf):
            return net.FloatArg(value="inf" if value > 0 else "-inf")
        if isinstance(value, float) and value != value:
            return net.FloatArg(value="nan")
        if value is None or isinstance(value, bool | int | float | str):
            return value
        raise PackError(
            f"{where} is called with a {type(value).__name__}",
            expected="tensors, numbers, dtypes and lists of them",
            mend="replace that part of the model's forward",
        )

    def _reference(self, node: fx.Node, where: str) -> net.Arg:
        source = self.flow.source(node)
        if source in self.flow.tensors:
            return self._constant(source, where)
        if source in self.inputs:
            return net.InputArg(index=self.inputs[source])
        place = self.place[source]
        # Identities look through the item 0 of a normalisation; where that stays in PyTorch it is a tuple.
        is_tuple = isinstance(source.meta.get("val"), tuple | list) and source not in self.r.pieces
        return net.NodeArg(node=place.node, item=0) if is_tuple and node is not source else place

    def _constant(self, node: fx.Node, where: str) -> net.Arg:
        value = self.flow.tensors[node]
        if not isinstance(value, Tensor):
            return self._arg(value, where)
        if node not in self.constant_of:
            name = unique(self.flow.names[node], self.tensors)
            stored = value.detach().contiguous()
            # Weights take the dtype of real weights; biases, tables and statistics are small.
            if stored.dtype == torch.float32 and stored.dim() >= 2 and node in self.flow.captured.tensors:
                half = stored.to(self.real_dtype)
                stored = half if bool(torch.isfinite(half).all()) else stored
            self.constant_of[node] = len(self.specs)
            self.specs.append(
                net.TensorSpec(name=name, dtype=_DTYPES[stored.dtype], shape=tuple(stored.shape))
            )
            self.tensors[name] = stored.clone()
        return net.ConstantArg(index=self.constant_of[node])

    def _input(self, name: str, node: fx.Node) -> net.InputSpec:
        value = node.meta["val"]
        sizes = tuple(map(fixed_size, value.shape))
        return net.InputSpec(name=name, shape=sizes, dtype=_DTYPES[value.dtype])

    def _structure(self, value: Any) -> net.Arg:
        if isinstance(value, dict):
            items = tuple(self._structure(v) for v in value.values())
            return net.DictArg(keys=tuple(map(str, value)), items=items)
        if type(value) in (list, tuple):
            items = tuple(self._structure(v) for v in value)
            return net.ListArg(items=items, is_tuple=isinstance(value, tuple))
        if isinstance(value, list | tuple):
            raise PackError(
                f"the model returns a {type(value).__name__}",
                expected="a tensor, or lists, tuples and dicts of tensors",
                mend="wrap the model in a module that returns one of these",
            )
        return value
