"""BinaryConv2dSame: padding by the input's size, as TensorFlow and timm's Conv2dSame do it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from irnet_convert.binary.sign import watched
from irnet_convert.layers.base import BinaryLayer
from irnet_convert.layers.conv import BinaryConv2d
from irnet_convert.layers.dense import same_padding


class BinaryConv2dSame(BinaryConv2d):
    """BinaryConv2d with TensorFlow's SAME padding: zeros, after the sign, output ceil(size / stride).

    Takes every argument of BinaryConv2d but ``padding`` and ``padding_mode``.

    Attributes:
        same_pad: whether the input's size decides; timm's Std kinds clear it where fixed padding does.
    """

    same_pad: bool = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            0,
            dilation,
            groups,
            bias,
            device=device,
            dtype=dtype,
            **options,
        )

    def _contract_signs(
        self, x: Tensor, ede: Tensor, bias: Tensor | None, zero_pad: Sequence[int] | None, **how: Any
    ) -> Tensor:
        if self.same_pad and watched():  # the amounts follow the image's size
            return BinaryLayer._contract_signs(self, x, ede, bias, zero_pad, **how)
        return super()._contract_signs(x, ede, bias, zero_pad, **how)

    def _own_padding(self, x: Tensor) -> tuple[Sequence[int], Sequence[int]]:
        if not self.same_pad:
            return super()._own_padding(x)
        return self._of_sides(same_padding(x, self))

    def _contract(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.same_pad:
            x = F.pad(x, same_padding(x, self))
        return super()._contract(x, weight, bias)
