"""Images → normalised tensors, by timm's transforms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from timm.data.transforms import str_to_interp_mode
from timm.data.transforms_factory import create_transform
from torch import Tensor
from torchvision.transforms import Compose, RandomCrop, Resize

from irnet_convert.recipe.inputs import TransformSpec

Transform = Callable[..., Tensor]


def train_transform(spec: TransformSpec) -> Transform:
    """PIL image → float32 (C, H, W), augmented.

    timm's training pipeline: crop, flips, colour jitter and auto-augment, tensor, normalise, erase. Its
    first step is RandomResizedCrop; without ``crop.scale`` a plain resize, and with ``crop.padding`` the
    CIFAR crop, stand in its place.
    """
    crop = spec.crop
    stages: Any = create_transform(
        input_size=spec.input_size,
        is_training=True,
        separate=True,
        scale=crop.scale if crop else None,
        ratio=crop.ratio if crop else None,
        hflip=spec.hflip,
        vflip=spec.vflip,
        color_jitter=spec.color_jitter,  # pyright: ignore[reportArgumentType]  timm takes None, for none
        auto_augment=spec.auto_augment,
        interpolation=spec.interpolation,
        mean=spec.mean,
        std=spec.std,
        re_prob=spec.erase,
    )
    first, middle, last = stages
    steps = list(first.transforms)
    if crop is None or crop.padding is not None:
        size = spec.input_size[1:]
        how: Any = str_to_interp_mode(spec.interpolation)
        steps[0] = Resize(size, interpolation=how)
        if crop is not None:
            steps.insert(1, RandomCrop(size, padding=crop.padding))
    return Compose([*steps, middle, last])


def eval_transform(spec: TransformSpec) -> Transform:
    """PIL image → float32 (C, H, W): resize the shorter side, crop the centre, normalise."""
    transform: Any = create_transform(
        input_size=spec.input_size,
        is_training=False,
        interpolation=spec.interpolation,
        mean=spec.mean,
        std=spec.std,
        crop_pct=spec.crop_pct,
    )
    return transform
