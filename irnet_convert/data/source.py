"""A recipe's data block → one split of a Hugging Face data set, checked."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import datasets
import torch
from datasets import ClassLabel, Dataset, Image, IterableDataset, Value

from irnet_convert.data.builtin import open_builtin
from irnet_convert.data.seeding import generator_of
from irnet_convert.errors import DataError, nearest
from irnet_convert.recipe import Recipe
from irnet_convert.recipe.inputs import DataSpec


class Split(NamedTuple):
    """One split, ready to be read.

    Args:
        rows: its rows, with an image column and an integer label column.
        size: number of rows; None where a stream does not say.
        num_classes: of its labels.
        labels: what the classes are called; None where the labels are bare integers.
        found: the class numbers that occur in the split, limited or not; None of a stream.
    """

    rows: Dataset | IterableDataset
    size: int | None
    num_classes: int
    labels: tuple[str, ...] | None = None
    found: frozenset[int] | None = None


def open_split(recipe: Recipe, *, training: bool) -> Split:
    """Open the recipe's training or evaluation split.

    A limit takes that many samples drawn by the recipe's seed; of a stream, the first ones.

    Raises:
        DataError: the data set, split or column does not exist or is not of images and class numbers.
    """
    spec = recipe.data
    split, limit = (spec.train_split, spec.train_limit) if training else (spec.eval_split, spec.eval_limit)
    if spec.name.startswith("builtin/"):
        rows = open_builtin(spec, split, recipe.transforms.input_size[1:])
    else:
        rows = _load(spec, split)
    _check_columns(spec, rows, split)
    rows = rows.select_columns([spec.image, spec.label])
    if isinstance(rows, IterableDataset):
        return _stream(spec, rows, split, limit)
    found = _found(spec, rows, split)
    num_classes, labels = _num_classes(spec, rows, found), _labels(rows.features[spec.label])
    if limit is not None and limit < len(rows):
        drawn = torch.randperm(len(rows), generator=generator_of(recipe.seed))[:limit]
        rows = rows.select(drawn.sort().values.tolist())
    return Split(rows, len(rows), num_classes, labels, found)


def _labels(feature: object) -> tuple[str, ...] | None:
    return tuple(feature.names) if isinstance(feature, ClassLabel) else None


def _load(spec: DataSpec, split: str) -> Dataset | IterableDataset:
    if spec.name.startswith(("/", "./", "../", "~")) and not Path(spec.name).is_dir():
        raise DataError(
            f"the data set {spec.name!r} is no directory",
            expected="a directory that datasets.load_dataset reads, or a name on the Hub",
            mend="correct data.name; for a single file, name the directory that holds it",
        )
    try:
        rows = datasets.load_dataset(
            spec.name, spec.config, split=split, revision=spec.revision, streaming=spec.streaming
        )
    except Exception as error:  # of many kinds: offline, gated, no such name, config, split or revision
        raise DataError(
            f"the data set {spec.name!r} (config {spec.config!r}, split {split!r}, revision "
            f"{spec.revision!r}): {error}",
            expected="a name on the Hugging Face Hub or a directory, with that config, split and revision",
            mend="correct the data block of the recipe, or override it as in data.name=DIRECTORY",
        ) from error
    assert isinstance(rows, Dataset | IterableDataset), type(rows)  # a split was named
    return rows


def _of_a_folder(spec: DataSpec, rows: Dataset | IterableDataset) -> str:
    """What to add where a directory of images gave no labels."""
    if not {"image", "label"}.issuperset(rows.features or ()) or not Path(spec.name).is_dir():
        return ""
    return "; folders are labels where all images lie at one depth, SPLIT/CLASS/FILE, in two classes or more"


def _check_columns(spec: DataSpec, rows: Dataset | IterableDataset, split: str) -> None:
    if rows.features is None:
        raise DataError(
            f"the stream of {spec.name!r}, split {split!r}, does not declare its columns",
            expected="a data set with declared features",
            mend="set data.streaming=false",
        )
    for key, column in (("image", spec.image), ("label", spec.label)):
        if column not in rows.features:
            raise DataError(
                f"{spec.name!r}, split {split!r}, has no column {column!r} (data.{key})",
                expected=f"one of its columns: {', '.join(rows.features)}",
                mend=f"set data.{key}; {nearest(column, rows.features)}{_of_a_folder(spec, rows)}",
            )
    image, label = rows.features[spec.image], rows.features[spec.label]
    if not isinstance(image, Image):
        raise DataError(
            f"the column {spec.image!r} of {spec.name!r} holds {image}",
            expected="images (a datasets.Image feature)",
            mend="set data.image to the column of images",
        )
    whole = isinstance(label, Value) and label.dtype.lstrip("u").startswith("int")
    if not (isinstance(label, ClassLabel) or whole):
        raise DataError(
            f"the column {spec.label!r} of {spec.name!r} holds {label}",
            expected="class numbers (a datasets.ClassLabel, or integers)",
            mend="set data.label, or save the data set after Dataset.class_encode_column",
        )


def _found(spec: DataSpec, rows: Dataset, split: str) -> frozenset[int]:
    values = rows.unique(spec.label)
    if None in values or (values and min(values) < 0):
        raise DataError(
            f"{spec.name!r}, split {split!r}, has samples with no label (null or negative)",
            expected="a class number for every sample",
            mend="choose a labelled split, or filter the data set first" + _of_a_folder(spec, rows),
        )
    return frozenset(values)


def _num_classes(spec: DataSpec, rows: Dataset, found: frozenset[int]) -> int:
    label = rows.features[spec.label]
    count = len(label.names) if isinstance(label, ClassLabel) else max(found, default=-1) + 1
    _agree(spec, count, exact=isinstance(label, ClassLabel))
    return spec.num_classes or count


def _agree(spec: DataSpec, found: int, *, exact: bool) -> None:
    given = spec.num_classes
    if given is not None and (found != given if exact else found > given):
        raise DataError(
            f"data.num_classes is {given}, but {spec.name!r} has {found} classes",
            expected=f"{found}, or null to take the data set's own",
            mend="correct data.num_classes",
        )


def _stream(spec: DataSpec, rows: IterableDataset, split: str, limit: int | None) -> Split:
    label = rows.features[spec.label] if rows.features else None
    if isinstance(label, ClassLabel):
        _agree(spec, len(label.names), exact=True)
    num_classes = spec.num_classes or (len(label.names) if isinstance(label, ClassLabel) else None)
    if num_classes is None:
        raise DataError(
            f"the stream of {spec.name!r} does not say how many classes {spec.label!r} has",
            expected="a ClassLabel column, or data.num_classes",
            mend="set data.num_classes",
        )
    known = (rows.info.splits or {}).get(split)
    size = known.num_examples if known is not None else None
    if limit is not None:
        rows, size = rows.take(limit), limit if size is None else min(limit, size)
    return Split(rows, size, num_classes, _labels(label))
