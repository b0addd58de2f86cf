"""SIGTERM and Ctrl-C as a wish that the loop grants at the end of a step."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any, NoReturn, Self

from torch.utils.data import DataLoader

_ONE_KEYSTROKE = 1.0  # seconds


class StopSignal:
    """While entered, the first SIGTERM or SIGINT is only noted; a second SIGINT interrupts at once.

    Attributes:
        received: the signal's number, 0 so far.
    """

    def __init__(self) -> None:
        self.received = 0
        self._at = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        # Python delivers signals to the main thread, and only it may set handlers.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        # Under a launcher one Ctrl-C arrives twice: from the terminal and from the launcher.
        if self.received and number == signal.SIGINT and now - self._at > _ONE_KEYSTROKE:
            raise KeyboardInterrupt
        self.received, self._at = number, now

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}


def shield_workers(loader: DataLoader[Any]) -> None:
    """Keep the loader's worker processes, once started, alive through the signals that the run notes.

    Ctrl-C and launchers signal the whole process group. A worker that dies of it would end the step that
    is to be finished; without the signal workers end as always, with the process that started them.
    """
    loader.worker_init_fn = _ignore_signals


def _ignore_signals(worker: int) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def leave(number: int) -> NoReturn:
    """End the way the signal would have, now that everything is saved.

    Raises:
        KeyboardInterrupt: for SIGINT.
        SystemExit: otherwise, with the shell's code 128 + number.
    """
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)
