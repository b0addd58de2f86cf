"""Plain YAML: scalars of the core schema, what is refused, round trips."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from irnet_convert.errors import RecipeError
from irnet_convert.plain_yaml import dump_yaml, load_yaml


def test_scalars_follow_the_core_schema():
    text = "{a: 1e-3, b: no, c: 010, d: 0x10, e: 2026-01-01, f: true, g: ~, h: -.5E3, i: 1_0, j: 1:30, k: 4.}"
    expected = {
        "a": 0.001,
        "b": "no",
        "c": 10,
        "d": 16,
        "e": "2026-01-01",
        "f": True,
        "g": None,
        "h": -500.0,
        "i": "1_0",
        "j": "1:30",
        "k": 4.0,
    }
    loaded = load_yaml(text, source="test")
    assert loaded == expected
    assert [type(value) for value in loaded.values()] == [type(value) for value in expected.values()]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "line 3, column 1: the key 'a' is given twice"),
        ("a: {b: 1, b: 2}", "given twice"),
        ("a: [", "line 1"),
        ("a: b: c", "line 1, column 5"),
        ("!!python/object/apply:os.system [ls]", "python/object"),
        ("!!python/tuple [1]", "python/tuple"),
        ("!!python/name:os.system", "python/name"),
        ("a: !!binary aGk=", "a is a bytes"),
        ("[" * 21 + "]" * 21, "nested deeper than 20 levels"),
        ("&a [*a]", "inside itself"),
        ("x: &a 1\ny: [" + "*a, " * 21 + "]", "more than 20 aliases"),
        ("a: .inf", "a is inf"),
        ("a: 1e999", "a is inf"),
        ("1: 2", "the key 1"),
        ("? [1]\n: 2", "unhashable"),
        ("a: " + "9" * 5000, "not an integer"),
        ("--- 1\n--- 2", "another document"),
        (b"\xff\xfe\xff", "can"),
        ("a" * (256 * 1024 + 1), "262145 bytes"),
    ],
)
def test_yaml_that_is_refused(text: str | bytes, message: str):
    with pytest.raises(RecipeError) as caught:
        load_yaml(text, source="test")
    assert message in caught.value.given
    assert caught.value.given.startswith("test")


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
# Every character that YAML can hold unescaped or escaped; surrogates are not text.
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(
    [
        "1e-3",
        "1e5",
        "no",
        "0o7",
        "0x1f",
        "010",
        "null",
        "true",
        "~",
        "",
        "<<",
        "=",
        ".5",
        "1.",
        "+1",
        ".inf",
        "1:30",
    ]
)
PLAIN = st.recursive(
    SCALARS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, max_examples=150)
@given(PLAIN)
@example("\x85\u2028\ufeff ü\t\r\n")
def test_plain_data_survives_a_round_trip(data: Any):
    assert load_yaml(dump_yaml(data), source="test") == data
