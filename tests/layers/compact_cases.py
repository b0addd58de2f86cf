"""Helpers of the tests of compact models."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from irnet_convert.layers import (
    BinaryConv2d,
    set_compact,
)


def kept_by(forward: Callable[[], Tensor]) -> list[Tensor]:
    found: dict[int, Tensor] = {}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: found.setdefault(t.untyped_storage()._cdata, t), lambda t: t
    ):
        forward()
    return list(found.values())


def both(model: nn.Module) -> tuple[nn.Module, nn.Module]:
    """The model, and a compact copy of it."""
    compact = copy.deepcopy(model)
    set_compact(compact)
    return model, compact


def gradients(model: nn.Module, x: Tensor, weights: Tensor | None = None) -> list[Tensor]:
    """Of the input, and of every parameter; and the output in front."""
    x = x.detach().requires_grad_()
    out = model(x)
    weights = torch.arange(1.0, out.numel() + 1).reshape(out.shape).sin() if weights is None else weights
    wanted = [x, *(p for p in model.parameters() if p.requires_grad)]
    return [out.detach(), *torch.autograd.grad(out, wanted, weights.to(out.dtype))]


def normed(norm: nn.Module, conv: nn.Module | None = None) -> nn.Sequential:
    return nn.Sequential(conv or BinaryConv2d(4, 8, 3, bias=False), norm)
