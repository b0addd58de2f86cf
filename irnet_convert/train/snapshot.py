"""What a run must remember to go on bit for bit, as a checkpoint and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from irnet_convert.errors import CheckpointError
from irnet_convert.train.checkpoint import Checkpoint
from irnet_convert.train.rng import restore_rng
from irnet_convert.train.sharding import gathered, spread, spread_state
from irnet_convert.train.stages import stage_at
from irnet_convert.train.trees import flatten, unflatten
from irnet_convert.weights import load_strictly

if TYPE_CHECKING:
    from irnet_convert.train.loop import Trainer


@dataclass(kw_only=True)
class Position:
    """How far a run is.

    Attributes:
        epoch: epochs finished.
        step: optimizer steps taken in the epoch that runs.
        total: optimizer steps taken since the beginning.
    """

    epoch: int = 0
    step: int = 0
    total: int = 0


def snapshot(trainer: Trainer, log_lines: int, everyones_rng: list[dict[str, Any]]) -> Checkpoint:
    """Model, average, optimizer, schedule, loss scaling, RNG, position, and what the epoch's log will need.

    Args:
        trainer: the run.
        log_lines: lines of the log that belong to what is saved.
        everyones_rng: ``rng_state`` of every process, in their order.
    """
    scaler = trainer.accelerator.scaler
    tree, tensors = flatten(
        {
            "optimizer": gathered(trainer.raw_optimizer.state_dict()),
            "schedule": trainer.schedule.state_dict(),
            "scaler": scaler.state_dict() if scaler is not None else None,
            "rng": everyones_rng,
        }
    )
    state = {
        "position": asdict(trainer.position),
        "progress": trainer.progress(),
        "totals": trainer.totals,
        "rates": trainer.rates,
        "saturated": trainer.saturated,
        "metrics": trainer.metrics,
        "log_lines": log_lines,
        "tree": tree,
    }
    model = gathered(dict(trainer.student.state_dict()))
    files = {"model": model, "state": tensors, "signs": trainer.signs}
    if trainer.ema is not None:
        files["ema"] = gathered(dict(trainer.ema.module.state_dict()))
    return Checkpoint(state=state, tensors=files)


def restore(trainer: Trainer, checkpoint: Checkpoint) -> int:
    """Put a run where it was when the checkpoint was saved.

    Returns:
        The number of lines that the log had then.

    Raises:
        CheckpointError: it is for another model or recipe.
    """
    source = f"the checkpoint {checkpoint.path}"
    try:
        state, tensors = checkpoint.state, checkpoint.tensors
        tree = unflatten(state["tree"], tensors["state"])
        trainer.position = Position(**state["position"])
        trainer.begin(stage_at(trainer.stages, trainer.position.epoch))
        _load(trainer.student, tensors["model"], source)
        if trainer.ema is not None:
            _load(trainer.ema.module, tensors["ema"], f"the average in {source}")
        trainer.raw_optimizer.load_state_dict(spread_state(tree["optimizer"], trainer.raw_optimizer))
        trainer.schedule.load_state_dict(tree["schedule"])
        if trainer.accelerator.scaler is not None:
            trainer.accelerator.scaler.load_state_dict(tree["scaler"])
        trainer.totals, trainer.rates = dict(state["totals"]), dict(state["rates"])
        trainer.metrics = dict(state["metrics"])
        trainer.saturated = dict(state.get("saturated", {}))  # earlier checkpoints have none
        trainer.signs = tensors["signs"]
        _restore_rng(trainer, tree["rng"])
        return int(state["log_lines"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{source} does not fit this run: {type(error).__name__}: {error}",
            expected="a checkpoint of the same recipe and version",
            mend="resume with the recipe and the version that it was saved with",
        ) from error


def _load(model: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    load_strictly(model, spread(tensors, model.state_dict()), source=source)


def _restore_rng(trainer: Trainer, everyones: list[dict[str, Any]]) -> None:
    accelerator = trainer.accelerator
    if len(everyones) != accelerator.num_processes:
        accelerator.print(
            f"WARNING: saved by {len(everyones)} processes and resumed by {accelerator.num_processes}: "
            "the samples are the same, the random numbers of drop-out and mixup are not"
        )
    if accelerator.process_index < len(everyones):
        restore_rng(everyones[accelerator.process_index], accelerator.device)
