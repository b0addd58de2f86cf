"""What becomes of an image on its way into a batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image as PilImage
from torch import Tensor

from irnet_convert.data.transforms import eval_transform, train_transform
from irnet_convert.recipe import TransformSpec


def test_evaluation_resizes_crops_and_normalises():
    spec = TransformSpec(input_size=(3, 8, 8), mean=(0.5, 0.25, 0.0), std=(0.5, 1.0, 2.0))
    image = PilImage.new("RGB", (8, 8), (255, 51, 102))
    expected = torch.tensor([1.0, -0.05, 0.2]).view(3, 1, 1).expand(3, 8, 8)
    torch.testing.assert_close(eval_transform(spec)(image), expected)
    assert eval_transform(spec)(PilImage.new("RGB", (31, 17))).shape == (3, 8, 8)


def test_training_crops_as_the_recipe_says():
    pixels = np.random.default_rng(0).integers(1, 256, (8, 8, 3), np.uint8)
    image = PilImage.fromarray(pixels)
    plain = {"input_size": [3, 8, 8], "mean": [0.0] * 3, "std": [1.0] * 3}

    def transform(**more: Any) -> Tensor:
        return train_transform(TransformSpec.model_validate({**plain, **more}))(image)

    whole = torch.from_numpy(pixels).permute(2, 0, 1) / 255
    torch.testing.assert_close(transform(), whole)
    torch.testing.assert_close(transform(hflip=1.0), whole.flip(2))
    torch.manual_seed(0)
    padded = torch.nn.functional.pad(whole, (2, 2, 2, 2))
    windows = [padded[:, y : y + 8, x : x + 8] for y in range(5) for x in range(5)]
    seen = [
        next(n for n, w in enumerate(windows) if torch.allclose(w, transform_))
        for transform_ in (transform(crop={"padding": 2}) for _ in range(20))
    ]
    assert len(set(seen)) > 5
    assert transform(crop={"scale": [0.08, 1.0]}).shape == (3, 8, 8)
