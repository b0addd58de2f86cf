"""Data that are refused, and what the error says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, Features, Image, Value
from loading_cases import loaders_of, make

from irnet_convert.errors import DataError, RecipeError


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": "image"}, "no column 'image'.*img, label.*did you mean 'img'"),
        ({"label": "lable"}, "no column 'lable'.*did you mean 'label'"),
        ({"label": "img"}, "'img'.*class numbers"),
        ({"image": "label"}, "'label'.*images"),
        ({"eval_split": "validation"}, "(?i)split.*validation"),
        ({"num_classes": 4}, "data.num_classes is 4.*3 classes"),
        ({"name": "/nowhere/at/all"}, "no directory"),
    ],
)
def test_what_the_data_lack_is_named(source: dict[str, Any], changes: dict[str, Any], message: str):
    with pytest.raises(DataError, match=f"(?s){message}"):
        loaders_of(make({**source, **changes}), 1)


def test_other_data_that_are_refused(tmp_path: Path):
    with pytest.raises(DataError, match="'builtin/digits'"):
        loaders_of(make({"name": "builtin/digit"}), 1)
    with pytest.raises(DataError, match="no split 'val'"):
        loaders_of(make({"name": "builtin/digits", "eval_split": "val"}), 1)
    with pytest.raises(DataError, match="50 samples to train on"):
        loaders_of(make(batch_size=51), 1)
    with pytest.raises(RecipeError, match=r"(?s)a multiple of 10.*batch_size=20"):
        loaders_of(make(grad_accumulation=5), 2)
    for labels, message in (([0, -1], "no label"), ([0, None], "no label")):
        rows = Dataset.from_dict(
            {"image": [np.zeros((4, 4, 3), np.uint8)] * 2, "label": labels},
            features=Features({"image": Image(), "label": Value("int64")}),
        )
        folder = tmp_path / f"unlabelled{labels[1]}"
        rows.to_parquet(folder / "train.parquet")
        with pytest.raises(DataError, match=message):
            loaders_of(make({"name": str(folder), "eval_split": "train"}, batch_size=2), 1)


@pytest.mark.parametrize("source", ["stream"], indirect=True)
def test_a_stream_s_length_must_be_known_and_true(source: dict[str, Any]):
    with pytest.raises(DataError, match=r"(?s)does not say how many.*data.train_limit"):
        loaders_of(make({**source, "train_limit": None}), 1)
    (loaders,) = loaders_of(make({**source, "train_limit": 60}), 1)
    with pytest.raises(DataError, match="ended after 50"):
        list(loaders.train)
