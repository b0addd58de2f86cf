"""A run that was interrupted and resumed equals, bit for bit, one that was not."""

from __future__ import annotations

import importlib
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import RESNET, TEACHER, TINY, VIT
from safetensors.torch import load_file

from irnet_convert.errors import CheckpointError
from irnet_convert.recipe import Recipe
from irnet_convert.train import finetune
from irnet_convert.train.loop import Trainer
from irnet_convert.train.rundir import TIME_FIELDS, differing_keys

evaluate_module = importlib.import_module(
    "irnet_convert.train.evaluate"
)  # the package's name is the function

# Everything that has state: drop-out and mixup draw numbers, Adam and the average remember.
DROPPING = {"name": TINY["model"]["name"], "kwargs": {**VIT, "num_classes": 10, "proj_drop_rate": 0.2}}
STATEFUL: dict[str, Any] = {
    "model": DROPPING,
    "mixup": {"mixup_alpha": 0.5, "cutmix_alpha": 0.5},
    "ema": {"decay": 0.8, "warmup": True},
    "epochs": 3,
    **TEACHER,
}


def numbers_of(run_dir: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIME_FIELDS} for line in lines]


def assert_equal_runs(one: Path, other: Path) -> None:
    assert numbers_of(one) == numbers_of(other)
    for name in ("model.safetensors", "checkpoints/step-000000012/state.safetensors"):
        a, b = load_file(one / name), load_file(other / name)
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    torch.set_num_threads(1)
    output = str(tmp_path_factory.mktemp("whole") / "run")
    return finetune(Recipe.from_dict({**TINY, **STATEFUL, "output": output})).run_dir


def interrupt(monkeypatch: pytest.MonkeyPatch, at: int, act: Any) -> None:
    """Let ``act`` happen once, in the step that follows ``at`` finished ones."""
    step = Trainer._step

    def stepping(self: Trainer, *arguments: Any) -> Any:
        if self.position.total == at:
            act()
        return step(self, *arguments)

    monkeypatch.setattr(Trainer, "_step", stepping)


class Killed(BaseException):
    """Stands for a SIGKILL: nothing after it runs."""


def kill() -> None:
    raise Killed


@pytest.mark.parametrize("at", [0, 3, 4, 9])
def test_after_a_kill(tiny, whole: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    recipe = tiny(**STATEFUL)
    interrupt(monkeypatch, at, kill)
    with pytest.raises(Killed):
        finetune(recipe)
    monkeypatch.undo()
    result = finetune(recipe, resume=True)
    assert (result.resumed_from is None) == (at < 4)
    assert_equal_runs(whole, result.run_dir)


@pytest.mark.parametrize(
    ("number", "at"), [(signal.SIGINT, 0), (signal.SIGINT, 5), (signal.SIGTERM, 6), (signal.SIGTERM, 7)]
)
def test_a_signal_saves_and_leaves_within_the_step(
    tiny, whole: Path, monkeypatch: pytest.MonkeyPatch, number: int, at: int
) -> None:
    recipe = tiny(**STATEFUL)
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    interrupt(monkeypatch, at, lambda: os.kill(os.getpid(), number))
    with pytest.raises((KeyboardInterrupt, SystemExit)) as caught:
        finetune(recipe)
    monkeypatch.undo()
    assert caught.type is (KeyboardInterrupt if number == signal.SIGINT else SystemExit)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    result = finetune(recipe, resume=True)
    assert result.resumed_from.name == f"step-{at + 1:09d}"
    assert_equal_runs(whole, result.run_dir)


@pytest.mark.parametrize(("batch", "saved"), [(1, None), (4, 4), (6, 4), (8, 8)])
def test_a_signal_while_evaluating_is_not_kept_waiting_until_its_end(
    tiny, whole: Path, monkeypatch: pytest.MonkeyPatch, batch: int, saved: int | None
) -> None:
    """Of three batches each: 1 to 3 judge the teacher, 4 to 6 the first epoch, 7 to 9 the second."""
    recipe, count, seen = tiny(**STATEFUL), evaluate_module._count, []

    def counting(*arguments: Any) -> Any:
        seen.append(arguments)
        if len(seen) == batch:
            os.kill(os.getpid(), signal.SIGTERM)
        return count(*arguments)

    monkeypatch.setattr(evaluate_module, "_count", counting)
    with pytest.raises(SystemExit) as caught:
        finetune(recipe)
    monkeypatch.undo()
    assert caught.value.code == 143
    assert len(seen) == batch
    result = finetune(recipe, resume=True)
    assert (result.resumed_from and result.resumed_from.name) == (saved and f"step-{saved:09d}")
    assert_equal_runs(whole, result.run_dir)


def test_from_the_one_before_a_damaged_checkpoint_aloud(
    tiny, whole: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tiny(**STATEFUL)
    interrupt(monkeypatch, 9, kill)
    with pytest.raises(Killed):
        finetune(recipe)
    monkeypatch.undo()
    damaged = recipe.run_dir / "checkpoints" / "step-000000008"
    (damaged / "state.safetensors").write_bytes(b"dust")
    result = finetune(recipe, resume=True)
    assert "step-000000008 is damaged" in capsys.readouterr().out
    assert result.resumed_from.name == "step-000000004"
    assert_equal_runs(whole, result.run_dir)
    assert (recipe.run_dir / "checkpoints" / "damaged-step-000000008").is_dir()


def test_a_finished_run_is_finished_again_without_training(tiny) -> None:
    recipe = tiny(model=RESNET, epochs=1)
    first = finetune(recipe)
    before = load_file(first.run_dir / "model.safetensors")
    lines = numbers_of(first.run_dir)
    (first.run_dir / "model.safetensors").unlink()
    again = finetune(recipe, resume=True)
    assert again.metrics == first.metrics
    after = load_file(again.run_dir / "model.safetensors")
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert numbers_of(again.run_dir) == lines


def test_another_recipe_is_refused_by_its_keys(tiny) -> None:
    finetune(tiny(epochs=1))
    with pytest.raises(CheckpointError, match=r"(?s)epochs is 2, was 1; optimizer\.lr is 0\.5, was 0\.001"):
        finetune(tiny(epochs=2, optimizer={"lr": 0.5}), resume=True)
    free = {"checkpoint": {"keep": 5}, "data": {**TINY["data"], "workers": 1}, "description": "other"}
    assert differing_keys(tiny().to_dict(), tiny(**free).to_dict()) == []


def test_a_checkpoint_of_another_model_is_refused_by_its_keys(tiny, tmp_path: Path) -> None:
    finetune(tiny(epochs=1))
    other = finetune(tiny(epochs=1, model=RESNET, output=str(tmp_path / "other")))
    source = tmp_path / "run" / "checkpoints" / "step-000000004"
    target = other.run_dir / "checkpoints" / "step-000000004"
    for file in source.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    with pytest.raises(CheckpointError, match="another model: missing keys: conv"):
        finetune(tiny(epochs=1, model=RESNET, output=str(tmp_path / "other")), resume=True)
