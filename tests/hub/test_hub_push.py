"""``irnet-convert push``: a finished run's network to a Hub on loopback and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_hub import TOKEN, FakeHub
from typer.testing import CliRunner

import irnet_convert
from irnet_convert import cli
from irnet_convert.errors import CheckpointError, HubError
from irnet_convert.networks.origin import origin_of
from irnet_convert.recipe import Recipe

runner = CliRunner()

TINY: dict[str, Any] = {
    "name": "tiny",
    "model": {"name": "timm/cifar_resnet20", "kwargs": {"num_classes": 10}},
    "data": {"name": "builtin/synthetic", "workers": 0, "train_limit": 4, "eval_limit": 4},
    "transforms": {"input_size": [3, 8, 8]},
    "epochs": 1,
    "batch_size": 4,
}


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("runs") / "tiny"
    return irnet_convert.finetune(Recipe.from_dict({**TINY, "output": str(where)})).run_dir


def test_it_shows_what_goes_up_and_asks(hub: FakeHub, run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    done = runner.invoke(cli.app, ["push", str(run_dir), "org/tiny"], input="n\n")
    assert done.exit_code == 1
    assert "config.json" in done.output
    assert "packed.safetensors" in done.output
    assert hub.repos == {}
    done = runner.invoke(cli.app, ["push", str(run_dir), "org/tiny", "--yes", "--license", "mit"])
    assert done.exit_code == 0, done.output
    files = hub.repos["model", "org/tiny"].commits[-1][1]
    card = files["README.md"].decode()
    assert "license: mit" in card
    assert "top-1 accuracy" in card
    assert "On builtin/synthetic" in card
    again = irnet_convert.from_pretrained("org/tiny")
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(again(images), irnet_convert.load(run_dir)(images))
    origin = origin_of(again)
    assert origin is not None
    assert origin.images is not None
    assert origin.images.input_size == (3, 8, 8)
    assert json.loads(files["config.json"])["labels"] == list("0123456789"), "of the data's classes"


def test_what_cannot_be_pushed_is_told_before_anything_is_written(
    hub: FakeHub, run_dir: Path, tmp_path: Path
) -> None:
    for arguments, kind in [
        ([str(run_dir), "org/tiny@main"], HubError),
        ([str(run_dir), "tiny"], HubError),
        ([str(tmp_path / "nothing"), "org/tiny"], CheckpointError),
    ]:
        done = runner.invoke(cli.app, ["push", *arguments, "--yes"])
        assert isinstance(done.exception, kind)
    assert hub.repos == {}
