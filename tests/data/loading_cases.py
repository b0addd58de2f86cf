"""Small recipes, their loaders, and what these give."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from irnet_convert.data import Loaders, make_loaders
from irnet_convert.recipe import Recipe

AUGMENTED = {
    "input_size": [3, 12, 12],
    "crop": {"padding": 2},
    "hflip": 0.5,
    "color_jitter": 0.4,
    "auto_augment": "rand-m9-mstd0.5",
    "erase": 0.5,
}
Batches = list[tuple[Tensor, Tensor]]


def make(data: dict[str, Any] | None = None, **changes: Any) -> Recipe:
    raw: dict[str, Any] = {
        "name": "small",
        "model": {"name": "timm/cifar_resnet20"},
        "data": {
            "name": "builtin/synthetic",
            "train_limit": 50,
            "eval_limit": 23,
            "workers": 0,
            **(data or {}),
        },
        "transforms": AUGMENTED,
        "epochs": 2,
        "batch_size": 12,
        "eval_batch_size": 5,
    }
    return Recipe.from_dict({**raw, **changes})


def loaders_of(recipe: Recipe, processes: int) -> list[Loaders]:
    return [make_loaders(recipe, processes=processes, process_index=index) for index in range(processes)]


def epoch_of(loaders: Loaders, epoch: int, start_step: int = 0) -> Batches:
    loaders.set_epoch(epoch, start_step)
    batches = list(loaders.train)
    assert len(batches) == (loaders.steps_per_epoch - start_step) * loaders.micro_batches
    return batches


def assert_same(left: Batches, right: Batches) -> None:
    assert len(left) == len(right) > 0
    for (images, labels), (others, other_labels) in zip(left, right, strict=True):
        assert torch.equal(images, others)
        assert torch.equal(labels, other_labels)


def union(shares: list[Batches], micro_batches: int = 1) -> Batches:
    """The global batches: of each step, every process's micro-batches in turn."""
    steps = len(shares[0]) // micro_batches
    return [
        tuple(
            torch.cat(
                [share[step * micro_batches + m][part] for share in shares for m in range(micro_batches)]
            )
            for part in (0, 1)
        )
        for step in range(steps)
    ]  # type: ignore[misc]
