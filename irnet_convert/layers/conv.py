"""BinaryConv1d, BinaryConv2d, BinaryConv3d: true subclasses of PyTorch's, one implementation for all."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, ClassVar

from torch import Tensor, nn

from irnet_convert.binary import METHODS
from irnet_convert.binary.sign import watched
from irnet_convert.layers.base import BinaryLayer
from irnet_convert.layers.signed import Geometry, signed_conv


class BinaryConvNd(BinaryLayer):
    """Convolution with binary weights and, by default, binary activations.

    The sign comes first and the padding after it, so that zero padding contributes exactly 0 and the other
    padding modes repeat ±1. Every argument of the dense layer means what it means there.

    Args:
        in_channels: as nn.Conv2d.
        out_channels: as nn.Conv2d.
        kernel_size: as nn.Conv2d; (in_channels / groups)·kH·kW must be at least the method's minimum (3).
        stride: as nn.Conv2d.
        padding: as nn.Conv2d.
        dilation: as nn.Conv2d.
        groups: as nn.Conv2d.
        bias: as nn.Conv2d.
        padding_mode: as nn.Conv2d.
        device: as nn.Conv2d.
        dtype: as nn.Conv2d.
        method: a key of METHODS.
        act_bits: 1 or 32.
        scale: a learnable factor per output channel, for layers with no normalisation after them.
        t_min: start of the surrogate's schedule; the method's own if None.
        t_max: end of the surrogate's schedule; the method's own if None.

    Attributes:
        dims: number of spatial dimensions.

    Raises:
        ArgumentError: too small a fan-in, or a value out of range.
        UnknownNameError: no such method.
    """

    dims: ClassVar[int]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] | str = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: Any = "zeros",
        device: Any = None,
        dtype: Any = None,
        *,
        method: str = "irnet",
        act_bits: int = 1,
        scale: bool = False,
        t_min: float | None = None,
        t_max: float | None = None,
    ) -> None:
        fan_in = in_channels // max(groups, 1) * self.taps(kernel_size)
        options = self._options(fan_in, method, act_bits, scale, t_min, t_max)
        dense: Any = super().__init__
        dense(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            padding_mode,
            device,
            dtype,
        )
        self._make_binary(options)

    @classmethod
    def taps(cls, kernel_size: int | Sequence[int]) -> int:
        """Number of places that a kernel covers."""
        return kernel_size**cls.dims if isinstance(kernel_size, int) else prod(kernel_size)

    def _contract(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        conv: Any = self
        return conv._conv_forward(x, weight, bias)

    def _contract_signs(
        self, x: Tensor, ede: Tensor, bias: Tensor | None, zero_pad: Sequence[int] | None, **how: Any
    ) -> Tensor:
        conv: Any = self
        if x.dim() < self.weight.dim() or conv.padding_mode != "zeros":
            return super()._contract_signs(x, ede, bias, zero_pad, **how)
        padding, extra = self._own_padding(x)
        if zero_pad is not None:
            # Compiled, amounts may be symbols; and what SAME adds depends on the size after this padding.
            if watched() or any(extra) or getattr(self, "same_pad", False):
                return super()._contract_signs(x, ede, bias, zero_pad, **how)
            extra = zero_pad
        geometry = Geometry(
            stride=conv.stride, padding=padding, dilation=conv.dilation, transposed=False,
            output_padding=(0,) * self.dims, groups=conv.groups,
        )  # fmt: skip
        return signed_conv(
            x, self._made_weight(), bias, ede, METHODS[self.method], geometry, extra, compact=self.compact
        )

    def _own_padding(self, x: Tensor) -> tuple[Sequence[int], Sequence[int]]:
        """What the layer pads by: zeros on both sides alike; and as for ``F.pad`` where they differ."""
        conv: Any = self
        if not isinstance(conv.padding, str):
            return conv.padding, ()
        return self._of_sides(conv._reversed_padding_repeated_twice)

    def _of_sides(self, sides: Sequence[int]) -> tuple[Sequence[int], Sequence[int]]:
        """:meth:`_own_padding` from amounts as for ``F.pad``: last dimension first, left and right."""
        if sides[::2] == sides[1::2]:
            return tuple(sides[-1::-2]), ()
        return (0,) * self.dims, sides

    def _empty_plain(self) -> nn.Module:
        conv: Any = self
        geometry: dict[str, Any] = {
            "kernel_size": conv.kernel_size,
            "stride": conv.stride,
            "padding": conv.padding,
            "dilation": conv.dilation,
            "groups": conv.groups,
            "bias": self.bias is not None,
            "padding_mode": conv.padding_mode,
        }
        return self.dense_kind(conv.in_channels, conv.out_channels, **geometry, device="meta")


class BinaryConv1d(BinaryConvNd, nn.Conv1d):
    """nn.Conv1d with binary weights and, by default, binary activations; see :class:`BinaryConvNd`."""

    dense_kind, dims, trailing = nn.Conv1d, 1, 1


class BinaryConv2d(BinaryConvNd, nn.Conv2d):
    """nn.Conv2d with binary weights and, by default, binary activations; see :class:`BinaryConvNd`."""

    dense_kind, dims, trailing = nn.Conv2d, 2, 2


class BinaryConv3d(BinaryConvNd, nn.Conv3d):
    """nn.Conv3d with binary weights and, by default, binary activations; see :class:`BinaryConvNd`."""

    dense_kind, dims, trailing = nn.Conv3d, 3, 3
