"""The state of a layer's surrogate gradient: plain floats, and their copy on the device."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor, nn

from irnet_convert.binary import METHODS


class SurrogateState(nn.Module):
    """What :class:`~irnet_convert.layers.BinaryLayer` keeps of k and t, and when it is filled anew."""

    method: str
    progress: float
    t_min: float
    t_max: float
    weight: Tensor
    ede: Tensor

    def set_progress(self, fraction: float, t_min: float | None = None, t_max: float | None = None) -> None:
        """Set the surrogate gradient to what it is after a fraction of the training.

        Writes to the buffer in place: no compiled graph is thrown away and no device is waited for.

        Args:
            fraction: 0 to 1.
            t_min: a new start of the schedule; stays as it is if None.
            t_max: a new end of the schedule; stays as it is if None.

        Raises:
            ArgumentError: a value out of range; nothing is changed.
        """
        t_min = self.t_min if t_min is None else t_min
        t_max = self.t_max if t_max is None else t_max
        METHODS[self.method].schedule(fraction, t_min, t_max)
        self.progress, self.t_min, self.t_max = float(fraction), float(t_min), float(t_max)
        self._fill_ede()

    def _ede_of_this_pass(self) -> Tensor:
        """A copy where a backward pass may follow, which belongs to the k and t of its forward pass.

        The buffer itself may be written in between: by set_progress, or by DDP's broadcast of buffers when
        there are two forward passes before one backward.
        """
        return self.ede.clone() if torch.is_grad_enabled() else self.ede

    @torch.no_grad()
    def _fill_ede(self) -> None:
        """Fill the buffer from the plain floats, on the weight's device, never in half precision."""
        dtype = torch.promote_types(self.weight.dtype, torch.float32)
        if self.ede is None or self.ede.dtype != dtype or self.ede.device != self.weight.device:
            self.ede = self.weight.new_empty(2, dtype=dtype)
        k, t = METHODS[self.method].schedule(self.progress, self.t_min, self.t_max)
        self.ede[0].fill_(k)
        self.ede[1].fill_(t)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        self._fill_ede()
        return self
