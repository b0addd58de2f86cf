"""Bits between bounds, and integers of 2 bytes, by every instruction set and by tensor operations."""

from __future__ import annotations

import ctypes
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from irnet_convert import native
from irnet_convert.binary import passes
from irnet_convert.layers.counts import counts, from_counts
from irnet_convert.layers.inside import inside, where_inside

FILE = native.library_file()
LIBRARY = ctypes.CDLL(str(FILE)) if FILE else None
WAYS: tuple[str | None, ...] = (None, *(native.usable_isas(LIBRARY) if LIBRARY else ()))
SPECIAL = [-1.0, 1.0, 2.0, -0.5, 0.0, -0.0, math.nan, math.inf, -math.inf, 1 - 2**-24, -1 + 2**-24]


def computed_by(patch: pytest.MonkeyPatch, isa: str | None) -> None:
    found = native.Passes(LIBRARY, isa) if LIBRARY and isa else None
    patch.setattr(passes, "passes", lambda: found)


def laid_out(x: Tensor, layout: str) -> Tensor:
    if layout == "channels_last":
        return x.contiguous(memory_format=torch.channels_last)
    return torch.stack([x, x], -1)[..., 0] if layout == "gaps" else x


@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_gradients_go_through_where_numbers_lie_inside(data: st.DataObject) -> None:
    torch.manual_seed(data.draw(st.integers(0, 2**31)))
    sizes = (0, 1, 7, 8, 9, 63, 64, 127, 128, 129, 1000, 40_001)
    shapes = [(n,) for n in sizes] + [
        (2, 3, 5, 7),
        (0, 3, 2, 2),
        (1, 16, 8, 8),
        (3, 1, 1, 1),
        (2, 5, 2, 3, 2),
    ]
    shape = data.draw(st.sampled_from(shapes))
    layouts = st.sampled_from(["contiguous", "gaps"] + ["channels_last"] * (len(shape) == 4))
    x = torch.randn(shape, dtype=data.draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16])))
    some = min(x.numel(), len(SPECIAL))
    x.view(-1)[:some] = torch.tensor(SPECIAL[:some], dtype=x.dtype)
    grad = laid_out(torch.randn(shape, dtype=x.dtype), data.draw(layouts))
    low, high = data.draw(st.sampled_from([(-1.0, 1.0), (-0.5, 2.0), (0.0, math.inf)]))
    expected = torch.where((x <= low) | (x >= high), 0.0, grad)
    found = []
    for isa in (None, data.draw(st.sampled_from(WAYS))):
        with pytest.MonkeyPatch.context() as patch:
            computed_by(patch, isa)
            bits = inside(laid_out(x, data.draw(layouts)), low, high)
            assert bits.dtype is torch.uint8
            assert bits.numel() == 16 * math.ceil(x.numel() / 128)
            assert torch.equal(where_inside(bits, grad), expected)
            found.append(inside(x, low, high))
    assert torch.equal(*found)  # one layout of bits for all


@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_multiples_of_powers_of_two_come_back_bit_for_bit(data: st.DataObject) -> None:
    torch.manual_seed(data.draw(st.integers(0, 2**31)))
    channels = data.draw(st.sampled_from([1, 2, 7, 8, 9, 16, 33]))
    sizes = data.draw(st.sampled_from([(), (5,), (3, 4), (40, 31), (2, 3, 2), (0, 2)]))
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64]))
    whole = torch.randint(-32767, 32768, (data.draw(st.integers(0, 3)), channels, *sizes))
    steps = torch.exp2(torch.randint(-40, 20, (channels,)).to(dtype)).reshape(-1, *[1] * len(sizes))
    x = whole.to(dtype) * steps
    if len(sizes) == 2:
        x = laid_out(x, data.draw(st.sampled_from(["contiguous", "channels_last", "gaps"])))
    with pytest.MonkeyPatch.context() as patch:
        computed_by(patch, data.draw(st.sampled_from(WAYS)))
        kept = counts(x, steps)
        back = from_counts(kept, steps)
    assert kept.dtype is torch.int16
    assert torch.equal(kept.long(), whole)
    assert back.dtype is dtype
    assert torch.equal(back, x)
    assert back.stride() == torch.empty_like(x).stride() or not x.numel()


@pytest.mark.parametrize("isa", WAYS)
def test_nearly_multiples_are_rounded_to_the_nearest(
    isa: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed_by(monkeypatch, isa)
    x, steps = torch.tensor([[2.9999, -2.9999, 0.0001, -0.0001, 144.001]]).t(), torch.tensor([0.5])
    assert counts(x, steps).flatten().tolist() == [6, -6, 0, 0, 288]


@pytest.mark.skipif(LIBRARY is None, reason="the native library was not built")
def test_the_number_of_threads_changes_nothing() -> None:
    x = torch.randint(-99, 99, (8, 16, 40, 40)).float().contiguous(memory_format=torch.channels_last)
    steps, threads, found = torch.exp2(torch.arange(16.0) - 8).reshape(-1, 1, 1), torch.get_num_threads(), []
    for count in (1, 3):
        torch.set_num_threads(count)
        try:
            kept, bits = counts(x * steps, steps), inside(x, -50.0, 50.0)
            found.append((kept, from_counts(kept, steps), bits, where_inside(bits, x)))
        finally:
            torch.set_num_threads(threads)
    assert all(map(torch.equal, *found))
    assert torch.equal(found[0][1], x * steps)
