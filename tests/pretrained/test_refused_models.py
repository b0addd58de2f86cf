"""What cannot be saved is refused in whole, and what lay there stays."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from saved_models import student_of
from torch import nn

import irnet_convert
from irnet_convert.errors import IrnetError, PretrainedError
from irnet_convert.networks import create_model
from irnet_convert.pretrained import from_pretrained, save_pretrained
from irnet_convert.recipe import ModelSpec

pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning:(timm|torchvision)")


def _eps(model: nn.Module) -> None:
    model.get_submodule("bn1").eps = 1e-3  # type: ignore[assignment]


def _hook(model: nn.Module) -> None:
    model.get_submodule("bn1").register_forward_hook(lambda module, args, output: output * 2)


def _forward(model: nn.Module) -> None:
    model.get_submodule("bn1").forward = lambda x: x  # type: ignore[method-assign]


def _head(model: nn.Module) -> None:
    model.linear = nn.Linear(64, 11)


def _act(model: nn.Module) -> None:
    model.act1 = nn.GELU()


def _state(model: nn.Module) -> None:
    model.get_submodule("bn1").register_buffer("more", torch.zeros(2))


@pytest.mark.parametrize(
    ("change", "said"),
    [(_eps, "eps of bn1 is 0.001, and 1e-05"), (_hook, "hooks of bn1 is 1"), (_forward, "forward of bn1"),
     (_head, r"linear.weight \(11, 64\), not \(10, 64\)"), (_act, "act1 is a GELU, not a ReLU"),
     (_state, "unexpected keys: bn1.more")],
)  # fmt: skip
def test_a_model_that_its_name_does_not_build_again_is_refused(change, said: str, tmp_path: Path) -> None:
    model = create_model("timm/cifar_resnet20")
    change(model)
    with pytest.raises(PretrainedError, match=said):
        save_pretrained(model, tmp_path / "saved")
    assert list(tmp_path.iterdir()) == []


def test_models_that_are_none(tmp_path: Path) -> None:
    student, _ = student_of("cifar_resnet20")
    for model, said in [
        ("resnet18", "is a str"),
        (irnet_convert.pack(student), "is packed"),
        (nn.Sequential(student), "carries no plan"),
        (nn.Sequential(nn.Linear(2, 2)), "which architecture"),
        (nn.Linear(2, 2, device="meta"), "on meta"),
    ]:
        with pytest.raises(PretrainedError, match=said):
            save_pretrained(model, tmp_path / "saved")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "architecture",
    ["resnet18", "timm/nonesuch", "timm/../x", ModelSpec(name="timm/resnet18", kwargs={"pretrained": True})],
)
def test_architectures_that_are_none(architecture: str, tmp_path: Path) -> None:
    with pytest.raises(IrnetError):
        save_pretrained(create_model("timm/cifar_resnet20"), tmp_path / "saved", architecture=architecture)
    assert list(tmp_path.iterdir()) == []


# -- the directory


def test_a_foreign_directory_is_refused_and_kept(tmp_path: Path) -> None:
    model = create_model("timm/cifar_resnet20")
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(PretrainedError, match=r"holds 'notes.txt'"):
        save_pretrained(model, tmp_path)
    (tmp_path / "notes.txt").rename(tmp_path / "config.json")
    with pytest.raises(PretrainedError, match="holds no saved model"):
        save_pretrained(model, tmp_path)
    assert (tmp_path / "config.json").read_text() == "mine"
    with pytest.raises(PretrainedError, match="is no directory"):
        save_pretrained(model, tmp_path / "config.json")


def test_a_failure_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    student, _ = student_of("cifar_resnet20")
    where = save_pretrained(student, tmp_path / "saved", packed=False)
    before = {path.name: path.read_bytes() for path in where.iterdir()}

    def full(path: Path, data: bytes) -> None:
        path.write_bytes(data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("irnet_convert.pretrained.save.write_synced", full)
    with pytest.raises(PretrainedError, match="No space left"):
        save_pretrained(student, where, packed=False)
    with pytest.raises(PretrainedError, match="No space left"):
        save_pretrained(student, tmp_path / "new", packed=False)
    assert {path.name: path.read_bytes() for path in where.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]


def test_the_directory_of_a_run_names_its_reader(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("name: run\n")
    with pytest.raises(PretrainedError) as error:
        from_pretrained(tmp_path)
    assert "irnet_convert.load" in error.value.mend
