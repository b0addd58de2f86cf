"""The schedule of the surrogate gradient for the Hugging Face Trainer.

``Trainer(model=student, ..., callbacks=[EdeCallback()])``. Needs the extra ``transformers``.
"""

from __future__ import annotations

from typing import Any, Literal

from torch import nn

from irnet_convert.callbacks.clock import Clock
from irnet_convert.extras import needs

with needs("transformers"):
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class EdeCallback(TrainerCallback):
    """Sharpens the surrogate gradient of every binary layer from the first step to the last (EDE).

    A training that goes on from a checkpoint goes on with its schedule: the place in it is read from the
    trainer's own count of steps.

    Args:
        per: "step", or "epoch" as in the paper.
        t_min: start of EDE's t for every layer; each layer's own (0.1) unless given.
        t_max: its end; each layer's own (10) unless given.

    Raises:
        MissingExtraError: on import, without transformers.
        ArgumentError: another ``per``, or bounds out of range.

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
        self.clock = Clock(per=per, t_min=t_min, t_max=t_max)

    def on_step_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        *,
        model: nn.Module,
        **_: Any,
    ) -> None:
        """Raises: ModelError: the trainer's model holds no binary layer."""
        self.clock.set(
            model, step=state.global_step, steps=state.max_steps, epoch=state.epoch or 0.0,
            epochs=state.num_train_epochs,
        )  # fmt: skip
