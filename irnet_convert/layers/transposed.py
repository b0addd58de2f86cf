"""BinaryConvTranspose1d, 2d and 3d: true subclasses of PyTorch's, one implementation for all."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from irnet_convert.binary import METHODS
from irnet_convert.layers.base import BinaryLayer
from irnet_convert.layers.signed import Geometry, signed_conv


class BinaryConvTransposeNd(BinaryLayer):
    """Transposed convolution with binary weights and, by default, binary activations.

    PyTorch keeps these weights as (in, out / groups, ...), so that the filter of an output channel is spread
    over the first dimension. Libra-PB's statistics, the power of two and the scale belong to an output
    channel, and are taken over its in / groups times kernel weights, wherever they lie. The sign of the input
    comes first; ``padding`` crops the output as in the dense layer, and adds nothing to the input.

    Args:
        in_channels: as nn.ConvTranspose2d.
        out_channels: as nn.ConvTranspose2d.
        kernel_size: as nn.ConvTranspose2d; (in_channels / groups)·kH·kW must be at least the method's minimum
            (3).
        stride: as nn.ConvTranspose2d.
        padding: as nn.ConvTranspose2d.
        output_padding: as nn.ConvTranspose2d.
        groups: as nn.ConvTranspose2d.
        bias: as nn.ConvTranspose2d.
        dilation: as nn.ConvTranspose2d.
        padding_mode: as nn.ConvTranspose2d.
        device: as nn.ConvTranspose2d.
        dtype: as nn.ConvTranspose2d.
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
        padding: int | Sequence[int] = 0,
        output_padding: int | Sequence[int] = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: int | Sequence[int] = 1,
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
        taps = kernel_size**self.dims if isinstance(kernel_size, int) else prod(kernel_size)
        options = self._options(in_channels // max(groups, 1) * taps, method, act_bits, scale, t_min, t_max)
        dense: Any = super().__init__
        dense(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            output_padding,
            groups,
            bias,
            dilation,
            padding_mode,
            device,
            dtype,
        )
        self._make_binary(options)

    @classmethod
    def fan_in_of(cls, layer: nn.Module) -> int:
        """How many weights make one output channel of ``layer``."""
        assert isinstance(layer, _ConvTransposeNd)
        return layer.in_channels // layer.groups * prod(layer.kernel_size)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        input: Tensor,
        output_size: list[int] | None = None,
        zero_pad: Sequence[int] | None = None,
    ) -> Tensor:
        """As the dense layer's; ``zero_pad`` as in :meth:`BinaryLayer.forward`."""
        return super().forward(input, zero_pad, output_size=output_size)

    def _contract(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, output_size: list[int] | None = None
    ) -> Tensor:
        conv: Any = self
        extra = self._extra(x, output_size)
        transposed = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[self.dims - 1]
        return transposed(x, weight, bias, conv.stride, conv.padding, extra, conv.groups, conv.dilation)

    def _contract_signs(
        self, x: Tensor, ede: Tensor, bias: Tensor | None, zero_pad: Sequence[int] | None, **how: Any
    ) -> Tensor:
        conv: Any = self
        if x.dim() < self.weight.dim() or zero_pad is not None:
            return super()._contract_signs(x, ede, bias, zero_pad, **how)
        geometry = Geometry(
            stride=conv.stride, padding=conv.padding, dilation=conv.dilation, transposed=True,
            output_padding=self._extra(x, **how), groups=conv.groups,
        )  # fmt: skip
        return signed_conv(
            x, self._made_weight(), bias, ede, METHODS[self.method], geometry, compact=self.compact
        )

    def _extra(self, x: Tensor, output_size: list[int] | None = None) -> Sequence[int]:
        """What ``output_padding`` must be for an output of that size."""
        conv: Any = self
        return conv._output_padding(
            x, output_size, conv.stride, conv.padding, conv.kernel_size, self.dims, conv.dilation
        )

    def _filters(self, weight: Tensor) -> Tensor:
        """(in, out / groups, ...) to (out, in / groups, ...)."""
        groups = self._groups()
        return weight.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)

    def _from_filters(self, filters: Tensor) -> Tensor:
        return filters.unflatten(0, (self._groups(), -1)).transpose(1, 2).flatten(0, 1)

    def _groups(self) -> int:
        conv: Any = self
        return conv.groups

    def _empty_plain(self) -> nn.Module:
        conv: Any = self
        geometry: dict[str, Any] = {
            "kernel_size": conv.kernel_size,
            "stride": conv.stride,
            "padding": conv.padding,
            "output_padding": conv.output_padding,
            "groups": conv.groups,
            "bias": self.bias is not None,
            "dilation": conv.dilation,
        }
        return self.dense_kind(conv.in_channels, conv.out_channels, **geometry, device="meta")


class BinaryConvTranspose1d(BinaryConvTransposeNd, nn.ConvTranspose1d):
    """nn.ConvTranspose1d with binary weights and activations; see :class:`BinaryConvTransposeNd`."""

    dense_kind, dims, trailing = nn.ConvTranspose1d, 1, 1


class BinaryConvTranspose2d(BinaryConvTransposeNd, nn.ConvTranspose2d):
    """nn.ConvTranspose2d with binary weights and activations; see :class:`BinaryConvTransposeNd`."""

    dense_kind, dims, trailing = nn.ConvTranspose2d, 2, 2


class BinaryConvTranspose3d(BinaryConvTransposeNd, nn.ConvTranspose3d):
    """nn.ConvTranspose3d with binary weights and activations; see :class:`BinaryConvTransposeNd`."""

    dense_kind, dims, trailing = nn.ConvTranspose3d, 3, 3
