"""RPReLU: PReLU with a learnable shift before and behind it, per channel."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: PyTorch's initial slope of a PReLU, and ReActNet's.
SLOPE = 0.25


class RPReLU(nn.Module):
    """f(x) = prelu(x − γ) + ζ: x − γ + ζ where x > γ, β·(x − γ) + ζ elsewhere.

    γ (``shift_in``) and ζ (``shift_out``) begin at 0, β (``slope``) at 0.25.

    Args:
        channels: size of dimension 1.
        device: of the parameters.
        dtype: of the parameters.

    Source:
        Liu et al., ReActNet: Towards Precise Binary Neural Network with Generalized Activation Functions,
        ECCV 2020, equation (4).
    """

    def __init__(self, channels: int, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        how: dict[str, Any] = {"device": device, "dtype": dtype}
        self.shift_in = nn.Parameter(torch.zeros(channels, **how))
        self.slope = nn.Parameter(torch.full((channels,), SLOPE, **how))
        self.shift_out = nn.Parameter(torch.zeros(channels, **how))

    def forward(self, x: Tensor) -> Tensor:
        """(N, ``channels``, ...), any float dtype."""
        along = (-1, *[1] * (x.dim() - 2))
        shifts = (each.reshape(along).to(x.dtype) for each in (self.shift_in, self.shift_out))
        before, behind = shifts
        return F.prelu(x - before, self.slope.to(x.dtype)) + behind

    def extra_repr(self) -> str:
        """The channels."""
        return str(len(self.slope))
