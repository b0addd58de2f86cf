"""Binary layers as single operators of an exported graph.

Before a model is exported, each binary layer of the copy gets a forward that calls
``irnet_convert::captured_conv`` or ``captured_linear``: sign, padding and the sum over ±1 weights that are
packed already. Scale and bias follow as ordinary operators, so that they fuse as any others do. These two
operators exist in exported graphs alone; nothing runs them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from irnet_convert.binary import sign
from irnet_convert.errors import PackError
from irnet_convert.layers import BinaryConv2d, BinaryLayer, BinaryLinear, BinaryMultiheadAttention
from irnet_convert.layers.signed import scale_sums
from irnet_convert.packed.bits import pack_bits
from irnet_convert.packed.shapes import conv_padding

_library = torch.library.Library("irnet_convert", "FRAGMENT")
_library.define(
    "captured_conv(Tensor x, Tensor bits, int[] shape, int[] stride, int[] padding, str pad_mode, "
    "int[] dilation, int groups, bool signed) -> Tensor"
)
_library.define("captured_linear(Tensor x, Tensor bits, int[] shape, bool signed) -> Tensor")

captured_conv: Any = torch.ops.irnet_convert.captured_conv.default
captured_linear: Any = torch.ops.irnet_convert.captured_linear.default

#: Operators that only a step can stand for.
CAPTURED = frozenset([captured_conv, captured_linear])

#: How the operator says "same": it has no union types.
SAME: list[int] = []


def _fake_conv(
    x: Tensor, bits: Tensor, shape: Sequence[int], stride: Sequence[int], padding: Sequence[int],
    pad_mode: str, dilation: Sequence[int], groups: int, signed: bool,
) -> Tensor:  # fmt: skip
    rule: Any = tuple(padding) if padding else "same"
    left, right, top, bottom = conv_padding(rule, x.shape[2:], shape[2:], stride, dilation)
    padded = (x.shape[2] + top + bottom, x.shape[3] + left + right)
    sizes = [(padded[i] - (shape[2 + i] - 1) * dilation[i] - 1) // stride[i] + 1 for i in (0, 1)]
    return x.new_empty((x.shape[0], shape[0], *sizes))


def _fake_linear(x: Tensor, bits: Tensor, shape: Sequence[int], signed: bool) -> Tensor:
    return x.new_empty((*x.shape[:-1], shape[0]))


torch.library.register_fake("irnet_convert::captured_conv", _fake_conv, lib=_library)
torch.library.register_fake("irnet_convert::captured_linear", _fake_linear, lib=_library)


#: timm's convolutions that compute their padding from the image: module and name of the class.
_REAL_SAME = {
    ("timm.layers.conv2d_same", "Conv2dSame"),
    ("timm.layers.std_conv", "StdConv2dSame"),
    ("timm.layers.std_conv", "ScaledStdConv2dSame"),
}


def capture_layers(model: nn.Module) -> list[str]:
    """Give each binary layer of a model its captured forward.

    Args:
        model: a copy that nothing else uses, in float32 on the CPU.

    Returns:
        What could not be packed, for the report: "path: reason".

    Raises:
        PackError: a layer's weights are not finite.
    """
    notes = []
    for name, layer in model.named_modules():
        kind = (type(layer).__module__, type(layer).__name__)
        if kind in _REAL_SAME and getattr(layer, "same_pad", True):
            same: Any = layer
            same.forward = _RealSame(layer)
        if not isinstance(layer, BinaryLayer):
            continue
        if layer.real_weights:
            raise PackError(
                f"the weights of {name or 'the layer'} are real: it is in a stage of its training",
                expected="binary weights in every layer",
                mend='irnet_convert.layers.set_binarized(model, "both")',
            )
        scaled = layer._scaled_weight(layer.ede).detach()
        if not bool(torch.isfinite(scaled).all()):
            raise PackError(
                f"the weights of {name or 'the layer'} are not finite",
                expected="finite latent weights and scales",
                mend="train again from a checkpoint before they diverged",
            )
        instance: Any = layer.operator  # its class's forward stays what it is
        if isinstance(layer, BinaryConv2d):
            instance.forward = _CapturedConv(layer, name, scaled)
        elif isinstance(layer, BinaryLinear | BinaryMultiheadAttention):
            instance.forward = _CapturedLinear(layer, name, scaled)
        else:
            instance.forward = _Spelled(layer)
            notes.append(
                f"{name}: {type(layer).__name__} runs in PyTorch on ±1 weights stored as real numbers"
            )
    return notes


class _Captured:
    """Common to both: the bits and the scale as buffers of the layer."""

    def __init__(self, layer: Any, name: str, scaled: Tensor) -> None:
        self.layer, self.name, self.shape = layer, name, list(scaled.shape)
        bits = layer.binary_weight().detach() > 0
        layer.register_buffer("packed_weight", pack_bits(bits))
        # Within a filter all |w| are equal; its factor may be negative.
        first = (slice(None), *[0] * (scaled.dim() - 1))
        layer.register_buffer("packed_scale", torch.where(bits[first], scaled[first], -scaled[first]))
        self.signed = layer.takes_signs

    def refuse(self, what: str) -> PackError:
        return PackError(
            f"{self.name or 'the layer'} is called with {what}",
            expected="what a packed convolution can do: zeros around a map, on top of its own zero padding",
            mend="keep this layer in full precision by a rule of the policy",
        )


class _CapturedConv(_Captured):
    def __call__(self, input: Tensor, zero_pad: Sequence[Any] | None = None) -> Tensor:
        layer: Any = self.layer
        if input.dim() != 4:
            raise self.refuse(f"an input of shape {tuple(input.shape)}, which has no batch")
        y = captured_conv(
            layer.shifted(input), layer.packed_weight, self.shape, list(layer.stride),
            self._padding(zero_pad),
            layer.padding_mode, list(layer.dilation), layer.groups, self.signed,
        )  # fmt: skip
        y = y * layer.packed_scale.reshape(-1, 1, 1)
        return y if layer.bias is None else y + layer.bias.reshape(-1, 1, 1)

    def _padding(self, zero_pad: Sequence[Any] | None) -> list[int]:
        """Left, right, top, bottom, or SAME."""
        layer: Any = self.layer
        # int() makes amounts that were computed from the image's size constants, and the size with them.
        extra = [int(a) for a in zero_pad or ()]
        extra += [0] * (4 - len(extra))
        if len(extra) > 4 or min(extra) < 0:
            raise self.refuse(f"zero_pad {extra}")
        if getattr(layer, "same_pad", False):
            if any(extra):
                raise self.refuse(f"zero_pad {extra} in front of SAME padding")
            return SAME
        # PyTorch's own list of amounts; it is right for padding="same" too, whose odd zero is at the end.
        own = list(layer._reversed_padding_repeated_twice)
        if any(extra) and layer.padding_mode != "zeros":
            raise self.refuse(f"zero_pad {extra} in front of {layer.padding_mode} padding")
        return [a + b for a, b in zip(own, extra, strict=True)]


class _RealSame:
    """A real convolution with SAME padding as one operator: spelled out, the image's size enters it."""

    def __init__(self, layer: Any) -> None:
        self.layer, self.shape = layer, list(layer.weight.shape)
        # The weight as the layer convolves with it: standardised and scaled, if it is of such a kind.
        with _WeightSeen() as seen:
            layer(torch.zeros(1, layer.in_channels, 1, 1))
        layer.register_buffer("packed_weight", seen.weight)

    def __call__(self, input: Tensor) -> Tensor:
        layer: Any = self.layer
        y = captured_conv(
            input, layer.packed_weight, self.shape, list(layer.stride), SAME, "zeros", list(layer.dilation),
            layer.groups, False,
        )  # fmt: skip
        return y if layer.bias is None else y + layer.bias.reshape(-1, 1, 1)


