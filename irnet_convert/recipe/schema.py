"""A recipe: one YAML file that holds everything a run depends on, under a strict schema."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, JsonValue, Tag, ValidationError, field_validator, model_validator

from irnet_convert.errors import IrnetError, RecipeError
from irnet_convert.plain_yaml import check_plain, dump_yaml
from irnet_convert.recipe.block import Above0, Block, Count, PathText, refuse
from irnet_convert.recipe.find import FoundRecipe
from irnet_convert.recipe.inputs import DataSpec, MixupSpec, ModelSpec, TransformSpec
from irnet_convert.recipe.overrides import apply_overrides
from irnet_convert.recipe.problems import recipe_error
from irnet_convert.recipe.read import not_a_mapping, read_recipe
from irnet_convert.recipe.stages import with_stages_filled
from irnet_convert.recipe.training import (
    BatchNormSpec,
    CheckpointSpec,
    DistillSpec,
    EdeSpec,
    EmaSpec,
    ExpectSpec,
    LatentSpec,
    OptimizerSpec,
    ScheduleSpec,
    StageSpec,
)

# Which member of a union a value is meant for, so that an error speaks of that one alone.
Teacher = Annotated[
    Annotated[ModelSpec, Tag("block")] | Annotated[Literal["same"], Tag("same")],
    Discriminator(lambda value: "block" if isinstance(value, dict | ModelSpec) else "same"),
]
Rules = Annotated[
    Annotated[tuple[dict[str, JsonValue], ...], Tag("rules")] | Annotated[str, Tag("preset")],
    Discriminator(lambda value: "rules" if isinstance(value, list | tuple) else "preset"),
]


class Recipe(Block):
    """One run, whole: model, teacher, conversion, data, optimization, outputs. Frozen.

    Attributes:
        name: what it is called; letters, digits, ``_``, ``-``, ``.``.
        description: one line, shown by listings.
        model: the student before conversion.
        teacher: null trains from scratch; ``"same"`` is a full-precision copy of the student before
            conversion; or a block like ``model``.
        policy: a preset's name or a list of rules; null keeps every layer in full precision.
        rewrites: names of graph rewrites; null is the converter's default, activation and shortcut.
        init: weights that the student starts from once it is converted: the directory of a finished run or
            of a checkpoint, or a ``.safetensors`` file, of a network that was converted alike.
        latents: what happens to the latents before the training, or null.
        data: what to train and evaluate on.
        transforms: images → tensors.
        mixup: mixup, cutmix and label smoothing, or null.
        ema: moving average of the weights, or null.
        reestimate_bn: BatchNorm's statistics computed anew before the network is judged, or null. With
            ``ema``, whose statistics are nobody's, it is done in every epoch unless null says not to.
        epochs: passes over the training data; with ``stages``, theirs together, and may be left out.
        stages: of the training, one after the other; none is one stage that the recipe's own blocks describe.
        batch_size: GLOBAL batch: all processes and accumulation steps together.
        eval_batch_size: likewise for evaluation.
        grad_accumulation: micro-batches that make one step.
        clip_grad: largest gradient norm, or null.
        optimizer: by timm.
        schedule: by timm.
        ede: the schedule of the surrogate gradient.
        distill: the losses with a teacher; null exactly where there is no teacher.
        precision: of the student's and the teacher's arithmetic.
        seed: of everything random.
        processes: if set, a world of another size is an error.
        shard: spread parameters, gradients and optimizer state over the processes (FSDP2), of which there
            must be several; every process holds the teacher, and while it evaluates the student, whole.
        compact: keep less for the backward passes (:func:`irnet_convert.layers.set_compact`); gradients that
            binary layers, GELU, SiLU and LayerNorm hand down are rounded, so it is a part of what the run
            computes.
        checkpoint: how often, how many.
        tracking: ``jsonl`` (always written) and optionally ``tensorboard``.
        output: run directory; null is ``runs/NAME``.
        expect: what it is known to reach.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100)
    description: str = ""
    model: ModelSpec
    teacher: Teacher | None = None
    policy: Rules | None = "irnet"
    rewrites: tuple[str, ...] | None = None
    init: PathText | None = None
    latents: LatentSpec | None = None
    data: DataSpec
    transforms: TransformSpec = TransformSpec()
    mixup: MixupSpec | None = None
    ema: EmaSpec | None = None
    reestimate_bn: BatchNormSpec | None = None
    epochs: Count
    stages: tuple[StageSpec, ...] = ()
    batch_size: Count = 128
    eval_batch_size: Count = 256
    grad_accumulation: Count = 1
    clip_grad: Above0 | None = None
    optimizer: OptimizerSpec = OptimizerSpec()
    schedule: ScheduleSpec = ScheduleSpec()
    ede: EdeSpec = EdeSpec()
    distill: DistillSpec | None = None
    precision: Literal["fp32", "bf16", "fp16", "fp64"] = "fp32"
    seed: int = Field(default=0, ge=0, lt=2**32)
    processes: Count | None = None
    shard: bool = False
    compact: bool = False
    checkpoint: CheckpointSpec = CheckpointSpec()
    tracking: tuple[Literal["jsonl", "tensorboard"], ...] = ("jsonl",)
    output: PathText | None = None
    expect: ExpectSpec | None = None

    @classmethod
    def load(
        cls,
        name_or_path: str | Path | FoundRecipe,
        overrides: Iterable[str] = (),
        *,
        offline: bool | None = None,
    ) -> Self:
        """Read a recipe by name or path, with what it extends, then apply overrides.

        What a name was taken for is printed on standard error; a ``Path`` leaves no choice.

        Args:
            name_or_path: ``digits``, ``recipes/digits.yaml``, ``org/name`` on the Hub, ...: see
                :func:`find_recipe`.
            overrides: ``"key.sub=value"`` strings, see :func:`apply_overrides`.
            offline: take what lies on the Hub from the cache; None does so where ``HF_HUB_OFFLINE`` is set.

        Raises:
            UnknownNameError: no such recipe.
            HubError: it cannot be had from the Hub.
            RecipeError: the file or an override is malformed.
        """
        read = read_recipe(name_or_path, offline=offline)
        if isinstance(name_or_path, str):
            print(f"Recipe: {read}", file=sys.stderr)
        return cls.from_dict(read.data, source=read.found.where, overrides=overrides)

    @classmethod
    def from_dict(
        cls, data: Mapping[str, Any], *, source: str = "the recipe", overrides: Iterable[str] = ()
    ) -> Self:
        """Validate plain data as a recipe.

        Args:
            data: the recipe.
            source: what errors call it.
            overrides: ``"key.sub=value"`` strings, see :func:`apply_overrides`.

        Raises:
            RecipeError: with every offending path, its value and what was expected.
        """
        if not isinstance(data, Mapping):
            raise not_a_mapping(source, data)
        raw, overrides = dict(data), tuple(overrides)
        check_plain(raw, source=source)
        raw = apply_overrides(raw, overrides)
        if "extends" in raw:
            raise RecipeError(
                f"{source} has the key extends",
                expected="a whole recipe: only a file that is loaded extends another",
                mend="write extends into the file, or merge the two yourself",
            )
        check_plain(raw, source=source)  # the parts of an override's key nest too
        try:
            recipe = cls.model_validate(raw)
        except ValidationError as error:
            raise recipe_error(error, raw, source, overrides) from error
        return recipe

    def to_dict(self) -> dict[str, Any]:
        """The fully resolved recipe as plain data, every default filled in."""
        return self.model_dump(mode="json")

    def to_yaml(self) -> str:
        """The fully resolved recipe; loading it gives an equal recipe."""
        return dump_yaml(self.to_dict())

    def build_policy(self) -> Any:
        """The ``Policy`` that ``policy`` means, or None for full precision."""
        if self.policy is None:
            return None
        from irnet_convert.policy import Policy

        return Policy.from_dict(self.policy)

    @property
    def run_dir(self) -> Path:
        """``output``, or ``runs/NAME`` where it is null."""
        return Path(self.output) if self.output is not None else Path("runs") / self.name

    def whole_stages(self) -> tuple[StageSpec, ...]:
        """The stages of the training: one at least, and each says everything."""
        whole = StageSpec(
            epochs=self.epochs,
            optimizer=self.optimizer,
            schedule=self.schedule,
            distill=self.distill,
            ede=self.ede,
        )
        return self.stages or (whole,)

    @field_validator("policy")
    @classmethod
    def _policy_is_one(cls, policy: Any) -> Any:
        from irnet_convert.policy import Policy

        try:
            if policy is not None:
                Policy.from_dict(policy)
        except IrnetError as error:
            raise refuse("", f"is malformed: {error.given}", error.expected) from None
        return policy

    @field_validator("rewrites")
    @classmethod
    def _rewrites_are_known(cls, rewrites: tuple[str, ...] | None) -> tuple[str, ...] | None:
        from irnet_convert.graph.rewrites import resolve_rewrites

        try:
            resolve_rewrites(rewrites)
        except IrnetError as error:
            raise refuse("", f"is malformed: {error.given}", error.expected) from None
        return rewrites

    @model_validator(mode="before")
    @classmethod
    def _inheritance(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        averaged = data.get("ema") is not None and "reestimate_bn" not in data
        return with_stages_filled({**data, "reestimate_bn": {"when": "epoch"}} if averaged else data)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        losses = {"distill": self.distill} | {
            f"stages.{i}.distill": stage.distill for i, stage in enumerate(self.stages)
        }
        for path, distill in losses.items():
            if self.teacher is None and distill is not None:
                raise refuse(path, "is set, but teacher is null", "a teacher, or distill: null")
        if self.teacher is not None and not any(losses.values()):
            raise refuse(
                "teacher", "is set, but no distill block uses it", "a distill block, or teacher: null"
            )
        if self.policy is None and self.rewrites:
            raise refuse("rewrites", "is set, but policy is null, so nothing is converted", "rewrites: null")
        if self.policy is None and self.latents is not None and not self.model.is_saved:
            raise refuse("latents", "is set, but policy is null, so there are none", "latents: null")
        if self.policy is None and self.compact and not self.model.is_saved:
            raise refuse("compact", "is true, but policy is null, so no layer is binary", "compact: false")
        self._stages_fit()
        if self.shard and self.precision == "fp16":
            raise refuse("precision", "is 'fp16' with shard: true", "bf16, fp32 or fp64")
        if self.mixup is not None and self.batch_size % 2:
            raise refuse("batch_size", f"is {self.batch_size}", "an even number, which mixup needs")
        return self

    def _stages_fit(self) -> None:
        if not self.stages:
            return
        total = sum(stage.epochs for stage in self.stages)
        if self.epochs != total:
            raise refuse("epochs", f"is {self.epochs}", f"{total}, that of all stages, or no such key")
        for number, stage in enumerate(self.stages):
            path, last = f"stages.{number}.binarize", number + 1 == len(self.stages)
            if self.policy is None and stage.binarize != "both" and not self.model.is_saved:
                raise refuse(path, "is set, but policy is null, so nothing is binarized", "no such key")
            if last and stage.binarize != "both":
                raise refuse(
                    path, f"is {stage.binarize!r} in the last stage", "both: what is trained is what is kept"
                )
