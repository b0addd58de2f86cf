"""Run a model once and record its data flow.

The run happens on meta tensors where the model allows it (no arithmetic, no second copy of the
weights), else on the model's own device with its state restored afterwards. Inside
``torch.inference_mode`` a dispatch mode sees operators undecomposed (``aten.linear``,
``aten.batch_norm``), and tensors keep their identity, so that operators can be linked by the tensors
they pass on. A call of a convolution or linear layer becomes one node.
"""

from __future__ import annotations

import copy
import inspect
import random
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from irnet_convert.errors import RecordError
from irnet_convert.graph.example import Example, small_detection_images

#: Layers that get a Decision: every convolution, transposed convolution and linear layer.
TARGETS: tuple[type[nn.Module], ...] = (
    nn.Conv1d, nn.Conv2d, nn.Conv3d,
    nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
    nn.Linear,
)  # fmt: skip

#: Operators that take only the shape or the type of their second argument.
_LIKE_SECOND = ("view_as", "reshape_as", "expand_as", "type_as")

#: Operators whose result takes only the shape of its tensor arguments, not their values.
_SHAPE_ONLY = ("new_", "zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like")


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One module call on the stack: which module, and its how-manieth call inside the caller."""

    path: str
    ordinal: int


@dataclass(frozen=True, kw_only=True)
class Node:
    """One operator, or one call of a target layer (then ``layer`` is its path and ``op`` "layer").

    Attributes:
        index: position in ``Record.nodes``, which is execution order.
        op: the operator's name without overload and without the in-place mark, such as ``relu``.
        layer: the layer's path if the node is a layer call.
        frames: the module calls around the operator, outermost first.
        ordinal: how many nodes of the same ``op`` the innermost call had run before this one.
        inputs: ids of the values that are read.
        outputs: ids of the values that are made.
        scalars: the arguments that are not tensors, in the order of the operator's schema.
    """

    index: int
    op: str
    layer: str | None
    frames: tuple[Frame, ...]
    ordinal: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    scalars: tuple[Any, ...] = ()

    @property
    def owner(self) -> str:
        """Path of the module whose forward ran the operator (for a layer call: of its caller)."""
        return self.frames[-1].path


@dataclass(kw_only=True)
class Record:
    """What one run showed. Values are numbered; each is one tensor at one moment.

    Attributes:
        nodes: operators and layer calls in execution order.
        shapes: shape of each value.
        inputs: values of the model's input.
        outputs: values that the model returned.
        params: value id to parameter or buffer name, for those read outside their own target layer.
        passed: for each module path, the names of forward's arguments that its callers gave.
        paths: every path of each module, by the module's first path.
        training: whether the model was in training mode.
    """

    nodes: list[Node] = field(default_factory=list)
    shapes: dict[int, tuple[int, ...]] = field(default_factory=dict)
    inputs: set[int] = field(default_factory=set)
    outputs: set[int] = field(default_factory=set)
    params: dict[int, str] = field(default_factory=dict)
    passed: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    paths: dict[str, tuple[str, ...]] = field(default_factory=dict)
    training: bool = False

    @cached_property
    def producer(self) -> dict[int, Node]:
        """The node that made each value; inputs, parameters and constants have none."""
        return {value: node for node in self.nodes for value in node.outputs}

    @cached_property
    def consumers(self) -> dict[int, list[Node]]:
        """The nodes that read each value."""
        found: dict[int, list[Node]] = defaultdict(list)
        for node in self.nodes:
            for value in set(node.inputs):
                found[value].append(node)
        return found

    @cached_property
    def calls(self) -> dict[str, list[Node]]:
        """Calls of each target layer, by its path."""
        found: dict[str, list[Node]] = defaultdict(list)
        for node in self.nodes:
            if node.layer is not None:
                found[node.layer].append(node)
        return dict(found)


def record(model: nn.Module, example: Example, *, training: bool = False) -> Record:
    """Run ``model`` once on ``example`` and return what happened. The model is left as it was.

    Args:
        model: any module; its parameters may be on any device, the meta device included.
        example: the arguments of the run.
        training: record training mode instead of evaluation mode.

    Raises:
        RecordError: the model does not run on the example; the message holds the model's own error.
    """
    try:
        return _record_on_meta(model, example, training)
    except Exception as meta_error:
        if any(p.is_meta for p in model.parameters()):
            raise _record_error(model, example, meta_error) from meta_error
    try:
        return _record_in_place(model, example, training)
    except Exception as error:
        raise _record_error(model, example, error) from error


def _record_error(model: nn.Module, example: Example, error: Exception) -> RecordError:
    detail = str(error).strip().splitlines() or [""]
    return RecordError(
        f"{type(model).__name__} did not run on the example input {example}: "
        f"{type(error).__name__}: {detail[0]}",
        expected="an input that the model's forward accepts",
        mend="pass example_input= (a tensor, a tuple of arguments or a dict of keyword arguments) of the "
        "shape and dtype that the model takes",
    )


def _record_on_meta(model: nn.Module, example: Example, training: bool) -> Record:
    twin = meta_twin(model).train(training)
    return _run(twin, example.to(torch.device("meta")), training)


def _record_in_place(model: nn.Module, example: Example, training: bool) -> Record:
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    with _restored(model), small_detection_images(model):
        model.train(training)
        return _run(model, example.to(device), training)


@contextmanager
def _restored(model: nn.Module) -> Iterator[None]:
    """Put training flags, buffers and random states back, whatever the run does to them."""
    flags = {m: m.training for m in model.modules()}
    buffers = [(b, b.detach().clone()) for b in model.buffers()]
    python_state = random.getstate()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python_state)
        for module, flag in flags.items():
            module.training = flag
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)


def meta_twin(model: nn.Module) -> nn.Module:
    """A deep copy of ``model`` whose parameters, buffers and tensor attributes are on the meta device.

    The weights themselves are never copied: deepcopy is told beforehand what each tensor becomes.
    """
    memo: dict[int, Any] = {}
    for tensor in _tensors_of(model):
        twin = torch.empty_like(tensor, device="meta")
        if isinstance(tensor, nn.Parameter):
            twin = nn.Parameter(twin, requires_grad=tensor.requires_grad)
        memo[id(tensor)] = twin
    return copy.deepcopy(model, memo)


def _tensors_of(model: nn.Module) -> Iterator[Tensor]:
    for module in model.modules():
        yield from (p for p in module._parameters.values() if p is not None)
        yield from (b for b in module._buffers.values() if b is not None)
        yield from (v for v in vars(module).values() if isinstance(v, Tensor))


def _run(model: nn.Module, example: Example, training: bool) -> Record:
    recorder = _Recorder(model, training)
    # Attention's fused evaluation path hides its projections in one operator.
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with (
            torch.inference_mode(),
            mock.patch.object(nn.Module, "__call__", recorder.wrap(nn.Module.__call__)),
            recorder,
        ):
            recorder.note_inputs(example)
            output = model(*example.args, **example.kwargs)
        recorder.note_outputs(output)
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)
    return recorder.record


class _OpenCall:
    """A module call in progress."""

    def __init__(self, path: str, ordinal: int) -> None:
        self.frame = Frame(path=path, ordinal=ordinal)
        self.counts: dict[str, int] = defaultdict(int)

    def count(self, key: str) -> int:
        self.counts[key] += 1
        return self.counts[key] - 1


class _Recorder(TorchDispatchMode):
    def __init__(self, model: nn.Module, training: bool) -> None:
        super().__init__()
        self.record = Record(training=training)
        self.path_of: dict[nn.Module, str] = {}
        for path, module in model.named_modules(remove_duplicate=False):
            first = self.path_of.setdefault(module, path)
            self.record.paths[first] = (*self.record.paths.get(first, ()), path)
        self.names = {id(t): n for n, t in (*model.named_parameters(), *model.named_buffers())}
        self.stack: list[_OpenCall] = []
        self.inside_layer = False
        self.values: dict[int, int] = {}  # id(tensor) -> its current value
        self.alive: list[Tensor] = []  # ids are only unique among living tensors
        self.writer: dict[int, tuple[int, int]] = {}  # storage -> (value, id) of the last write into it
        self.next_value = 0

    # -- values ---------------------------------------------------------------------------------

    def new_value(self, tensor: Tensor) -> int:
        if id(tensor) not in self.values:
            self.alive.append(tensor)
        value = self.next_value
        self.next_value += 1
        self.values[id(tensor)] = value
        self.record.shapes[value] = tuple(tensor.shape)
        return value

    def value_of(self, tensor: Tensor) -> int:
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
    ) -> int:
        made = tuple(self.new_value(t) for t in outputs)
        caller = self.stack[-1]
        self.record.nodes.append(
            Node(
                index=len(self.record.nodes), op=op, layer=layer,
                frames=tuple(call.frame for call in self.stack), ordinal=caller.count(f"op {layer or op}"),
                inputs=inputs, outputs=made, scalars=scalars,
            )
        )  # fmt: skip
        return made[0] if made else -1

    def note_inputs(self, example: Example) -> None:
        for tensor in _tensors((example.args, example.kwargs)):
            self.record.inputs.add(self.new_value(tensor))

    def note_outputs(self, output: Any) -> None:
        for tensor in _tensors(_as_tree(output)):
            if id(tensor) in self.values:
                self.record.outputs.add(self.values[id(tensor)])

    # -- operators ------------------------------------------------------------------------------

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.inside_layer or not self.stack:
            return func(*args, **kwargs)
        op = func._schema.name.split("::")[-1]
        read = tuple(_tensors((args, kwargs)))[: 1 if op in _LIKE_SECOND else None]
        inputs = () if op.startswith(_SHAPE_ONLY) else tuple(self.value_of(t) for t in read)
        result = func(*args, **kwargs)
        outputs = tuple(_tensors(result))
        scalars = _scalars(func._schema, args, kwargs)
        in_place = {id(t) for t in read} & {id(t) for t in outputs}
        value = self.add_node(op.removesuffix("_") if in_place else op, inputs, outputs, scalars)
        for tensor in outputs:
            if id(tensor) in in_place:
                self.writer[_storage(tensor)] = (value, id(tensor))
        return result

    # -- modules --------------------------------------------------------------------------------

    def wrap(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """``nn.Module.__call__``, noting who calls whom."""

        def wrapped(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            path = self.path_of.get(module)
            if path is None or self.inside_layer:
                return call(module, *args, **kwargs)
            self.record.passed[path].update(_names_given(module, args, kwargs))
            if isinstance(module, TARGETS) and self.stack:
                return self.layer_call(path, call, module, args, kwargs)
            ordinal = self.stack[-1].count(f"call {path}") if self.stack else 0
            self.stack.append(_OpenCall(path, ordinal))
            try:
                if isinstance(module, TARGETS):  # the model itself is one layer
                    return self.layer_call(path, call, module, args, kwargs)
                return call(module, *args, **kwargs)
            finally:
                self.stack.pop()

        return wrapped

    def layer_call(
        self, path: str, call: Callable[..., Any], module: nn.Module, args: Any, kwargs: Any
    ) -> Any:
        inputs = tuple(self.value_of(t) for t in _tensors((args, kwargs)))
        self.inside_layer = True
        try:
            result = call(module, *args, **kwargs)
        finally:
            self.inside_layer = False
        self.add_node("layer", inputs, tuple(_tensors(result)), layer=path)
        return result


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
    """Names of forward's parameters that a call gives; an unreadable signature gives none."""
    try:
        bound = inspect.signature(module.forward).bind_partial(*args, **kwargs)
    except (TypeError, ValueError):
        return []
    return list(bound.arguments)
