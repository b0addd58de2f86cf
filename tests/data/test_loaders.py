"""Loaders: the same samples whatever the number of processes, whatever ran before, wherever a run resumes."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loading_cases import assert_same, epoch_of, loaders_of, make, union

from irnet_convert.data import make_eval_loader, make_loaders
from irnet_convert.data.batches import EvalBatches, TrainBatches
from irnet_convert.data.samples import shuffled
from irnet_convert.data.seeding import generator_of


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


def test_worker_processes_and_what_they_did_before_change_nothing(source: dict[str, Any]):
    """Bit for bit, under every augmentation: in the process itself, in one worker, in two."""
    (here,) = loaders_of(make(source), 1)
    expected = {epoch: epoch_of(here, epoch) for epoch in (0, 1)}
    for workers, history in ((1, (0, 1)), (2, (1, 0, 0))):
        (there,) = loaders_of(make({**source, "workers": workers}), 1)
        for epoch in history:
            assert_same(expected[epoch], epoch_of(there, epoch))
        assert_same(expected[1][3:], epoch_of(there, 1, start_step=3))


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 60), st.integers(1, 20), st.integers(0, 9))
def test_a_shuffled_stream_holds_every_row_once_and_few_in_memory(count: int, size: int, seed: int):
    taken = 0

    def rows() -> Any:
        nonlocal taken
        for number in range(count):
            taken += 1
            yield number

    seen = []
    for row in shuffled(rows(), size, generator_of(seed)):
        assert taken - len(seen) <= size + 1  # those held, and the one that takes the place of this one
        seen.append(row)
    assert sorted(seen) == list(range(count))
    assert seen == list(shuffled(range(count), size, generator_of(seed)))


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
