"""Binary layers: true subclasses of PyTorch's, one family a file."""

from irnet_convert.layers.base import BinaryLayer
from irnet_convert.layers.compact import set_compact
from irnet_convert.layers.conv import BinaryConv1d, BinaryConv2d, BinaryConv3d
from irnet_convert.layers.dense import Shift, Sign, SignedLayer
from irnet_convert.layers.hardtanh import Hardtanh, hardtanh
from irnet_convert.layers.latents import rescale_latents
from irnet_convert.layers.linear import BinaryLinear
from irnet_convert.layers.model import binary_layers, param_groups, set_binarized, set_progress
from irnet_convert.layers.multihead import BinaryMultiheadAttention, InProjection, SignedAttention
from irnet_convert.layers.normed import NormedLinear
from irnet_convert.layers.rprelu import RPReLU
from irnet_convert.layers.same import BinaryConv2dSame
from irnet_convert.layers.scaled_std import BinaryScaledStdConv2d, BinaryScaledStdConv2dSame
from irnet_convert.layers.std import BinaryStdConv2d, BinaryStdConv2dSame
from irnet_convert.layers.table import binary_class_of
from irnet_convert.layers.transposed import (
    BinaryConvTranspose1d,
    BinaryConvTranspose2d,
    BinaryConvTranspose3d,
)

__all__ = [
    "BinaryConv1d",
    "BinaryConv2d",
    "BinaryConv2dSame",
    "BinaryConv3d",
    "BinaryConvTranspose1d",
    "BinaryConvTranspose2d",
    "BinaryConvTranspose3d",
    "BinaryLayer",
    "BinaryLinear",
    "BinaryMultiheadAttention",
    "BinaryScaledStdConv2d",
    "BinaryScaledStdConv2dSame",
    "BinaryStdConv2d",
    "BinaryStdConv2dSame",
    "Hardtanh",
    "InProjection",
    "NormedLinear",
    "RPReLU",
    "Shift",
    "Sign",
    "SignedAttention",
    "SignedLayer",
    "binary_class_of",
    "binary_layers",
    "hardtanh",
    "param_groups",
    "rescale_latents",
    "set_binarized",
    "set_compact",
    "set_progress",
]
