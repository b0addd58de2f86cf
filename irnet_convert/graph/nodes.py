"""What a recording consists of: operators, layer calls, and the values that they pass on."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor, nn

#: Layers that a call of is one node: every convolution, transposed convolution and linear layer.
TARGETS: tuple[type[nn.Module], ...] = (
    nn.Conv1d, nn.Conv2d, nn.Conv3d,
    nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
    nn.Linear,
)  # fmt: skip

#: What else may get a Decision: an attention stands for its packed input projection, a parameter of its own.
LAYERS: tuple[type[nn.Module], ...] = (*TARGETS, nn.MultiheadAttention)


def is_layer(module: nn.Module) -> bool:
    """Whether the module gets a Decision. An attention does if its three input projections are one weight."""
    return isinstance(module, TARGETS) or (
        isinstance(module, nn.MultiheadAttention) and getattr(module, "in_proj_weight", None) is not None
    )


def weight_of(layer: nn.Module) -> Tensor | None:
    """The weight that a Decision about ``layer`` is about."""
    name = "in_proj_weight" if isinstance(layer, nn.MultiheadAttention) else "weight"
    found = getattr(layer, name, None)
    return found if isinstance(found, Tensor) else None


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
        bypassed: the layer's forward was not called: its owner gave its weight to ``F.linear`` instead.
    """

    index: int
    op: str
    layer: str | None
    frames: tuple[Frame, ...]
    ordinal: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    scalars: tuple[Any, ...] = ()
    bypassed: bool = False

    @property
    def owner(self) -> str:
        """Path of the module whose forward ran the operator (for a layer call: of its caller)."""
        return self.frames[-1].path


@dataclass(kw_only=True)
class Call:
    """A module's first call in a run, so that its forward can be run again on its own.

    Attributes:
        args: what it was given by position.
        kwargs: what it was given by name.
        returned: what the modules that it called returned, by (path, how-manieth call of it).
        varied: whether it was called again with what a forward can branch on without a word to fx: other
            arguments, numbers, ranks or dtypes. (Branches on sizes or values are errors to fx.)
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    returned: dict[tuple[str, int], Any] = field(default_factory=dict)
    varied: bool = False


@dataclass(kw_only=True)
class Record:
    """What one run showed. Values are numbered; each is one tensor at one moment.

    Attributes:
        nodes: operators and layer calls in execution order.
        shapes: shape of each value.
        inputs: values of the model's input.
        outputs: values that the model returned.
        params: value id to parameter or buffer name, for those read outside their own target layer.
        buffers: those names in ``params`` that nobody learns.
        passed: for each module path, the names of forward's arguments that its callers gave.
        paths: every path of each module, by the module's first path.
        first_calls: the first call of each module that is no target layer, tensors on the meta device.
        training: whether the model was in training mode.
        by_value: whether it ran with its real tensors, because it does not on the meta device.
    """

    nodes: list[Node] = field(default_factory=list)
    shapes: dict[int, tuple[int, ...]] = field(default_factory=dict)
    inputs: set[int] = field(default_factory=set)
    outputs: set[int] = field(default_factory=set)
    params: dict[int, str] = field(default_factory=dict)
    buffers: set[str] = field(default_factory=set)
    passed: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    paths: dict[str, tuple[str, ...]] = field(default_factory=dict)
    first_calls: dict[str, Call] = field(default_factory=dict)
    training: bool = False
    by_value: bool = False

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
