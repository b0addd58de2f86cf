"""YAML in and out as plain data: mappings, lists, strings, numbers, booleans, null, and nothing else.

Scalars follow YAML 1.2's core schema (https://yaml.org/spec/1.2.2/#103-core-schema), not PyYAML's 1.1:
``1e-3`` is a number, ``no`` is a string, ``010`` is ten. Only PyYAML's safe constructors run.
"""

from __future__ import annotations

import math
import re
from typing import Any

import yaml

from irnet_convert.errors import RecipeError

MAX_BYTES = 256 * 1024
MAX_DEPTH = 20
MAX_ALIASES = 20  # n aliases can multiply a file's size by e^(n/e) at most, here about 1,600: hence
MAX_NODES = 10_000  # of the document, and of what its aliases and merges make of it; PyYAML is slow
MAX_ITEMS = 2_000  # of one list or mapping
MAX_TEXT = 10_000  # characters of one string
MAX_BITS = 1_023  # of an integer: every one becomes a float

_FLOAT = re.compile(
    r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$|[-+]?\.(inf|Inf|INF)$|\.(nan|NaN|NAN)$"
)
_INT = re.compile(r"[-+]?[0-9]+$|0o[0-7]+$|0x[0-9a-fA-F]+$")
_DIGIT_STARTS = list("-+.0123456789")


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the core schema, bounded depth and aliases, and no duplicate keys."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012  PyYAML's own slot

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0
        self._aliases = 0
        self._nodes = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            self._aliases += 1
        self._nodes += 1
        self._depth += 1
        if self._nodes > MAX_NODES:
            raise yaml.MarkedYAMLError(
                problem=f"more than {MAX_NODES:,} values", problem_mark=event.start_mark
            )
        if self._aliases > MAX_ALIASES:
            raise yaml.MarkedYAMLError(
                problem=f"more than {MAX_ALIASES} aliases", problem_mark=event.start_mark
            )
        if self._depth > MAX_DEPTH:
            raise yaml.MarkedYAMLError(
                problem=f"nested deeper than {MAX_DEPTH} levels", problem_mark=event.start_mark
            )
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            if isinstance(key_node, yaml.ScalarNode) and key_node.tag != "tag:yaml.org,2002:merge":
                if key_node.value in seen:
                    raise yaml.MarkedYAMLError(
                        problem=f"the key {key_node.value!r} is given twice", problem_mark=key_node.start_mark
                    )
                seen.add(key_node.value)
        return super().construct_mapping(node, deep=deep)

    def flatten_mapping(self, node: Any) -> None:
        super().flatten_mapping(node)  # which calls this for every mapping that is merged in
        self._nodes += len(node.value)
        if self._nodes > 3 * MAX_NODES:
            raise yaml.MarkedYAMLError(problem="merges (<<) of too many keys", problem_mark=node.start_mark)

    def construct_core_int(self, node: yaml.ScalarNode) -> int:
        text = self.construct_scalar(node)
        try:
            if len(text) > MAX_BITS:
                raise ValueError("too long")
            return int(text, 0) if text[:2] in ("0o", "0x") else int(text, 10)
        except ValueError as error:
            raise yaml.MarkedYAMLError(problem="not an integer", problem_mark=node.start_mark) from error


class _Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper that also quotes the strings which the core schema would read as numbers."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"(true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:null", re.compile(r"(~|null|Null|NULL|)$"), ["~", "n", "N", ""]
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:merge", re.compile(r"<<$"), ["<"])
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_core_int)
for _class in (_Loader, _Dumper):
    _class.add_implicit_resolver("tag:yaml.org,2002:int", _INT, _DIGIT_STARTS)
    _class.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, _DIGIT_STARTS)


def load_yaml(text: str | bytes, *, source: str) -> Any:
    """Read one YAML document as plain data.

    Args:
        text: the document, at most 256 KiB; bytes are read as UTF-8.
        source: what to call it in an error (a path, an override).

    Raises:
        RecipeError: it is too large or too deep, has too many values or aliases, is not YAML, has a key
            twice, or holds something that is not plain data.
    """
    size = len(text.encode(errors="replace") if isinstance(text, str) else text)
    if size > MAX_BYTES:
        raise RecipeError(
            f"{source} holds {size} bytes",
            expected=f"at most {MAX_BYTES} bytes",
            mend="a recipe is a short file; is this one?",
        )
    try:
        document = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        data = yaml.load(document, Loader=_Loader)
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, TypeError) as error:
        raise _syntax_error(source, error) from error
    check_plain(data, source=source)
    return data


def dump_yaml(data: Any) -> str:
    """Write plain data so that :func:`load_yaml` gives it back equal; keys keep their order."""
    # Escaped to ASCII: unescaped, PyYAML does not read U+0085 and its like back.
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=False, width=100)


def check_plain(value: Any, *, source: str) -> None:
    """Refuse what is not plain data, or is more of it than anybody writes by hand.

    Plain are mappings with strings as keys, lists, strings, finite numbers, booleans and null.
    What stands in several places (an alias) counts in each.

    Raises:
        RecipeError: with the path of the first such value.
    """
    _check(value, source, "", 0, [0])


def _check(value: Any, source: str, path: str, depth: int, count: list[int]) -> None:
    count[0] += 1
    if count[0] > MAX_NODES:
        raise _not_plain(source, "", f"of more than {MAX_NODES:,} values", "a recipe's few")
    if depth > MAX_DEPTH:
        raise _not_plain(source, path, "nested too deep, or inside itself", f"at most {MAX_DEPTH} levels")
    if isinstance(value, dict | list | tuple):
        if len(value) > MAX_ITEMS:
            raise _not_plain(source, path, f"of {len(value):,} items", f"at most {MAX_ITEMS:,}")
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            if isinstance(value, dict) and not isinstance(key, str):
                raise _not_plain(source, path, f"a mapping with the key {key!r}", "keys that are strings")
            if isinstance(key, str):
                _check_text(key, source, path)
            _check(item, source, f"{path}.{key}".lstrip("."), depth + 1, count)
    elif isinstance(value, str):
        _check_text(value, source, path)
    elif isinstance(value, float) and not math.isfinite(value):
        raise _not_plain(source, path, repr(value), "a finite number")
    elif isinstance(value, int) and value.bit_length() > MAX_BITS:
        raise _not_plain(source, path, "an integer of hundreds of digits", "a number")
    elif value is not None and not isinstance(value, bool | int | float):
        raise _not_plain(
            source, path, f"a {type(value).__name__}", "a mapping, list, string, number, boolean or null"
        )


def _check_text(text: str, source: str, path: str) -> None:
    if len(text) > MAX_TEXT:
        raise _not_plain(source, path, f"a string of {len(text):,} characters", f"at most {MAX_TEXT:,}")


def _not_plain(source: str, path: str, found: str, expected: str) -> RecipeError:
    return RecipeError(
        f"{source}: {path[:300] or 'the document'} is {found}",
        expected=expected,
        mend="write it as plain data",
    )


def _syntax_error(source: str, error: Exception) -> RecipeError:
    mark = getattr(error, "problem_mark", None)
    where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    return RecipeError(
        f"{source}{where}: {problem}",
        expected="one YAML document of plain data (safe tags, no duplicate keys)",
        mend="correct that line; quote a string that holds ': ', '#' or starts with one of [{&*!|>%@",
    )
