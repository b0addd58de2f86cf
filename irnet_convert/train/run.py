"""``finetune``: a recipe walked from its file to a run directory."""

from __future__ import annotations

import copy
import signal
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import set_seed
from torch import nn

from irnet_convert.convert import binarize, is_binarized, plan_of
from irnet_convert.data import make_loaders
from irnet_convert.data.revision import describe_data
from irnet_convert.errors import RecipeError
from irnet_convert.hub import go_offline
from irnet_convert.networks.origin import origin_of
from irnet_convert.pretrained.named import model_of
from irnet_convert.recipe import Recipe
from irnet_convert.train.checkpoint import encode_tensors, newest_whole, set_aside_after
from irnet_convert.train.evaluate import check_classifier
from irnet_convert.train.launch import in_main_process, make_accelerator
from irnet_convert.train.loop import Trainer
from irnet_convert.train.remarks import remarks
from irnet_convert.train.rundir import (
    CHECKPOINTS,
    LOG,
    MetricsLog,
    check_run_dir,
    write_architecture,
    write_description,
    write_weights,
)
from irnet_convert.train.sharding import gathered, whole
from irnet_convert.train.signals import StopSignal, leave
from irnet_convert.train.snapshot import restore
from irnet_convert.train.start import make_ready
from irnet_convert.train.taken import TakenRecipe, take


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a run came to.

    Attributes:
        run_dir: holds ``recipe.yaml`` (and ``recipe.given.yaml``, the file as it was), ``plan.json``,
            ``environment.json``, ``metrics.jsonl``, ``model.safetensors`` and ``checkpoints/``.
        metrics: ``after``, and where there was one ``teacher`` and ``before`` (the student as converted, if
            it had weights), each with ``top1`` and ``top5`` in percent, ``loss`` and ``count``.
        epochs: of the whole run.
        steps: optimizer steps of the whole run.
        processes: that trained.
        resumed_from: the checkpoint that this call went on from.
    """

    run_dir: Path
    metrics: dict[str, dict[str, float | int]] = field(default_factory=dict)
    epochs: int
    steps: int
    processes: int
    resumed_from: Path | None = None


def finetune(
    recipe: Recipe | str | Path,
    *,
    overrides: Iterable[str] = (),
    resume: bool = False,
    offline: bool | None = None,
) -> Result:
    """Train what a recipe says: teacher, conversion, data, steps, evaluation, checkpoints.

    Run it in one process, or in each of the processes that ``accelerate launch`` starts. A recipe with
    ``policy: null`` trains the full-precision network by the same loop. The random number generators of
    ``random``, NumPy and PyTorch are seeded from the recipe.

    Args:
        recipe: a recipe, the name of a bundled one, a path, or a name on the Hub (``org/name@v1``); which of
            them a name was taken for is printed on standard error.
        overrides: ``"key.sub=value"`` strings.
        resume: go on from the newest whole checkpoint in the recipe's run directory.
        offline: use huggingface_hub's cache alone, from here on in this process; None leaves that to
            ``HF_HUB_OFFLINE``.

    Returns:
        Where everything lies and what was reached.

    Raises:
        IrnetError: something is wrong with the recipe, model, data, launch or directory; found before the
            first step, and before anything is written.
        TrainingError: the loss is not finite.
        KeyboardInterrupt: after SIGINT, SystemExit after SIGTERM: a checkpoint has been saved.
    """
    if offline:
        go_offline()
    taken = take(recipe, overrides)
    if isinstance(recipe, str):
        in_main_process(lambda: print(f"Recipe: {taken}", file=sys.stderr))
    return train_taken(taken, resume=resume)


def train_taken(taken: TakenRecipe, *, resume: bool = False) -> Result:
    """``finetune``, for a recipe that has been taken already."""
    recipe = taken.recipe
    run_dir = recipe.run_dir
    check_run_dir(run_dir, recipe, resume=resume)
    trackers = [name for name in recipe.tracking if name != "jsonl"]
    _check_trackers(trackers)
    accelerator = make_accelerator(
        precision=recipe.precision,
        accumulation=recipe.grad_accumulation,
        processes=recipe.processes,
        sharded=recipe.shard,
        trackers=trackers,
        run_dir=run_dir,
    )
    set_seed(recipe.seed)
    loaders = make_loaders(
        recipe, processes=accelerator.num_processes, process_index=accelerator.process_index
    )
    student, teacher = build_networks(recipe)
    for role, model in (("student", student), ("teacher", teacher)):
        if model is not None:
            check_classifier(model, recipe.transforms.input_size, loaders.num_classes, role, loaders.labels)
    if accelerator.is_main_process:
        for line in remarks(recipe, student, accelerator.device):
            print(line, file=sys.stderr)
    plan = plan_of(student) if is_binarized(student) else None
    trainer = Trainer(
        recipe=recipe,
        accelerator=accelerator,
        student=student,
        teacher=teacher,
        loaders=loaders,
        run_dir=run_dir,
    )
    set_seed(recipe.seed, device_specific=True)  # from here on processes draw different numbers
    resumed_from, lines = _resume(trainer) if resume else (None, 0)
    accelerator.wait_for_everyone()  # all have looked at the directory before one writes into it
    write_description(
        run_dir,
        recipe,
        plan,
        accelerator,
        given=taken.given,
        data=describe_data(recipe.data, loaders) if accelerator.is_main_process else None,
        resume=resume,
    )
    if accelerator.is_main_process:
        write_architecture(run_dir, origin_of(student), recipe.model)
    if trackers:
        accelerator.init_trackers("tracking")
    log = MetricsLog(run_dir / LOG, accelerator, lines)
    with StopSignal() as stop:
        if not lines:
            _evaluate_start(trainer, log, stop)
        trainer.fit(log, stop)
    return _finish(trainer, log, resumed_from)


def build_networks(recipe: Recipe) -> tuple[nn.Module, nn.Module | None]:
    """The student, converted if the recipe has a policy, and the teacher if it has one.

    Raises:
        IrnetError: a network cannot be built or converted.
    """
    original = model_of(recipe.model)
    if recipe.teacher == "same":
        teacher = original
    else:
        teacher = model_of(recipe.teacher) if recipe.teacher is not None else None
    if recipe.policy is None:
        student = copy.deepcopy(original) if teacher is original else original
    else:
        student = binarize(
            original,
            recipe.build_policy(),
            example_input=torch.zeros(2, *recipe.transforms.input_size),
            rewrites=recipe.rewrites,
            inplace=teacher is not original,
        )
    make_ready(student, recipe)
    return student, teacher


def _check_trackers(trackers: list[str]) -> None:
    if "tensorboard" in trackers:
        try:
            import tensorboard  # noqa: F401
        except ImportError as error:
            raise RecipeError(
                "tracking: tensorboard, which is not installed",
                expected="the package tensorboard",
                mend="pip install 'irnet-convert[tensorboard]', or tracking=[jsonl]",
            ) from error


def _resume(trainer: Trainer) -> tuple[Path | None, int]:
    say = trainer.accelerator.print
    checkpoint = newest_whole(trainer.run_dir / CHECKPOINTS, say)
    if checkpoint is None:
        say(f"No checkpoint in {trainer.run_dir} yet: starting from the beginning.")
        return None, 0
    lines = restore(trainer, checkpoint)
    trainer.accelerator.wait_for_everyone()  # all have read before damaged ones are renamed
    if trainer.accelerator.is_main_process:
        set_aside_after(trainer.run_dir / CHECKPOINTS, trainer.position.total)
    say(f"Going on from {checkpoint.path} (epoch {trainer.position.epoch}, step {trainer.position.total}).")
    return checkpoint.path, lines


def _evaluate_start(trainer: Trainer, log: MetricsLog, stop: StopSignal) -> None:
    """Judge the teacher, and the student as converted where it starts from trained weights."""
    networks = {"teacher": trainer.teacher}
    model, init = trainer.recipe.model, trainer.recipe.init
    if trainer.is_binary and (
        model.pretrained or model.checkpoint is not None or model.is_saved or init is not None
    ):
        networks["before"] = trainer.student
    for name, network in networks.items():
        with whole(network):
            found = trainer.evaluate(network, stop) if network is not None else {}
        if found is None:
            trainer.accelerator.print("Stopped before the first step; there is nothing to save yet.")
            leave(stop.received or signal.SIGTERM)
        if found:
            trainer.metrics[name] = found
    log.write("start", 0, total_steps=trainer.total_steps, **trainer.metrics)


def _finish(trainer: Trainer, log: MetricsLog, resumed_from: Path | None) -> Result:
    recipe, accelerator, metrics = trainer.recipe, trainer.accelerator, trainer.metrics
    weights = gathered(trainer.judged.state_dict())
    if accelerator.is_main_process:
        write_weights(trainer.run_dir, encode_tensors(weights))
    log.write("final", trainer.position.total, **metrics, **_expectation(recipe, metrics))
    for tracker in accelerator.trackers:
        tracker.finish()
    accelerator.wait_for_everyone()
    return Result(
        run_dir=trainer.run_dir,
        metrics=metrics,
        epochs=trainer.position.epoch,
        steps=trainer.position.total,
        processes=accelerator.num_processes,
        resumed_from=resumed_from,
    )


def _expectation(recipe: Recipe, metrics: dict[str, dict[str, float | int]]) -> dict[str, Any]:
    expect = recipe.expect
    if expect is None:
        return {}
    reached = metrics["after"][expect.metric]
    return {"expected": {"value": expect.value, "reached": abs(reached - expect.value) <= expect.tolerance}}
