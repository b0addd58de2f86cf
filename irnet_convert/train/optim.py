"""From a recipe's blocks to timm's optimizer, schedule, mixup and the task loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from timm.data.mixup import Mixup
from timm.optim import _optim_factory
from timm.scheduler.scheduler import Scheduler
from timm.scheduler.scheduler_factory import create_scheduler_v2
from torch import Tensor, nn

from irnet_convert.errors import RecipeError
from irnet_convert.layers import param_groups
from irnet_convert.recipe import MixupSpec, OptimizerSpec, ScheduleSpec

TaskLoss = Callable[[Tensor, Tensor], Tensor]


def make_optimizer(model: nn.Module, spec: OptimizerSpec) -> torch.optim.Optimizer:
    """Timm's optimizer over the groups latents, scales, and the rest with and without decay.

    Raises:
        RecipeError: the optimizer refuses ``kwargs`` or a rate.
    """
    groups = param_groups(
        model,
        spec.lr,
        spec.weight_decay,
        latent_lr=spec.latent_lr,
        latent_weight_decay=spec.latent_weight_decay,
        scale_lr=spec.scale_lr,
        scale_weight_decay=spec.scale_weight_decay,
    )
    further: dict[str, Any] = dict(spec.kwargs)
    try:
        # Every group has its own weight decay; the argument is only a default for groups without.
        return _optim_factory.create_optimizer_v2(
            groups, opt=spec.name, lr=spec.lr, weight_decay=spec.weight_decay, **further
        )
    except (TypeError, ValueError) as error:
        raise RecipeError(
            f"the optimizer {spec.name!r} with lr {spec.lr} and kwargs {spec.kwargs}: {error}",
            expected="arguments that this optimizer takes",
            mend="correct optimizer.kwargs",
        ) from error


def make_schedule(
    optimizer: torch.optim.Optimizer, spec: ScheduleSpec, *, epochs: int, steps_per_epoch: int
) -> Scheduler:
    """Timm's schedule; it counts steps or epochs as ``spec.per`` says, and the loop calls both.

    A milestone m takes effect after m epochs: timm compares it with t + 1, one count early.
    """
    unit = steps_per_epoch if spec.per == "step" else 1
    schedule, _ = create_scheduler_v2(
        optimizer,
        sched=spec.name,
        num_epochs=epochs * unit,
        warmup_epochs=spec.warmup_epochs * unit,
        warmup_lr=spec.warmup_lr,
        min_lr=spec.min_lr,
        decay_milestones=[milestone * unit + 1 for milestone in spec.milestones],
        decay_rate=spec.decay_rate,
        step_on_epochs=spec.per == "epoch",
        updates_per_epoch=1,  # all lengths above are in the schedule's own unit already
    )
    assert schedule is not None  # None only for "none", which the recipe's schema does not have
    return schedule


def make_mixup(spec: MixupSpec | None, num_classes: int, batch_size: int) -> Mixup | None:
    """Timm's Mixup, or None where nothing is mixed and labels at most smoothed.

    Args:
        spec: the recipe's block.
        num_classes: of the labels.
        batch_size: of what is mixed: a micro-batch of one process.

    Raises:
        RecipeError: ``batch_size`` is odd, and images are mixed in pairs.
    """
    if not _mixes(spec):
        return None
    assert spec is not None
    if batch_size % 2:
        raise RecipeError(
            f"mixup with {batch_size} images in each process's micro-batch",
            expected="an even number",
            mend="choose batch_size as a multiple of 2 · processes · grad_accumulation",
        )
    return Mixup(
        mixup_alpha=spec.mixup_alpha,
        cutmix_alpha=spec.cutmix_alpha,
        prob=spec.prob,
        switch_prob=spec.switch_prob,
        mode=spec.mode,
        label_smoothing=spec.label_smoothing,
        num_classes=num_classes,
    )


def make_task_loss(spec: MixupSpec | None) -> TaskLoss:
    """Mean cross-entropy of logits (N, K) and labels (N,) or probabilities (N, K)."""
    smoothing = spec.label_smoothing if spec is not None and not _mixes(spec) else 0.0

    def task_loss(logits: Tensor, target: Tensor) -> Tensor:
        target = target.to(logits.dtype) if target.is_floating_point() else target
        return F.cross_entropy(logits, target, label_smoothing=smoothing)

    return task_loss


def _mixes(spec: MixupSpec | None) -> bool:
    return spec is not None and bool(spec.mixup_alpha or spec.cutmix_alpha)
