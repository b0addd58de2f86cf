"""BatchNorm's running statistics computed anew: as averages over batches, for the weights as they are now."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from timm.utils.distributed import distribute_bn
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from irnet_convert.train.evaluate import evaluating, reduced


def norms_of(model: nn.Module) -> list[_BatchNorm]:
    """The model's BatchNorm layers that keep running statistics."""
    return [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]


def reestimate_unless(
    stop: Callable[[], bool], model: nn.Module, batches: Iterable[Tensor], accelerator: Accelerator
) -> bool:
    """Give every BatchNorm the mean over ``batches`` of the batches' own statistics.

    Running statistics of a training are an average that forgets, over weights that moved meanwhile; those of
    an average of weights belong to no network that ran. Only BatchNorm is in training mode here, so there is
    no drop-out; over several processes the statistics are averaged. A network without it is left alone.

    Args:
        stop: whether this process was told to stop; asked after each batch.
        model: the network itself, not a DDP wrapper; left in the mode it was in.
        batches: images (N, C, H, W), as many in every process, on the model's device; one at least.
        accelerator: its precision and processes.

    Returns:
        False if some process was told to stop: the statistics are then of fewer batches.
    """
    if not norms_of(model):
        return True
    stopped = False
    with evaluating(model), _averaging(norms_of(model)), accelerator.autocast():
        for images in batches:
            model(images)
            stopped = stop()
            if stopped:
                break
    if accelerator.num_processes > 1:
        distribute_bn(model, accelerator.num_processes, reduce=True)
    flag = torch.tensor([float(stopped)], device=accelerator.device)
    return not bool(reduced(accelerator, flag, "sum").item())


@contextmanager
def _averaging(norms: list[_BatchNorm]) -> Iterator[None]:
    """Plain averages from nothing; afterwards momentum and the count of batches are what they were."""
    before: list[tuple[_BatchNorm, float | None, Any]] = [
        (norm, norm.momentum, None if norm.num_batches_tracked is None else norm.num_batches_tracked.clone())
        for norm in norms
    ]
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # PyTorch's word for a plain average
            norm.training = True
        yield
    finally:
        for norm, momentum, count in before:
            norm.momentum, norm.training = momentum, False
            if count is not None and norm.num_batches_tracked is not None:
                norm.num_batches_tracked.copy_(count)
