"""The schedule of the surrogate gradient for Lightning.

``lightning.Trainer(..., callbacks=[EdeCallback()])``. Needs the extra ``lightning``.
"""

from __future__ import annotations

from typing import Any, Literal

from irnet_convert.callbacks.clock import Clock
from irnet_convert.extras import needs

with needs("lightning"):
    from lightning.pytorch import Callback, LightningModule, Trainer


class EdeCallback(Callback):
    """Sharpens the surrogate gradient of every binary layer from the first step to the last (EDE).

    A training that goes on from a checkpoint goes on with its schedule: the place in it is read from the
    trainer's own count of steps. With several optimizers Lightning counts the steps of all together.

    Args:
        per: "step", or "epoch" as in the paper.
        t_min: start of EDE's t for every layer; each layer's own (0.1) unless given.
        t_max: its end; each layer's own (10) unless given.

    Raises:
        MissingExtraError: on import, without lightning.
        ArgumentError: another ``per``, bounds out of range, or a training without a known end.

    Source:
        Qin et al., Forward and Backward Information Retention for Accurate Binary Neural Networks, CVPR
        2020, section on EDE.
    """

    def __init__(
        self,
        per: Literal["step", "epoch"] = "step",
        *,
        t_min: float | None = None,
        t_max: float | None = None,
    ) -> None:
        super().__init__()
        self.clock = Clock(per=per, t_min=t_min, t_max=t_max)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Raises: ModelError: the module holds no binary layer."""
        self.clock.set(
            pl_module, step=trainer.global_step, steps=trainer.estimated_stepping_batches,
            epoch=trainer.current_epoch, epochs=trainer.max_epochs,
        )  # fmt: skip
