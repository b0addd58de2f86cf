"""Checks in worker processes: one thread each, replaced when they grow, die or take too long.

A pool of the standard library breaks as a whole when one worker dies, and cannot stop one that hangs; here
either is a failure of the one name that it was working on.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import resource
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import torch

from irnet_convert.coverage.memory import give_back
from irnet_convert.coverage.rows import Row

#: Seconds that one name may take.
TIME_LIMIT = 600.0

#: Bytes that a worker may have held at its peak before another one takes over.
RECYCLE_ABOVE = 2 * 2**30

#: Seconds that a worker may take to start.
_START_LIMIT = 300.0

#: Forking a process that holds threads of torch is not safe.
_SPAWN = multiprocessing.get_context("spawn")


def run_checks(
    names: Sequence[str],
    check: Callable[[str], Row],
    *,
    jobs: int = 2,
    time_limit: float = TIME_LIMIT,
    recycle_above: int = RECYCLE_ABOVE,
) -> Iterator[Row]:
    """Check every name; rows come as they are done.

    Args:
        names: what to check, in the order in which it is begun.
        check: a function of a module, called in the workers.
        jobs: how many workers.
        time_limit: seconds for one name.
        recycle_above: bytes of resident memory at its peak from which a worker is replaced.
    """
    todo = deque(names)
    workers: list[_Worker] = []
    try:
        while todo or workers:
            while todo and len(workers) < jobs:
                workers.append(_Worker(check, todo.popleft()))
            wait([w.pipe for w in workers], timeout=0.5)
            for worker in list(workers):
                row, peak = worker.look(time_limit)
                if row is None:
                    continue
                yield row
                if peak is None or peak > recycle_above or not todo:
                    worker.stop()
                    workers.remove(worker)
                else:
                    worker.begin(todo.popleft())
    finally:
        for worker in workers:
            worker.stop()


class _Worker:
    """A process, the pipe to it, and what it is working on."""

    def __init__(self, check: Callable[[str], Row], name: str) -> None:
        self.pipe, theirs = _SPAWN.Pipe()
        self.process: SpawnProcess = _SPAWN.Process(target=_work, args=(check, theirs), daemon=True)
        self.process.start()
        self.ready = False
        theirs.close()
        self.begin(name)

    def begin(self, name: str) -> None:
        """Hand over a name."""
        self.name, self.since = name, time.monotonic()
        with contextlib.suppress(OSError):  # it died between two names; look() says so
            self.pipe.send(name)

    def look(self, time_limit: float) -> tuple[Row | None, int | None]:
        """The row, if there is one, and the worker's peak memory; None if the worker is of no more use."""
        try:
            if self.pipe.poll():
                found = self.pipe.recv()
                if found is not None:
                    return found
                self.ready, self.since = True, time.monotonic()  # importing the libraries does not count
        except (EOFError, OSError):
            self.process.join(5)
            return self._failed(f"the worker process died with exit code {self.process.exitcode}"), None
        if time.monotonic() - self.since > (time_limit if self.ready else _START_LIMIT):
            doing = "done" if self.ready else "begun"
            return self._failed(f"not {doing} after {time.monotonic() - self.since:.0f} s"), None
        return None, None

    def _failed(self, reason: str) -> Row:
        row = Row(name=self.name, checked=[1], seconds=time.monotonic() - self.since)
        row.falls_short(1, reason)
        return row

    def stop(self) -> None:
        """End the process."""
        self.pipe.close()
        self.process.kill()
        self.process.join()


def _work(check: Callable[[str], Row], pipe: Connection[Any, Any]) -> None:
    """A worker's life: names in, rows out, until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers itself
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    pipe.send(None)
    while True:
        try:
            row = check(pipe.recv())
            give_back()
            pipe.send((row, _peak_bytes()))
        except (EOFError, OSError):
            return


def _end_with_parent() -> None:
    """A parent that is killed cannot stop its workers, and the name in work may take minutes more."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _peak_bytes() -> int:
    """The most resident memory that this process ever held.

    Linux carries ru_maxrss over from the process that started this one; what /proc says begins anew.
    """
    status = Path("/proc/self/status")
    if status.exists():
        peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(peak.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
