"""Training steps to be timed, and timing them in turns."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from irnet_convert.cost.memory import kept_for_backward


class Step:
    """A training step: forward pass, cross-entropy, backward pass, SGD with momentum.

    On CUDA the forward pass runs under autocast in bfloat16, and a call returns when the device is done.

    Args:
        model: in training mode.
        images: (N, C, H, W), on the device and in the memory format of the model.
        labels: (N,).
        compiled: run the forward and backward pass compiled.
    """

    def __init__(self, model: nn.Module, images: Tensor, labels: Tensor, *, compiled: bool = False) -> None:
        self._model, self._images, self._labels = model, images, labels
        self._forward = torch.compile(model) if compiled else model
        # So small a rate that the weights stay what they were: no step is a special one.
        self._optimizer = torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9)
        self._cuda = images.device.type == "cuda"

    def feed(self, images: Tensor, labels: Tensor) -> None:
        """Use this batch from now on, on the device and in the memory format of the first one."""
        channels_last = self._images.is_contiguous(memory_format=torch.channels_last)
        form = torch.channels_last if channels_last else torch.contiguous_format
        self._images = images.to(self._images.device).contiguous(memory_format=form)
        self._labels = labels.to(self._images.device)

    def __call__(self) -> None:
        """One step."""
        self._optimizer.zero_grad()
        self._loss().backward()
        self._optimizer.step()
        if self._cuda:
            torch.cuda.synchronize()

    def kept(self) -> int:
        """Bytes kept for the backward pass."""
        return kept_for_backward(self._model, self._loss)

    def _loss(self) -> Tensor:
        with torch.autocast(self._images.device.type, torch.bfloat16, enabled=self._cuda):
            return F.cross_entropy(self._forward(self._images), self._labels)


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """A step by its name, and the name of the one that it is compared with."""

    name: str
    against: str
    step: Callable[[], None]


def time_in_turns(
    contestants: Sequence[Contestant], rounds: int, progress: Callable[[], None]
) -> dict[str, list[float]]:
    """Time every contestant once a round, each round in another order.

    Args:
        contestants: warmed up.
        rounds: how many.
        progress: called after every round.

    Returns:
        Name → seconds, round by round.
    """
    found: dict[str, list[float]] = {one.name: [] for one in contestants}
    order, chance = list(contestants), random.Random(0)
    for _ in range(rounds):
        chance.shuffle(order)
        for one in order:
            begin = time.perf_counter()
            one.step()
            found[one.name].append(time.perf_counter() - begin)
        progress()
    return found
