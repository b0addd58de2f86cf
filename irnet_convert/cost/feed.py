"""How much of a training step is spent waiting for data, by the loaders that training uses."""

from __future__ import annotations

import time

from irnet_convert.cost.steps import Step
from irnet_convert.data import make_loaders
from irnet_convert.recipe import Recipe

_SMALL = 64  # up to this side images are padded and cropped as CIFAR's are, above it as ImageNet's
_TIMED = 8


def waiting_share(step: Step, network: str, batch: int, size: tuple[int, ...], *, workers: int) -> float:
    """The share of the time of training steps that passes before their batches are there, 0 to 1.

    The images are JPEG files in memory, as large as photographs where the network sees more than 64 pixels a
    side; they are decoded, cropped at random, flipped and normalised. What was prepared before the first step
    is used up before the time is taken.

    Args:
        step: is fed, and run.
        network: timm/NAME or torchvision/NAME.
        batch: images a step.
        size: of an image, (C, H, W) with one or three channels.
        workers: loader processes; with 0 the step's own process decodes.
    """
    warm = 2 * workers + 1
    loaders = make_loaders(
        _recipe(network, batch, size, workers, steps=warm + _TIMED), processes=1, process_index=0
    )
    loaders.set_epoch(0)
    batches = iter(loaders.train)
    waited = begin = 0.0
    for number in range(warm + _TIMED):
        if number == warm:
            waited, begin = 0.0, time.perf_counter()
        before = time.perf_counter()
        images, labels = next(batches)
        waited += time.perf_counter() - before
        step.feed(images, labels)
        step()
    return waited / (time.perf_counter() - begin)


def _recipe(network: str, batch: int, size: tuple[int, ...], workers: int, *, steps: int) -> Recipe:
    small, channels = max(size[1:]) <= _SMALL, size[0]
    return Recipe.from_dict(
        {
            "name": "bench-train",
            "model": {"name": network},
            "policy": None,
            "data": {"name": "builtin/photos", "train_limit": steps * batch, "workers": workers},
            "transforms": {
                "input_size": list(size), "mean": [0.5] * channels, "std": [0.25] * channels, "hflip": 0.5,
                "crop": {"padding": 4} if small else {"scale": [0.08, 1.0]},
            },
            "epochs": 1,
            "batch_size": batch,
        },
        source="the benchmark's recipe",
    )  # fmt: skip
