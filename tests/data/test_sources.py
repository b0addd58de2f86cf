"""Built-in data, limits and channels."""

from __future__ import annotations

import io
import sys
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from datasets import Image
from loading_cases import assert_same, epoch_of, loaders_of, make

from irnet_convert.data import make_loaders
from irnet_convert.data.builtin import open_builtin
from irnet_convert.data.samples import decoded
from irnet_convert.errors import DataError
from irnet_convert.recipe.inputs import DataSpec


def test_digits_are_scikit_learns():
    recipe = make(
        {"name": "builtin/digits", "train_limit": None, "eval_limit": None}, transforms={"mean": [0.0] * 3}
    )
    (loaders,) = loaders_of(recipe, 1)
    assert (loaders.num_classes, loaders.steps_per_epoch) == (10, 1438 // 12)
    labels = torch.cat([labels for _, labels in loaders.eval])
    assert len(labels) == 359
    from sklearn.datasets import load_digits

    data: Any = load_digits()
    assert labels.tolist() == data.target[4::5].tolist()
    rows = make_loaders(recipe, processes=1, process_index=0).eval.dataset.rows  # type: ignore[attr-defined]
    picture = decoded(rows[0]["image"], 0)
    assert (picture.size, picture.mode) == ((8, 8), "L")
    np.testing.assert_allclose(np.asarray(picture, float) * 16 / 255, data.images[4], atol=0.04)


def test_digits_without_scikit_learn(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DataError, match=r"irnet-convert\[digits\]"):
        loaders_of(make({"name": "builtin/digits"}), 1)


def test_synthetic_images_have_the_recipe_s_columns_splits_and_classes():
    recipe = make({"image": "pic", "label": "y", "eval_split": "val", "num_classes": 7})
    (loaders,) = loaders_of(recipe, 1)
    assert loaders.num_classes == 7
    assert sum(len(labels) for _, labels in loaders.eval) == 23
    assert_same(epoch_of(loaders, 0), epoch_of(loaders_of(recipe, 1)[0], 0))


def test_limits_draw_by_the_seed(source: dict[str, Any]):
    limited = {**source, "train_limit": 24, "eval_limit": 10}
    (loaders,) = loaders_of(make(limited), 1)
    assert loaders.steps_per_epoch == 2
    assert sum(len(labels) for _, labels in loaders.eval) == 10
    if not source["streaming"]:
        (other,) = loaders_of(make(limited, seed=1), 1)
        assert not torch.equal(next(iter(loaders.eval))[0], next(iter(other.eval))[0])


def test_grey_and_colour_images_fit_the_input():
    for channels, name in ((1, "builtin/synthetic"), (3, "builtin/digits")):
        spec = {"input_size": [channels, 12, 12], "mean": [0.5] * channels, "std": [0.5] * channels}
        (loaders,) = loaders_of(make({"name": name}, transforms=spec), 1)
        assert next(iter(loaders.train))[0].shape == (12, channels, 12, 12)


@pytest.mark.parametrize(("side", "height", "width"), [(224, 375, 500), (32, 32, 32)])
def test_photos_are_jpeg_files_of_the_usual_size(side, height, width):
    spec = DataSpec(name="builtin/photos", train_limit=20)
    rows = open_builtin(spec, "train", (side, side))
    assert len(rows) == 20
    file = rows.cast_column("image", Image(decode=False))[19]["image"]["bytes"]
    picture = PIL.Image.open(io.BytesIO(file))
    assert (picture.format, picture.size) == ("JPEG", (width, height))
    # ImageNet's files hold 110 kB on average.
    assert side == 32 or 50_000 < len(file) < 200_000
