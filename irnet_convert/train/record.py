"""What the log says of an epoch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from irnet_convert.train.dynamics import describe_epoch
from irnet_convert.train.sharding import whole

if TYPE_CHECKING:
    from irnet_convert.train.loop import Trainer


def epoch_record(trainer: Trainer) -> dict[str, Any]:
    """The record of the epoch that has ended and been judged, as docs/recipes.md describes it.

    Args:
        trainer: the run; its stage is still that of the epoch.
    """
    steps, totals = trainer.loaders.steps_per_epoch, dict(trainer.totals)
    seconds = totals.pop("seconds", 0.0)
    record: dict[str, Any] = {"epoch": trainer.position.epoch}
    if len(trainer.stages) > 1:
        record["stage"] = trainer.stage.number
    record |= {key if key == "loss" else f"{key}_loss": value / steps for key, value in totals.items()}
    record["lr"] = trainer.rates
    record |= {f"eval_{key}": value for key, value in trainer.metrics["after"].items()}
    if trainer.is_binary:
        ede = trainer.stage.spec.ede
        with whole(trainer.student):
            record |= describe_epoch(trainer.student, trainer.signs, trainer.progress(), ede)
        record["saturated_inputs"] = trainer.saturated
    record["seconds"] = round(seconds, 3)
    record["samples_per_second"] = round(steps * trainer.recipe.batch_size / max(seconds, 1e-9), 1)
    return record
