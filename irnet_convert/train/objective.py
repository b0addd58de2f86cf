"""What a stage of a run minimises: the task's loss, and the teacher's where the stage has one."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from irnet_convert.recipe import DistillSpec, MixupSpec
from irnet_convert.train.distill import DistillLoss, FeatureTap
from irnet_convert.train.evaluate import as_logits
from irnet_convert.train.optim import make_task_loss


class Objective:
    """Losses of one stage; it watches layers of both networks until it is closed.

    Args:
        distill: of the stage; None trains without the teacher.
        mixup: of the recipe, for its label smoothing.
        student: the network itself, without a wrapper.
        teacher: frozen, in eval mode; needed if ``distill`` is set.
        accelerator: for its precision.

    Raises:
        UnknownNameError: a distillation layer that student or teacher does not have.
    """

    def __init__(
        self,
        *,
        distill: DistillSpec | None,
        mixup: MixupSpec | None,
        student: nn.Module,
        teacher: nn.Module | None,
        accelerator: Accelerator,
    ) -> None:
        self.accelerator, self.task_loss = accelerator, make_task_loss(mixup)
        self.teacher = teacher if distill is not None else None
        self.distill = DistillLoss(distill) if distill is not None else None
        self._taps: list[FeatureTap] = []
        if self.distill is not None and self.teacher is not None:
            self._taps.append(FeatureTap(student, self.distill.student_layers, "student"))
            try:
                self._taps.append(FeatureTap(self.teacher, self.distill.teacher_layers, "teacher"))
            except BaseException:
                self.close()
                raise

    def __call__(self, wrapped: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The parts of the loss by name, ``loss`` among them, which is what is minimised.

        Args:
            wrapped: the student as it trains, in its wrapper.
            images: (N, C, H, W).
            labels: (N,), or probabilities (N, K).
        """
        logits = as_logits(wrapped(images))
        task = self.task_loss(logits, labels)
        if self.distill is None or self.teacher is None:
            return {"loss": task}
        with torch.no_grad(), self.accelerator.autocast():
            teacher_logits = as_logits(self.teacher(images)).to(logits.dtype)
        ours, theirs = (tap.take() for tap in self._taps)
        return {**self.distill(logits, teacher_logits, task, ours, theirs), "task": task}

    def close(self) -> None:
        """Stop watching."""
        for tap in self._taps:
            tap.close()
