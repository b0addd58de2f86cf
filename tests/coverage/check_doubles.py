"""Functions that worker processes call in the tests of the runner."""

from __future__ import annotations

import os
import time

from irnet_convert.coverage.rows import Row


def check(name: str) -> Row:
    """Does what the name says."""
    if name == "dies":
        os._exit(7)
    if name == "hangs":
        time.sleep(600)
    row = Row(name=name, family="tests", checked=[1], layers=os.getpid())
    if name == "short":
        row.falls_short(1, "it falls short")
    return row
