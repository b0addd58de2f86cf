"""torchvision's own weights: their hash is checked, also in the cache, and nothing but tensors is read."""

from __future__ import annotations

import hashlib
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision

from irnet_convert.errors import CheckpointError, IrnetError, ModelError
from irnet_convert.networks import create_model
from irnet_convert.networks.origin import origin_of
from irnet_convert.networks.torchvision_weights import weights_alone
from irnet_convert.pretrained.rebuild import proven_origin
from irnet_convert.recipe import ModelSpec

SPEC = ModelSpec(name="torchvision/squeezenet1_1", pretrained=True)
_WEIGHTS = torchvision.models.SqueezeNet1_1_Weights.DEFAULT


class _Runs:
    """Pickled, it is a call that would leave a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Publish a file under a name with its hash; what ``create_model`` downloads from then on."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))

    def publish(write: Any, name: str = "squeezenet1_1-{hash}.pth") -> Path:
        path = tmp_path / "file"
        write(path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        path = path.rename(tmp_path / name.format(hash=digest[:8]))
        monkeypatch.setattr(_WEIGHTS.value, "url", path.as_uri())
        return path

    return publish


def _state() -> dict[str, torch.Tensor]:
    torch.manual_seed(4)
    return torchvision.models.squeezenet1_1().state_dict()


def test_they_are_downloaded_and_loaded(published, tmp_path: Path) -> None:
    state = _state()
    path = published(lambda where: torch.save(state, where))
    model = create_model(SPEC)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert (tmp_path / "home" / "hub" / "checkpoints" / path.name).is_file()
    origin = origin_of(model)
    assert origin is not None
    assert origin.source == "torchvision:SqueezeNet1_1_Weights.IMAGENET1K_V1"
    assert origin.images is not None
    assert (origin.images.input_size, origin.images.crop_pct) == ((3, 224, 224), 224 / 256)
    path.unlink()  # the second time from the cache
    create_model(SPEC)


def test_arguments_that_the_weights_set_are_part_of_the_architecture(
    published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = torchvision.models.googlenet(init_weights=False)
    path = published(lambda where: torch.save(model.state_dict(), where), "googlenet-{hash}.pth")
    monkeypatch.setattr(torchvision.models.GoogLeNet_Weights.DEFAULT.value, "url", path.as_uri())
    made = create_model(ModelSpec(name="torchvision/googlenet", pretrained=True))
    origin = proven_origin(made, None)
    assert origin.kwargs == {"transform_input": True, "aux_logits": False}


def test_a_download_of_another_hash_is_refused(published, tmp_path: Path) -> None:
    path = published(lambda where: torch.save(_state(), where))
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(ModelError, match="invalid hash value"):
        create_model(SPEC)
    assert not (tmp_path / "home" / "hub" / "checkpoints" / path.name).exists()


def test_an_altered_file_in_the_cache_is_refused(published, tmp_path: Path) -> None:
    path = published(lambda where: torch.save(_state(), where))
    create_model(SPEC)
    cached = tmp_path / "home" / "hub" / "checkpoints" / path.name
    other = _state()
    other["classifier.1.bias"] = torch.ones(1000)
    torch.save(other, cached)
    with pytest.raises(CheckpointError, match="has the SHA-256"):
        create_model(SPEC)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_runs_something_is_refused_under_its_right_hash(
    published, tmp_path: Path, legacy: bool
) -> None:
    ran = tmp_path / "ran"

    def write(path: Path) -> None:
        data = {"features.0.weight": _Runs(ran)}
        if legacy:
            path.write_bytes(pickle.dumps(data))
        else:
            torch.save(data, path)

    published(write)
    with pytest.raises(IrnetError, match=r"(?i)weights.only"):
        create_model(SPEC)
    assert not ran.exists()


def test_a_name_without_a_hash_is_refused(published) -> None:
    published(lambda where: torch.save(_state(), where), name="squeezenet1_1.pth")
    with pytest.raises(CheckpointError, match="no hash"):
        create_model(SPEC)


def test_every_default_of_torchvision_has_a_hash_in_its_name() -> None:
    from irnet_convert.networks.torchvision_weights import _HASH

    for name in torchvision.models.list_models():
        url = torchvision.models.get_model_weights(name)["DEFAULT"].url
        assert _HASH.search(url), url


def test_the_switches_are_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    monkeypatch.delenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", raising=False)

    def fails() -> None:
        with weights_alone():
            assert os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] == "1"
            assert "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD" not in os.environ
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] == "1"
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ
