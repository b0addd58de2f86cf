"""Random numbers that depend on their purpose alone: on (seed, epoch, sample), not on what ran before."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def generator_of(*key: int) -> torch.Generator:
    """A CPU generator seeded by a hash of ``key`` (non-negative integers)."""
    return torch.Generator().manual_seed(int(_words(*key)[0]))


def seed_all(*key: int) -> None:
    """Seed Python's, NumPy's and torch's CPU generators by a hash of ``key``.

    For use inside :func:`forked_rng`. Accelerators' generators are left alone, which
    ``torch.manual_seed`` would not do.
    """
    first, second, third = _words(*key)
    random.seed(int(first))
    np.random.seed(int(second) % 2**32)
    torch.default_generator.manual_seed(int(third))


@contextmanager
def forked_rng() -> Iterator[None]:
    """Whatever seeds the CPU generators inside, they are as before after."""
    states = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.default_generator.set_state(states[2])


def _words(*key: int) -> np.ndarray:
    # 63 bits: torch's seeds are signed. SeedSequence's algorithm is fixed by NumPy's compatibility policy.
    return np.random.SeedSequence(key).generate_state(3, np.uint64) >> np.uint64(1)
