"""Rows of a data set → (image, label) samples whose augmentation depends on (seed, epoch, index) alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import torch
from datasets import Dataset, Image, IterableDataset
from PIL import Image as PilImage
from torch import Tensor

from irnet_convert.data.seeding import forked_rng, generator_of, seed_all
from irnet_convert.data.transforms import Transform
from irnet_convert.errors import DataError

Key = tuple[int, int]  # (epoch, index): the epoch travels with each index, so workers need no other state
Sample = tuple[Tensor, int]
Row = TypeVar("Row")


class Samples(torch.utils.data.Dataset[Sample]):
    """A map-style data set of samples, indexed by (epoch, index).

    Args:
        rows: with an image and a label column.
        image: name of the image column.
        label: name of the label column.
        mode: PIL mode that every image is converted to, ``"RGB"`` or ``"L"``.
        transform: PIL image → (C, H, W).
        seed: of the augmentation; None for a transform that draws nothing.
    """

    def __init__(
        self, rows: Dataset, *, image: str, label: str, mode: str, transform: Transform, seed: int | None
    ) -> None:
        # Undecoded: what cannot be decoded is then known by its file.
        self.rows = rows.cast_column(image, Image(decode=False))
        self.image, self.label = image, label
        self.mode, self.transform, self.seed = mode, transform, seed

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: Key) -> Sample:
        """The image (C, H, W) float32 and the class number of one row."""
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: list[Key]) -> list[Sample]:
        """A batch of samples; torch's fetcher calls this with a batch sampler's keys."""
        batch = self.rows[[index for _, index in keys]]
        with forked_rng():
            return [
                (make_image(decoded(stored, key[1]), self.mode, self.transform, self.seed, *key), int(label))
                for key, stored, label in zip(keys, batch[self.image], batch[self.label], strict=True)
            ]


def decoded(stored: dict[str, Any] | None, row: int) -> PilImage.Image:
    """The image that an undecoded value of an image column holds.

    Raises:
        DataError: it is missing, damaged or no image; the message names its file, or its row.
    """
    if stored is None:
        raise DataError(
            f"row {row} has no image (null)",
            expected="an image in every row",
            mend="filter the data set first",
        )
    try:
        return Image().decode_example(stored)
    # What PIL raises on damaged files: UnidentifiedImageError is an OSError, a broken PNG a SyntaxError.
    except (OSError, SyntaxError, ValueError, PilImage.DecompressionBombError) as error:
        raise DataError(
            f"the image {stored.get('path') or 'of the data set'} (row {row}) cannot be read: {error}",
            expected="a whole image in a format that PIL reads",
            mend="repair or replace that file, then go on with --resume",
        ) from error


def make_image(
    picture: PilImage.Image, mode: str, transform: Transform, seed: int | None, epoch: int, index: int
) -> Tensor:
    """Transform one image under random numbers of its own; call inside ``forked_rng``."""
    if seed is not None:
        seed_all(seed, epoch, index)
    return transform(picture.convert(mode))


class StreamedSamples(torch.utils.data.IterableDataset[Sample]):
    """One process's share of a stream, in the order of its global batches.

    Every process reads the whole stream and decodes its own part alone, so that the union of the
    processes' k-th batches is the k-th global batch, however the stream is stored.

    Args:
        rows: with an image and a label column.
        image: name of the image column.
        label: name of the label column.
        mode: PIL mode that every image is converted to.
        transform: PIL image → (C, H, W).
        seed: of the shuffling and augmentation; None keeps the stream's order.
        block: samples of a global batch that one process takes.
        processes: how many processes share the stream.
        process_index: which of them this is.
        length: samples of all processes together, a whole number of global batches; None reads to the end.
        num_classes: labels are below this; None leaves them unchecked.
    """

    def __init__(
        self,
        rows: IterableDataset,
        *,
        image: str,
        label: str,
        mode: str,
        transform: Transform,
        seed: int | None,
        block: int,
        processes: int,
        process_index: int,
        length: int | None,
        num_classes: int | None = None,
    ) -> None:
        # Undecoded: a sample of another process costs no decoding.
        rows = rows.cast_column(image, Image(decode=False))
        # The library's own buffer draws other numbers in a loader's worker than elsewhere: from it only the
        # order of the files, which does not.
        self.rows = rows if seed is None else rows.shuffle(seed=seed, buffer_size=1)
        self.image, self.label, self.mode = image, label, mode
        self.transform, self.seed, self.length = transform, seed, length
        self.block, self.processes, self.process_index = block, processes, process_index
        self.num_classes = num_classes
        self.epoch = 0
        self.start = 0

    def set_position(self, epoch: int, start: int) -> None:
        """Read ``epoch``'s order, leaving out its first ``start`` samples (of all processes)."""
        self.epoch, self.start = epoch, start
        self.rows.set_epoch(epoch)

    def __iter__(self) -> Iterator[Sample]:
        position = -1
        for position, row in enumerate(self._ordered()):
            if self.length is not None and position >= self.length:
                return
            mine = position // self.block % self.processes == self.process_index
            if mine and position >= self.start:
                yield self._sample(decoded(row[self.image], position), row[self.label], position)
        if self.length is not None and position + 1 < self.length:
            raise DataError(
                f"the stream ended after {position + 1} samples",
                expected=f"{self.length}, as it declares or the recipe's limit says",
                mend="set data.train_limit to what it holds",
            )

    def _ordered(self) -> Iterator[dict[str, Any]]:
        """The rows in the epoch's order, which (seed, epoch) alone decides."""
        if self.seed is None:
            return iter(self.rows)
        return shuffled(self.rows, SHUFFLE_BUFFER, generator_of(self.seed, self.epoch))

    def _sample(self, picture: Any, label: int, position: int) -> Sample:
        # A split that is on disk is counted when it is opened; a stream shows its labels only now.
        if self.num_classes is not None and not 0 <= label < self.num_classes:
            raise DataError(
                f"the label of sample {position} of the stream is {label}",
                expected=f"0 to {self.num_classes - 1}, since the data has {self.num_classes} classes",
                mend="correct data.num_classes, and num_classes in model.kwargs with it",
            )
        with forked_rng():
            return make_image(picture, self.mode, self.transform, self.seed, self.epoch, position), int(label)


def shuffled(rows: Iterable[Row], size: int, generator: torch.Generator) -> Iterator[Row]:
    """All rows, each drawn at random from ``size`` that are held; what is held at the end is permuted.

    Args:
        rows: any number of them.
        size: rows in memory at once, at least 1.
        generator: decides the order.
    """
    held: list[Row] = []
    for row in rows:
        if len(held) < size:
            held.append(row)
            continue
        place = int(torch.randint(size, (), generator=generator))
        yield held[place]
        held[place] = row
    for place in torch.randperm(len(held), generator=generator).tolist():
        yield held[place]


SHUFFLE_BUFFER = 2_000  # undecoded images in memory at once, about 0.2 GB of ImageNet
