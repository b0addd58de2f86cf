"""Smaller forms of a built model, for checks that run it many times: fewer repeats of a block, less width.

Factories take depth and width as arguments in some families alone. What is done here keeps every kind of
block and the way in which blocks are wired; a model that does not tolerate it fails in its next forward pass.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.utils._pytree import tree_map_only

from irnet_convert.graph.nodes import is_layer


class Skipped(nn.Module):
    """Stands for a block whose result has the shape of one of its arguments, and returns that argument.

    Args:
        argument: which, the first one by default.
    """

    def __init__(self, argument: int = 0) -> None:
        super().__init__()
        self.argument = argument

    def forward(self, *args: Any, **_: Any) -> Any:
        """The argument, whatever it is."""
        return args[self.argument]


def shorten(model: nn.Module, inputs: tuple[Any, ...], keep: int = 2) -> list[str]:
    """Skip blocks of which there are enough before them.

    A block is an element of a Sequential or a ModuleList, or a child of the model itself, that holds more
    than one layer. It is skipped if its output has the shape of its first argument and ``keep`` blocks of its
    kind come before it. Two of a kind show what one cannot: a block that follows its own kind.

    Args:
        model: changed in place; a block that is skipped becomes a module without parameters.
        inputs: arguments of one forward pass in evaluation mode.
        keep: how many of a kind stay.

    Returns:
        Paths of the blocks that are skipped.
    """
    same = _shape_keepers(model, inputs)
    seen: Counter[str] = Counter()
    return list(_skip_below(model, "", same, seen, keep, elements=True))


def _skip_below(
    owner: nn.Module, prefix: str, same: set[str], seen: Counter[str], keep: int, *, elements: bool
) -> Iterator[str]:
    for name, child in list(owner.named_children()):
        path = f"{prefix}{name}"
        if elements and sum(is_layer(m) for m in child.modules()) > 1:
            kind = repr(_kind(child))
            seen[kind] += 1
            if seen[kind] > keep and path in same:
                owner._modules[name] = Skipped()
                yield path
                continue
        yield from _skip_below(child, f"{path}.", same, seen, keep, elements=_lists(child))


def _lists(module: nn.Module) -> bool:
    """Whether its children follow one another; a Sequential with a forward of its own may join them all."""
    in_a_row = isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward
    return in_a_row or isinstance(module, nn.ModuleList)


def _shape_keepers(model: nn.Module, inputs: tuple[Any, ...]) -> set[str]:
    """Paths of unshared modules whose every output has the structure and shapes of their first argument."""
    twin = copy.deepcopy(model).eval()  # a forward pass leaves masks and scales behind in some models
    kept: dict[nn.Module, bool] = {}

    def note(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        kept[module] = kept.get(module, True) and bool(args) and _shapes(args[0]) == _shapes(output)

    for module in twin.modules():
        module.register_forward_hook(note)
    with torch.no_grad():
        twin(*inputs)
    places = Counter(module for _, module in twin.named_modules(remove_duplicate=False))
    return {path for path, module in twin.named_modules() if kept.get(module) and places[module] == 1}


def _shapes(tree: Any) -> Any:
    return tree_map_only(Tensor, lambda t: (tuple(t.shape), t.dtype), tree)


def _kind(block: nn.Module) -> list[tuple[Any, ...]]:
    """Everything about a block but its numbers: of channels, of heads, of rates."""
    return [(name, type(m).__qualname__, _geometry(m), _ways(m)) for name, m in block.named_modules()]


def _geometry(module: nn.Module) -> tuple[Any, ...]:
    if not isinstance(module, _ConvNd):
        return ()
    grouped = (module.groups > 1) + (1 < module.groups == module.in_channels)
    return module.kernel_size, module.stride, module.padding, module.dilation, grouped


def _ways(module: nn.Module) -> list[tuple[str, Any]]:
    """Attributes that a forward pass may branch on: flags and names, absent things, zeros."""
    return [
        (name, value if isinstance(value, bool | str | None) else bool(value))
        for name, value in vars(module).items()
        if isinstance(value, bool | str | int | None) and not name.startswith("_")
    ] + [(name, False) for name, parameter in module._parameters.items() if parameter is None]


def narrow(model: nn.Module, factor: int, least: int = 1, widths: tuple[str, ...] = ()) -> None:
    """Divide every number of channels that ``factor`` divides, in layers, norms and scales.

    The number of channels alone decides, so that what a layer makes and what the next one takes stay equal.
    Images of 3 channels stay as they are, and so does a depthwise layer depthwise.

    Args:
        model: whose forward reads no widths; changed in place, its weights are slices of what they were.
        factor: the divisor.
        least: numbers below it stay: of anchors, of coordinates.
        widths: attributes of modules that are numbers of channels too, which forward passes read.
    """

    def less(channels: int) -> int:
        return channels if channels % factor or channels < least else channels // factor

    for module in model.modules():
        for name in widths:
            if isinstance(vars(module).get(name), int):
                setattr(module, name, less(getattr(module, name)))
        if isinstance(module, _ConvNd):
            depthwise = 1 < module.groups == module.in_channels
            module.in_channels, module.out_channels = less(module.in_channels), less(module.out_channels)
            module.groups = module.in_channels if depthwise else module.groups
            ends = (module.out_channels, module.in_channels)
            first, second = reversed(ends) if module.transposed else ends
            _cut(module, weight=(first, second // module.groups), bias=(module.out_channels,))
        elif isinstance(module, nn.Linear):
            module.in_features, module.out_features = less(module.in_features), less(module.out_features)
            _cut(module, weight=(module.out_features, module.in_features), bias=(module.out_features,))
        elif isinstance(module, nn.LayerNorm):
            size = module.normalized_shape = tuple(less(n) for n in module.normalized_shape)
            _cut(module, weight=size, bias=size)
        else:
            for name in ("num_features", "num_channels"):
                if isinstance(module, _NormBase | nn.GroupNorm) and hasattr(module, name):
                    setattr(module, name, less(getattr(module, name)))
            own = module.named_parameters(recurse=False), module.named_buffers(recurse=False)
            _cut(module, **{n: (less(len(v)),) for some in own for n, v in some if v.dim() == 1})


def _cut(module: nn.Module, **sizes: tuple[int, ...]) -> None:
    """Keep the first elements of each named tensor's leading axes; weights grow as their sums get shorter."""
    for name, size in sizes.items():
        whole = getattr(module, name)
        if whole is None:
            continue
        part = whole.detach()[tuple(slice(n) for n in size)].clone()
        if part.dim() > 1:
            part *= (whole[0].numel() / part[0].numel()) ** 0.5
        setattr(module, name, nn.Parameter(part) if isinstance(whole, nn.Parameter) else part)
