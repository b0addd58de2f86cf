"""The processes that run are those that were asked for, or it is an error that says what to type."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from conftest import TEACHER, TINY
from safetensors.torch import load_file

from irnet_convert.errors import LaunchError
from irnet_convert.train import finetune
from irnet_convert.train.__main__ import main
from irnet_convert.train.launch import _refuse_half_launched, check_world, make_accelerator

LAUNCH = [sys.executable, "-m", "accelerate.commands.launch"]
TRAIN = ["-m", "irnet_convert.train"]


def shell(**variables: str) -> dict[str, str]:
    """The environment of a fresh shell: nothing of an outer launcher, the CPU, one thread."""
    outer = ("ACCELERATE_", "MASTER_", "RANK", "WORLD_SIZE", "LOCAL_", "OMP_")
    clean = {key: value for key, value in os.environ.items() if not key.startswith(outer)}
    return clean | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", **variables}


def launch(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(arguments, env=shell(), capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    """float64, a teacher, and an evaluation split that two processes cannot halve."""
    keys: dict[str, Any] = {"precision": "fp64", "epochs": 1, "batch_size": 10, "ema": {"decay": 0.5}}
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump({**TINY, **TEACHER, **keys, "output": str(tmp_path / "one")}))
    return path


def free_port() -> str:
    import socket

    with socket.socket() as each:
        each.bind(("127.0.0.1", 0))
        return str(each.getsockname()[1])


def two(*arguments: str) -> list[str]:
    port = ["--main_process_port", free_port()]
    return [*LAUNCH, "--multi_gpu", "--num_processes", "2", *port, *TRAIN, *arguments]


def logs_of(*runs: Path) -> list[list[dict[str, Any]]]:
    return [[json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in runs]


def assert_close_runs(one: Path, other: Path) -> None:
    """Weights and every number of the log to 1e-9."""
    a, b = (load_file(run / "model.safetensors") for run in (one, other))
    assert a.keys() == b.keys()
    assert all(value.dtype == torch.float64 for value in a.values())
    assert max(float((a[key] - b[key]).abs().max()) for key in a) < 1e-9
    for first, second in zip(*logs_of(one, other), strict=True):
        for key in {*first, *second} - {"seconds", "samples_per_second", "event"}:
            assert second[key] == pytest.approx(first[key], rel=1e-9), key


def test_two_processes_reach_the_weights_of_one_and_count_every_sample_once(
    recipe_file: Path, tmp_path: Path
) -> None:
    alone, output = finetune(recipe_file), tmp_path / "two"
    both = launch(two(str(recipe_file), f"output={output}", "processes=2"))
    assert both.returncode == 0, both.stderr
    assert both.stdout.count("Recipe:") == 1
    assert json.loads((output / "environment.json").read_text())["processes"] == 2
    assert_close_runs(alone.run_dir, output)
    final = logs_of(output)[0][-1]
    assert final["step"] == 3
    assert final["after"]["count"] == final["teacher"]["count"] == 21


def test_two_processes_stop_by_a_signal_and_go_on(recipe_file: Path, tmp_path: Path) -> None:
    alone, output = finetune(recipe_file, overrides=["epochs=4"]), tmp_path / "two"
    command = two(str(recipe_file), f"output={output}", "epochs=4", "data.workers=1")
    with subprocess.Popen(command, env=shell(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as running:
        try:
            deadline = time.monotonic() + 200
            while not (output / "checkpoints" / "step-000000003").is_dir() and running.poll() is None:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            running.terminate()
            running.communicate(timeout=60)
        finally:
            running.kill()
    again = launch([*command, "--resume"])
    assert again.returncode == 0, again.stderr
    assert "Going on from" in again.stdout
    assert_close_runs(alone.run_dir, output)


def test_one_process_where_two_were_asked_for_is_an_error(recipe_file: Path, tmp_path: Path) -> None:
    started = launch([*LAUNCH, "--cpu", "--num_processes", "2", *TRAIN, str(recipe_file)])
    assert started.returncode != 0
    assert "asked for several processes and started one" in started.stderr
    assert "accelerate launch --multi_gpu --num_processes 2 -m irnet_convert.train" in started.stderr
    assert not (tmp_path / "one").exists()


def test_a_world_of_another_size_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ACCELERATE_MIXED_PRECISION", "MASTER_PORT", "WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)
    check_world(1, None)
    check_world(1, 1)
    check_world(4, None)
    with pytest.raises(
        LaunchError, match=r"(?s)2 processes run and the recipe asks for 4.*--num_processes 4"
    ):
        check_world(2, 4)
    with pytest.raises(LaunchError, match=r"(?s)2 processes run and the recipe asks for 1.*python -m"):
        check_world(2, 1)
    monkeypatch.setenv("MASTER_PORT", "29500")
    check_world(1, None)  # a shell's own variable is not a launch
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    with pytest.raises(LaunchError, match="asked for several"):
        check_world(1, None)


def test_a_world_size_without_a_launcher_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from accelerate.state import PartialState

    monkeypatch.setattr(PartialState, "_shared_state", {})
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(LaunchError, match="WORLD_SIZE is 2"):
        _refuse_half_launched()
    monkeypatch.setenv("RANK", "1")
    _refuse_half_launched()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("ACCELERATE_USE_FSDP", "true", r"(?s)asked for FSDP.*set shard=true after the recipe"),
        ("ACCELERATE_MIXED_PRECISION", "bf16", "--mixed_precision bf16, and the recipe says no"),
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "3", "--gradient_accumulation_steps 3, and the recipe"),
    ],
)
def test_what_the_launcher_was_told_and_the_run_would_not_do_is_an_error(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(LaunchError, match=message):
        make_accelerator(precision="fp32", accumulation=1)


def test_the_command_line_teaches_and_prints_errors_as_text(
    recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as leaving:
        main(["--help"])
    assert leaving.value.code == 0
    text = capsys.readouterr().out
    assert "accelerate launch --multi_gpu --num_processes 2" in text
    assert "--resume" in text
    assert main(["no_such_recipe"]) == 2
    assert main([str(recipe_file), "optimizer.lrr=1"]) == 2
    errors = capsys.readouterr().err
    assert errors.count("to mend it:") == 2
    assert "Traceback" not in errors
    assert main([str(recipe_file), "--resume", "precision=fp32"]) == 0
    printed = capsys.readouterr().out
    assert f"Recipe: recipe file: {recipe_file}" in printed
    assert "trained       top-1" in printed
    assert main([str(recipe_file), "precision=fp32"]) == 2


CONFIGS = Path(__file__).parents[2] / "recipes" / "accelerate"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_accelerate_takes_the_documented_configurations(path: Path) -> None:
    config = load_config_from_file(str(path))
    assert config.distributed_type == "MULTI_GPU"
    assert config.mixed_precision == "no"
    assert f"--config_file recipes/accelerate/{path.name}" in path.read_text()
    assert (
        f"({'../recipes/accelerate/' + path.name})"
        in (CONFIGS.parents[1] / "docs/distributed.md").read_text()
    )


def test_the_cpu_configuration_starts_two_processes(tmp_path: Path) -> None:
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(yaml.safe_dump({**TINY, "processes": 2, "epochs": 1, "output": str(tmp_path / "out")}))
    port = ["--main_process_port", free_port()]
    done = launch([*LAUNCH, "--config_file", str(CONFIGS / "cpu.yaml"), *port, *TRAIN, str(recipe)])
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "model.safetensors").is_file()
