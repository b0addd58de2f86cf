"""The formulation of the same layers that the authors' training code uses, as something to compare with.

Written for this benchmark from what that code is known to do: Libra-PB and the sign as chains of tensor
operations, each with the tensors that autograd keeps for it, and ``view`` on the weights, so that a network
in channels_last fails. Its sign of 0 is 0. Nothing else of this project uses it.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from irnet_convert.layers import BinaryConv2d, BinaryLinear, Hardtanh


class _TanhSign(torch.autograd.Function):
    """sign(x); backward k·t·(1 − tanh²(t·x)), as it is written down."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, k: Tensor, t: Tensor) -> Tensor:
        ctx.save_for_backward(x, k, t)
        return torch.sign(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        x, k, t = ctx.saved_tensors
        return k * t * (1 - torch.tanh(x * t).pow(2)) * grad, None, None


class AuthorsLayer(nn.Module):
    """A binary convolution or linear layer in that formulation.

    Args:
        layer: whose parameters and geometry it uses, and whose k and t. A learnable scale is left out.
    """

    ede: Tensor

    def __init__(self, layer: BinaryConv2d | BinaryLinear) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias
        self.register_buffer("ede", layer.ede.clone(), persistent=False)
        self.geometry: tuple[Any, ...] | None = None
        if isinstance(layer, BinaryConv2d):
            self.geometry = (layer.stride, layer.padding, layer.dilation, layer.groups)

    def forward(self, x: Tensor) -> Tensor:
        """As the layer that it was made from."""
        k, t = self.ede
        w, rows = self.weight, len(self.weight)
        ones = [1] * (w.dim() - 1)
        w = w - w.view(rows, -1).mean(-1).view(rows, *ones)
        w = w / w.view(rows, -1).std(-1).view(rows, *ones)
        scale = torch.pow(2.0, (w.abs().view(rows, -1).mean(-1).log2()).round()).view(rows, *ones).detach()
        w = _TanhSign.apply(w, k, t) * scale
        signs = _TanhSign.apply(x, k, t)
        if self.geometry is None:
            return F.linear(signs, w, self.bias)
        return F.conv2d(signs, w, self.bias, *self.geometry)


def with_authors_layers(student: nn.Module) -> nn.Module:
    """A copy of a binarized network with these layers, and PyTorch's Hardtanh, in place of the project's.

    Args:
        student: its binary layers are BinaryConv2d and BinaryLinear, with 1-bit activations.
    """
    student = copy.deepcopy(student)
    for parent in list(student.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, BinaryConv2d | BinaryLinear):
                setattr(parent, name, AuthorsLayer(child))
            elif isinstance(child, Hardtanh):
                setattr(parent, name, nn.Hardtanh())
    return student
