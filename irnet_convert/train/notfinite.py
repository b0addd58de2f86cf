"""Where numbers stopped being finite: in the images, a layer, the teacher, the loss, or a gradient."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from irnet_convert.errors import CheckpointError, TrainingError
from irnet_convert.train.checkpoint import list_checkpoints, load_checkpoint
from irnet_convert.train.rundir import CHECKPOINTS
from irnet_convert.train.sharding import whole

if TYPE_CHECKING:
    from irnet_convert.train.loop import Trainer


def first_not_finite(model: nn.Module, images: Tensor) -> str | None:
    """Run a network once more, as it stands, and find the first place where numbers are not finite.

    Args:
        model: in the mode in which it met them.
        images: (N, C, H, W), what it was fed.

    Returns:
        ``"the images"``, or the path and class of the first module, in the order of execution, whose output
        holds a number that is not finite, with its first weight that does; None where all is finite. A
        module whose parts are all finite, and not its output, is named itself.
    """
    if not bool(images.isfinite().all()):
        return "the images"
    found: list[str] = []

    def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def look(module: nn.Module, args: Any, output: Any) -> None:
            if not found and not _finite(output):
                found.append(_described(name, module))

        return look

    handles = [module.register_forward_hook(watch(name)) for name, module in model.named_modules()]
    try:
        with torch.no_grad():
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None


def _described(name: str, module: nn.Module) -> str:
    where = f"the layer {name!r}" if name else "the network's own forward"
    broken = [own for own, p in module.named_parameters(recurse=False) if not bool(p.isfinite().all())]
    weights = f", whose {broken[0]} is not finite" if broken else ""
    return f"{where} ({type(module).__name__}{weights})"


def _finite(output: Any) -> bool:
    if isinstance(output, Tensor):
        return not output.is_floating_point() or bool(output.isfinite().all())
    if isinstance(output, Mapping):
        output = output.values()
    return all(map(_finite, output)) if isinstance(output, Iterable) and not isinstance(output, str) else True


def locate(
    models: Mapping[str, nn.Module | None],
    batches: Iterable[Tensor],
    losses: Mapping[str, float],
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> str:
    """The first place over all processes, for an error's text; to be called by all of them.

    Args:
        models: by role (``"student"``, ``"teacher"``), in the order in which they are asked.
        batches: images (N, C, H, W) that this process has fed them.
        losses: parts of the loss by name.
        autocast: the context in which the networks run.
    """
    mine = None
    with whole(*models.values()):
        for images in batches:
            for role, model in models.items():
                with autocast():
                    place = first_not_finite(model, images) if model is not None and mine is None else None
                if place is not None:
                    mine = place if place == "the images" else f"{place} of the {role}"
            if mine is not None:
                break
    found = [place for place in gather_object([mine]) if place is not None]
    if found:
        return found[0]
    parts = [name for name, value in losses.items() if not math.isfinite(value)]
    if parts:
        names = [name for name in parts if name != "loss"] or parts
        return f"no layer, but the loss itself ({', '.join(names)})"
    broken = [
        name
        for model in models.values()
        for name, p in (model.named_parameters() if model is not None else ())
        if p.grad is not None and not bool(_local(p.grad).isfinite().all())
    ]
    if any(
        isinstance(p, DTensor) for model in models.values() if model is not None for p in model.parameters()
    ):
        broken = [name for each in gather_object([broken]) for name in each]
    # Backward the last layers come first.
    return f"no layer's output, but the gradient of {broken[-1]!r}" if broken else "the gradients' norm"


def gradient_norm(model: nn.Module, *, scaled: bool) -> Tensor:
    """Not finite where a gradient is not: signs hide a NaN from the loss, and not from the gradients.

    Args:
        model: after a backward pass.
        scaled: the loss is scaled, and steps whose gradient overflows are skipped by design: 0.
    """
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    if scaled or not grads:
        return torch.zeros(())
    norm = torch.nn.utils.get_total_norm(grads)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def _local(tensor: Tensor) -> Tensor:
    """Of a sharded tensor, this process's part."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def last_good(folder: Path) -> Path | None:
    """The newest checkpoint that is whole and whose weights are finite."""
    for path in reversed(list_checkpoints(folder)):
        try:
            weights = load_checkpoint(path).tensors["model"]
        except (CheckpointError, KeyError):
            continue
        if all(bool(each.isfinite().all()) for each in weights.values() if each.is_floating_point()):
            return path
    return None


def not_finite(
    trainer: Trainer,
    losses: Mapping[str, float],
    models: Mapping[str, nn.Module | None],
    fed: Iterable[Tensor],
) -> TrainingError:
    """The error of a step or an evaluation whose loss or gradient is not finite; all processes make it.

    Args:
        trainer: the run.
        losses: parts of the loss by name.
        models: by role, as :func:`locate` takes them.
        fed: images (N, C, H, W) that this process has fed them.
    """
    place = locate(models, fed, losses, lambda: trainer.accelerator.autocast())
    good = last_good(trainer.run_dir / CHECKPOINTS)
    what = "loss" if not all(map(math.isfinite, losses.values())) else "gradient"
    # A batch is met in the step that was not finished, an evaluation after the last one.
    position = trainer.position
    step = position.total + ("evaluation loss" not in losses)
    return TrainingError(
        f"the {what} is not finite in step {step} of {trainer.total_steps} (epoch {position.epoch + 1}, "
        f"{losses}); what is not finite first: {place}",
        expected="a finite loss",
        mend="lower optimizer.lr, set clip_grad, or use precision=fp32; "
        + (
            f"the last good checkpoint is {good}, and init={good} starts another run from it"
            if good
            else "there is no good checkpoint before it"
        ),
    )
