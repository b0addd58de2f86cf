"""Plain modules that a binary layer turns into for other exporters: an explicit sign and a dense layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from irnet_convert.binary import sign
from irnet_convert.layers.signed import scale_sums


class Shift(nn.Module):
    """``x`` less a threshold.

    Args:
        threshold: broadcast against the input.
    """

    threshold: Tensor | None

    def __init__(self, threshold: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("threshold", threshold)

    def forward(self, x: Tensor) -> Tensor:
        """Shape and dtype of ``x``."""
        return x if self.threshold is None else x - self.threshold.to(x.dtype)


class Sign(Shift):
    """+1 where ``x >= threshold`` (0 if there is none), −1 elsewhere; no gradient."""

    def forward(self, x: Tensor) -> Tensor:
        """±1, shape and dtype of ``x``."""
        return sign(super().forward(x))


class SignedLayer(nn.Module):
    """Sign, then zero padding, then a plain layer: what a binary layer computes, spelled out.

    Args:
        layer: a plain convolution, transposed convolution or linear layer.
        sign: the sign, or what else the input goes through first; None for real-valued activations.
        same_pad: pad to TensorFlow's SAME size, by the input's size, before ``layer``.
        scale: factor per output channel of what ``layer``, without a bias of its own, returns: (O,) elements.
        bias: what is added behind the scale, (O,).
    """

    scale: Tensor | None
    added: nn.Parameter | None

    def __init__(
        self,
        layer: nn.Module,
        *,
        sign: Shift | None,
        same_pad: bool = False,
        scale: Tensor | None = None,
        bias: nn.Parameter | None = None,
    ) -> None:
        super().__init__()
        self.sign = sign
        self.layer = layer
        self.same_pad = same_pad
        self.register_buffer("scale", scale)
        self.register_parameter("added", bias)

    @property
    def weight(self) -> Tensor:
        """The plain layer's, without the scale, for owners that read it."""
        return self.layer.get_parameter("weight")

    @property
    def bias(self) -> Tensor | None:
        """What is added, for owners that read it."""
        return self.layer._parameters["bias"] if self.scale is None else self.added

    def forward(
        self,
        x: Tensor,
        *more: Any,
        zero_pad: Sequence[int] | None = None,
        bias: Tensor | Literal[True] | None = True,
        **named: Any,
    ) -> Tensor:
        """As the binary layer's forward; what is not named here is the plain layer's.

        Args:
            x: as the plain layer takes it.
            *more: the plain layer's.
            zero_pad: amounts as for ``F.pad``, applied after the sign.
            bias: of a linear layer: True for its own, else what takes its place.
            **named: the plain layer's.
        """
        if self.sign is not None:
            x = self.sign(x)
        if zero_pad is not None:
            x = F.pad(x, list(zero_pad))
        if self.same_pad and isinstance(self.layer, nn.Conv2d):
            x = F.pad(x, same_padding(x, self.layer))
        if self.scale is not None:
            sums = self.layer(x, *more, **named)
            return scale_sums(sums, self.scale, self.added if bias is True else bias, self.weight.dim() - 2)
        if bias is not True:
            return F.linear(x, self.weight, bias)
        return self.layer(x, *more, **named)


def same_padding(x: Tensor, conv: nn.Conv2d) -> list[int]:
    """The zeros that TensorFlow's SAME adds around ``x`` for a convolution, odd ones right and below.

    Args:
        x: (..., H, W).
        conv: its kernel size, stride and dilation count.

    Returns:
        ``[left, right, top, bottom]`` for ``F.pad``, such that the output has ceil(size / stride) places.
    """
    amounts: list[int] = []
    for axis in (1, 0):
        size, stride = x.shape[axis - 2], conv.stride[axis]
        out = (size + stride - 1) // stride
        total = max((out - 1) * stride + (conv.kernel_size[axis] - 1) * conv.dilation[axis] + 1 - size, 0)
        amounts += [total // 2, total - total // 2]
    return amounts
