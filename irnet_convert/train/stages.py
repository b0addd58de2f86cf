"""Where each stage of a run lies among its epochs and steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from irnet_convert.recipe import Recipe, StageSpec

if TYPE_CHECKING:
    from irnet_convert.train.snapshot import Position


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of a run.

    Attributes:
        number: of the stage, from 1.
        spec: what the recipe says of it.
        first_epoch: epochs of the run before it.
        steps_per_epoch: optimizer steps.
    """

    number: int
    spec: StageSpec
    first_epoch: int
    steps_per_epoch: int

    @property
    def end(self) -> int:
        """Epochs of the run when it is over."""
        return self.first_epoch + self.spec.epochs

    def epochs(self, position: Position) -> int:
        """Epochs of the stage that are over."""
        return position.epoch - self.first_epoch

    def steps(self, position: Position) -> int:
        """Optimizer steps of the stage that are taken."""
        return position.total - self.first_epoch * self.steps_per_epoch

    def progress(self, position: Position) -> float:
        """i/N of the surrogate gradient's schedule: steps, or epochs where the recipe says so."""
        if self.spec.ede.per == "epoch":
            return self.epochs(position) / self.spec.epochs
        return self.steps(position) / (self.spec.epochs * self.steps_per_epoch)


def stages_of(recipe: Recipe, steps_per_epoch: int) -> tuple[Stage, ...]:
    """The stages of a recipe's run, in order; one at least."""
    stages: list[Stage] = []
    for number, spec in enumerate(recipe.whole_stages(), start=1):
        first = stages[-1].end if stages else 0
        stages.append(Stage(number=number, spec=spec, first_epoch=first, steps_per_epoch=steps_per_epoch))
    return tuple(stages)


def stage_at(stages: tuple[Stage, ...], epoch: int) -> Stage:
    """The stage of the epoch that follows ``epoch`` finished ones; after the end, the last."""
    return next((stage for stage in stages if epoch < stage.end), stages[-1])
