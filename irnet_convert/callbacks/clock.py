"""How far a training has come, as the schedule of the surrogate gradient counts it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch import nn

from irnet_convert.errors import ArgumentError
from irnet_convert.layers import set_progress


@dataclass(frozen=True, kw_only=True)
class Clock:
    """When k and t of EDE change, and between which bounds t goes.

    Attributes:
        per: at every optimizer step, or at every epoch as in the paper.
        t_min: a start of t for every layer; None leaves each layer its own (0.1, the paper's).
        t_max: the end of t; None leaves each layer its own (10, the paper's).
    """

    per: Literal["step", "epoch"] = "step"
    t_min: float | None = None
    t_max: float | None = None

    def __post_init__(self) -> None:
        """Raises: ArgumentError: an unknown ``per``."""
        if self.per not in ("step", "epoch"):
            raise ArgumentError(
                f"per={self.per!r}", expected="'step' or 'epoch'", mend="leave it out for every step"
            )

    def set(self, model: nn.Module, *, step: int, steps: float, epoch: float, epochs: float | None) -> None:
        """Set the gradient of every binary layer of ``model`` for the step that begins.

        Args:
            model: holds the binary layers, wrapped or not.
            step: optimizer steps that were made.
            steps: of the whole training.
            epoch: epochs that were begun or made; its fraction is left out.
            epochs: of the whole training.

        Raises:
            ArgumentError: the training has no known end.
            ModelError: the model holds no binary layer.
        """
        done, whole = (step, steps) if self.per == "step" else (math.floor(epoch), epochs)
        if whole is None or not 0 < whole < math.inf:
            raise ArgumentError(
                f"a training of {whole} {self.per}s",
                expected="one whose end is known: the surrogate gradient sharpens towards it",
                mend="give the trainer a largest number of epochs or steps",
            )
        set_progress(model, min(done / whole, 1.0), t_min=self.t_min, t_max=self.t_max)
