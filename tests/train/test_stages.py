"""Several stages in one run: what each trains with, what goes on, and that resuming is exact."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import RESNET, TEACHER, TINY, VIT
from safetensors.torch import load_file
from test_resume import Killed, interrupt, kill, numbers_of

from irnet_convert.errors import CheckpointError, UnknownNameError
from irnet_convert.layers import binary_layers
from irnet_convert.recipe import Recipe
from irnet_convert.train import evaluate_run, finetune, load
from irnet_convert.train.loop import Trainer

DROPPING = {"name": TINY["model"]["name"], "kwargs": {**VIT, "num_classes": 10, "proj_drop_rate": 0.2}}
#: Activations first, then weights; each with its own of everything that a stage may have of its own.
STAGES: dict[str, Any] = {
    "model": DROPPING,
    "mixup": {"mixup_alpha": 0.5},
    "ema": {"decay": 0.8},
    "optimizer": {"name": "adam", "lr": 0.01},
    "ede": {"t_min": 0.2},
    **TEACHER,
    "stages": [
        {"epochs": 2, "binarize": "activations", "schedule": {"min_lr": 0.001}},
        {
            "epochs": 3,
            "optimizer": {"name": "momentum", "lr": 0.02},
            "distill": {"temperature": 4.0},
            "ede": {"t_max": 5.0, "per": "epoch"},
        },
    ],
}


def staged(tiny: Any, **keys: Any) -> Recipe:
    """TINY's recipe with STAGES; epochs are the stages'."""
    raw = {key: value for key, value in tiny().to_dict().items() if key != "epochs"}
    return Recipe.from_dict({**raw, **STAGES, **keys})


def epochs_of(run_dir: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == "epoch"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    torch.set_num_threads(1)
    raw = {key: value for key, value in {**TINY, **STAGES}.items() if key != "epochs"}
    return finetune(
        Recipe.from_dict({**raw, "output": str(tmp_path_factory.mktemp("whole") / "run")})
    ).run_dir


def test_each_stage_trains_with_its_own(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, str, bool, bool, float, float]] = []
    step = Trainer._step

    def watching(self: Trainer, *arguments: Any) -> Any:
        found = step(self, *arguments)
        _, layer = next(binary_layers(self.student))
        optimizer = type(self.raw_optimizer).__name__
        seen.append(
            (self.stage.number, optimizer, layer.real_weights, layer.real_activations,
             layer.progress, layer.t_max)
        )  # fmt: skip
        for _, other in binary_layers(self.judged):
            assert (other.real_weights, other.real_activations) == (
                layer.real_weights,
                layer.real_activations,
            )
        return found

    monkeypatch.setattr(Trainer, "_step", watching)
    finetune(staged(tiny))
    first = [(1, "Adam", True, False, step / 8, 10.0) for step in range(8)]
    second = [(2, "SGD", False, False, epoch / 3, 5.0) for epoch in range(3) for _ in range(4)]
    assert seen == first + second


def test_the_log_and_the_schedules_are_the_stages(whole: Path) -> None:
    epochs = epochs_of(whole)
    assert [line["stage"] for line in epochs] == [1, 1, 2, 2, 2]
    assert [line["epoch"] for line in epochs] == [1, 2, 3, 4, 5]
    assert [line["progress"] for line in epochs] == pytest.approx([1 / 2, 1, 1 / 3, 2 / 3, 1])
    assert [line["ede"]["t"] for line in epochs][1::3] == pytest.approx([10.0, 5.0])
    rates = [line["lr"]["latents"] for line in epochs]
    cosine = [0.5 * (1 + torch.cos(torch.tensor(torch.pi * step / n)).item()) for step, n in
              ((3, 8), (7, 8), (3, 12), (7, 12), (11, 12))]  # fmt: skip
    wanted = [0.001 + 0.009 * cosine[0], 0.001 + 0.009 * cosine[1], *(0.02 * each for each in cosine[2:])]
    assert rates == pytest.approx(wanted)
    assert {"distill_loss", "task_loss"} <= epochs[0].keys()


def test_the_last_stage_is_what_is_kept(whole: Path) -> None:
    assert 0 < epochs_of(whole)[1]["flipped"] < 0.5  # signs that nothing took yet, of latents that train
    assert evaluate_run(whole)["loss"] == pytest.approx(epochs_of(whole)[-1]["eval_loss"], abs=1e-12)
    assert not any(layer.real_weights or layer.real_activations for _, layer in binary_layers(load(whole)))


@pytest.mark.parametrize("at", [0, 3, 8, 9, 13])
def test_resumed_anywhere_it_equals_one_that_was_not_interrupted(
    tiny: Any, whole: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """In the middle of either stage, and where the second begins."""
    recipe = staged(tiny)
    interrupt(monkeypatch, at, kill)
    with pytest.raises(Killed):
        finetune(recipe)
    monkeypatch.undo()
    result = finetune(recipe, resume=True)
    assert numbers_of(result.run_dir) == numbers_of(whole)
    name = "checkpoints/step-000000020"
    assert json.loads((result.run_dir / name / "state.json").read_text()) == json.loads(
        (whole / name / "state.json").read_text()
    )
    for file in ("model.safetensors", f"{name}/state.safetensors", f"{name}/ema.safetensors"):
        a, b = load_file(whole / file), load_file(result.run_dir / file)
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a)


def test_one_stage_is_what_the_recipe_says_without_it(tiny: Any, tmp_path: Path) -> None:
    plain = finetune(tiny(epochs=2, **TEACHER))
    one = finetune(tiny(stages=[{"epochs": 2}], output=str(tmp_path / "one"), **TEACHER))
    assert numbers_of(plain.run_dir) == numbers_of(one.run_dir)
    assert (plain.run_dir / "model.safetensors").read_bytes() == (
        one.run_dir / "model.safetensors"
    ).read_bytes()


def test_a_stage_may_leave_the_teacher_out(tiny: Any) -> None:
    stages = [{"epochs": 1}, {"epochs": 1, "distill": None}]
    first, second = epochs_of(finetune(tiny(stages=stages, **TEACHER)).run_dir)
    assert "distill_loss" in first
    assert not {"distill_loss", "task_loss"} & second.keys()


def test_what_is_wrong_in_a_later_stage_is_an_error_before_anything_is_written(tiny: Any) -> None:
    features = {"features": [{"student": "blocks.0", "teacher": "nowhere"}]}
    recipe = tiny(stages=[{"epochs": 1}, {"epochs": 1, "distill": features}], **TEACHER)
    with pytest.raises(UnknownNameError, match="nowhere"):
        finetune(recipe)
    assert not recipe.run_dir.exists()


def test_a_run_starts_from_another(tiny: Any, tmp_path: Path) -> None:
    first = finetune(tiny(epochs=2, optimizer={"lr": 0.05}))
    again = tiny(epochs=1, init=str(first.run_dir), optimizer={"lr": 1e-12}, output=str(tmp_path / "again"))
    result = finetune(again)
    assert result.metrics["before"] == first.metrics["after"]
    a, b = (load_file(run / "model.safetensors") for run in (first.run_dir, result.run_dir))
    assert all(torch.allclose(a[key], b[key], atol=1e-9) for key in a)
    saved = finetune(
        tiny(
            epochs=1,
            init=str(first.run_dir / "checkpoints" / "step-000000004"),
            output=str(tmp_path / "saved"),
        )
    )
    assert saved.metrics["before"]["loss"] == pytest.approx(epochs_of(first.run_dir)[0]["eval_loss"])
    # The file alone, and for the full-precision network too; the network itself is not needed again.
    plain = {"policy": None, "epochs": 1}
    dense = finetune(tiny(**plain, output=str(tmp_path / "dense")))
    weights = str(dense.run_dir / "model.safetensors")
    finetune(tiny(**plain, init=weights, output=str(tmp_path / "dense2")))
    Path(weights).unlink()
    load(tmp_path / "dense2")


def test_a_start_of_another_kind_is_refused_by_its_keys(tiny: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nowhere.*does not exist"):
        finetune(tiny(init=str(tmp_path / "nowhere")))
    other = finetune(tiny(model=RESNET, epochs=1, output=str(tmp_path / "other")))
    with pytest.raises(CheckpointError, match=r"(?s)another model: missing keys.*converted alike"):
        finetune(tiny(init=str(other.run_dir)))


def test_latents_are_rescaled_before_the_training(tiny: Any, tmp_path: Path) -> None:
    first = finetune(tiny(epochs=1, optimizer={"lr": 0.05}))
    keys = {"epochs": 1, "init": str(first.run_dir), "optimizer": {"lr": 1e-12}}
    result = finetune(tiny(**keys, latents={"std": 0.2}, output=str(tmp_path / "again")))
    assert result.metrics["before"] == first.metrics["after"]  # and what it computes is the same
    for _, layer in binary_layers(load(result.run_dir)):
        assert layer.weight.std(1).tolist() == pytest.approx([0.2] * len(layer.weight), rel=1e-5)
