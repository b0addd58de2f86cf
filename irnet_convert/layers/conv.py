"""BinaryConv2d: a true subclass of nn.Conv2d."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from irnet_convert.layers.base import BinaryLayer


class BinaryConv2d(BinaryLayer, nn.Conv2d):
    """2D convolution with binary weights and, by default, binary activations.

    The sign comes first and the padding after it, so that zero padding contributes exactly 0 and the other
    padding modes repeat ±1. Every argument of nn.Conv2d means what it means there.

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

    Raises:
        ArgumentError: too small a fan-in, or a value out of range.
        UnknownNameError: no such method.
    """

    dense_kind = nn.Conv2d

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = 0,
        dilation: int | tuple[int, int] = 1,
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
        kernel = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
        fan_in = in_channels // max(groups, 1) * kernel[0] * kernel[1]
        options = self._options(fan_in, method, act_bits, scale, t_min, t_max)
        nn.Conv2d.__init__(
            self,
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

    def _contract(self, x: Tensor, weight: Tensor) -> Tensor:
        return self._conv_forward(x, weight, self.bias)

    def _empty_plain(self) -> nn.Conv2d:
        geometry: dict[str, Any] = {
            "kernel_size": self.kernel_size,
            "stride": self.stride,
            "padding": self.padding,
            "dilation": self.dilation,
            "groups": self.groups,
            "bias": self.bias is not None,
            "padding_mode": self.padding_mode,
        }
        return nn.Conv2d(self.in_channels, self.out_channels, **geometry, device="meta")
