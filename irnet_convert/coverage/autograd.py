"""A second opinion on the data flow: PyTorch's own autograd graph of one run.

It shares nothing with ``graph.record``: the run is an ordinary forward pass with gradients on, and what led
to what is read from ``grad_fn`` and ``next_functions``. It sees less (no values that carry no gradient), so
questions about it are asked where it cannot be wrong.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from irnet_convert.graph.example import Example, example_of, small_detection_images
from irnet_convert.graph.nodes import is_layer, weight_of

#: Backward nodes of operators that contract an input with a weight.
_CONTRACTIONS = ("Convolution", "SlowConv", "ConvDepthwise", "Addmm", "Mm", "Bmm", "Baddbmm", "Linear",
                 "Einsum", "Addmv", "Mv")  # fmt: skip


@dataclass(kw_only=True)
class Run:
    """One forward pass with gradients on.

    Attributes:
        output: what the model returned.
        inputs: the leaves that were fed as the model's input.
        weights: id of each layer's weight → the layer's first path.
    """

    output: Any
    inputs: list[Tensor]
    weights: dict[int, str]

    @cached_property
    def nodes(self) -> list[Any]:
        """Every node that the output depends on, producers before consumers."""
        return _producers_first(t.grad_fn for t in tensors_of(self.output))

    @cached_property
    def leaves(self) -> dict[Any, Tensor]:
        """Nodes that stand for parameters and inputs → the tensor."""
        return {n: n.variable for n in self.nodes if hasattr(n, "variable")}

    @cached_property
    def from_input(self) -> set[Any]:
        """Nodes that depend on the model's input."""
        found = set(self._input_leaves)
        for node in self.nodes:
            if any(above in found for above in producers(node)):
                found.add(node)
        return found

    @cached_property
    def _input_leaves(self) -> set[Any]:
        ids = {id(t) for t in self.inputs}
        return {node for node, leaf in self.leaves.items() if id(leaf) in ids}

    @cached_property
    def layers(self) -> dict[Any, set[str]]:
        """Nodes that apply a layer's weight to something → the layers."""
        direct: dict[Any, set[str]] = {}  # weights that a node is made of, no contraction between
        found = {}
        for node in self.nodes:
            if node in self.leaves:
                path = self.weights.get(id(self.leaves[node]))
                direct[node] = {path} if path is not None else set()
            elif is_contraction(node):
                direct[node] = set()
                used = [direct[above] for above in producers(node) if above not in self.from_input]
                if paths := set().union(*used):
                    found[node] = paths
            elif node in self.from_input:
                direct[node] = set()
            else:
                direct[node] = set().union(*(direct[above] for above in producers(node)))
        return found

    @cached_property
    def used(self) -> set[str]:
        """Layers whose weight the output depends on at all."""
        return {self.weights[id(leaf)] for leaf in self.leaves.values() if id(leaf) in self.weights}

    @cached_property
    def first(self) -> set[str]:
        """Layers with a way from the model's input that meets no other layer."""
        fresh, found = set(self._input_leaves), set()
        for node in self.nodes:
            if any(above in fresh for above in producers(node)):
                if node in self.layers:
                    found |= self.layers[node]
                else:
                    fresh.add(node)
        return found

    @cached_property
    def _tails(self) -> set[Any]:
        found, seen = set(), set()
        stack = [t.grad_fn for t in tensors_of(self.output) if t.grad_fn is not None]
        while stack:
            node = stack.pop()
            if node in seen:
                continue
            seen.add(node)
            if node in self.layers:
                found.add(node)
            else:
                stack.extend(producers(node))
        return found

    @cached_property
    def tails(self) -> set[str]:
        """Layers with a way to the output that meets no other layer."""
        return set().union(*(self.layers[node] for node in self._tails))

    @cached_property
    def ends(self) -> set[str]:
        """Those of the tails from which no way leads to another tail: the last ones in any reading."""
        above, stack = set(), [p for node in self._tails for p in producers(node)]
        while stack:
            node = stack.pop()
            if node not in above:
                above.add(node)
                stack.extend(producers(node))
        return set().union(*(self.layers[node] for node in self._tails - above))


def run(
    model: nn.Module, *, training: bool = False, example: Example | None = None, graph: bool = True
) -> Run:
    """Run ``model`` once on its default example or on the one given.

    Args:
        model: it is left in the asked-for mode; a run in training mode changes batch statistics.
        training: the mode.
        example: the arguments; None for the project's default of this model.
        graph: with gradients on; without, the run's output is all that there is to ask for.
    """
    example = example or example_of(model, training=training)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    args, leaves = _fed(example.to(device))
    weights = {
        id(weight): path
        for path, m in reversed(list(model.named_modules()))
        if is_layer(m) and (weight := weight_of(m)) is not None
    }
    model.train(training)
    with warnings.catch_warnings(), small_detection_images(model), torch.set_grad_enabled(graph):
        warnings.simplefilter("ignore")
        output = model(*args, **example.to(device).kwargs)
    return Run(output=output, inputs=leaves, weights=weights)


def _fed(example: Example) -> tuple[tuple[Any, ...], list[Tensor]]:
    """The arguments with images that carry a gradient; a detector's targets stay as they are."""
    leaves: list[Tensor] = []

    def feed(leaf: Any) -> Any:
        if not (isinstance(leaf, Tensor) and leaf.is_floating_point()):
            return leaf
        leaves.append(leaf.detach().requires_grad_())
        return leaves[-1] * 1  # a model may write into its input; into a leaf it may not

    if example.args and isinstance(example.args[0], list):
        return (tree_map(feed, example.args[0]), *example.args[1:]), leaves
    return tree_map(feed, example.args), leaves


def tensors_of(tree: Any) -> list[Tensor]:
    """The tensors in a model's output; of plain objects, those in their attributes."""
    found = []
    for leaf in tree_leaves(tree):
        if isinstance(leaf, Tensor):
            found.append(leaf)
        elif hasattr(leaf, "__dict__"):
            found += [v for v in vars(leaf).values() if isinstance(v, Tensor)]
    return found


def producers(node: Any) -> Iterator[Any]:
    """The nodes whose results ``node`` reads; those that carry no gradient are not known."""
    return (above for above, _ in node.next_functions if above is not None)


def is_contraction(node: Any) -> bool:
    """Whether the operator multiplies and sums as a layer does."""
    return node.name().startswith(_CONTRACTIONS)


def _producers_first(roots: Iterable[Any]) -> list[Any]:
    order: list[Any] = []
    seen: set[Any] = set()
    stack = [(root, False) for root in roots if root is not None]
    while stack:
        node, done = stack.pop()
        if done:
            order.append(node)
        elif node not in seen:
            seen.add(node)
            stack.append((node, True))
            stack.extend((above, False) for above in producers(node))
    return order
