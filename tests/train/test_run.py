"""``finetune`` from recipe to run directory, and back by ``load`` and ``evaluate_run``."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.utils import set_seed
from conftest import RESNET, TEACHER, TINY
from safetensors.torch import load_file

from irnet_convert.convert import plan_of
from irnet_convert.data import make_loaders
from irnet_convert.errors import (
    CheckpointError,
    DataError,
    IrnetError,
    ModelError,
    RecipeError,
    TrainingError,
    UnknownNameError,
)
from irnet_convert.layers import BinaryLayer, binary_layers
from irnet_convert.networks import create_model
from irnet_convert.recipe import Recipe
from irnet_convert.train import evaluate_run, finetune, load
from irnet_convert.train import loop as loop_module
from irnet_convert.train.run import build_networks


def log_of(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def test_a_run_leaves_everything_and_loads_as_it_was_trained(tiny) -> None:
    recipe = tiny(model=RESNET, transforms={"input_size": [3, 16, 16]}, **TEACHER)
    result = finetune(recipe)
    assert {path.name for path in result.run_dir.iterdir()} == {
        "checkpoints",
        "environment.json",
        "metrics.jsonl",
        "model.safetensors",
        "plan.json",
        "recipe.yaml",
    }
    assert Recipe.load(result.run_dir / "recipe.yaml") == recipe
    assert (result.epochs, result.steps, result.processes) == (2, 8, 1)
    assert [(line["event"], line["step"]) for line in log_of(result.run_dir)] == [
        ("start", 0),
        ("epoch", 4),
        ("epoch", 8),
        ("final", 8),
    ]
    epoch = log_of(result.run_dir)[1]
    # The recipe weighs T²KL with 1 and the task with a half.
    assert epoch["loss"] == pytest.approx(epoch["distill_loss"] + 0.5 * epoch["task_loss"], rel=1e-6)
    assert result.metrics["teacher"].keys() == result.metrics["after"].keys()
    assert "before" not in result.metrics  # it had no weights worth judging

    model = load(result.run_dir)
    assert not model.training
    assert plan_of(model).to_dict() == json.loads((result.run_dir / "plan.json").read_text())
    assert any(True for _ in binary_layers(model))
    saved = load_file(result.run_dir / "model.safetensors")
    assert saved.keys() == create_model(recipe.model).state_dict().keys()
    assert all(torch.equal(saved[key], value) for key, value in model.state_dict().items())
    assert evaluate_run(result.run_dir) == result.metrics["after"]
    assert evaluate_run(result.run_dir, ["data.eval_limit=5", "processes=2"])["count"] == 5


def test_the_first_loss_is_that_of_both_networks_on_the_first_batch(tiny) -> None:
    recipe = tiny(
        model=RESNET,
        data={**TINY["data"], "train_limit": 8},
        transforms={"input_size": [3, 16, 16]},
        epochs=1,
        precision="fp64",
        **TEACHER,
    )
    first = log_of(finetune(recipe).run_dir)[1]
    loaders = make_loaders(recipe, processes=1, process_index=0)
    set_seed(recipe.seed)
    student, teacher = build_networks(recipe)
    images, labels = next(iter(loaders.train))
    with torch.no_grad():  # the student with its batch's statistics, the teacher with its own
        ours = student.double().train()(images.double())
        theirs = teacher.double().eval()(images.double())
    p, q = (theirs / 2).softmax(1), (ours / 2).softmax(1)
    divergence = float(4 * (p * (p / q).log()).sum(1).mean())
    task = float(-ours.log_softmax(1)[torch.arange(8), labels].mean())
    assert first["distill_loss"] == pytest.approx(divergence, rel=1e-9)
    assert first["task_loss"] == pytest.approx(task, rel=1e-9)
    assert first["loss"] == pytest.approx(divergence + 0.5 * task, rel=1e-9)


def test_a_student_with_weights_is_judged_before_and_learns_from_its_teacher(tiny, tmp_path: Path) -> None:
    optimizer = {"name": "adam", "lr": 0.02}
    keys = {"policy": None, "epochs": 10, "optimizer": optimizer}
    teacher = finetune(tiny(**keys, output=str(tmp_path / "teacher")))
    assert not (teacher.run_dir / "plan.json").exists()
    assert not any(isinstance(module, BinaryLayer) for module in load(teacher.run_dir).modules())
    weights = str(teacher.run_dir / "model.safetensors")
    model = {**TINY["model"], "checkpoint": weights}
    result = finetune(tiny(model=model, teacher="same", distill={}, epochs=10, optimizer=optimizer))
    assert result.metrics["teacher"] == pytest.approx(teacher.metrics["after"])
    losses = [line["distill_loss"] for line in log_of(result.run_dir) if line["event"] == "epoch"]
    assert losses[-1] < 0.5 * losses[0]
    assert result.metrics["after"]["loss"] < result.metrics["before"]["loss"]
    # The weights that it started from are not needed again.
    Path(weights).unlink()
    assert evaluate_run(result.run_dir) == result.metrics["after"]


def test_accumulation_does_not_change_the_numbers(tiny, tmp_path: Path) -> None:
    runs = {
        parts: finetune(
            tiny(precision="fp64", epochs=1, grad_accumulation=parts, output=str(tmp_path / str(parts)))
        ).run_dir
        for parts in (1, 4)
    }
    one, four = (load(runs[parts]).state_dict() for parts in (1, 4))
    assert one["head.weight"].dtype == torch.float64
    assert max(float((one[key] - four[key]).abs().max()) for key in one) < 1e-9
    assert any(not torch.equal(one[key], load_initial(tiny)[key]) for key in one)


def load_initial(tiny) -> dict[str, torch.Tensor]:
    return create_model(tiny().model).double().state_dict()


@pytest.mark.parametrize("per", ["step", "epoch"])
def test_progress_is_set_once_a_step_for_the_whole_model(
    tiny, monkeypatch: pytest.MonkeyPatch, per: str
) -> None:
    seen = []
    monkeypatch.setattr(loop_module, "set_progress", lambda model, *a, **k: seen.append((model, *a, k)))
    finetune(tiny(ede={"t_min": 0.01, "t_max": 20.0, "per": per}))
    fractions = [i / 8 for i in range(8)] if per == "step" else [0.0] * 4 + [0.5] * 4
    assert [fraction for _, fraction, _ in seen] == fractions
    assert all(rest == {"t_min": 0.01, "t_max": 20.0} for *_, rest in seen)
    assert len({id(model) for model, *_ in seen}) == 1


def test_features_are_matched_by_layer_names(tiny) -> None:
    pairs = [
        {"student": "blocks.0", "teacher": "blocks.0", "kind": "attention", "weight": 2.0},
        {"student": "blocks.1.mlp", "teacher": "blocks.1.mlp", "kind": "mse"},
    ]
    result = finetune(tiny(teacher="same", distill={"weight": 0.0, "features": pairs}, epochs=1))
    epoch = log_of(result.run_dir)[1]
    assert epoch["features_loss"] == pytest.approx(epoch["loss"], rel=1e-6)
    assert epoch["features_loss"] > 0


def test_the_average_is_what_is_judged_and_kept(tiny) -> None:
    result = finetune(tiny(ema={"decay": 0.9}))
    last = result.run_dir / "checkpoints" / "step-000000008"
    kept, average = load_file(result.run_dir / "model.safetensors"), load_file(last / "ema.safetensors")
    assert all(torch.equal(kept[key], average[key]) for key in kept)
    assert any(not torch.equal(kept[key], load_file(last / "model.safetensors")[key]) for key in kept)
    assert evaluate_run(result.run_dir) == result.metrics["after"]


def test_the_rate_warms_up_and_falls_per_step(tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    rates = []
    step = loop_module.Trainer._step

    def noting(self, *arguments):
        rates.append({group["name"]: group["lr"] for group in self.raw_optimizer.param_groups})
        return step(self, *arguments)

    monkeypatch.setattr(loop_module.Trainer, "_step", noting)
    schedule = {"name": "cosine", "warmup_epochs": 1, "warmup_lr": 0.0, "min_lr": 0.0}
    finetune(tiny(epochs=3, optimizer={"lr": 0.1, "latent_lr": 0.2, "scale_lr": 0.4}, schedule=schedule))
    expected = [i / 4 if i < 4 else 0.5 * (1 + math.cos(math.pi * i / 12)) for i in range(12)]
    assert [rate["decay"] for rate in rates] == pytest.approx([0.1 * each for each in expected])
    assert [rate["latents"] for rate in rates] == pytest.approx([0.2 * each for each in expected])
    assert [rate["scales"] for rate in rates] == pytest.approx([0.4 * each for each in expected])


@pytest.mark.parametrize("per", ["step", "epoch"])
def test_the_rate_falls_after_as_many_epochs_as_a_milestone_says(tiny, per: str) -> None:
    schedule = {"name": "multistep", "milestones": [1, 2], "decay_rate": 0.1, "per": per}
    result = finetune(tiny(epochs=3, optimizer={"lr": 0.1}, schedule=schedule))
    rates = [line["lr"]["decay"] for line in log_of(result.run_dir) if line["event"] == "epoch"]
    assert rates == pytest.approx([0.1, 0.01, 0.001])


def test_other_precisions_trackers_and_mixtures_run(tiny) -> None:
    mixup = {"mixup_alpha": 0.2, "cutmix_alpha": 1.0, "label_smoothing": 0.1}
    optimizer = {"name": "momentum", "lr": 0.1, "weight_decay": 1e-4, "kwargs": {"momentum": 0.8}}
    result = finetune(
        tiny(precision="bf16", tracking=["tensorboard"], mixup=mixup, clip_grad=1.0, optimizer=optimizer)
    )
    assert math.isfinite(result.metrics["after"]["loss"])
    assert list(result.run_dir.glob("tracking/events.out.tfevents.*"))
    assert load_file(result.run_dir / "model.safetensors")["head.weight"].dtype == torch.float32


def test_a_loss_that_is_not_finite_stops_with_step_and_checkpoint(
    tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = loop_module.Trainer._losses

    def breaking(self, *arguments):
        parts = losses(self, *arguments)
        return {"loss": parts["loss"] * (math.nan if self.position.total == 5 else 1.0)}

    monkeypatch.setattr(loop_module.Trainer, "_losses", breaking)
    recipe = tiny()
    with pytest.raises(TrainingError, match=r"(?s)not finite in step 6 of 8.*step-000000004"):
        finetune(recipe)
    # Its weights have not seen that step, and the run can go on.
    monkeypatch.undo()
    assert finetune(recipe, resume=True).steps == 8


BAD: list[tuple[dict[str, Any], type[IrnetError], str]] = [
    ({"model": {"name": "timm/vit_tinny"}}, UnknownNameError, "vit_tinny"),
    ({"model": {"name": "timm/cifar_resnet20", "kwargs": {"num_classes": 7}}}, ModelError, "7 classes"),
    ({"transforms": {"input_size": [3, 12, 12]}}, ModelError, r"does not run|shape|size"),
    ({"data": {"name": "builtin/nothing"}}, DataError, "builtin/nothing"),
    ({"batch_size": 64}, DataError, "32 samples"),
    ({"optimizer": {"name": "adam", "kwargs": {"wings": 2}}}, RecipeError, "wings"),
    ({"mixup": {"mixup_alpha": 1.0}, "batch_size": 10, "grad_accumulation": 2}, RecipeError, "mixup with 5"),
    ({"precision": "fp16"}, RecipeError, "fp16"),
    ({"processes": 2}, IrnetError, "num_processes 2"),
    ({"policy": [{"action": "keep"}]}, IrnetError, "no layer"),
    (
        {"teacher": "same", "distill": {"features": [{"student": "blocks.0", "teacher": "block.0"}]}},
        UnknownNameError,
        r"(?s)teacher has no layer 'block.0'.*blocks.0",
    ),
    (
        {"teacher": {"name": "timm/cifar_resnet20", "kwargs": {"num_classes": 9}}, "distill": {}},
        ModelError,
        "the teacher has 9 classes",
    ),
]


@pytest.mark.parametrize(("keys", "kind", "message"), BAD, ids=[message for *_, message in BAD])
def test_bad_input_is_a_typed_error_before_anything_is_written(tiny, keys, kind, message) -> None:
    recipe = tiny(**keys)
    with pytest.raises(kind, match=message):
        finetune(recipe)
    assert not recipe.run_dir.exists()


def test_a_directory_in_use_is_not_written_into(tiny, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    (run_dir / "mine.txt").write_text("precious")
    for resume, message in ((False, "is not empty"), (True, "holds no recipe.yaml")):
        with pytest.raises(CheckpointError, match=message):
            finetune(tiny(), resume=resume)
    assert [path.name for path in run_dir.iterdir()] == ["mine.txt"]


def test_what_is_no_run_names_its_reader(tmp_path: Path) -> None:
    packed = tmp_path / "net.safetensors"
    packed.write_bytes(b"")
    with pytest.raises(CheckpointError, match="is a file") as error:
        load(packed)
    assert "load_packed" in error.value.mend
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"has no recipe\.yaml") as error:
        load(tmp_path)
    assert "from_pretrained" in error.value.mend


def test_missing_alien_and_unfinished_runs_are_refused(tiny, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        load(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"has no recipe\.yaml"):
        load(tmp_path)
    result = finetune(tiny(epochs=1))
    plan, weights = result.run_dir / "plan.json", result.run_dir / "model.safetensors"
    text, data = plan.read_text(), weights.read_bytes()
    plan.write_text("{")
    with pytest.raises(CheckpointError, match="plan"):
        load(result.run_dir)
    plan.write_text(text)
    weights.write_bytes(data[:100])
    with pytest.raises(CheckpointError, match="cannot be read"):
        load(result.run_dir)
    weights.unlink()
    with pytest.raises(CheckpointError, match=r"has no model\.safetensors"):
        load(result.run_dir)


def test_images_have_their_channels_last_from_the_first_layer_on(tiny) -> None:
    """In student and teacher, every convolution of both."""
    layouts: list[bool] = []

    def look(module: torch.nn.Module, _: Any, output: Any) -> None:
        if "Conv" in type(module).__name__ and len(output) == TINY["batch_size"]:
            layouts.append(output.is_contiguous(memory_format=torch.channels_last))

    handle = torch.nn.modules.module.register_module_forward_hook(look)
    try:
        finetune(tiny(model=RESNET, epochs=1, transforms={"input_size": [3, 16, 16]}, **TEACHER))
    finally:
        handle.remove()
    assert len(layouts) >= 4 * 2 * 19  # steps, networks, convolutions
    assert all(layouts)


@pytest.mark.parametrize("ema", [None, {"decay": 0.5}])
def test_a_compact_run_computes_what_the_exact_one_does_but_for_rounded_gradients(
    tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ema: dict[str, float] | None
) -> None:
    compact: list[bool] = []
    step = loop_module.Trainer._step

    def looking(self: loop_module.Trainer, *arguments: Any) -> Any:
        compact.extend("compact" in vars(layer) for _, layer in binary_layers(self.student))
        return step(self, *arguments)

    monkeypatch.setattr(loop_module.Trainer, "_step", looking)
    keys = {"model": RESNET, "transforms": {"input_size": [3, 32, 32]}, "ema": ema}
    exact = finetune(tiny(**keys, output=str(tmp_path / "exact")))
    assert compact
    assert not any(compact)
    compact.clear()
    rounded = finetune(tiny(**keys, compact=True, output=str(tmp_path / "rounded")))
    assert compact
    assert all(compact)
    logs = [
        [line["loss"] for line in log_of(each.run_dir) if line["event"] == "epoch"]
        for each in (exact, rounded)
    ]
    assert logs[0] != logs[1]
    assert logs[1] == pytest.approx(logs[0], rel=0.02)


def test_compact_without_binary_layers_is_refused(tiny) -> None:
    with pytest.raises(RecipeError, match=r"(?s)compact is true, but policy is null.*compact: false"):
        tiny(policy=None, compact=True)
