"""A run directory belongs to one run, and an unusable one is known before anything is loaded."""

import signal

import pytest
from accelerate import Accelerator

from irnet_convert.errors import CheckpointError, TrainingError
from irnet_convert.train import finetune
from irnet_convert.train.rundir import check_run_dir, write_description
from irnet_convert.train.signals import StopSignal


def test_of_two_runs_that_start_together_one_gets_the_directory(tiny, tmp_path):
    recipe, accelerator = tiny(), Accelerator(cpu=True)
    for seed in (1, 2):
        check_run_dir(tmp_path / "run", tiny(seed=seed), resume=False)  # both look before either writes
    write_description(tmp_path / "run", recipe, None, accelerator)
    before = (tmp_path / "run" / "recipe.yaml").read_bytes()
    with pytest.raises(CheckpointError, match="another run has begun"):
        write_description(tmp_path / "run", tiny(seed=2), None, accelerator)
    assert (tmp_path / "run" / "recipe.yaml").read_bytes() == before


def test_an_unusable_place_is_refused_first(tiny, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be made"):
        finetune(tiny(output=str(tmp_path / "file" / "run")))


def test_an_evaluation_that_is_not_finite_is_no_success(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "irnet_convert.train.loop.evaluate_unless",
        lambda *_: {"top1": 10.0, "top5": 50.0, "loss": float("nan"), "count": 21},
    )
    with pytest.raises(TrainingError, match="evaluation loss"):
        finetune(tiny())
    assert not (tmp_path / "run" / "model.safetensors").exists()
    assert not list((tmp_path / "run").glob("checkpoints/step-*"))


def test_one_keystroke_that_arrives_twice_is_one(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("irnet_convert.train.signals.time.monotonic", lambda: now[0])
    with StopSignal() as stop:
        signal.raise_signal(signal.SIGINT)
        now[0] += 0.2
        signal.raise_signal(signal.SIGINT)
        assert stop.received == signal.SIGINT
        now[0] += 2.0
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
