"""The switch for a training that keeps less for its backward passes."""

from __future__ import annotations

from torch import nn

from irnet_convert.layers.base import BinaryLayer
from irnet_convert.layers.hardtanh import Hardtanh
from irnet_convert.layers.keeping import keep_less
from irnet_convert.layers.model import layers_of


def set_compact(model: nn.Module, on: bool = True) -> None:
    """Have a binarized network keep less for the backward pass, half or so, or all again.

    No value of a forward pass changes. Of the gradients, what a binary layer, GELU, SiLU and LayerNorm hand
    down to their input is rounded, and that of a LayerNorm's weight.

    - A binary layer keeps one byte of each number of its input: its sign, and the derivative of the surrogate
      there as a share of its peak, in 7 bits. What it hands down differs from the exact gradient by
      0.5/127 of the peak k·t, times the gradient that comes in, at most; where the derivative is less than
      that share, it is 0. The gradient of such a gradient (``create_graph``) is refused.
    - Hardtanh keeps one bit of each number.
    - A BatchNorm (any of PyTorch's, and subclasses) of what a binary layer returned, without bias and scale
      and with fewer than 32,768 weights an output, in float32 or float64, keeps it as integers of 2 bytes and
      the power of two that they are times.
    - nn.MaxPool2d keeps nothing of its input, and indices in 2 or 4 bytes.
    - A real nn.Conv2d that skips pixels (1×1 with a stride) keeps those that it looks at.
    - nn.GELU and nn.SiLU (but in place, or with a forward of their own) keep one byte of each number: the
      derivative, which lies between −0.13 and 1.13, within 0.5/202. The gradient of such a gradient is
      refused.
    - nn.LayerNorm, in float32 and float64, keeps of what it normalises together the mean and, in float16, the
      distances from it as shares of the largest.

    All but the first and the last two are exact. Layers that take the sign apart from their product keep
    their input as it is: padding modes other than zeros, images without a batch, an explicit padding in front
    of a transposed convolution, a linear layer or SAME padding; and, compiled, SAME padding and any explicit
    one. So do real activations and RPReLU. Under ``torch.compile`` the first two hold, and the compiler
    chooses what it keeps of the others. In half precision a BatchNorm and a LayerNorm keep what they kept.

    It is not saved with the network. Modules that are put in later (``convert_sync_batchnorm``) do not know
    of it: call this again.

    Args:
        model: any module with binary layers in it, wrapped or not.
        on: or off, which is how it begins; then nothing of it is left.

    Raises:
        ModelError: there is no binary layer.
    """
    layers_of(model)
    for module in model.modules():
        if isinstance(module, BinaryLayer | Hardtanh):
            vars(module).pop("compact", None)
            if on:
                module.compact = True
        keep_less(module, on)
