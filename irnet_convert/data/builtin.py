"""Data sets that need no network: real handwritten digits, and synthetic images for tests and benchmarks."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import PIL.Image
from datasets import ClassLabel, Dataset, Features, Image

from irnet_convert.errors import DataError, nearest
from irnet_convert.recipe.inputs import DataSpec

BUILTIN = ("builtin/digits", "builtin/photos", "builtin/synthetic")
_SYNTHETIC_SIZES = (256, 64)  # training, evaluation, where the recipe sets no limit
_PHOTO = (375, 500)  # (H, W), the most frequent size in ImageNet
_SMALL = 64  # up to this side an input is an image as it is (CIFAR), and no part of a photograph


def open_builtin(spec: DataSpec, split: str, size: tuple[int, int]) -> Dataset:
    """A built-in data set's split.

    Args:
        spec: with ``name`` one of :data:`BUILTIN`.
        split: which split.
        size: (H, W) of the network's input, for synthetic images.

    Raises:
        DataError: no such built-in, no such split, or scikit-learn is missing.
    """
    if spec.name == "builtin/digits":
        return _digits(split)
    if spec.name == "builtin/synthetic":
        return _synthetic(spec, split, size)
    if spec.name == "builtin/photos":
        return _photos(spec, split, size)
    raise DataError(
        f"the data set {spec.name!r}", expected=" or ".join(BUILTIN), mend=nearest(spec.name, BUILTIN)
    )


def _digits(split: str) -> Dataset:
    """scikit-learn's copy of the UCI optical digits: 1,797 grey images of 8×8; every fifth one tests."""
    if split not in ("train", "test"):
        raise DataError(
            f"builtin/digits has no split {split!r}",
            expected="train or test",
            mend=nearest(split, ["train", "test"]),
        )
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise DataError(
            "builtin/digits needs scikit-learn, which is not installed",
            expected="the images that come inside scikit-learn",
            mend='pip install "irnet-convert[digits]"',
        ) from error
    bunch: Any = load_digits()
    test = np.arange(len(bunch.target)) % 5 == 4
    chosen = test if split == "test" else ~test
    images = np.rint(bunch.images[chosen] * (255 / 16)).astype(np.uint8)
    return _dataset("image", "label", list(images), bunch.target[chosen].tolist(), 10)


def _synthetic(spec: DataSpec, split: str, size: tuple[int, int]) -> Dataset:
    """A pattern of 4×4 colours for each class, in noise; with the recipe's own columns and splits.

    The classes' patterns are the same in every split, the noise is not, so a network can learn them.
    Images are at most 32 pixels a side: the transforms enlarge them.
    """
    classes = spec.num_classes or 10
    training = split == spec.train_split
    count = (spec.train_limit if training else spec.eval_limit) or _SYNTHETIC_SIZES[not training]
    height, width = (min(32, side) for side in size)
    patterns = np.random.default_rng(0).uniform(40, 215, (classes, 4, 4, 3))
    noise = np.random.default_rng(1 if training else 2)
    rows, columns = np.arange(height) * 4 // height, np.arange(width) * 4 // width
    labels = [number % classes for number in range(count)]
    images = []
    for label in labels:
        pixels = patterns[label][rows][:, columns] + noise.normal(0, 25, (height, width, 3))
        images.append(np.clip(pixels, 0, 255).astype(np.uint8))
    return _dataset(spec.image, spec.label, images, labels, classes)


def _photos(spec: DataSpec, split: str, size: tuple[int, int]) -> Dataset:
    """JPEG files that take as long to read as photographs do, with nothing to learn: to measure loaders.

    For inputs above 64 pixels they have ImageNet's usual 500×375, below that the input's own size. Smooth
    noise under fine noise gives files of the usual size too. A few are enough, since each is decoded anew.
    """
    height, width = size if max(size) <= _SMALL else _PHOTO
    training = split == spec.train_split
    count = (spec.train_limit if training else spec.eval_limit) or _SYNTHETIC_SIZES[not training]
    noise = np.random.default_rng(0)
    files = []
    for _ in range(min(count, 16)):
        coarse = noise.integers(0, 256, (1 + height // 16, 1 + width // 16, 3), dtype=np.uint8)
        smooth = np.asarray(PIL.Image.fromarray(coarse).resize((width, height), PIL.Image.Resampling.BICUBIC))
        pixels = np.clip(smooth + noise.normal(0, 8, smooth.shape), 0, 255).astype(np.uint8)
        file = io.BytesIO()
        PIL.Image.fromarray(pixels).save(file, "JPEG", quality=90)
        files.append({"bytes": file.getvalue(), "path": None})
    classes = spec.num_classes or 10
    images = [files[number % len(files)] for number in range(count)]
    return _dataset(spec.image, spec.label, images, [number % classes for number in range(count)], classes)


def _dataset(image: str, label: str, images: list[Any], labels: list[int], classes: int) -> Dataset:
    features = Features({image: Image(), label: ClassLabel(names=[str(number) for number in range(classes)])})
    return Dataset.from_dict({image: images, label: labels}, features=features)
