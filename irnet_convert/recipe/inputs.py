"""Blocks for what goes in: networks, data sets, transforms, mixup."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import Field, JsonValue, field_validator, model_validator

from irnet_convert.recipe.block import (
    Above0,
    Block,
    Count,
    Fraction,
    NotNegative,
    Pair,
    PathText,
    Side,
    refuse,
)

# A path that cannot be taken for a library's name: it begins with a dot, a slash, a tilde or a drive.
_PATH = re.compile(r"(\.|/|~|\\|[A-Za-z]:[\\/])")


#: Largest whole number among a network's arguments: widths, depths, classes.
MAX_ARGUMENT = 65_536


class ModelSpec(Block):
    """A network and where its weights come from.

    Attributes:
        name: ``timm/NAME`` or ``torchvision/NAME``; the project's CIFAR networks are timm names. Or a
            model that ``save_pretrained`` wrote, with its weights: ``hf://org/name[@revision]``, or a
            directory that begins with ``./`` or is absolute.
        kwargs: plain data for the library's factory (``num_classes``, ``drop_path_rate``, ...).
        pretrained: load the library's own weights (timm's, or torchvision's ``DEFAULT``).
        checkpoint: a ``.safetensors`` file to load strictly instead.
    """

    name: PathText
    kwargs: dict[str, JsonValue] = Field(default_factory=dict)
    pretrained: bool = False
    checkpoint: PathText | None = None

    @field_validator("kwargs")
    @classmethod
    def _reasonable(cls, kwargs: dict[str, JsonValue]) -> dict[str, JsonValue]:
        _check_arguments(kwargs)
        return kwargs

    @field_validator("name")
    @classmethod
    def _library(cls, name: str) -> str:
        if name.startswith("hf://") or _PATH.match(name):
            return name
        library, slash, rest = name.partition("/")
        if library not in ("timm", "torchvision") or not slash or not rest:
            raise refuse("", f"is {name!r}", "timm/NAME, torchvision/NAME, hf://org/name or ./DIRECTORY")
        return name

    @property
    def is_saved(self) -> bool:
        """Whether ``name`` is a saved model, which has its own arguments and weights."""
        return self.name.partition("/")[0] not in ("timm", "torchvision")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.pretrained and self.checkpoint is not None:
            raise refuse("checkpoint", "is set together with pretrained: true", "one source of weights")
        if self.is_saved and (self.kwargs or self.pretrained or self.checkpoint is not None):
            key = "kwargs" if self.kwargs else "pretrained" if self.pretrained else "checkpoint"
            raise refuse(key, f"is set, and {self.name} is a saved model", f"{key} left out: it has its own")
        return self


def _check_arguments(value: JsonValue) -> int:
    """How many values there are in a factory's arguments; refuses what no network has."""
    if isinstance(value, str) and len(value) > 256:
        raise refuse("", f"holds a string of {len(value):,} characters", "256 at most")
    if isinstance(value, int) and abs(value) > MAX_ARGUMENT:
        raise refuse(
            "", f"holds {value if value.bit_length() < 99 else 'a number'}", f"{MAX_ARGUMENT:,} at most"
        )
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    count = 1 + sum(map(_check_arguments, items))
    if count > 1000:
        raise refuse("", f"holds {count:,} values", "1,000 at most")
    return count


class DataSpec(Block):
    """A data set of labelled images.

    Attributes:
        name: ``builtin/digits``, ``builtin/synthetic``, a name on the Hugging Face Hub or a local path.
        config: the data set's configuration name.
        revision: commit, tag or branch on the Hub.
        streaming: read samples as they are needed instead of downloading all first.
        image: column of the images.
        label: column of the labels.
        train_split: split to train on.
        eval_split: split to evaluate on.
        train_limit: use this many samples of the split, drawn by the recipe's seed.
        eval_limit: likewise for evaluation.
        num_classes: number of classes where the label column does not say it; synthetic data has so many.
        workers: loader processes for each training process; 0 loads in the process itself.
    """

    name: PathText = Field(min_length=1)
    config: str | None = None
    revision: str | None = None
    streaming: bool = False
    image: str = "image"
    label: str = "label"
    train_split: str = "train"
    eval_split: str = "test"
    train_limit: Count | None = None
    eval_limit: Count | None = None
    num_classes: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    workers: int = Field(default=2, ge=0, le=256)


class CropSpec(Block):
    """The random crop of training: exactly one of the two kinds.

    Attributes:
        padding: pixels of zeros around the image before a crop of the input's size (CIFAR).
        scale: range of the cropped share of the area (ImageNet's RandomResizedCrop).
        ratio: range of the crop's aspect ratio, with ``scale``.
    """

    padding: Side | None = None
    scale: Pair | None = None
    ratio: Pair = (3 / 4, 4 / 3)

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.padding is None) == (self.scale is None):
            raise refuse(
                "", "has both or neither of padding and scale", "one of padding: 4, scale: [0.08, 1.0]"
            )
        if self.scale is not None and not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise refuse("scale", f"is {list(self.scale)}", "[low, high] with 0 < low <= high <= 1")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise refuse("ratio", f"is {list(self.ratio)}", "[low, high] with 0 < low <= high")
        return self


class TransformSpec(Block):
    """Images → tensors, by ``timm.data.create_transform``.

    Attributes:
        input_size: (C, H, W) of what the network sees.
        mean: per channel, of values in 0..1.
        std: per channel, of values in 0..1.
        interpolation: how images are resized.
        crop: the random crop of training; null resizes only.
        hflip: probability of a horizontal flip.
        vflip: probability of a vertical flip.
        color_jitter: strength of brightness, contrast and saturation jitter.
        auto_augment: timm's policy string, as in ``rand-m9-mstd0.5``.
        erase: probability of random erasing.
        crop_pct: evaluation crops this share of the resized image's side.
    """

    input_size: tuple[Side, Side, Side] = (3, 32, 32)
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[Above0, ...] = (0.229, 0.224, 0.225)
    interpolation: Literal["nearest", "bilinear", "bicubic"] = "bilinear"
    crop: CropSpec | None = None
    hflip: Fraction = 0.0
    vflip: Fraction = 0.0
    color_jitter: NotNegative | None = None
    auto_augment: str | None = None
    erase: Fraction = 0.0
    crop_pct: float = Field(default=1.0, gt=0, le=1)

    @model_validator(mode="after")
    def _channels(self) -> Self:
        channels = self.input_size[0]
        if channels not in (1, 3):
            raise refuse("input_size", f"has {channels} channels", "1 (grey) or 3 (RGB)")
        for key, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != channels:
                raise refuse(
                    key, f"has {len(values)} values", f"{channels}, one for each channel of input_size"
                )
        return self


class MixupSpec(Block):
    """Arguments of ``timm.data.Mixup``; label smoothing alone is ``mixup_alpha: 0, cutmix_alpha: 0``."""

    mixup_alpha: NotNegative = 0.0
    cutmix_alpha: NotNegative = 0.0
    prob: Fraction = 1.0
    switch_prob: Fraction = 0.5
    mode: Literal["batch", "pair", "elem"] = "batch"
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
