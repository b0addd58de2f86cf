"""Blocks for how a run trains: optimizer, schedules, losses, checkpoints, what it should reach."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, JsonValue, field_validator, model_validator

from irnet_convert.errors import nearest
from irnet_convert.recipe.block import Above0, Block, Count, NotNegative, refuse


class LatentSpec(Block):
    """What happens to the latents before the training.

    Attributes:
        std: the latents of each output channel are multiplied to have this standard deviation.
    """

    std: Above0


class EmaSpec(Block):
    """Exponential moving average of the weights, by ``timm.utils.ModelEmaV3``."""

    decay: float = Field(default=0.999, gt=0, lt=1)
    warmup: bool = False


class BatchNormSpec(Block):
    """BatchNorm's statistics computed anew before the network is judged.

    Attributes:
        batches: of training images for each process, of the epoch's at most.
        when: before the judgement of every ``epoch``, or at the ``end`` of the run alone.
    """

    batches: Count = 50
    when: Literal["epoch", "end"] = "end"


class OptimizerSpec(Block):
    """An optimizer of ``timm.optim`` over the groups of ``param_groups``.

    Attributes:
        name: timm's name. ``momentum`` is plain SGD with momentum; ``sgd`` is timm's Nesterov variant.
        lr: learning rate, for the global batch.
        weight_decay: of real weights.
        latent_lr: learning rate of latent weights; null is ``lr``.
        latent_weight_decay: weight decay of latent weights; null is ``weight_decay``.
        scale_lr: learning rate of the per-channel scales; null is ``lr``.
        scale_weight_decay: weight decay of the per-channel scales.
        kwargs: further plain data for the optimizer (``momentum``, ``betas``, ``eps``, ...).
    """

    name: str = "adam"
    lr: Above0 = 1e-3
    weight_decay: NotNegative = 0.0
    latent_lr: Above0 | None = None
    latent_weight_decay: NotNegative | None = None
    scale_lr: Above0 | None = None
    scale_weight_decay: NotNegative = 0.0
    kwargs: dict[str, JsonValue] = Field(default_factory=dict)

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        from timm import optim  # heavy, and only needed here

        known = [str(each) for each in optim.list_optimizers()]  # pyright: ignore[reportPrivateImportUsage]
        if name not in known:
            raise refuse("", f"is {name!r}", f"an optimizer of timm; {nearest(name, known)}")
        return name


class ScheduleSpec(Block):
    """A learning-rate schedule of ``timm.scheduler``; all its lengths are in epochs.

    Attributes:
        name: ``poly`` with ``decay_rate: 1.0`` is the linear schedule.
        warmup_epochs: epochs of linear warm-up, counted inside ``epochs``.
        warmup_lr: learning rate at the start of the warm-up.
        min_lr: learning rate at the end.
        milestones: for ``multistep``, the epochs at which the rate is multiplied by ``decay_rate``; those
            past the end are never reached.
        decay_rate: that factor, or for ``poly`` the power.
        per: update the rate at every step or at every epoch.
    """

    name: Literal["cosine", "multistep", "poly", "constant"] = "cosine"
    warmup_epochs: int = Field(default=0, ge=0)
    warmup_lr: NotNegative = 0.0
    min_lr: NotNegative = 0.0
    milestones: tuple[Count, ...] = ()
    decay_rate: Above0 = 0.1
    per: Literal["step", "epoch"] = "step"

    @model_validator(mode="after")
    def _milestones(self) -> Self:
        if (self.name == "multistep") != bool(self.milestones):
            raise refuse(
                "milestones", f"is {list(self.milestones)}", "epochs for multistep, nothing for the others"
            )
        if list(self.milestones) != sorted(set(self.milestones)):
            raise refuse("milestones", f"is {list(self.milestones)}", "epochs that increase")
        return self


class EdeSpec(Block):
    """Error Decay Estimator: the sharpness t goes from ``t_min`` to ``t_max`` geometrically."""

    t_min: Above0 = 0.1
    t_max: Above0 = 10.0
    per: Literal["step", "epoch"] = "step"

    @model_validator(mode="after")
    def _order(self) -> Self:
        if self.t_min >= self.t_max:
            raise refuse("t_min", f"is {self.t_min} and t_max is {self.t_max}", "t_min below t_max")
        return self


class FeatureSpec(Block):
    """One pair of layers whose outputs are matched; names are module paths."""

    student: str = Field(min_length=1)
    teacher: str = Field(min_length=1)
    weight: Above0 = 1.0
    kind: Literal["mse", "attention"] = "mse"


class DistillSpec(Block):
    """The loss: ``weight`` · T² · KL(teacher ‖ student) + ``task_weight`` · cross-entropy + features."""

    temperature: Above0 = 1.0
    weight: NotNegative = 1.0
    task_weight: NotNegative = 0.0
    features: tuple[FeatureSpec, ...] = ()

    @model_validator(mode="after")
    def _some_loss(self) -> Self:
        if not (self.weight or self.task_weight or self.features):
            raise refuse(
                "weight", "is 0, and so is every other loss", "a loss: weight, task_weight or features"
            )
        return self


class StageSpec(Block):
    """One stage of a training. A block that it leaves out, or a block's key, is the recipe's own.

    Attributes:
        epochs: of this stage.
        binarize: what the layers that the policy binarizes take the sign of: ``both`` weights and
            activations, one of them, or ``none``. What is not binarized is used as it is.
        optimizer: begins anew with the stage.
        schedule: of the stage's own epochs.
        distill: null trains without the teacher.
        ede: its whole schedule runs within the stage.
    """

    epochs: Count
    binarize: Literal["both", "activations", "weights", "none"] = "both"
    optimizer: OptimizerSpec = OptimizerSpec()
    schedule: ScheduleSpec = ScheduleSpec()
    distill: DistillSpec | None = None
    ede: EdeSpec = EdeSpec()


class CheckpointSpec(Block):
    """How often a run saves itself and how many checkpoints it keeps: two at least.

    Should the newest turn out to be damaged, the one before it is used.
    """

    every_epochs: Count = 1
    keep: int = Field(default=2, ge=2)


class ExpectSpec(Block):
    """What the recipe has been measured to reach, in %; ``note`` says on what machine, with which seeds."""

    metric: Literal["top1", "top5"] = "top1"
    value: float = Field(ge=0, le=100)
    tolerance: NotNegative
    note: str
