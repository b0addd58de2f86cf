"""A loss that is not finite: the step, the first place that is not finite, and the last good checkpoint."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TEACHER
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from irnet_convert.errors import TrainingError
from irnet_convert.train import finetune
from irnet_convert.train import loop as loop_module
from irnet_convert.train.checkpoint import Checkpoint, save_checkpoint
from irnet_convert.train.notfinite import first_not_finite, last_good, locate


class Broken(nn.Module):
    """Fine layers around a division by zero of its own."""

    def __init__(self, own: bool = False) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.own = own

    def forward(self, x: Tensor) -> Tensor:
        return self.third(self.second(self.first(x))) / (0.0 if self.own else 1.0)


def test_the_first_layer_in_the_order_of_execution_is_named() -> None:
    model, images = nn.Sequential(nn.Identity(), Broken()), torch.randn(2, 3)
    assert first_not_finite(model, images) is None
    with torch.no_grad():
        model[1].third.weight[0, 0] = math.inf
        model[1].second.bias[1] = math.nan
    assert first_not_finite(model, images) == "the layer '1.second' (Linear, whose bias is not finite)"
    with torch.no_grad():  # of finite weights, an output that overflows
        model[1].first.weight.fill_(3e38)
    assert first_not_finite(model, torch.ones(2, 3)) == "the layer '1.first' (Linear)"
    assert first_not_finite(model, images.fill_(math.nan)) == "the images"
    assert not any(module._forward_hooks for module in model.modules())


def test_what_no_layer_did_is_the_module_s_own_or_the_loss() -> None:
    images = [torch.ones(2, 3)]
    assert first_not_finite(nn.Sequential(Broken(own=True)), images[0]) == "the layer '0' (Broken)"
    assert first_not_finite(Broken(own=True), images[0]) == "the network's own forward (Broken)"
    models = {"student": Broken(), "teacher": Broken(own=True)}
    assert locate(models, images, {}) == "the network's own forward (Broken) of the teacher"
    losses = {"loss": math.nan, "distill": math.inf, "task": 1.0}
    assert locate({"student": Broken()}, images, losses) == "no layer, but the loss itself (distill)"
    assert locate({"student": Broken()}, images, {"loss": math.inf}) == "no layer, but the loss itself (loss)"
    model = Broken()
    model(images[0]).sum().backward()
    model.second.weight.grad[0, 0] = model.first.bias.grad[0] = math.nan
    found = locate({"student": model, "teacher": None}, images, {"loss": 1.0})
    assert found == "no layer's output, but the gradient of 'second.weight'"


def test_a_checkpoint_of_weights_that_are_not_finite_is_no_good_one(tmp_path: Path) -> None:
    assert last_good(tmp_path) is None
    for step, weight in ((1, 1.0), (2, 2.0), (3, math.nan)):
        save_checkpoint(
            tmp_path, step, Checkpoint(state={}, tensors={"model": {"w": torch.full((2,), weight)}}), keep=9
        )
    assert last_good(tmp_path).name == "step-000000002"
    (tmp_path / "step-000000002" / "model.safetensors").write_bytes(b"dust")
    assert last_good(tmp_path).name == "step-000000001"


def break_in_step(monkeypatch: pytest.MonkeyPatch, number: int, act: Any) -> None:
    step = loop_module.Trainer._step

    def stepping(self: loop_module.Trainer, *arguments: Any) -> Any:
        if self.position.total + 1 == number:
            act(self)
        return step(self, *arguments)

    monkeypatch.setattr(loop_module.Trainer, "_step", stepping)


def test_a_run_stops_with_step_layer_and_last_good_checkpoint(tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    def break_weight(trainer: loop_module.Trainer) -> None:
        with torch.no_grad():
            trainer.student.get_parameter("norm.weight")[3] = math.nan

    break_in_step(monkeypatch, 6, break_weight)
    recipe = tiny(grad_accumulation=2, **TEACHER)
    with pytest.raises(TrainingError) as caught:
        finetune(recipe)
    assert "not finite in step 6 of 8 (epoch 2, " in caught.value.given
    place = "the layer 'norm' (LayerNorm, whose weight is not finite) of the student"
    assert caught.value.given.endswith(f"what is not finite first: {place}")
    good = recipe.run_dir / "checkpoints" / "step-000000004"
    assert f"the last good checkpoint is {good}, and init={good} starts another run" in caught.value.mend
    monkeypatch.undo()
    assert finetune(recipe, resume=True).steps == 8


def test_a_nan_that_a_sign_hides_from_the_loss_never_reaches_the_weights(
    tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One pixel: only its own token is NaN, the binary projections take its sign, the class token is fine."""
    prepared, students = loop_module.Trainer._prepared, []

    def preparing(self: loop_module.Trainer, *arguments: Tensor) -> tuple[Tensor, Tensor]:
        images, labels = prepared(self, *arguments)
        students.append(self.student)
        if self.position.total == 5:
            images[0, 0, 0, 0] = math.nan
        return images, labels

    monkeypatch.setattr(loop_module.Trainer, "_prepared", preparing)
    with pytest.raises(TrainingError) as caught:
        finetune(tiny())
    assert "the gradient is not finite in step 6 of 8" in caught.value.given
    assert caught.value.given.endswith("what is not finite first: the images")
    assert all(bool(p.isfinite().all()) for p in students[-1].parameters())


def test_so_it_is_in_evaluation(tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    def break_average(trainer: loop_module.Trainer) -> None:
        with torch.no_grad():
            trainer.ema.module.get_parameter("norm.bias")[0] = math.inf

    break_in_step(monkeypatch, 8, break_average)
    with pytest.raises(TrainingError) as caught:
        finetune(tiny(ema={"decay": 0.9}))
    assert "in step 8 of 8 (epoch 2, {'evaluation loss': nan})" in caught.value.given
    assert "the layer 'norm' (LayerNorm, whose bias is not finite) of the network" in caught.value.given
    assert "step-000000004, and init=" in caught.value.mend


def test_the_newest_checkpoint_is_not_named_where_its_weights_are_broken(
    tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_checkpoint(trainer: loop_module.Trainer) -> None:
        path = trainer.run_dir / "checkpoints" / "step-000000004" / "model.safetensors"
        save_file({key: value * math.nan for key, value in load_file(path).items()}, path)
        trainer.student.get_parameter("head.bias").data.fill_(math.nan)

    break_in_step(monkeypatch, 7, break_checkpoint)
    with pytest.raises(TrainingError, match="there is no good checkpoint before it"):
        finetune(tiny())
