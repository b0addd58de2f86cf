"""The walk of docs/own_images.md: from a folder of images to a packed file with its labels."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner

from irnet_convert import binarize, finetune, is_binarized, load, load_packed
from irnet_convert.cli import app
from irnet_convert.data import make_loaders
from irnet_convert.data.samples import decoded
from irnet_convert.data.transforms import eval_transform
from irnet_convert.errors import DataError, ModelError
from irnet_convert.networks import create_model
from irnet_convert.recipe import Recipe
from irnet_convert.train.remarks import remarks

LABELS = ["cat", "dog", "emu"]
CPU = torch.device("cpu")


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three classes that differ in their grey, as JPEG files."""
    monkeypatch.chdir(tmp_path)
    noise = np.random.default_rng(0)
    for number, label in enumerate(LABELS):
        for split, count in (("train", 16), ("test", 8)):
            folder = tmp_path / "images" / split / label
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = 60 + 60 * number + noise.integers(0, 30, (40, 48, 3))
                Image.fromarray(pixels.astype("uint8")).save(folder / f"{index}.jpg")
    return tmp_path / "images"


def test_from_a_folder_to_a_packed_file(images: Path) -> None:
    small = [
        "data.name=./images",
        "data.workers=0",
        "model.name=timm/test_resnet",
        "transforms.input_size=[3,32,32]",
        "model.kwargs.num_classes=3",
        "batch_size=16",
        "epochs=2",
        "schedule.warmup_epochs=0",
    ]
    teacher = finetune("images_teacher", overrides=[*small, "model.pretrained=false", "optimizer.lr=3e-3"])
    student = finetune("images", overrides=small)
    assert student.metrics["teacher"]["count"] == 24
    assert student.metrics["teacher"]["top1"] == teacher.metrics["after"]["top1"]
    network = load(student.run_dir)
    assert is_binarized(network)

    done = CliRunner().invoke(app, ["pack", "runs/images", "small.safetensors"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    packed = load_packed("small.safetensors")
    assert packed.source["labels"] == LABELS
    assert packed.source["input_size"] == [3, 32, 32]
    x = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(packed(x), network(x), atol=1e-3, rtol=1e-3)


def test_the_page_prepares_photographs_as_the_evaluation_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "own_images.md").read_text()
    block = next(b for b in re.findall(r"^```\n(.*?)^```", page, re.MULTILINE | re.DOTALL) if "Compose" in b)
    pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3)).astype("uint8")
    Image.fromarray(pixels).save(tmp_path / "rex.jpg")
    monkeypatch.chdir(tmp_path)
    spec = Recipe.load("images", ["transforms.input_size=[3,224,224]"]).transforms
    source = {**spec.model_dump(mode="json"), "labels": LABELS}
    seen: list[Tensor] = []

    def network(x: Tensor) -> Tensor:
        seen.append(x)
        return torch.tensor([[0.0, 2.0, 1.0]])

    exec(block, {"source": source, "network": network})
    with Image.open("rex.jpg") as photo:
        expected = eval_transform(spec)(photo.convert("RGB"))
    torch.testing.assert_close(seen[0][0], expected, atol=1e-6, rtol=0)


def test_a_damaged_photograph_is_named(images: Path) -> None:
    bad = images / "train" / "dog" / "3.jpg"
    bad.write_bytes(bad.read_bytes()[:200])
    recipe = Recipe.load("images_teacher", ["data.name=./images", "data.workers=0", "batch_size=16"])
    loaders = make_loaders(recipe, processes=1, process_index=0)
    with pytest.raises(DataError, match=r"dog.3\.jpg \(row \d+\) cannot be read"):
        list(loaders.train)


def test_an_image_that_is_null() -> None:
    with pytest.raises(DataError, match="row 7 has no image"):
        decoded(None, 7)


def test_a_slice_without_some_classes_is_refused(images: Path) -> None:
    changes = ["data.name=./images", "data.train_split=train[:60%]", "data.eval_split=train[60%:]"]
    recipe = Recipe.load("images_teacher", [*changes, "batch_size=16"])
    with pytest.raises(DataError, match=r"'train\[:60%\]', has no image of emu, and 'train\[60%:\]' has"):
        make_loaders(recipe, processes=1, process_index=0)


def test_a_number_of_classes_that_the_folders_do_not_have(images: Path) -> None:
    changes = ["data.name=./images", "batch_size=16", "model.name=timm/test_resnet", "model.pretrained=false"]
    with pytest.raises(ModelError, match="10 classes and the data 3: cat, dog, emu") as error:
        finetune("images_teacher", overrides=changes)
    assert "model.kwargs.num_classes=3" in error.value.mend


@pytest.mark.parametrize("names", [["1.jpg"], ["cat/1.jpg", "cat/old/2.jpg", "dog/1.jpg"]])
def test_a_folder_without_labels(names: list[str], tmp_path: Path) -> None:
    for path in (tmp_path / split / name for split in ("train", "test") for name in names):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(path)
    with pytest.raises(DataError, match=r"no column 'label'|samples with no label") as error:
        make_loaders(Recipe.load("images", [f"data.name={tmp_path}"]), processes=1, process_index=0)
    assert "SPLIT/CLASS/FILE" in error.value.mend


def test_images_that_were_prepared_otherwise_are_remarked_on(tmp_path: Path) -> None:
    changes = ["model.name=timm/mobilenetv1_100", "model.pretrained=false"]
    student = create_model("timm/mobilenetv1_100")
    recipe = Recipe.load("images_teacher", changes)
    assert list(remarks(recipe, student, CPU)) == []
    pretrained = recipe.model_copy(update={"model": recipe.model.model_copy(update={"pretrained": True})})
    (said,) = remarks(pretrained, student, CPU)
    assert said.endswith("transforms.mean=[0.5,0.5,0.5] transforms.std=[0.5,0.5,0.5]")

    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    checkpoint = [f"model.checkpoint={tmp_path / 'model.safetensors'}"]
    assert list(remarks(Recipe.load("images", checkpoint), student, CPU)) == []
    (said,) = remarks(Recipe.load("images", [*checkpoint, "transforms.input_size=[3,128,128]"]), student, CPU)
    assert said.endswith("alike: transforms.input_size=[3,224,224]")


def test_training_without_native_passes_is_remarked_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a binarized network on a CPU, where nobody asked for the reference."""
    recipe = Recipe.load("digits")
    network = create_model("timm/cifar_resnet20")
    student = binarize(network)
    monkeypatch.delenv("IRNET_ISA", raising=False)
    monkeypatch.setattr("irnet_convert.train.remarks.passes", lambda: None)
    (said,) = remarks(recipe, student, CPU)
    assert "C++17 compiler" in said
    assert list(remarks(recipe, network, CPU)) == []
    assert list(remarks(recipe, student, torch.device("cuda"))) == []
    monkeypatch.setenv("IRNET_ISA", "reference")
    assert list(remarks(recipe, student, CPU)) == []
