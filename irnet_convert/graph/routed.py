"""A forward that applies a child's weight without calling the child, made to call it.

Some modules read ``self.qkv.weight`` and pass it to ``F.linear``, to give it another bias or to keep their
arithmetic in one function. Around such a forward a torch function mode hands each ``F.linear`` with a binary
child's weight over to that child, so that its sign and its scale take part. All else stays as it is written.
PyTorch's fused evaluation paths of attention stand aside while such a mode is active.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from irnet_convert.layers import BinaryLayer, SignedLayer
from irnet_convert.layers.attention import attention


class RoutedForward:
    """The forward of one module instance, in which weights of binary children are never applied directly.

    It is stored as ``instance.forward``, as a GraphForward is, and runs whichever forward was there before.

    Args:
        owner: the module whose forward reads its children's weights.
        names: paths of these children, from the owner.
    """

    def __init__(self, owner: nn.Module, names: Sequence[str]) -> None:
        self.owner = owner
        self.names = tuple(names)
        self.before = vars(owner).get("forward")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The forward as it was before, its linear operators routed."""
        with _Router([self.owner.get_submodule(name) for name in self.names]):
            if self.before is not None:
                return self.before(*args, **kwargs)
            return type(self.owner).forward(self.owner, *args, **kwargs)


class _Router(TorchFunctionMode):
    """Calls a layer where its weight is applied. It sees the weight itself, before autocast casts it."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layers = [m for m in layers if isinstance(m, BinaryLayer | SignedLayer)]

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.linear:
            return self.linear(*args, **kwargs)
        if func is F.multi_head_attention_forward:
            # The mode is not active inside of the function that it was asked about.
            return attention(self.linear, *args, **kwargs)
        return func(*args, **kwargs)

    def linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """``F.linear``, or a call of the layer that the weight belongs to."""
        for layer in self.layers:
            if layer.weight is weight:
                return layer(input) if bias is layer.bias else layer(input, bias=bias)
        return F.linear(input, weight, bias)


def route(owner: nn.Module, names: Sequence[str]) -> None:
    """Make the forward of this one instance call the children of these names."""
    owner.forward = RoutedForward(owner, names)
