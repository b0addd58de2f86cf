"""Loaders: the same samples whatever the number of processes, whatever ran before, wherever a run resumes."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, Value
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PilImage
from torch import Tensor

from irnet_convert.data import Loaders, make_eval_loader, make_loaders
from irnet_convert.data.batches import EvalBatches, TrainBatches
from irnet_convert.data.transforms import eval_transform, train_transform
from irnet_convert.errors import DataError, RecipeError
from irnet_convert.recipe import Recipe, TransformSpec

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


# --- what loaders give ----------------------------------------------------------------------------------


def test_batches_are_float_images_and_class_numbers(source: dict[str, Any]):
    (loaders,) = loaders_of(make(source), 1)
    assert (loaders.num_classes, loaders.steps_per_epoch) == (3, 4)
    for images, labels in [*epoch_of(loaders, 0), *loaders.eval]:
        assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)
        assert images.shape == (len(labels), 3, 12, 12)


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_together_see_one_process_s_batches(source: dict[str, Any], processes: int):
    (one,) = loaders_of(make(source), 1)
    several = loaders_of(make(source), processes)
    for epoch in (0, 1):
        assert_same(epoch_of(one, epoch), union([epoch_of(each, epoch) for each in several]))


def test_micro_batches_together_are_the_batch(source: dict[str, Any]):
    (whole,) = loaders_of(make(source), 1)
    pieces = loaders_of(make(source, grad_accumulation=3), 2)
    assert [len(labels) for _, labels in epoch_of(pieces[0], 0)] == [2] * 12
    assert_same(epoch_of(whole, 1), union([epoch_of(each, 1) for each in pieces], micro_batches=3))


def test_a_resumed_epoch_is_the_rest_of_it(source: dict[str, Any]):
    for one, other in zip(loaders_of(make(source), 2), loaders_of(make(source), 2), strict=True):
        assert_same(epoch_of(one, 1)[2:], epoch_of(other, 1, start_step=2))
        assert_same(epoch_of(one, 1), epoch_of(other, 1))


def test_evaluation_sees_every_sample_once(source: dict[str, Any]):
    recipe = make(source)
    (everything,) = loaders_of(recipe, 1)
    expected = torch.cat([images for images, _ in everything.eval]).flatten(1)
    assert len(expected) == 23
    for processes in (2, 3, 30):
        shares = [
            make_eval_loader(recipe, processes=processes, process_index=index)[0]
            for index in range(processes)
        ]
        seen = torch.cat([images for share in shares for images, _ in share]).flatten(1)
        assert len(seen) == 23
        order, reference = np.lexsort(seen.numpy().T), np.lexsort(expected.numpy().T)
        assert torch.equal(seen[order], expected[reference])


def test_worker_processes_change_nothing():
    (here,), (workers,) = loaders_of(make(), 1), loaders_of(make({"workers": 2}), 1)
    for epoch in (0, 1):
        assert_same(epoch_of(here, epoch), epoch_of(workers, epoch))
    assert_same(epoch_of(here, 1, start_step=3), epoch_of(workers, 1, start_step=3))


# --- random numbers -------------------------------------------------------------------------------------


def test_augmentation_depends_on_seed_epoch_and_index_alone():
    samples = make_loaders(make(), processes=1, process_index=0).train.dataset
    first = samples[(0, 7)][0]
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    for index in range(5):
        samples[(3, index)]
    assert torch.equal(samples[(0, 7)][0], first)
    assert torch.equal(samples.__getitems__([(0, 3), (0, 7)])[1][0], first)  # type: ignore[attr-defined]
    assert not torch.equal(samples[(1, 7)][0], first)
    other = make_loaders(make(seed=1), processes=1, process_index=0).train.dataset
    assert not torch.equal(other[(0, 7)][0], first)


def test_loading_leaves_the_global_generators_alone():
    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    (loaders,) = loaders_of(make(), 1)
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    expected = draw()
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    epoch_of(loaders, 0)
    assert len(list(loaders.eval)) == 5
    assert draw() == expected


def test_each_epoch_has_an_order_of_its_own():
    (loaders,) = loaders_of(make(transforms={"input_size": [3, 12, 12]}), 1)
    orders = [torch.cat([images for images, _ in epoch_of(loaders, epoch)]) for epoch in (0, 1, 0)]
    assert torch.equal(orders[0], orders[2])
    assert not torch.equal(orders[0], orders[1])


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(0, 20), st.integers(0, 5))
def test_batches_partition_the_epoch(processes: int, micro: int, each: int, extra: int, epoch: int):
    batch = processes * micro * each
    size = batch + extra
    taken = []
    for index in range(processes):
        batches = TrainBatches(
            size, batch_size=batch, micro_batches=micro, processes=processes, process_index=index, seed=0
        )
        batches.set_position(epoch, 0)
        assert len(list(batches)) == len(batches) == size // batch * micro
        taken += [key for keys in batches for key in keys]
    assert {each_epoch for each_epoch, _ in taken} == {epoch}
    indices = {index for _, index in taken}
    assert len(indices) == len(taken) == size // batch * batch
    assert indices <= set(range(size))
    shares = [
        EvalBatches(size, batch_size=batch, processes=processes, process_index=i) for i in range(processes)
    ]
    assert sorted(index for share in shares for keys in share for _, index in keys) == list(range(size))
    assert all(len(list(share)) == len(share) for share in shares)


# --- transforms -----------------------------------------------------------------------------------------


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


# --- sources --------------------------------------------------------------------------------------------


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
    picture = make_loaders(recipe, processes=1, process_index=0).eval.dataset.rows[0]["image"]  # type: ignore[attr-defined]
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
