"""Nested state to JSON and tensors, and back."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from irnet_convert.errors import CheckpointError
from irnet_convert.train.trees import flatten, unflatten

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool]
TENSORS = st.builds(
    lambda dtype, shape: (torch.rand(shape) * 3).to(dtype),
    st.sampled_from(DTYPES),
    st.lists(st.integers(0, 3), max_size=3),
)
PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
TREES = st.recursive(
    PLAIN | TENSORS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3) | st.integers() | st.just("$tensor"), inner, max_size=3)
    ),
    max_leaves=8,
)


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


@settings(deadline=None, max_examples=100)
@given(tree=TREES)
def test_what_went_through_the_files_is_what_came(tree: Any) -> None:
    plain, tensors = flatten(tree)
    again = unflatten(json.loads(json.dumps(plain)), load(save(tensors)))
    assert same(tree, again)


def test_tensors_that_share_memory_come_out_apart() -> None:
    base = torch.arange(6.0)
    plain, tensors = flatten({"all": base, "half": base[::2], "turned": base.view(2, 3).t()})
    again = unflatten(plain, load(save(tensors)))
    assert again["half"].tolist() == [0, 2, 4]
    assert again["turned"].tolist() == [[0, 3], [1, 4], [2, 5]]


def test_other_types_are_refused_by_path() -> None:
    with pytest.raises(CheckpointError, match=r"state\.a\.1 is a set"):
        flatten({"a": [1, {2}]})
    with pytest.raises(CheckpointError, match=r"'state\.gone'"):
        unflatten({"$tensor": "state.gone"}, {})
