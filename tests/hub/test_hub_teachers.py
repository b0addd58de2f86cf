"""A recipe's teacher by each of its four kinds of names, with exactly the weights that the name means."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from fake_hub import TOKEN, FakeHub
from safetensors.torch import save, save_file
from torch import nn

import irnet_convert
from irnet_convert.errors import CheckpointError
from irnet_convert.networks import create_model
from irnet_convert.recipe import ModelSpec, Recipe
from irnet_convert.train.run import build_networks
from irnet_convert.train.taken import take

SMALL = "timm/test_resnet"


def published_by_timm(hub: FakeHub, content: bytes, file: str = "model.safetensors") -> str:
    """A file in the repository that timm's configuration of the network names; its name."""
    repo_id = str(timm.get_pretrained_cfg("test_resnet").hf_hub_id)  # type: ignore[union-attr]
    hub.repo(repo_id, lfs={file}).commit({file: content})
    return repo_id


def _timm(hub: FakeHub, folder: Path, patch: pytest.MonkeyPatch) -> tuple[nn.Module, dict[str, Any]]:
    model = create_model(SMALL)
    published_by_timm(hub, save(model.state_dict()))
    return model, {"name": SMALL, "pretrained": True}


def _torchvision(hub: FakeHub, folder: Path, patch: pytest.MonkeyPatch) -> tuple[nn.Module, dict[str, Any]]:
    patch.setenv("TORCH_HOME", str(folder / "home"))
    model = torchvision.models.squeezenet1_1()
    torch.save(model.state_dict(), folder / "file")
    digest = hashlib.sha256((folder / "file").read_bytes()).hexdigest()
    path = (folder / "file").rename(folder / f"squeezenet1_1-{digest[:8]}.pth")
    patch.setattr(torchvision.models.SqueezeNet1_1_Weights.DEFAULT.value, "url", path.as_uri())
    return model, {"name": "torchvision/squeezenet1_1", "pretrained": True}


def _saved_on_the_hub(
    hub: FakeHub, folder: Path, patch: pytest.MonkeyPatch
) -> tuple[nn.Module, dict[str, Any]]:
    patch.setenv("HF_TOKEN", TOKEN)
    model = create_model(SMALL)
    irnet_convert.push_to_hub(model, "org/teacher")
    return model, {"name": "hf://org/teacher"}


def _checkpoint(hub: FakeHub, folder: Path, patch: pytest.MonkeyPatch) -> tuple[nn.Module, dict[str, Any]]:
    model = create_model(SMALL)
    save_file(model.state_dict(), folder / "mine.safetensors")
    return model, {"name": SMALL, "checkpoint": str(folder / "mine.safetensors")}


@pytest.mark.parametrize("kind", [_timm, _torchvision, _saved_on_the_hub, _checkpoint])
def test_a_teacher_has_the_weights_that_its_name_means(
    kind: Any, hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(1)
    model, block = kind(hub, tmp_path, monkeypatch)
    recipe = Recipe.from_dict(
        {
            "name": "tiny",
            "model": {"name": SMALL},
            "data": {"name": "builtin/synthetic", "num_classes": 1000, "workers": 0},
            "teacher": block,
            "distill": {},
            "epochs": 1,
        }
    )
    torch.manual_seed(2)
    _, teacher = build_networks(take(recipe).recipe)
    assert teacher is not None
    own, wanted = teacher.state_dict(), model.state_dict()
    assert own.keys() == wanted.keys()
    assert all(torch.equal(own[key], value) for key, value in wanted.items())


def _pickled(state: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("write", [_pickled, pickle.dumps])
def test_a_pickled_file_in_timm_s_repository_is_refused(hub: FakeHub, write: Any) -> None:
    before = torch.load
    published_by_timm(hub, write(create_model(SMALL).state_dict()), "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"(?s)test_resnet .*are a pickled file.*model\.safetensors"):
        create_model(ModelSpec(name=SMALL, pretrained=True))
    assert torch.load is before


def test_the_source_is_kept_and_its_weights_are_not_fetched_again(hub: FakeHub, tmp_path: Path) -> None:
    repo_id = published_by_timm(hub, save(create_model(SMALL).state_dict()))
    model = create_model(ModelSpec(name=SMALL, pretrained=True))
    student = irnet_convert.binarize(model)
    where = irnet_convert.save_pretrained(student, tmp_path / "saved", packed=False)
    hub.requests.clear()
    hub.repos.clear()
    again = irnet_convert.from_pretrained(where)
    assert hub.requests == []
    assert f"`hf-hub:{repo_id}`" in (where / "README.md").read_text()
    assert f"base_model: {repo_id}" in (where / "README.md").read_text()
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(again(images), student.eval()(images))


def test_a_model_that_timm_made_by_its_name_on_the_hub_keeps_that_name(hub: FakeHub, tmp_path: Path) -> None:
    torch.manual_seed(3)
    weights = timm.create_model("test_resnet", num_classes=3).state_dict()
    described = {
        "architecture": "test_resnet",
        "num_classes": 3,
        "pretrained_cfg": {"input_size": [3, 48, 48]},
    }
    files = {"config.json": json.dumps(described).encode(), "model.safetensors": save(weights)}
    hub.repo("somebody/small", lfs={"model.safetensors"}).commit(files)
    model = timm.create_model("hf-hub:somebody/small", pretrained=True).eval()
    where = irnet_convert.save_pretrained(model, tmp_path / "saved")
    config = json.loads((where / "config.json").read_text())
    assert config["source"] == "hf-hub:somebody/small"
    assert config["architecture"] == {"name": "timm/test_resnet", "kwargs": {"num_classes": 3}}
    assert config["images"]["input_size"] == [3, 48, 48]
    hub.repos.clear()
    hub.requests.clear()
    images = torch.randn(2, 3, 48, 48)
    assert torch.equal(irnet_convert.from_pretrained(where)(images), model(images))
    assert hub.requests == []
