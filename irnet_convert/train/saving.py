"""A running training's checkpoint, written by one process for all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from accelerate.utils import gather_object

from irnet_convert.errors import CheckpointError
from irnet_convert.train.checkpoint import save_checkpoint
from irnet_convert.train.rng import rng_state
from irnet_convert.train.rundir import CHECKPOINTS, MetricsLog
from irnet_convert.train.snapshot import snapshot

if TYPE_CHECKING:
    from irnet_convert.train.loop import Trainer


def save(trainer: Trainer, log: MetricsLog) -> Path:
    """Write a checkpoint by the main process; all processes wait for it, and fail with it.

    Args:
        trainer: the run, as it is to go on.
        log: so many of its lines belong to what is saved.

    Raises:
        CheckpointError: the disk refused it.
    """
    folder, total = trainer.run_dir / CHECKPOINTS, trainer.position.total
    everyones = gather_object([rng_state(trainer.accelerator.device)])
    failed: CheckpointError | None = None
    is_main = trainer.accelerator.is_main_process
    if is_main or trainer.recipe.shard:  # what is sharded is gathered by all
        try:
            state = snapshot(trainer, log.lines, everyones)
            if is_main:
                save_checkpoint(folder, total, state, keep=trainer.recipe.checkpoint.keep)
        except CheckpointError as error:
            failed = error
    # Left alone in a collective, the others would end with the backend's words, not with these.
    for error in gather_object([failed]):
        if error is not None:
            raise error
    return folder / f"step-{total:09d}"
