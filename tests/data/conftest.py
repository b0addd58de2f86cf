"""Data on disk, and a cache of its own for each test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image


@pytest.fixture(params=["rows", "stream"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """A local folder of parquet, read as rows or as a stream."""
    noise = np.random.default_rng(0)
    for split, count in (("train", 50), ("test", 23)):
        pictures = [noise.integers(0, 256, (10, 10, 3), np.uint8) for _ in range(count)]
        features = Features({"img": Image(), "label": ClassLabel(names=["a", "b", "c"])})
        rows = {"img": pictures, "label": [number % 3 for number in range(count)]}
        Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "folder" / f"{split}.parquet")
    stream = request.param == "stream"  # of bare files, whose length nothing declares
    limits = {"train_limit": 50 if stream else None, "eval_limit": None}
    return {
        "name": str(tmp_path / "folder"),
        "image": "img",
        "streaming": stream,
        **limits,
    }


@pytest.fixture(autouse=True)
def quiet_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
