"""Regular expressions that others wrote: bounded before they are compiled, and while they match.

The ``regex`` package can stop a match that takes too long, which ``re`` cannot. Its compiler writes a part
out as often as it is repeated, though (``a{4000000000}`` takes gigabytes), and a pattern that calls itself
takes memory as it goes: so what repeats is bounded, and calls and fuzzy matching are refused.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

import regex

from irnet_convert.errors import PolicyError

MAX_LENGTH = 500  # characters of a pattern, and of a glob
MAX_REPEATS = 1_000  # product of all counted repeats of a pattern
MAX_WORK = 40_000  # of all patterns of a policy, characters times repeats: up to 30 µs and 300 bytes each
SECONDS = 0.5  # of processor time for all the slow matches of one :class:`Patience`

_ESCAPE = regex.compile(r"\\.", regex.DOTALL)
_BRACES = regex.compile(r"\{([^{}]*)\}?")
_COUNTED = regex.compile(r"\d{0,4}(,\d{0,4})?")
# Groups that only group, name, look ahead or behind.
_GROUP = regex.compile(r"\(\?(?!:|=|!|<=|<!|P?<[A-Za-z_]\w{0,30}>|i\)|i:)")
_QUICK = 1e-3  # seconds; an ordinary match of a layer's path takes a few microseconds


def problem_of(pattern: str) -> str | None:
    """What makes a pattern one that is not taken, or None.

    Args:
        pattern: a regular expression, as the ``regex`` package reads them.
    """
    if len(pattern) > MAX_LENGTH:
        return f"it is longer than {MAX_LENGTH} characters"
    bare = _ESCAPE.sub("", pattern)
    if _GROUP.search(bare):
        return "it has a group of a kind that is not taken: recursion, condition, branch reset, flags, ..."
    for inside in _BRACES.findall(bare):
        if not _COUNTED.fullmatch(inside):
            return f"it has {{{inside[:20]}}}, which is no counted repeat"
    product = _repeats(bare)
    if product > MAX_REPEATS:
        return f"its counted repeats multiply to {product:,}, and {MAX_REPEATS:,} is the most"
    if product * len(pattern) > MAX_WORK // 2:
        return f"its length times its counted repeats is {product * len(pattern):,}, above {MAX_WORK // 2:,}"
    try:
        regex.compile(pattern)
    except (regex.error, RecursionError, OverflowError, ValueError) as error:
        return str(error)
    return None


def _repeats(bare: str) -> int:
    """The product of a pattern's counted repeats, as large as their nesting could make it."""
    product = 1
    for inside in _BRACES.findall(bare):
        if _COUNTED.fullmatch(inside):
            product *= max(1, *(int(number or 1) for number in inside.split(",")))
    return product


def check_total(patterns: Iterable[str]) -> None:
    """Refuse more regular expressions in one policy than anybody writes, before one is compiled.

    Raises:
        PolicyError: they would take too long, or too much memory.
    """
    work = sum(len(each) * _repeats(_ESCAPE.sub("", each)) for each in patterns)
    if work > MAX_WORK:
        raise PolicyError(
            f"a policy's regular expressions, characters times counted repeats, come to {work:,}",
            expected=f"at most {MAX_WORK:,}",
            mend="use globs, which cost nothing, or one expression for several layers",
        )


class Patience:
    """Processor time that a set of patterns may take, in seconds; ordinary matches cost nothing of it."""

    def __init__(self) -> None:
        self.spent = 0.0

    def matches(self, pattern: str, text: str) -> bool:
        """Whether ``pattern`` matches the whole of ``text``.

        Raises:
            TimeoutError: it took what was left of the time.
        """
        start = time.thread_time()
        try:
            left = max(SECONDS - self.spent, _QUICK)
            return regex.fullmatch(pattern, text, timeout=left) is not None
        finally:
            took = time.thread_time() - start
            if took > _QUICK:
                self.spent += took
            if self.spent > SECONDS:
                raise TimeoutError(f"{self.spent:.1f} s of matching")
