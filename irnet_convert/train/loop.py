"""The training loop: steps, evaluation and checkpoints of one run, on Accelerate."""

from __future__ import annotations

import math
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import torch
from accelerate import Accelerator
from accelerate.utils import tqdm
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn

from irnet_convert.data import Loaders
from irnet_convert.errors import DataError
from irnet_convert.layers import binary_layers, set_binarized, set_compact, set_progress
from irnet_convert.recipe import Recipe
from irnet_convert.train.dynamics import packed_signs, saturated_inputs, watched_inputs
from irnet_convert.train.evaluate import evaluate_unless, reduced
from irnet_convert.train.judge import judge
from irnet_convert.train.notfinite import gradient_norm, not_finite
from irnet_convert.train.objective import Objective
from irnet_convert.train.optim import make_mixup, make_optimizer, make_schedule
from irnet_convert.train.record import epoch_record
from irnet_convert.train.rundir import MetricsLog
from irnet_convert.train.saving import save
from irnet_convert.train.sharding import prepared, sync_gradients, whole
from irnet_convert.train.signals import StopSignal, leave, shield_workers
from irnet_convert.train.snapshot import Position
from irnet_convert.train.stages import Stage, stage_at, stages_of


class Trainer:
    """One run: owns the prepared student, its average, what the present stage has, and where they are.

    Args:
        recipe: resolved.
        accelerator: made for the recipe.
        student: the network to train; moved to the device.
        teacher: its teacher, or None; moved to the device, frozen, in eval mode, never wrapped.
        loaders: this process's share of the data, for this process count.
        run_dir: where checkpoints go.

    Raises:
        UnknownNameError: a distillation layer that student or teacher does not have.
        RecipeError: optimizer arguments that do not fit, or micro-batches that mixup cannot mix.
    """

    def __init__(
        self,
        *,
        recipe: Recipe,
        accelerator: Accelerator,
        student: nn.Module,
        teacher: nn.Module | None,
        loaders: Loaders,
        run_dir: Path,
    ) -> None:
        self.recipe, self.accelerator, self.loaders, self.run_dir = recipe, accelerator, loaders, run_dir
        self.dtype = torch.float64 if recipe.precision == "fp64" else torch.float32
        self.student = self._placed(student)
        self.teacher = None
        if teacher is not None:
            self.teacher = self._placed(teacher).eval().requires_grad_(False)
        # The average is a copy of the student: made before hooks and wrappers are put on it.
        self.ema = None
        if recipe.ema is not None:
            self.ema = ModelEmaV3(student, decay=recipe.ema.decay, use_warmup=recipe.ema.warmup)
        self.is_binary = any(True for _ in binary_layers(student))
        if recipe.compact:
            set_compact(self.student)
        self.wrapped = prepared(accelerator, self.student, self.ema, sharded=recipe.shard)
        share = recipe.batch_size // recipe.grad_accumulation // accelerator.num_processes
        self.mixup = make_mixup(recipe.mixup, loaders.num_classes, share)
        self.objective: Objective | None = None
        self.stages = stages_of(recipe, loaders.steps_per_epoch)
        for stage in reversed(self.stages):  # all are tried before the first is trained
            self.begin(stage)
        for loader in (loaders.train, loaders.eval):
            shield_workers(loader)
        self.position = Position()
        self.totals: dict[str, float] = {}  # of the epoch that runs
        self.rates: dict[str, float] = {}  # of the last step
        self.saturated: dict[str, float] = {}  # shares of layers' inputs, in the epoch's last batch
        self.signs: dict[str, Tensor] = {}  # of the binary weights at the epoch's beginning
        self.metrics: dict[str, dict[str, float | int]] = {}

    def _placed(self, model: nn.Module) -> nn.Module:
        """``model`` on the device, its images' weights (4 dimensions) with their channels last.

        A convolution with such weights makes a batch with its channels last of any other, so the images need
        not be. A step of cifar_resnet20 is a sixth shorter on a CPU; a GPU's half types want it too.
        """
        return model.to(self.accelerator.device, self.dtype).to(memory_format=torch.channels_last)

    @property
    def judged(self) -> nn.Module:
        """The network that is evaluated and kept: the average where there is one, else the student."""
        return self.ema.module if self.ema is not None else self.student

    def begin(self, stage: Stage) -> None:
        """Make ``stage`` the one that trains: optimizer, schedule, losses and surrogate begin anew.

        The network goes on as it is; what its layers binarize is the stage's choice.

        Raises:
            RecipeError: optimizer arguments that do not fit.
            UnknownNameError: a distillation layer that student or teacher does not have.
        """
        self.stage, spec = stage, stage.spec
        if self.objective is not None:
            self.objective.close()
        self.objective = Objective(
            distill=spec.distill,
            mixup=self.recipe.mixup,
            student=self.student,
            teacher=self.teacher,
            accelerator=self.accelerator,
        )
        self.raw_optimizer = make_optimizer(self.student, spec.optimizer)
        self.accelerator._optimizers.clear()  # it would unscale the gradients once for each that it knows
        self.optimizer = self.accelerator.prepare(self.raw_optimizer)
        steps = self.loaders.steps_per_epoch
        self.schedule = make_schedule(
            self.raw_optimizer, spec.schedule, epochs=spec.epochs, steps_per_epoch=steps
        )
        if self.is_binary:
            for model in dict.fromkeys((self.student, self.judged)):
                set_binarized(model, spec.binarize)

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.recipe.epochs * self.loaders.steps_per_epoch

    def evaluate(self, model: nn.Module, stop: StopSignal) -> dict[str, float | int] | None:
        """Top-1, top-5, loss and count over the evaluation data of all processes; None if told to stop."""
        return evaluate_unless(lambda: stop.received > 0, model, self.loaders.eval, self.accelerator)

    def fit(self, log: MetricsLog, stop: StopSignal) -> None:
        """Train from where the run is to its end; every epoch is evaluated, logged and saved.

        Args:
            log: gets a record each epoch.
            stop: looked at after each step, and after each batch of an evaluation.

        Raises:
            TrainingError: the loss is not finite.
            CheckpointError: a checkpoint cannot be written.
            KeyboardInterrupt: after SIGINT, SystemExit after SIGTERM: once everything is saved.
        """
        while self.position.epoch < self.recipe.epochs:
            self._train_epoch(log, stop)
            self._finish_epoch(log, stop)

    def _train_epoch(self, log: MetricsLog, stop: StopSignal) -> None:
        started, before = time.perf_counter(), self.totals.get("seconds", 0.0)
        self.wrapped.train()
        if self.position.step == 0:
            with whole(self.student):
                self.signs = packed_signs(self.student)
        self.loaders.set_epoch(self.position.epoch, self.position.step)
        micro_batches = iter(self.loaders.train)
        bar = tqdm(
            total=self.loaders.steps_per_epoch,
            initial=self.position.step,
            desc=f"epoch {self.position.epoch + 1}/{self.recipe.epochs}",
            unit="step",
            leave=False,
            # A log file keeps every refresh of the bar.
            mininterval=0.1 if sys.stderr.isatty() else 10,
        )
        with bar:
            while self.position.step < self.loaders.steps_per_epoch:
                parts = self._step(self._next(micro_batches), stop)
                stopping = parts.pop("stop") > 0
                for key, value in parts.items():
                    self.totals[key] = self.totals.get(key, 0.0) + value
                self.totals["seconds"] = before + time.perf_counter() - started
                bar.update()
                bar.set_postfix(loss=f"{parts['loss']:.4f}", refresh=False)
                if stopping:
                    self._save_and_leave(log, stop)

    def _step(self, batches: list[tuple[Tensor, Tensor]], stop: StopSignal) -> dict[str, float]:
        """One optimizer step; the loss parts, averaged over micro-batches and processes, and ``stop``."""
        if self.is_binary:
            ede = self.stage.spec.ede
            set_progress(self.student, self.progress(), t_min=ede.t_min, t_max=ede.t_max)
        sums: dict[str, Tensor] = {}
        means: dict[str, float] = {}
        noted: dict[str, list[Tensor]] = {}
        fed: list[Tensor] = []
        last = self.position.step + 1 == self.loaders.steps_per_epoch
        for images, labels in batches:
            with self.accelerator.accumulate(self.wrapped):
                sync_gradients(self.wrapped, self.accelerator.sync_gradients)
                images, labels = self._prepared(images, labels)
                fed.append(images)
                with watched_inputs(self.student, last and len(fed) == len(batches)) as noted:
                    parts = self._losses(images, labels)
                self.accelerator.backward(parts["loss"])
                for key, value in parts.items():
                    sums[key] = sums.get(key, torch.zeros_like(value)) + value.detach()
                if self.accelerator.sync_gradients:
                    means = self._agree(sums, stop, fed)
                    if self.recipe.clip_grad is not None:
                        self.accelerator.clip_grad_norm_(self.student.parameters(), self.recipe.clip_grad)
                self.optimizer.step()
                self.optimizer.zero_grad()
        if last:
            self.saturated = saturated_inputs(noted, self.accelerator)
        self.position.step += 1
        self.position.total += 1
        self.rates = {group["name"]: group["lr"] for group in self.raw_optimizer.param_groups}
        self.schedule.step_update(self.stage.steps(self.position))
        if self.ema is not None:  # in the first step of a stage it becomes the student
            self.ema.update(self.student, step=self.stage.steps(self.position))
        return means

    def progress(self) -> float:
        """i/N of the surrogate gradient's schedule, which is the stage's."""
        return self.stage.progress(self.position)

    def _next(self, micro_batches: Iterator[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
        """The micro-batches of one step."""
        try:
            return [next(micro_batches) for _ in range(self.recipe.grad_accumulation)]
        except StopIteration:
            raise DataError(
                f"the training data ended in step {self.position.step} of {self.loaders.steps_per_epoch}",
                expected="as many batches as the epoch has steps",
                mend="check that the data set did not change during the run",
            ) from None

    def _prepared(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        device = self.accelerator.device
        # Sharded weights are contiguous, so it is the images that ask for channels last.
        format = torch.channels_last if self.recipe.shard else torch.preserve_format
        images = images.to(device, self.dtype, non_blocking=True, memory_format=format)
        labels = labels.to(device, non_blocking=True)
        return self.mixup(images, labels) if self.mixup is not None else (images, labels)

    def _losses(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        assert self.objective is not None
        return self.objective(self.wrapped, images, labels)

    def _agree(self, sums: dict[str, Tensor], stop: StopSignal, fed: list[Tensor]) -> dict[str, float]:
        """Losses averaged over micro-batches and processes, and whether any process was told to stop.

        One small reduction a step: a process that stopped, or met a NaN, alone would leave the others
        waiting for it for ever. It comes before the step is taken, so no NaN reaches the weights.
        """
        flag = torch.tensor(float(stop.received > 0), device=self.accelerator.device)
        norm = gradient_norm(self.student, scaled=self.accelerator.scaler is not None)
        extra = torch.stack([norm.to(flag.device).double(), flag.double()])
        numbers = torch.cat([torch.stack([value.double() for value in sums.values()]), extra])
        *means, length, stopping = reduced(self.accelerator, numbers, "mean").tolist()
        parts = {key: mean / self.recipe.grad_accumulation for key, mean in zip(sums, means, strict=True)}
        if not math.isfinite(parts["loss"] + length):
            raise not_finite(self, parts, {"student": self.student, "teacher": self.teacher}, fed)
        return {**parts, "stop": stopping}

    def _finish_epoch(self, log: MetricsLog, stop: StopSignal) -> None:
        judgement = judge(self, stop)
        if judgement is None:
            self._save_and_leave(log, stop)  # the epoch's steps are done; what resumes evaluates first
        self.metrics["after"] = judgement
        if not math.isfinite(self.metrics["after"]["loss"]):
            raise not_finite(
                self,
                {"evaluation loss": float(self.metrics["after"]["loss"])},
                {"network": self.judged.eval()},
                (images.to(self.accelerator.device, self.dtype) for images, _ in self.loaders.eval),
            )
        self.position = Position(epoch=self.position.epoch + 1, total=self.position.total)
        self.schedule.step(self.stage.epochs(self.position))
        record = epoch_record(self)
        log.write("epoch", self.position.total, **record)
        self.accelerator.print(
            f"epoch {record['epoch']}/{self.recipe.epochs}: loss {record['loss']:.4f}, "
            f"top-1 {record['eval_top1']:.2f} %, {record['seconds']:.1f} s"
        )
        self.totals = {}
        stopping = self._anyone(stop)
        last = self.position.epoch == self.recipe.epochs
        if stage_at(self.stages, self.position.epoch) is not self.stage:  # what is saved is what goes on
            self.begin(stage_at(self.stages, self.position.epoch))
        if stopping and not last:
            self._save_and_leave(log, stop)
        if last or self.position.epoch % self.recipe.checkpoint.every_epochs == 0:
            save(self, log)

    def _anyone(self, stop: StopSignal) -> bool:
        flag = torch.tensor([float(stop.received > 0)], device=self.accelerator.device)
        return bool(reduced(self.accelerator, flag, "sum").item())

    def _save_and_leave(self, log: MetricsLog, stop: StopSignal) -> NoReturn:
        path = save(self, log)
        self.accelerator.print(f"Stopped in step {self.position.total}; saved {path}. Go on with --resume.")
        leave(stop.received or signal.SIGTERM)
