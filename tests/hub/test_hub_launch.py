"""A private recipe trained by its name: under ``accelerate launch``, and by ``irnet-convert train``."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from fake_hub import TOKEN, FakeHub
from hub_cases import TINY
from hub_client import environment
from typer.testing import CliRunner

from irnet_convert import cli


def two_processes(hub: FakeHub, home: Path, *arguments: str, **variables: str) -> str:
    """What ``accelerate launch`` of two processes prints."""
    with socket.socket() as each:
        each.bind(("127.0.0.1", 0))
        port = str(each.getsockname()[1])
    outer = ("ACCELERATE_", "MASTER_", "RANK", "WORLD_SIZE", "LOCAL_")
    clean = {key: value for key, value in os.environ.items() if not key.startswith(outer)}
    done = subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2",
         "--main_process_port", port, "-m", "irnet_convert.train", *arguments],
        env={**clean, **environment(hub.endpoint, home), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true",
             **variables},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_a_private_recipe_by_its_name(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repo = hub.repo("org/tiny", private=True)
    commit = repo.commit({"recipe.yaml": yaml.safe_dump(TINY).encode()}, tag="v1")
    repo.commit({"recipe.yaml": b"epochs: 0"})
    where, choice = f"hf://org/tiny@{commit}/recipe.yaml", "Recipe: recipe on the Hub (v1): "

    said = two_processes(
        hub, tmp_path / "both", "org/tiny@v1", f"output={tmp_path / 'two'}", "processes=2", HF_TOKEN=TOKEN
    )
    assert said.count(choice + where) == said.count("Recipe:") == 1
    assert json.loads((tmp_path / "two" / "environment.json").read_text())["recipe"]["file"] == where
    assert len(hub.asked("GET /org/tiny/resolve")) == 1, "by the main process alone"
    assert {header for _, _, header in hub.requests} == {f"Bearer {TOKEN}"}

    hub.requests.clear()
    said = two_processes(
        hub, tmp_path / "both", "org/tiny@v1", f"output={tmp_path / 'cached'}", HF_HUB_OFFLINE="1"
    )
    assert choice + where in said
    assert hub.requests == []

    monkeypatch.setenv("HF_TOKEN", TOKEN)
    done = CliRunner().invoke(cli.app, ["train", "org/tiny@v1", f"output={tmp_path / 'alone'}"])
    assert done.exit_code == 0, done.output
    assert choice + where in done.output
    for run in ("cached", "alone"):
        assert json.loads((tmp_path / run / "environment.json").read_text())["recipe"]["file"] == where
