"""Accuracy and loss of a classifier, every sample counted exactly once over all processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from timm.utils.metrics import accuracy
from torch import Tensor, nn

from irnet_convert.errors import DataError, ModelError


def as_logits(output: Any) -> Tensor:
    """The logits (N, K) of a classifier's output; of several (auxiliary heads) the first.

    Raises:
        ModelError: the output holds no such tensor.
    """
    first = output[0] if isinstance(output, tuple | list) and output else output
    if not isinstance(first, Tensor) or first.ndim != 2:
        shape = tuple(first.shape) if isinstance(first, Tensor) else type(first).__name__
        raise ModelError(
            f"the model's output is {shape}",
            expected="logits of shape (N, classes)",
            mend="train image classifiers with recipes; for other tasks use your own loop with binarize(), "
            "param_groups() and set_progress()",
        )
    return first


def evaluate(
    model: nn.Module,
    loader: Iterable[tuple[Tensor, Tensor]],
    where: Accelerator | torch.device | str | None = None,
) -> dict[str, float | int]:
    """Top-1 and top-5 accuracy and mean cross-entropy.

    Each process runs over its own share of the samples and only counts are added up, so shares may
    differ in length, and one may be empty. The model is left in the mode it was in.

    Args:
        model: the network itself, not a DDP wrapper (whose forward waits for the other processes);
            moved to the device.
        loader: batches of images (N, C, H, W) and labels (N,), int64; this process's share.
        where: an accelerator (its device, precision and processes), or a device; None is the model's own.

    Returns:
        ``top1`` and ``top5`` in percent, ``loss`` in nats, ``count``.

    Raises:
        DataError: there are no samples, or a label is not a class of the model.
        ModelError: the model does not return logits.
    """
    found = evaluate_unless(lambda: False, model, loader, where)
    assert found is not None
    return found


def evaluate_unless(
    stop: Callable[[], bool],
    model: nn.Module,
    loader: Iterable[tuple[Tensor, Tensor]],
    where: Accelerator | torch.device | str | None = None,
) -> dict[str, float | int] | None:
    """:func:`evaluate`, or None as soon as ``stop`` says so in any process; it is asked after each batch.

    Args:
        stop: whether this process was told to stop.
        model: as there.
        loader: as there.
        where: as there.

    Returns:
        As there, or None; the same in all processes.

    Raises:
        DataError: as there.
        ModelError: as there.
    """
    own = next(model.parameters(), torch.zeros(()))
    if isinstance(where, Accelerator):
        accelerator, device = where, where.device
    else:
        accelerator, device = None, torch.device(where) if where is not None else own.device
    if any(tensor.device != device for tensor in (*model.parameters(), *model.buffers())):
        model.to(device)  # which would shard a sharded one again that is whole for now
    totals, stopped = torch.zeros(4, dtype=torch.float64), False
    with evaluating(model), accelerator.autocast() if accelerator else nullcontext():
        for images, labels in loader:
            logits = as_logits(model(images.to(device, own.dtype, non_blocking=True)))
            totals += _count(logits.float() if logits.dtype != torch.float64 else logits, labels.to(device))
            stopped = stop()
            if stopped:
                break
    totals = torch.cat([totals, torch.tensor([float(stopped)], dtype=totals.dtype)])
    if accelerator:
        totals = reduced(accelerator, totals.to(device), "sum").cpu()
    top1, top5, loss, count, stopping = totals.tolist()
    if stopping:
        return None
    if not count:
        raise DataError(
            "the evaluation data is empty", expected="at least one sample", mend="check data.eval_split"
        )
    share = 100.0 / count
    return {"top1": top1 * share, "top5": top5 * share, "loss": loss / count, "count": int(count)}


def reduced(accelerator: Accelerator, numbers: Tensor, how: str) -> Tensor:
    """``accelerator.reduce`` of one tensor, over all processes: ``how`` is ``sum`` or ``mean``."""
    total = accelerator.reduce(numbers, reduction=how)
    assert isinstance(total, Tensor)  # its annotation also knows mappings, which come out of mappings alone
    return total


def _count(logits: Tensor, labels: Tensor) -> Tensor:
    """Correct within 1, correct within 5, summed loss, samples."""
    if int(labels.max()) >= logits.shape[1] or int(labels.min()) < 0:
        raise DataError(
            f"the data has a label {int(labels.max())} and the model {logits.shape[1]} classes",
            expected=f"labels from 0 to {logits.shape[1] - 1}",
            mend="set model.kwargs.num_classes to the data's number of classes",
        )
    samples = len(labels)
    # timm gives percentages; whole numbers of samples add up exactly over batches and processes.
    top1, top5 = (round(float(share) * samples / 100) for share in accuracy(logits, labels, topk=(1, 5)))
    loss = float(F.cross_entropy(logits, labels, reduction="sum"))
    return torch.tensor([top1, top5, loss, samples], dtype=torch.float64)


def check_classifier(
    model: nn.Module,
    input_size: tuple[int, ...],
    num_classes: int,
    role: str,
    labels: tuple[str, ...] | None = None,
) -> None:
    """Run a network once in eval mode, so that what cannot be trained is refused before anything starts.

    Args:
        model: a network on the CPU in float32.
        input_size: (C, H, W).
        num_classes: of the data's labels.
        role: what to call the model in an error, ``student`` or ``teacher``.
        labels: what the classes are called, for the error.

    Raises:
        ModelError: it does not run on this input, or does not return logits of ``num_classes`` classes.
    """
    try:
        with evaluating(model):
            output = model(torch.zeros(2, *input_size))
    except RuntimeError as error:
        raise ModelError(
            f"the {role} does not run on images of {input_size}: {str(error).splitlines()[0]}",
            expected="a network for the size that transforms.input_size says",
            mend="correct transforms.input_size, or the model's kwargs",
        ) from error
    classes = as_logits(output).shape[1]
    if classes != num_classes:
        named = "" if labels is None else f": {', '.join(labels[:20])}{', ...' if len(labels) > 20 else ''}"
        block = "teacher" if role == "teacher" else "model"
        raise ModelError(
            f"the {role} has {classes} classes and the data {num_classes}{named}",
            expected="the same number",
            mend=f"set {block}.kwargs.num_classes={num_classes}, if these are the classes that are meant",
        )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; afterwards every module is in the mode it was in."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True
