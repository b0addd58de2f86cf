"""The mode under which a model is run to be recorded: it sees operators undecomposed, and who calls whom."""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import lru_cache
from types import FunctionType, MethodType
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map

from irnet_convert.graph.example import Example
from irnet_convert.graph.nodes import TARGETS, Call, Frame, Node, Record, weight_of
from irnet_convert.layers import InProjection

#: Operators that take only the shape or the type of their second argument.
_LIKE_SECOND = ("view_as", "reshape_as", "expand_as", "type_as")

#: Operators that split a weight by output channels.
_ROWS = ("chunk", "split", "split_with_sizes")

#: Operators whose result takes only the shape of its tensor arguments, not their values.
_SHAPE_ONLY = ("new_", "zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like")

#: Operators whose result has the shape, dtype and memory format of their first argument. PyTorch works that
#: out in Python on the meta device, for a millisecond each; they are most of what networks do beside layers.
_LIKE_FIRST = (
    "batch_norm", "gelu", "hardsigmoid", "hardswish", "hardtanh", "relu", "relu6", "sigmoid", "silu",
)  # fmt: skip

#: The same, where all tensors are alike.
_LIKE_ALL = ("add", "mul", "sub")


class _OpenCall:
    """A module call in progress."""

    def __init__(self, path: str, ordinal: int, first: Call | None = None) -> None:
        self.frame = Frame(path=path, ordinal=ordinal)
        self.first = first
        self.counts: dict[str, int] = defaultdict(int)

    def count(self, key: str) -> int:
        self.counts[key] += 1
        return self.counts[key] - 1

    def note_returned(self, path: str, result: Any) -> None:
        """Keep what a callee returned, if this call is one to be run again."""
        if self.first is not None:
            self.first.returned[path, self.count(f"return {path}")] = _containers_anew(result)


