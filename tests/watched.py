"""What a process does to the world, as Python's audit events tell it: files, connections, programs."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

Event = list[str]

# https://docs.python.org/3/library/audit_events.html: all of these rooms, less what only looks.
_ROOMS = ("os.", "socket.", "shutil.", "subprocess.", "tempfile.", "pty.", "pickle.find_class", "urllib.")
_ONLY_LOOKS = frozenset(
    ["os.listdir", "os.scandir", "os.walk", "os.fwalk", "os.getxattr", "os.listxattr", "os.putenv",
     "os.unsetenv", "socket.__new__", "socket.gethostname"]
)  # fmt: skip


class Watch:
    """Notes what happens inside ``with watch.on() as events``; one a process, for hooks stay."""

    def __init__(self) -> None:
        self._events: list[Event] | None = None
        sys.addaudithook(self._hear)

    @contextmanager
    def on(self) -> Iterator[list[Event]]:
        """Inside, every event goes to the list: its name, then its arguments as texts."""
        events: list[Event] = []
        self._events = events
        try:
            yield events
        finally:
            self._events = None

    def _hear(self, event: str, args: tuple[Any, ...]) -> None:
        if self._events is None:
            return
        if event == "open":
            if _writes(*args):
                self._events.append([event, str(args[0])])
        elif event.startswith(_ROOMS) and event not in _ONLY_LOOKS:
            self._events.append([event, *map(str, _whole(args))])


def _writes(path: Any, mode: Any, flags: int) -> bool:
    if isinstance(mode, str):
        return bool(set(mode) & set("wax+"))
    return bool(flags & (os.O_WRONLY | os.O_RDWR))


def _whole(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """With what is open by its name: a file, or the directory that a path is relative to."""
    match args:
        case (str(path), int(directory)) if directory >= 0:
            return (os.path.join(_named(directory), path),)
        case (int(file), *others):
            return (_named(file), *others)
    return args


def _named(number: int) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{number}")
    except OSError:  # no file's number
        return str(number)


def foreign(events: list[Event], *, cache: str | None = None, port: int | None = None) -> list[Event]:
    """The events that are neither a change below ``cache`` nor a connection to ``port`` of this machine.

    Args:
        events: as noted.
        cache: a directory; None allows no change anywhere.
        port: None allows no connection at all.
    """
    return [event for event in events if not (_to(event, port) or _below(event, cache))]


def _to(event: Event, port: int | None) -> bool:
    name, *args = event
    if port is None:
        return False
    if name == "socket.connect":
        return args[1] in (f"('127.0.0.1', {port})", f"('::1', {port}, 0, 0)")
    return name == "socket.getaddrinfo" and args[0] in ("127.0.0.1", "localhost") and args[1] == str(port)


def _below(event: Event, cache: str | None) -> bool:
    name, *args = event
    if cache is None or not (name == "open" or name.startswith(("os.", "shutil.", "tempfile."))):
        return False
    paths = [os.path.normpath(each) for each in args if each.startswith("/")]
    return bool(paths) and all(path == cache or path.startswith(f"{cache}/") for path in paths)


def peak() -> int:
    """Most bytes that this process has had in memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