class _WeightSeen(TorchFunctionMode):
    """Notes the weight that F.conv2d is called with."""

    weight: Tensor

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.conv2d:
            self.weight = args[1].detach().clone()
        return func(*args, **(kwargs or {}))


class _CapturedLinear(_Captured):
    def __call__(
        self,
        input: Tensor,
        zero_pad: Sequence[Any] | None = None,
        bias: Tensor | Literal[True] | None = True,
        *,
        rows: slice | None = None,
    ) -> Tensor:
        if zero_pad is not None and any(zero_pad):
            raise self.refuse(f"zero_pad {list(zero_pad)}")
        y = captured_linear(self.layer.shifted(input), self.layer.packed_weight, self.shape, self.signed)
        y = y * self.layer.packed_scale
        bias = self.layer.bias if bias is True else bias
        y = y if bias is None else y + bias
        # Rows of an attention's packed projection: the others are computed too, from the same bits.
        return y if rows is None else y[..., rows]


class _Spelled:
    """What no step exists for: sign, padding and the dense operator, spelled out."""

    def __init__(self, layer: Any) -> None:
        self.layer = layer
        weight = layer.binary_weight() if layer.scales_sums else layer._scaled_weight(layer.ede)
        layer.register_buffer("packed_weight", weight.detach())
        layer.register_buffer("packed_scale", layer._factor().detach() if layer.scales_sums else None)

    def __call__(self, input: Tensor, zero_pad: Sequence[Any] | None = None, **how: Any) -> Tensor:
        layer = self.layer
        x = layer.shifted(input)
        x = sign(x) if layer.takes_signs else x
        if zero_pad is not None:
            x = F.pad(x, list(zero_pad))
        if layer.packed_scale is None:
            return layer._contract(x, layer.packed_weight, layer.bias, **how)
        sums = layer._contract(x, layer.packed_weight, None, **how)
        return scale_sums(sums, layer.packed_scale, layer.bias, layer.trailing)
