"""From names to a table: networks, their binarized forms, steps, time and memory."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from irnet_convert.convert import binarize, plan_of
from irnet_convert.cost.authors import with_authors_layers
from irnet_convert.cost.feed import waiting_share
from irnet_convert.cost.steps import Contestant, Step, time_in_turns
from irnet_convert.cost.table import Cost, Row
from irnet_convert.errors import ArgumentError
from irnet_convert.layers import set_compact, set_progress
from irnet_convert.native import passes
from irnet_convert.networks import create_model

FULL, BINARY, COMPACT, AUTHORS = "full precision", "binary", "binary, compact", "authors' formulation"
COMPILED = ", compiled"

Progress = Callable[[str, int], None]
"""Is told what happens, and how many steps of the work were done since it was last told."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A network to measure.

    Attributes:
        network: timm/NAME or torchvision/NAME.
        batch: images a step.
        size: of an image, (C, H, W); the model's own if None.
    """

    network: str
    batch: int
    size: tuple[int, int, int] | None = None


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to measure.

    Attributes:
        cases: the networks.
        rounds: how often each step is timed.
        compiled: measure compiled steps too.
        authors: measure the authors' formulation too.
        compact: measure the binarized network after ``layers.set_compact`` too.
        device: "cpu" (float32) or "cuda" (bfloat16 by autocast).
        threads: of PyTorch.
        workers: loader processes that decode, where the waiting for data is measured.
    """

    cases: Sequence[Case]
    rounds: int = 15
    compiled: bool = False
    authors: bool = True
    compact: bool = False
    device: str = "cpu"
    threads: int = 2
    workers: int = 2

    @property
    def work(self) -> int:
        """How many steps of work the progress will be told of in all."""
        return len(self.cases) * (self.rounds + 3 + 2 * self.compiled + self.authors + self.compact)


def measure(request: Request, machine: str, progress: Progress = lambda text, done: None) -> Cost:
    """Time training steps in turns, and count what they keep for the backward pass.

    Args:
        request: what.
        machine: what to say of the machine.
        progress: is told what happens.

    Raises:
        ArgumentError: a device that is not there.
        UnknownNameError: no such network.
        IrnetError: a network that cannot be converted.
    """
    if request.device == "cuda" and not torch.cuda.is_available():
        raise ArgumentError(
            "device 'cuda'",
            expected="a CUDA GPU that PyTorch finds",
            mend="leave it out to measure on the CPU",
        )
    before = torch.get_num_threads()
    torch.set_num_threads(request.threads)
    try:
        rows = [row for case in request.cases for row in _rows(case, request, progress)]
    finally:
        torch.set_num_threads(before)
    found = passes()
    cpu = request.device == "cpu"
    return Cost(
        rows=rows, machine=machine, threads=request.threads, rounds=request.rounds,
        precision="float32" if cpu else "bfloat16 by autocast",
        passes=(found.isa if found else "none, tensor operations") if cpu else "tensor operations",
    )  # fmt: skip


def _rows(case: Case, request: Request, progress: Progress) -> Iterator[Row]:
    size, contestants, kept = _contestants(case, request, progress)
    told = f"{case.network}: timing"
    progress(told, 0)
    times = time_in_turns(contestants, request.rounds, lambda: progress(told, 1))
    progress(f"{case.network}: waiting for data", 0)
    waiting = {BINARY: _waiting(contestants, case, size, request)}
    progress(f"{case.network}: waiting for data", 1)
    for one in contestants:
        base = times[one.against]
        yield Row(
            network=case.network, batch=case.batch, size=size, name=one.name, against=one.against,
            seconds=statistics.median(times[one.name]),
            time_ratio=statistics.median(t / b for t, b in zip(times[one.name], base, strict=True)),
            kept=kept[one.name], memory_ratio=kept[one.name] / kept[one.against],
            waiting=waiting.get(one.name),
        )  # fmt: skip


def _waiting(
    contestants: Sequence[Contestant], case: Case, size: tuple[int, ...], request: Request
) -> float | None:
    """Of the binarized network's steps; None for images that no loader gives."""
    step = next(one.step for one in contestants if one.name == BINARY)
    if size[0] not in (1, 3) or not isinstance(step, Step):
        return None
    return waiting_share(step, case.network, case.batch, size, workers=request.workers)


def _contestants(
    case: Case, request: Request, progress: Progress
) -> tuple[tuple[int, ...], list[Contestant], dict[str, int]]:
    """The size of an image, warm steps, and what they keep."""
    torch.manual_seed(0)
    progress(f"{case.network}: building", 0)
    dense = create_model(case.network).train()
    example = torch.zeros(1, *case.size) if case.size else None
    student = binarize(dense, example_input=example).train()
    set_progress(student, 0.5)
    size = case.size or _recorded_size(student)
    images = torch.randn(case.batch, *size)
    labels = torch.zeros(case.batch, dtype=torch.int64)
    contestants: list[Contestant] = []
    kept: dict[str, int] = {}
    for name, against, model in _models(dense, student, request):
        progress(f"{case.network}: {name}", 0)
        format = torch.contiguous_format if name == AUTHORS else torch.channels_last
        step = Step(
            model.to(request.device).to(memory_format=format), _placed(images, request, format),
            labels.to(request.device), compiled=name.endswith(COMPILED),
        )  # fmt: skip
        for _ in range(3):
            step()
        kept[name] = step.kept()
        contestants.append(Contestant(name=name, against=against, step=step))
        progress(f"{case.network}: {name}", 1)
    return size, contestants, kept


def _models(dense: nn.Module, student: nn.Module, request: Request) -> Iterator[tuple[str, str, nn.Module]]:
    """Name, what it is compared with, and the network, each with parameters of its own."""
    authors = with_authors_layers(student) if request.authors else None
    compact = copy.deepcopy(student) if request.compact else None
    compiled = (copy.deepcopy(dense), copy.deepcopy(student)) if request.compiled else None
    yield FULL, FULL, dense
    yield BINARY, FULL, student
    if compact is not None:
        set_compact(compact)
        yield COMPACT, FULL, compact
    if authors is not None:
        yield AUTHORS, FULL, authors
    if compiled is not None:
        yield FULL + COMPILED, FULL + COMPILED, compiled[0]
        yield BINARY + COMPILED, FULL + COMPILED, compiled[1]


def _placed(images: Tensor, request: Request, format: torch.memory_format) -> Tensor:
    return images.to(request.device).contiguous(memory_format=format)


def _recorded_size(student: nn.Module) -> tuple[int, ...]:
    """The size of one image that the network was converted with."""
    example = plan_of(student).example or {}
    return tuple(int(side) for side in example["inputs"][0]["shape"][1:])
