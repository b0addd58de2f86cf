"""Telling a recorder of every module call: ``nn.Module.__call__``, replaced while recordings are made."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

#: A module call in progress: the module's own __call__, the module, and its arguments.
Told = Callable[[Callable[..., Any], nn.Module, tuple[Any, ...], dict[str, Any]], Any]


class _Told(threading.local):
    by: Told | None = None


_told = _Told()
_lock = threading.Lock()
_depth = 0
_own_call = nn.Module.__call__


def _call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    told = _told.by
    return _own_call(module, *args, **kwargs) if told is None else told(_own_call, module, args, kwargs)


@contextmanager
def module_calls_watched() -> Iterator[None]:
    """Keep module calls watched over several recordings.

    Each change of ``nn.Module`` makes Python forget what it knew of the methods of all subclasses: with timm
    imported that takes most of a millisecond, many times in a conversion that does without this. Calls of
    other threads pass through.
    """
    global _depth, _own_call
    with _lock:
        if _depth == 0:
            _own_call, nn.Module.__call__ = nn.Module.__call__, _call
        _depth += 1
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if _depth == 0:
                nn.Module.__call__ = _own_call


@contextmanager
def module_calls_told(by: Told) -> Iterator[None]:
    """Hand this thread's module calls to ``by``, which makes them."""
    before, _told.by = _told.by, by
    try:
        with module_calls_watched():
            yield
    finally:
        _told.by = before
