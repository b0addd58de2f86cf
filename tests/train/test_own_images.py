"""The walk of docs/own_images.md: from a folder of images to a packed file with its labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from irnet_convert import finetune, is_binarized, load, load_packed
from irnet_convert.cli import app

LABELS = ["cat", "dog", "emu"]


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
