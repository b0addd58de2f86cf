"""A recipe → the loaders of one process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from datasets import IterableDataset
from torch.utils.data import DataLoader

from irnet_convert.data.batches import EvalBatches, TrainBatches
from irnet_convert.data.samples import Samples, StreamedSamples
from irnet_convert.data.source import Split, open_split
from irnet_convert.data.transforms import eval_transform, train_transform
from irnet_convert.errors import DataError, RecipeError
from irnet_convert.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Loaders:
    """What one process reads. Batches are (images float32 (N, C, H, W), labels int64 (N,)).

    They are sharded already: use them as they are, without ``Accelerator.prepare``, which would shard
    them again.

    Attributes:
        train: ``micro_batches`` batches for every step of the epoch.
        eval: this process's share of the evaluation split; shares may differ in their number of batches.
        num_classes: of the labels.
        steps_per_epoch: optimizer steps in a whole epoch, the same in every process.
        micro_batches: batches of ``train`` that make one step.
        labels: what the classes are called; None where the data do not say.
    """

    train: DataLoader[Any]
    eval: DataLoader[Any]
    num_classes: int
    steps_per_epoch: int
    micro_batches: int
    labels: tuple[str, ...] | None = None

    def set_epoch(self, epoch: int, start_step: int = 0) -> None:
        """Make the next iteration of ``train`` that of ``epoch``, from ``start_step`` (of optimizer) on.

        To be called before each epoch; with ``start_step``, what follows is what an uninterrupted epoch
        would have had from there.
        """
        source = self.train.dataset
        if isinstance(source, StreamedSamples):
            source.set_position(epoch, start_step * source.block * source.processes)
        elif isinstance(self.train.batch_sampler, TrainBatches):
            self.train.batch_sampler.set_position(epoch, start_step)


def make_loaders(recipe: Recipe, *, processes: int, process_index: int) -> Loaders:
    """Open the recipe's data and make process ``process_index``'s loaders.

    Raises:
        RecipeError: ``batch_size`` cannot be shared equally.
        DataError: the data lack what the recipe asks for, or the splits' classes differ.
    """
    shares = processes * recipe.grad_accumulation
    if recipe.batch_size % shares:
        raise RecipeError(
            f"batch_size is {recipe.batch_size} for {processes} processes and grad_accumulation "
            f"{recipe.grad_accumulation}",
            expected=f"a multiple of {shares}",
            mend=f"set batch_size={-(-recipe.batch_size // shares) * shares}",
        )
    train, evaluation = open_split(recipe, training=True), open_split(recipe, training=False)
    if train.num_classes != evaluation.num_classes:
        raise DataError(
            f"{recipe.data.name!r} has {train.num_classes} classes to train on and "
            f"{evaluation.num_classes} to evaluate on",
            expected="the same classes in both splits",
            mend="correct the splits, or set data.num_classes where labels are bare integers",
        )
    _check_all_are_trained(recipe, train, evaluation)
    if train.size is None:
        raise DataError(
            f"the stream of {recipe.data.name!r} does not say how many samples it holds",
            expected="a known length, from which the schedules are made",
            mend="set data.train_limit",
        )
    if train.size < recipe.batch_size:
        raise DataError(
            f"{recipe.data.name!r}, split {recipe.data.train_split!r}, has {train.size} samples to train on",
            expected=f"at least one batch of {recipe.batch_size}",
            mend="lower batch_size, or raise data.train_limit",
        )
    return Loaders(
        train=_train_loader(recipe, train, processes, process_index),
        eval=_eval_loader(recipe, evaluation, processes, process_index),
        num_classes=train.num_classes,
        steps_per_epoch=train.size // recipe.batch_size,
        micro_batches=recipe.grad_accumulation,
        labels=train.labels,
    )


def make_eval_loader(recipe: Recipe, *, processes: int, process_index: int) -> tuple[DataLoader[Any], int]:
    """Process ``process_index``'s share of the evaluation split, and the number of classes.

    Raises:
        DataError: the data lack what the recipe asks for.
    """
    split = open_split(recipe, training=False)
    return _eval_loader(recipe, split, processes, process_index), split.num_classes


def _check_all_are_trained(recipe: Recipe, train: Split, evaluation: Split) -> None:
    """Refuse to train without some of the classes: on a slice of a folder, whose rows are sorted by class."""
    if recipe.data.train_limit is not None or train.found is None or evaluation.found is None:
        return
    missing = sorted(evaluation.found - train.found)
    if missing:
        names = [str(each) if train.labels is None else train.labels[each] for each in missing[:5]]
        raise DataError(
            f"{recipe.data.name!r}, split {recipe.data.train_split!r}, has no image of "
            f"{', '.join(names)}{', ...' if len(missing) > 5 else ''}, and {recipe.data.eval_split!r} has",
            expected="images of every class to train on",
            mend="rows of a folder are sorted by class, so no slice holds all: move some files of each class "
            "into a folder for the other split (docs/own_images.md)",
        )


def _train_loader(recipe: Recipe, split: Split, processes: int, process_index: int) -> DataLoader[Any]:
    reads = _reads(recipe) | {"transform": train_transform(recipe.transforms), "seed": recipe.seed}
    share: dict[str, Any] = {"processes": processes, "process_index": process_index}
    if isinstance(split.rows, IterableDataset):
        assert split.size is not None
        whole = split.size // recipe.batch_size * recipe.batch_size
        block = recipe.batch_size // processes
        samples = StreamedSamples(split.rows, **reads, **share, block=block, length=whole,
                                  num_classes=split.num_classes)  # fmt: skip
        return _stream_loader(recipe, samples, block // recipe.grad_accumulation)
    batches = TrainBatches(
        len(split.rows),
        batch_size=recipe.batch_size,
        micro_batches=recipe.grad_accumulation,
        seed=recipe.seed,
        **share,
    )
    return _loader(recipe, Samples(split.rows, **reads), batches)


def _eval_loader(recipe: Recipe, split: Split, processes: int, process_index: int) -> DataLoader[Any]:
    reads = _reads(recipe) | {"transform": eval_transform(recipe.transforms), "seed": None}
    share: dict[str, Any] = {"processes": processes, "process_index": process_index}
    if isinstance(split.rows, IterableDataset):
        samples = StreamedSamples(split.rows, **reads, **share, block=1, length=None,
                                  num_classes=split.num_classes)  # fmt: skip
        return _stream_loader(recipe, samples, max(1, recipe.eval_batch_size // processes))
    batches = EvalBatches(len(split.rows), batch_size=recipe.eval_batch_size, **share)
    return _loader(recipe, Samples(split.rows, **reads), batches)


def _reads(recipe: Recipe) -> dict[str, Any]:
    mode = "RGB" if recipe.transforms.input_size[0] == 3 else "L"
    return {"image": recipe.data.image, "label": recipe.data.label, "mode": mode}


def _loader(recipe: Recipe, samples: Samples, batches: TrainBatches | EvalBatches) -> DataLoader[Any]:
    workers = recipe.data.workers
    return DataLoader(
        samples,
        batch_sampler=batches,
        num_workers=workers,
        persistent_workers=workers > 0,  # the epoch comes with every key, so they stay right
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # its own, or each iteration would draw from the global one
    )


def _stream_loader(recipe: Recipe, samples: StreamedSamples, batch_size: int) -> DataLoader[Any]:
    return DataLoader(
        samples,
        batch_size=batch_size,
        num_workers=min(1, recipe.data.workers),  # a second one would read the same stream again
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),
    )
