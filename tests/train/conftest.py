"""A recipe that trains in about a second: a tiny ViT (no batch statistics) on synthetic images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from irnet_convert.recipe import Recipe

VIT: dict[str, Any] = {"img_size": 8, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2}
TINY: dict[str, Any] = {
    "name": "tiny",
    "model": {"name": "timm/vit_tiny_patch16_224", "kwargs": {**VIT, "num_classes": 10}},
    "data": {"name": "builtin/synthetic", "workers": 0, "train_limit": 32, "eval_limit": 21},
    "transforms": {"input_size": [3, 8, 8]},
    "epochs": 2,
    "batch_size": 8,
    "eval_batch_size": 8,
}
RESNET: dict[str, Any] = {"name": "timm/cifar_resnet20", "kwargs": {"num_classes": 10}}
TEACHER: dict[str, Any] = {"teacher": "same", "distill": {"temperature": 2.0, "task_weight": 0.5}}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture
def tiny(tmp_path: Path) -> Callable[..., Recipe]:
    """``tiny(key=value, ...)``: the recipe with other top-level keys; its run directory is in tmp_path."""

    def make(**keys: Any) -> Recipe:
        return Recipe.from_dict({**TINY, "output": str(tmp_path / "run"), **keys})

    return make
