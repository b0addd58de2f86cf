"""Training in processes of its own that can be killed: forked from a server that has imported everything."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import socket
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["irnet_convert.train.__main__"])

#: Python's audit events of what changes a run directory, or looks at it in order to.
FILE_EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.listdir", "os.scandir"}


@dataclass(frozen=True, kw_only=True)
class Orders:
    """What a child is to do.

    Args:
        arguments: of ``python -m irnet_convert.train``.
        run_dir: the run directory.
        said: file for what it prints.
        die_at: SIGKILL itself before its so-many-th operation on a file of the run directory.
        full_after: from this optimizer step on no file can grow beyond ``room`` bytes.
        room: see there.
        poison_at: in this optimizer step, counted from 1, its images hold a NaN.
        variables: of its environment.
    """

    arguments: tuple[str, ...]
    run_dir: Path
    said: Path
    die_at: int | None = None
    full_after: int | None = None
    room: int = 0
    poison_at: int | None = None
    variables: dict[str, str] = field(default_factory=dict)


def start(orders: Orders) -> Any:
    """The running child."""
    child = CONTEXT.Process(target=run, args=(orders,))
    child.start()
    return child


def warm_up() -> None:
    """Start the server, so that the first child takes no longer than the others."""
    child = CONTEXT.Process(target=int)
    child.start()
    child.join()


def world_of(processes: int) -> list[dict[str, str]]:
    """The variables that a launcher sets in each process."""
    outer = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    if processes == 1:
        return [outer]
    with socket.socket() as each:
        each.bind(("127.0.0.1", 0))
        port = str(each.getsockname()[1])
    shared = outer | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(processes)}
    return [shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]


def run(orders: Orders) -> None:
    """What the child does."""
    with orders.said.open("ab", buffering=0) as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
    os.environ.update(orders.variables)
    multiprocessing.set_start_method("fork", force=True)  # loaders' workers start as in any training
    import torch

    from irnet_convert.train.__main__ import main as train

    torch.set_num_threads(1)
    count = FileOperations(orders)
    sys.addaudithook(count)
    if orders.full_after is not None:
        fill_the_disk(orders.full_after, orders.room)
    if orders.poison_at is not None:
        poison(orders.poison_at)
    code = train(orders.arguments)
    print(f"operations: {count.seen}", flush=True)
    sys.exit(code)


class FileOperations:
    """Counts operations on files of the run directory; an audit hook."""

    def __init__(self, orders: Orders) -> None:
        self.folder, self.die_at, self.seen = str(orders.run_dir), orders.die_at, 0

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in FILE_EVENTS:
            return
        # rmtree names files by their directory's descriptor, without the folder.
        if event not in ("os.remove", "os.rmdir") and self.folder not in str(arguments[0]):
            return
        if self.seen == self.die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        self.seen += 1


def fill_the_disk(after: int, room: int) -> None:
    """Let no file grow beyond ``room`` bytes once a run has taken ``after`` steps."""
    from irnet_convert.train.loop import Trainer

    step = Trainer._step

    def stepping(self: Trainer, *arguments: Any) -> Any:
        if self.position.total == after:
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
        return step(self, *arguments)

    Trainer._step = stepping  # type: ignore[method-assign]


def poison(step: int) -> None:
    """Put a NaN into this process's images in one step."""
    import torch

    from irnet_convert.train.loop import Trainer

    prepared = Trainer._prepared

    def preparing(self: Trainer, images: torch.Tensor, labels: torch.Tensor) -> Any:
        images, labels = prepared(self, images, labels)
        if self.position.total + 1 == step:
            images[0, 0, 0, 0] = torch.nan
        return images, labels

    Trainer._prepared = preparing  # type: ignore[method-assign]