class Recorder(TorchDispatchMode):
    """Fills :attr:`record` while it is entered and :meth:`told` of every module call."""

    def __init__(self, model: nn.Module, training: bool) -> None:
        super().__init__()
        self.record = Record(training=training)
        self.path_of: dict[nn.Module, str] = {}
        for path, module in model.named_modules(remove_duplicate=False):
            first = self.path_of.setdefault(module, path)
            self.record.paths[first] = (*self.record.paths.get(first, ()), path)
        self.names = {id(t): n for n, t in (*model.named_parameters(), *model.named_buffers())}
        self.record.buffers = {name for name, _ in model.named_buffers()}
        self.linears = {id(m.weight): p for m, p in self.path_of.items() if isinstance(m, nn.Linear)}
        self.packed: dict[int, str] = {}  # an attention's input projections, and rows of them
        self.layers: tuple[type[nn.Module], ...] = (*TARGETS, InProjection)
        for module, path in list(self.path_of.items()):
            if isinstance(module, nn.MultiheadAttention) and (weight := weight_of(module)) is not None:
                self.packed[id(weight)] = path
            if isinstance(module, InProjection):  # its calls are its attention's
                self.path_of[module] = self.path_of[module.owner[0]]
        self.stack: list[_OpenCall] = []
        self.inside_layer = False
        self.values: dict[int, int] = {}  # id(tensor) -> its current value
        self.alive: list[Tensor] = []  # ids are only unique among living tensors
        self.writer: dict[int, tuple[int, int]] = {}  # storage -> (value, id) of the last write into it
        self.next_value = 0
        self.holds_values = False  # whether some tensor is not on the meta device

    # -- values ---------------------------------------------------------------------------------

    def new_value(self, tensor: Tensor) -> int:
        """Number what ``tensor`` holds from now on."""
        if id(tensor) not in self.values:
            self.alive.append(tensor)
        self.holds_values |= not tensor.is_meta
        value = self.next_value
        self.next_value += 1
        self.values[id(tensor)] = value
        self.record.shapes[value] = tuple(tensor.shape)
        return value

    def value_of(self, tensor: Tensor) -> int:
        """The value that ``tensor`` holds now."""
        value = self.values.get(id(tensor))
        if value is None:
            value = self.new_value(tensor)
            name = self.names.get(id(tensor))
            if name is not None:
                self.record.params[value] = name
        if self.writer:
            written = self.writer.get(_storage(tensor))
            if written is not None and written[1] != id(tensor) and written[0] > value:
                # Somebody wrote into this storage through another view: the tensor now holds both.
                value = self.add_node("alias", (value, written[0]), (tensor,))
        return value

    def add_node(
        self,
        op: str,
        inputs: tuple[int, ...],
        outputs: tuple[Tensor, ...],
        scalars: tuple[Any, ...] = (),
        layer: str | None = None,
        bypassed: bool = False,
    ) -> int:
        """Note one operator or layer call; the first value that it made is returned."""
        made = tuple(self.new_value(t) for t in outputs)
        caller = self.stack[-1]
        self.record.nodes.append(
            Node(
                index=len(self.record.nodes), op=op, layer=layer,
                frames=tuple(call.frame for call in self.stack), ordinal=caller.count(f"op {layer or op}"),
                inputs=inputs, outputs=made, scalars=scalars, bypassed=bypassed,
            )
        )  # fmt: skip
        return made[0] if made else -1

    def note_inputs(self, example: Example) -> None:
        """The arguments of the run are the model's input."""
        for tensor in _tensors((example.args, example.kwargs)):
            self.record.inputs.add(self.new_value(tensor))

    def note_outputs(self, output: Any) -> None:
        """What the run returned is the model's output."""
        for tensor in _tensors(_as_tree(output)):
            if id(tensor) in self.values:
                self.record.outputs.add(self.values[id(tensor)])

    def drop_values(self) -> None:
        """After the run: put meta tensors in the place of those that the kept calls hold."""
        if not self.holds_values:
            return
        for call in self.record.first_calls.values():
            call.args, call.kwargs, call.returned = _to_meta((call.args, call.kwargs, call.returned))

    # -- operators ------------------------------------------------------------------------------

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.inside_layer or not self.stack:
            return func(*args, **kwargs)
        op = func._schema.name.split("::")[-1]
        if op in _ROWS and args and id(args[0]) in self.packed:
            return self.rows(args[0], func(*args, **kwargs))
        read = tuple(_tensors((args, kwargs)))[: 1 if op in _LIKE_SECOND else None]
        inputs = () if op.startswith(_SHAPE_ONLY) else tuple(self.value_of(t) for t in read)
        known = _without_values(op, read)
        result = func(*args, **kwargs) if known is None else known
        outputs = tuple(_tensors(result))
        scalars = _scalars(func._schema, args, kwargs)
        layer = self.bypassed(op, read)
        if layer is not None:
            self.add_node("layer", inputs[:1], outputs, layer=layer, bypassed=True)
            return result
        in_place = {id(t) for t in read} & {id(t) for t in outputs}
        value = self.add_node(op.removesuffix("_") if in_place else op, inputs, outputs, scalars)
        for tensor in outputs:
            if id(tensor) in in_place:
                self.writer[_storage(tensor)] = (value, id(tensor))
        return result

    def bypassed(self, op: str, read: tuple[Tensor, ...]) -> str | None:
        """The layer whose weight the running forward applies itself: a linear one below it, or an attention's
        packed projection.
        """
        layer = self.linears.get(id(read[1])) if op == "linear" else None
        inside = self.stack[-1].frame.path
        if op == "linear" and self.packed.get(id(read[1])) == inside:
            return inside
        return layer if layer is not None and (not inside or layer.startswith(inside + ".")) else None

    def rows(self, weight: Tensor, parts: Any) -> Any:
        """Take note of what a packed weight was split into; whoever reads a part reads the weight."""
        for part in _tensors(parts):
            self.alive.append(part)
            self.packed[id(part)] = self.packed[id(weight)]
            self.names[id(part)] = self.names[id(weight)]
        return parts

    # -- modules --------------------------------------------------------------------------------

    def told(
        self, call: Callable[..., Any], module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Make a module call, noting who calls whom."""
        path = self.path_of.get(module)
        if path is None or self.inside_layer:
            return call(module, *args, **kwargs)
        self.record.passed[path].update(_names_given(module, args, kwargs))
        caller = self.stack[-1] if self.stack else None
        result = self.any_call(path, call, module, args, kwargs)
        if caller is not None:
            caller.note_returned(path, result)
        return result

    def any_call(self, path: str, call: Callable[..., Any], module: nn.Module, args: Any, kwargs: Any) -> Any:
        """Run a module, as one node if it is a target layer, else noting what it does."""
        if isinstance(module, self.layers) and self.stack:
            return self.layer_call(path, call, module, args, kwargs)
        first, known = None, self.record.first_calls.get(path)
        if known is None:
            first = Call(args=_containers_anew(args), kwargs=_containers_anew(kwargs))
            self.record.first_calls[path] = first
        elif not known.varied:
            known.varied = kinds_in((known.args, known.kwargs)) != kinds_in((args, kwargs))
        ordinal = self.stack[-1].count(f"call {path}") if self.stack else 0
        self.stack.append(_OpenCall(path, ordinal, first))
        try:
            if isinstance(module, self.layers):  # the model itself is one layer
                return self.layer_call(path, call, module, args, kwargs)
            return call(module, *args, **kwargs)
        finally:
            self.stack.pop()

    def layer_call(
        self, path: str, call: Callable[..., Any], module: nn.Module, args: Any, kwargs: Any
    ) -> Any:
        """Run a layer unseen and note it as one node."""
        inputs = tuple(self.value_of(t) for t in _tensors((args, kwargs)))
        self.inside_layer = True
        try:
            result = call(module, *args, **kwargs)
        finally:
            self.inside_layer = False
        self.add_node("layer", inputs, tuple(_tensors(result)), layer=path)
        return result


def _without_values(op: str, read: tuple[Tensor, ...]) -> Tensor | None:
    """The result of an operator of which only shapes matter; None for those that must run to know them."""
    name = op.removesuffix("_")
    if not read or not read[0].is_meta or not read[0].is_floating_point():
        return None
    if name in _LIKE_FIRST or (name in _LIKE_ALL and all(_alike(t, read[0]) for t in read)):
        return read[0] if name != op else read[0].clone()
    return None


def _alike(a: Tensor, b: Tensor) -> bool:
    return a is b or (a.shape == b.shape and a.dtype is b.dtype and a.stride() == b.stride())


def _containers_anew(tree: Any) -> Any:
    """The same leaves in new containers, which the caller may change as it likes."""
    return tree_map(lambda leaf: leaf, tree)


def kinds_in(tree: Any) -> tuple[object, ...]:
    """What a tree of arguments is, its tensors by rank and dtype, so that two calls compare."""
    leaves, structure = tree_flatten(tree)
    return (structure, *((x.dim(), x.dtype) if isinstance(x, Tensor) else _plain(x) for x in leaves))


def _plain(leaf: object) -> object:
    """What compares by value, with its type (1 and True are other arguments); the rest by identity."""
    return (type(leaf), leaf) if isinstance(leaf, bool | int | float | str | None) else id(leaf)


def _to_meta(tree: Any) -> Any:
    return tree_map(
        lambda leaf: leaf.to("meta") if isinstance(leaf, Tensor) and not leaf.is_meta else leaf, tree
    )


def _scalars(schema: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """Every argument that holds no tensor, defaults included, in the order of the schema."""
    given = [
        args[i] if i < len(args) else kwargs.get(argument.name, argument.default_value)
        for i, argument in enumerate(schema.arguments)
    ]
    return tuple(a for a in given if not any(isinstance(leaf, Tensor) for leaf in tree_leaves(a)))


def _storage(tensor: Tensor) -> int:
    try:
        return tensor.untyped_storage()._cdata
    except (RuntimeError, NotImplementedError):  # sparse and wrapper tensors have none
        return -id(tensor)


def _tensors(tree: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))


def _as_tree(output: Any) -> Any:
    """Model outputs may be dataclasses or plain objects; look at their attributes."""

    def open_up(leaf: Any) -> Any:
        return (
            list(vars(leaf).values()) if not isinstance(leaf, Tensor) and hasattr(leaf, "__dict__") else leaf
        )

    return tree_map(open_up, output)


def _names_given(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[str]:
    """Names of forward's parameters that a call gives something other than their default.

    An unreadable signature gives none.
    """
    try:
        forward = vars(module).get("forward")
        if isinstance(forward, FunctionType | MethodType):  # somebody's own takes no self
            signature, first = inspect.signature(forward), ()
        else:
            rewritten = forward is not None
            signature = _signature(type(forward).__call__ if rewritten else type(module).forward)
            first = (forward if rewritten else module,)
        bound = signature.bind_partial(*first, *args, **kwargs)
    except (TypeError, ValueError):
        return []
    given = list(bound.arguments.items())[len(first) :]
    return [name for name, value in given if value is not signature.parameters[name].default]


@lru_cache(maxsize=1024)
def _signature(forward: Callable[..., Any]) -> inspect.Signature:
    return inspect.signature(forward)
