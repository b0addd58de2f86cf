"""How long huggingface_hub's client waits for a server that says nothing: not for ever."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from httpx2 import Timeout


@contextmanager
def answered_within(seconds: float) -> Iterator[None]:
    """Inside, a request without a limit of its own fails where nothing comes or goes for ``seconds``.

    huggingface_hub's client has no such limit, and most of its calls take none: creating a repository,
    committing, listing tags. A limit that the client has already stays as it is.
    """
    from huggingface_hub import get_session

    session = get_session()
    before = session.timeout
    limits = {
        name: seconds if limit is None else limit
        for name in ("connect", "read", "write", "pool")
        for limit in [getattr(before, name)]
    }
    session.timeout = Timeout(**limits)
    try:
        yield
    finally:
        session.timeout = before
