"""JSON of others: what two readers could understand differently is refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from irnet_convert.plain_json import load_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, max_examples=50)
@given(VALUES)
def test_what_is_written_is_read(value: object) -> None:
    assert load_json(json.dumps(value)) == value
    assert load_json(json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass").decode(
        "utf-8", "surrogatepass")) == value  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": 1, "b": 2, "a": 1}', "the key 'a' twice"),
        ('[{"x": {"": 0, "": 1}}]', "the key '' twice"),
        ("[NaN]", "NaN"),
        ("-Infinity", "-Infinity"),
        ("[" * 100_000 + "]" * 100_000, "too deep"),
        (b"\xff\xfe[\x00]\x00", "utf-8"),
        ("{", "property name"),
        ("", "value"),
    ],
)
def test_anything_else_is_a_value_error(text: str | bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        load_json(text)
