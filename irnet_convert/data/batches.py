"""Which samples make up each process's batches."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler

from irnet_convert.data.samples import Key
from irnet_convert.data.seeding import generator_of


class TrainBatches(Sampler[list[Key]]):
    """One process's micro-batches of an epoch.

    An epoch is a permutation that (seed, epoch) decides, cut into global batches; an incomplete last one
    is dropped. Process p takes the p-th of ``processes`` equal slices of every global batch and cuts it
    into ``micro_batches``: the union over processes and micro-batches of step k is global batch k, however
    many processes there are.

    Args:
        size: samples in the data set, at least ``batch_size``.
        batch_size: of a global batch, a multiple of ``processes * micro_batches``.
        micro_batches: batches that make one optimizer step (gradient accumulation).
        processes: how many processes share a global batch.
        process_index: which of them this is.
        seed: the recipe's.
    """

    def __init__(
        self, size: int, *, batch_size: int, micro_batches: int, processes: int, process_index: int, seed: int
    ) -> None:
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self.slice = batch_size // processes
        self.micro = self.slice // micro_batches
        self.first = process_index * self.slice
        self.steps = size // batch_size
        self.epoch = 0
        self.start_step = 0

    def set_position(self, epoch: int, start_step: int) -> None:
        """Make the next iteration that of ``epoch``, from its step ``start_step`` on."""
        self.epoch, self.start_step = epoch, start_step

    def __len__(self) -> int:
        return (self.steps - self.start_step) * (self.slice // self.micro)

    def __iter__(self) -> Iterator[list[Key]]:
        epoch = self.epoch
        order = torch.randperm(self.size, generator=generator_of(self.seed, epoch)).tolist()
        for step in range(self.start_step, self.steps):
            begin = step * self.batch_size + self.first
            for micro in range(begin, begin + self.slice, self.micro):
                yield [(epoch, index) for index in order[micro : micro + self.micro]]


class EvalBatches(Sampler[list[Key]]):
    """One process's batches for evaluation: over all processes, every sample exactly once.

    Process p takes samples p, p + processes, ...; the shares differ by one sample at most,
    so one process may have a batch more than another, or none at all.
    """

    def __init__(self, size: int, *, batch_size: int, processes: int, process_index: int) -> None:
        self.indices = range(process_index, size, processes)
        self.batch = max(1, batch_size // processes)

    def __len__(self) -> int:
        return -(-len(self.indices) // self.batch)

    def __iter__(self) -> Iterator[list[Key]]:
        for begin in range(0, len(self.indices), self.batch):
            yield [(0, index) for index in self.indices[begin : begin + self.batch]]
