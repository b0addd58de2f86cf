"""The network that a run keeps, judged at the end of an epoch."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from timm.utils.distributed import distribute_bn

from irnet_convert.train.batchnorm import reestimate_unless
from irnet_convert.train.sharding import whole
from irnet_convert.train.signals import StopSignal

if TYPE_CHECKING:
    from irnet_convert.train.loop import Trainer


def judge(trainer: Trainer, stop: StopSignal) -> dict[str, float | int] | None:
    """Accuracy and loss after an epoch's last step, with BatchNorm's statistics as the recipe says.

    Args:
        trainer: the run; its position is still in the epoch.
        stop: looked at after each batch.

    Returns:
        As ``evaluate``, or None if some process was told to stop: to be done again from the beginning.
    """
    processes = trainer.accelerator.num_processes
    if processes > 1:
        # Each process has seen other batches: the main process's statistics are those that are saved.
        for model in dict.fromkeys((trainer.student, trainer.judged)):
            distribute_bn(model, processes, reduce=False)
    with whole(trainer.judged):  # processes evaluate as many batches as each has
        if not _reestimated(trainer, stop):
            return None
        return trainer.evaluate(trainer.judged, stop)


def _reestimated(trainer: Trainer, stop: StopSignal) -> bool:
    """Compute BatchNorm's statistics anew if the recipe says so of this epoch; False if told to stop."""
    recipe, epoch = trainer.recipe, trainer.position.epoch
    spec = recipe.reestimate_bn
    if spec is None or not (epoch + 1 == recipe.epochs or spec.when == "epoch"):
        return True
    trainer.loaders.set_epoch(epoch)  # its first batches again
    device = trainer.accelerator.device
    batches = (images.to(device, trainer.dtype) for images, _ in trainer.loaders.train)
    some = itertools.islice(batches, spec.batches)
    return reestimate_unless(lambda: stop.received > 0, trainer.judged, some, trainer.accelerator)
