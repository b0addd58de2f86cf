"""What a binary layer must compute, from the paper's equations: the by-value half of property 4.

It uses none of the layer's own arithmetic: signs, ±2^s weights and the convolution are written out again, in
double precision. The layer's latents, scale, bias and geometry are read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from irnet_convert.layers import BinaryLayer

_CONV = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}
_TRANSPOSED = {3: F.conv_transpose1d, 4: F.conv_transpose2d, 5: F.conv_transpose3d}

#: A latent this close to its filter's mean, in standard deviations, may round to either sign.
_UNDECIDED = 1e-4


def weight_problem(layer: BinaryLayer) -> str | None:
    """What is wrong with the weights that ``layer`` says it uses, or None.

    They must be sign(w − mean(w))·2^s with s = round(log2(mean|ŵ|)) per output channel (Qin et al., CVPR
    2020, section 3.2).
    """
    used = _filters(layer, layer.binary_weight().detach().double())
    latent = _filters(layer, layer.weight.detach().double())
    centred = latent - latent.mean(1, keepdim=True)
    spread = latent.std(1, keepdim=True)
    magnitude = used.abs()
    if (magnitude != magnitude[:, :1]).any():
        return "its weights have more than one magnitude in a channel"
    exponent = magnitude[:, 0].log2()
    if (exponent != exponent.round()).any():
        return "the magnitude of its weights is no power of two"
    alive = (spread[:, 0] > 1e-6 * latent.abs().amax(1)) & (spread[:, 0] > 1e-12)
    wanted = (centred / spread).abs().mean(1).log2()
    if ((exponent - wanted).abs() > 0.5 + 1e-3)[alive].any():
        return "the magnitude of its weights is not the one nearest to mean|ŵ|"
    decided = (centred.abs() > _UNDECIDED * spread) & alive[:, None]
    if (used.sign() != centred.sign())[decided].any():
        return "a weight's sign is not the sign of its centred latent"
    return None


def expected_output(
    layer: BinaryLayer, x: Tensor, *, zero_pad: Sequence[int] | None = None, **how: Any
) -> Tensor:
    """The layer's output for ``x``, in float64.

    Args:
        layer: a binary layer.
        x: its input.
        zero_pad: zeros around the signs, as for ``F.pad``.
        how: ``bias`` in place of the layer's own; ``output_size`` of a transposed convolution; ``rows`` of a
            packed projection.
    """
    a = x.double()
    if layer.act_bits == 1:
        a = torch.where(a >= 0, 1.0, -1.0).double()
    if zero_pad is not None:
        a = F.pad(a, list(zero_pad))
    weight = _scaled(layer)
    given = how.get("bias", True)
    bias = layer.bias if given is True else given
    bias = None if bias is None else bias.detach().double()
    conv: Any = layer
    if isinstance(layer, nn.MultiheadAttention):
        rows = how.get("rows") or slice(None)
        return F.linear(a, weight[rows], None if bias is None else bias[rows])
    if isinstance(layer, nn.Linear):
        return F.linear(a, weight, bias)
    if isinstance(layer, _ConvTransposeNd):
        dims = weight.dim() - 2
        extra: Any = conv._output_padding(
            a, how.get("output_size"), conv.stride, conv.padding, conv.kernel_size, dims, conv.dilation
        )
        return _TRANSPOSED[weight.dim()](
            a, weight, bias, conv.stride, conv.padding, extra, conv.groups, conv.dilation
        )
    padding: Any = conv.padding
    if getattr(layer, "same_pad", False):
        a, padding = F.pad(a, _same(conv, x)), 0
    elif conv.padding_mode != "zeros":
        a, padding = F.pad(a, conv._reversed_padding_repeated_twice, mode=conv.padding_mode), 0
    return _CONV[weight.dim()](a, weight, bias, conv.stride, padding, conv.dilation, conv.groups)


def _scaled(layer: BinaryLayer) -> Tensor:
    weight = layer.binary_weight().detach().double()
    factor = layer.scale if "gain" not in layer._parameters else layer.gain * layer.fan_in_scale  # type: ignore[operator]
    if factor is None:
        return weight
    factor = factor.detach().double().flatten()
    if not isinstance(layer, _ConvTransposeNd):
        return weight * factor.reshape(-1, *[1] * (weight.dim() - 1))
    groups: int = layer.groups
    shaped = factor.reshape(groups, 1, -1, *[1] * (weight.dim() - 2))
    return (weight.unflatten(0, (groups, -1)) * shaped).flatten(0, 1)


def _filters(layer: BinaryLayer, weight: Tensor) -> Tensor:
    """(out, weights of one output channel)."""
    if not isinstance(layer, _ConvTransposeNd):
        return weight.flatten(1)
    # (in, out / groups, ...): a group's inputs lie behind one another.
    grouped = weight.unflatten(0, (layer.groups, -1)).transpose(1, 2)
    return grouped.flatten(0, 1).flatten(1)


def _same(conv: Any, x: Tensor) -> list[int]:
    """TensorFlow's SAME padding, as ``F.pad`` takes it: the last dimension first, the odd zero behind."""
    amounts: list[int] = []
    for axis in (1, 0):
        size, stride, kernel = x.shape[axis - 2], conv.stride[axis], conv.kernel_size[axis]
        total = max((-(-size // stride) - 1) * stride + (kernel - 1) * conv.dilation[axis] + 1 - size, 0)
        amounts += [total // 2, total - total // 2]
    return amounts
