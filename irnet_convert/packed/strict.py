"""Plain data (what JSON holds) to frozen dataclasses and back, strictly.

A class says all there is to say in its annotations: ``int``, ``bool``, ``float``, ``str``, ``None``,
``Literal``, tuples of these, other such dataclasses, and unions of dataclasses told apart by a ``Literal``
field named ``kind``. Nothing is coerced, nothing is ignored: an unknown key, a missing key, a bool where an
int belongs or a number that is not finite is an error that names the place.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import types
from collections.abc import Callable
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from irnet_convert.errors import ProgramError, nearest
from irnet_convert.plain_json import load_json

T = TypeVar("T")

#: Longest JSON text that is read at all.
MAX_TEXT = 1 << 26
_MAX_STRING = 1024
#: Fields that are written, and must be there, even where they have a default.
_ALWAYS = ("kind", "version")


def read_json(cls: type[T], text: str, *, what: str) -> T:
    """The ``cls`` that a JSON text holds.

    Args:
        cls: a dataclass as described above.
        text: JSON.
        what: what the text is, for errors.

    Raises:
        ProgramError: no JSON, or not exactly what ``cls`` declares.
    """
    if len(text) > MAX_TEXT:
        raise malformed(f"{what} of {len(text)} characters", f"at most {MAX_TEXT}")
    try:
        data = load_json(text)
    except ValueError as error:
        raise malformed(f"{what} is no JSON: {error}", "JSON as save_packed writes it") from error
    return read(cls, data, what)


def write_json(value: Any) -> str:
    """Compact JSON of a dataclass. Fields at their defaults are left out; ``kind``, ``version`` are not."""
    return json.dumps(plain(value), separators=(",", ":"), allow_nan=False)


def plain(value: Any) -> Any:
    """Dataclasses and tuples as dicts and lists, with the fields that :func:`write_json` writes."""
    if dataclasses.is_dataclass(value):
        return {
            f.name: plain(getattr(value, f.name))
            for f in dataclasses.fields(value)
            if f.name in _ALWAYS or getattr(value, f.name) != f.default
        }
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value


def read(cls: type[T], data: Any, where: str) -> T:
    """The ``cls`` that plain data holds; ``where`` names the place in errors."""
    return cast(T, _reader(cls)(data, where))


def malformed(given: str, expected: str) -> ProgramError:
    """The error of everything here: a damaged or foreign program."""
    return ProgramError(
        given, expected=expected, mend="pack the model again with irnet_convert.pack; do not edit the program"
    )


Reader = Callable[[Any, str], Any]


@functools.cache
def _reader(hint: Any) -> Reader:
    origin = get_origin(hint)
    if dataclasses.is_dataclass(hint):
        return _of_class(cast(type, hint))
    if origin is Literal:
        return _of_literal(get_args(hint))
    if origin is tuple:
        return _of_tuple(get_args(hint))
    if origin in (Union, types.UnionType):
        return _of_union(get_args(hint))
    return _of_plain(hint)


def _of_plain(kind: type) -> Reader:
    def read_plain(data: Any, where: str) -> Any:
        if kind is float and type(data) is int:
            data = float(data) if abs(data) < 1 << 53 else data
        if type(data) is not kind or (kind is float and not math.isfinite(data)):
            raise malformed(
                f"{where} is {_show(data)}", "null" if kind is type(None) else f"a {kind.__name__}"
            )
        if kind is str and not 0 < len(data) <= _MAX_STRING:
            raise malformed(f"{where} has {len(data)} characters", f"1 to {_MAX_STRING}")
        return data

    return read_plain


def _of_literal(values: tuple[Any, ...]) -> Reader:
    def read_literal(data: Any, where: str) -> Any:
        for value in values:
            if type(data) is type(value) and data == value:
                return value
        raise malformed(f"{where} is {_show(data)}", "one of " + ", ".join(map(repr, values)))

    return read_literal


def _of_tuple(hints: tuple[Any, ...]) -> Reader:
    free = len(hints) == 2 and hints[1] is Ellipsis

    def read_tuple(data: Any, where: str) -> Any:
        if type(data) is not list or (not free and len(data) != len(hints)):
            raise malformed(f"{where} is {_show(data)}", "a list" + ("" if free else f" of {len(hints)}"))
        each = [_reader(hints[0])] * len(data) if free else [_reader(h) for h in hints]
        return tuple(r(d, f"{where}[{i}]") for i, (r, d) in enumerate(zip(each, data, strict=True)))

    return read_tuple


def _of_union(hints: tuple[Any, ...]) -> Reader:
    tagged = {
        get_args(get_type_hints(h)["kind"])[0]: _reader(h) for h in hints if dataclasses.is_dataclass(h)
    }
    others = [_reader(h) for h in hints if not dataclasses.is_dataclass(h)]

    def read_union(data: Any, where: str) -> Any:
        if tagged and isinstance(data, dict):
            kind = data.get("kind")
            if not isinstance(kind, str) or kind not in tagged:
                raise malformed(f"{where}.kind is {_show(kind)}", nearest(str(kind)[:40], tagged))
            return tagged[kind](data, where)
        errors = []
        for one in others:
            try:
                return one(data, where)
            except ProgramError as error:
                errors.append(error.expected)
        raise malformed(f"{where} is {_show(data)}", " or ".join(errors) or "an object with a kind")

    return read_union


def _of_class(cls: type) -> Reader:
    @functools.cache
    def fields() -> tuple[dict[str, Reader], set[str]]:
        hints = get_type_hints(cls)
        declared = dataclasses.fields(cls)
        needed = {f.name for f in declared if f.default is dataclasses.MISSING or f.name in _ALWAYS}
        return {f.name: _reader(hints[f.name]) for f in declared}, needed

    def read_class(data: Any, where: str) -> Any:
        readers, needed = fields()
        if type(data) is not dict:
            raise malformed(f"{where} is {_show(data)}", f"an object ({cls.__name__})")
        for name in data:
            if name not in readers:
                raise malformed(f"{where} has the unknown key {name[:40]!r}", nearest(name[:40], readers))
        if missing := sorted(needed - data.keys()):
            raise malformed(f"{where} lacks {', '.join(missing)}", "all keys of " + cls.__name__)
        return cls(**{name: readers[name](value, f"{where}.{name}") for name, value in data.items()})

    return read_class


def _show(data: Any) -> str:
    if isinstance(data, dict | list):
        return f"a {type(data).__name__} of {len(data)}"
    try:
        text = repr(data)
    except ValueError:  # an integer of more digits than Python prints
        text = f"a huge {type(data).__name__}"
    return text if len(text) <= 60 else text[:57] + "..."
