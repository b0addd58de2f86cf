"""BinaryLinear: a true subclass of nn.Linear."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from irnet_convert.binary import METHODS
from irnet_convert.layers.base import BinaryLayer
from irnet_convert.layers.signed import signed_linear


class BinaryLinear(BinaryLayer, nn.Linear):
    """Linear layer with binary weights and, by default, binary activations.

    Args:
        in_features: as nn.Linear; at least the method's minimum fan-in (3).
        out_features: as nn.Linear.
        bias: as nn.Linear.
        device: as nn.Linear.
        dtype: as nn.Linear.
        method: a key of METHODS.
        act_bits: 1 or 32.
        scale: a learnable factor per output channel, for layers with no normalisation after them.
        t_min: start of the surrogate's schedule; the method's own if None.
        t_max: end of the surrogate's schedule; the method's own if None.

    Raises:
        ArgumentError: too small a fan-in, or a value out of range.
        UnknownNameError: no such method.
    """

    dense_kind = nn.Linear

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        method: str = "irnet",
        act_bits: int = 1,
        scale: bool = False,
        t_min: float | None = None,
        t_max: float | None = None,
    ) -> None:
        options = self._options(in_features, method, act_bits, scale, t_min, t_max)
        nn.Linear.__init__(self, in_features, out_features, bias, device, dtype)
        self._make_binary(options)

    def _contract(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias)

    def _contract_signs(
        self, x: Tensor, ede: Tensor, bias: Tensor | None, zero_pad: Sequence[int] | None, **how: Any
    ) -> Tensor:
        if zero_pad is not None:
            return super()._contract_signs(x, ede, bias, zero_pad, **how)
        return signed_linear(x, self._made_weight(), bias, ede, METHODS[self.method], compact=self.compact)

    def _empty_plain(self) -> nn.Linear:
        return nn.Linear(self.in_features, self.out_features, self.bias is not None, device="meta")
