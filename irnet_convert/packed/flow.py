"""A captured graph prepared for fusing: constants computed, identities looked through, sizes asked for."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg

from irnet_convert.packed.capture import Captured

aten = torch.ops.aten

#: Operators that return what they are given, in a functional graph in evaluation mode.
_SAME_VALUE = {
    aten.alias.default,
    aten.clone.default,
    aten.contiguous.default,
    aten.detach.default,
    aten.dropout.default,
    aten.feature_dropout.default,
    aten.lift_fresh_copy.default,
}
#: Their views may be the whole.
_VIEWS = {aten.view.default, aten.reshape.default, aten._unsafe_view.default, aten.expand.default}
_CHECKS = {aten._assert_tensor_metadata.default, aten._assert_scalar.default, aten._assert_async.msg}


class Flow:
    """The graph as the fusing code reads it.

    Attributes:
        captured: where it comes from.
        tensors: node → value, of all that depends on no input.
        names: node → path of the parameter that a constant comes from, or a name of its own.
        same: node → the node whose value it has.
    """

    def __init__(self, captured: Captured) -> None:
        self.captured = captured
        self.tensors: dict[fx.Node, Any] = {}
        self.names: dict[fx.Node, str] = {}
        self.same: dict[fx.Node, fx.Node] = {}
        self.inputs = [node for _, node in captured.inputs]
        for node, (name, tensor) in captured.tensors.items():
            self.tensors[node], self.names[node] = tensor, name
        for node in captured.graph.nodes:
            if node.op == "call_function" and node.target not in _CHECKS:
                self._read(node)

    def _read(self, node: fx.Node) -> None:
        sources = node.all_input_nodes
        if all(n in self.tensors for n in sources) and self._is_pure(node):
            with torch.no_grad():
                args, kwargs = map_arg((node.args, node.kwargs), lambda n: self.tensors[n])
                target: Any = node.target
                self.tensors[node] = target(*args, **kwargs)
            self.names[node] = next((self.names[n] for n in sources), node.name)
        elif self._keeps_value(node):
            self.same[node] = self.source(node.args[0])

    def _keeps_value(self, node: fx.Node) -> bool:
        if node.target in _VIEWS:
            return self._keeps_shape(node)
        if node.target == aten.slice.Tensor:
            return node.args[4:] in ((), (1,)) and self.slices_all(node)
        if node.target == aten._to_copy.default:
            return self._keeps_dtype(node)
        return node.target in _SAME_VALUE

    def _is_pure(self, node: fx.Node) -> bool:
        random = isinstance(node.target, torch._ops.OpOverload) and (
            torch.Tag.nondeterministic_seeded in node.target.tags
        )
        return not random and not isinstance(node.meta.get("val"), torch.SymInt)

    def slices_all(self, node: fx.Node) -> bool:
        """Whether a slice takes a whole dimension, in whatever steps."""
        start, end = (*node.args[2:4], None, None)[:2]
        return start in (None, 0) and (end is None or (isinstance(end, int) and end >= 1 << 31))

    def _keeps_shape(self, node: fx.Node) -> bool:
        before = node.args[0]
        return isinstance(before, fx.Node) and self.shape(before) == self.shape(node)

    def _keeps_dtype(self, node: fx.Node) -> bool:
        before = node.args[0]
        return isinstance(before, fx.Node) and self.value(before).dtype == self.value(node).dtype

    # -- questions

    def source(self, value: Any) -> Any:
        """The node that a value comes from, identities looked through."""
        while isinstance(value, fx.Node) and value in self.same:
            value = self.same[value]
        return value

    def value(self, node: fx.Node) -> Any:
        """What a node returned in the recorded run, without numbers; item 0 of a tuple."""
        found = node.meta.get("val")
        return found[0] if isinstance(found, tuple | list) else found

    def is_constant(self, value: Any) -> bool:
        """Whether a value is a tensor that depends on no input."""
        return isinstance(value, fx.Node) and isinstance(self.tensors.get(value), Tensor)

    def shape(self, node: fx.Node) -> tuple[int, ...]:
        """The shape in the recorded run, a number for each size."""
        sizes: Any = self.value(node).shape
        hints: Any = (s.node.hint if isinstance(s, torch.SymInt) else s for s in sizes)
        return tuple(hints)

    def is_fixed(self, node: fx.Node, axis: int) -> bool:
        """Whether that size is the same in every call."""
        return fixed_size(self.value(node).shape[axis]) is not None

    def is_real(self, node: fx.Node) -> bool:
        """Whether a node returns one float32 tensor."""
        value = self.value(node)
        return isinstance(value, Tensor) and value.dtype == torch.float32

    def items_read(self, node: fx.Node) -> set[int]:
        """Which items of a tuple are read."""
        return {u.args[1] for u in node.users if u.target is operator.getitem}  # pyright: ignore


def fixed_size(size: Any) -> int | None:
    """The size, if it is the same in every call; a symbol may have turned out to be a number."""
    if isinstance(size, torch.SymInt):
        found: Any = size.node.expr
        return int(found) if found.is_number else None
    return size
