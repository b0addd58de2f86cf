"""Which binary class takes a layer's place, by its exact type; or why none does.

A subclass may compute anything, so one that is not in the table is kept and named, never guessed at.
"""

from __future__ import annotations

import functools

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.nn.utils import parametrize

from irnet_convert.binary import method as method_of
from irnet_convert.layers.base import BinaryLayer
from irnet_convert.layers.conv import BinaryConv1d, BinaryConv2d, BinaryConv3d
from irnet_convert.layers.linear import BinaryLinear
from irnet_convert.layers.multihead import PROJECTION, BinaryMultiheadAttention
from irnet_convert.layers.same import BinaryConv2dSame
from irnet_convert.layers.scaled_std import BinaryScaledStdConv2d, BinaryScaledStdConv2dSame
from irnet_convert.layers.std import BinaryStdConv2d, BinaryStdConv2dSame
from irnet_convert.layers.transposed import (
    BinaryConvTranspose1d,
    BinaryConvTranspose2d,
    BinaryConvTranspose3d,
)

#: Names of a binary layer's own attributes.
_STATE = {
    "scale", "threshold", "ede", "method", "act_bits", "progress", "t_min", "t_max", "real_weights",
    "real_activations",
}  # fmt: skip
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@functools.cache
def _table() -> dict[type[nn.Module], type[BinaryLayer]]:
    # timm is imported here and not above: a packed network needs these layers' package, but no timm.
    from timm.layers.conv2d_same import Conv2dSame
    from timm.layers.linear import Linear
    from timm.layers.std_conv import ScaledStdConv2d, ScaledStdConv2dSame, StdConv2d, StdConv2dSame
    from torchvision.models.video.resnet import Conv3DNoTemporal, Conv3DSimple

    return {
        nn.Conv1d: BinaryConv1d,
        nn.Conv2d: BinaryConv2d,
        nn.Conv3d: BinaryConv3d,
        nn.ConvTranspose1d: BinaryConvTranspose1d,
        nn.ConvTranspose2d: BinaryConvTranspose2d,
        nn.ConvTranspose3d: BinaryConvTranspose3d,
        nn.Linear: BinaryLinear,
        # These two are nn.Conv3d with other arguments, and are asked for a stride while a network is built.
        Conv3DSimple: BinaryConv3d,
        Conv3DNoTemporal: BinaryConv3d,
        # It differs from nn.Linear in nothing but a cast for TorchScript.
        Linear: BinaryLinear,
        # nn.MultiheadAttention's own; it differs from nn.Linear in nothing that runs.
        NonDynamicallyQuantizableLinear: BinaryLinear,
        nn.MultiheadAttention: BinaryMultiheadAttention,
        Conv2dSame: BinaryConv2dSame,
        StdConv2d: BinaryStdConv2d,
        StdConv2dSame: BinaryStdConv2dSame,
        ScaledStdConv2d: BinaryScaledStdConv2d,
        ScaledStdConv2dSame: BinaryScaledStdConv2dSame,
    }


def binary_class_of(layer: nn.Module, *, method: str = "irnet") -> type[BinaryLayer] | str:
    """The class whose ``from_dense`` takes this layer, or the reason why the layer is kept.

    Args:
        layer: any module.
        method: a key of METHODS; it says what fan-in is too small.

    Returns:
        A subclass of BinaryLayer, or a reason in words fit for a plan.

    Raises:
        UnknownNameError: no such method.
    """
    found = _table().get(type(layer))
    if found is None:
        return _why_not_known(layer)
    return _why_not_whole(layer, found, method_of(method).min_fan_in) or found


def _why_not_known(layer: nn.Module) -> str:
    kind = type(layer).__name__
    if isinstance(layer, BinaryLayer):
        return "already binary"
    if isinstance(layer, LazyModuleMixin):
        return "lazy and not initialised yet: run the model once first"
    if parametrize.is_parametrized(layer):
        return "its weight is computed by a parametrization"
    if isinstance(layer, _ConvNd | nn.Linear | nn.MultiheadAttention):
        base = next((cls.__name__ for cls in type(layer).__mro__ if cls in _table()), "_ConvNd")
        return f"an unknown subclass of {base} ({type(layer).__module__}.{kind}): its forward may differ"
    return f"{kind} is not a convolution or linear layer"


def _why_not_whole(layer: nn.Module, cls: type[BinaryLayer], min_fan_in: int) -> str | None:
    """Why a layer of a known type cannot be adopted as it stands, or None."""
    weight = layer._parameters.get(cls.weight_name)
    if weight is None:
        if getattr(layer, "_qkv_same_embed_dim", True) is False:
            return "its queries, keys and values have a weight each (kdim, vdim)"
        return "its weight is not a plain parameter (weight_norm, spectral_norm or pruning)"
    if weight.dtype not in _FLOATS:
        return f"its weight has dtype {weight.dtype}"
    fan_in = cls.fan_in_of(layer)
    if fan_in < min_fan_in:
        return (
            f"fan-in {fan_in}: with fewer than {min_fan_in} weights per output channel nothing can be learned"
        )
    if "forward" in vars(layer):
        return "its forward was replaced on the instance"
    taken = _STATE & (
        vars(layer).keys() | layer._parameters.keys() | layer._buffers.keys() | layer._modules.keys()
    )
    if cls is BinaryMultiheadAttention and hasattr(layer, PROJECTION):
        taken |= {PROJECTION}
    if not cls.takes_scale:
        taken -= {"scale"}
    if taken:
        return f"it has an attribute of its own that a binary layer needs: {', '.join(sorted(taken))}"
    return None
