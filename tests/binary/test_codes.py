"""Codes of one byte against their formula in float64, by every instruction set and by tensor operations."""

from __future__ import annotations

import ctypes
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from irnet_convert import native
from irnet_convert.binary import METHODS, passes
from irnet_convert.binary.codes import coded_sign, ede_coded_gradient, ede_encode
from irnet_convert.binary.sign import ede_gradient, sign

FILE = native.library_file()
LIBRARY = ctypes.CDLL(str(FILE)) if FILE else None
WAYS: tuple[str | None, ...] = (None, *(native.usable_isas(LIBRARY) if LIBRARY else ()))
SPECIAL = [0.0, -0.0, math.nan, math.inf, -math.inf, 1e-40, -1e-40, 3e38, -3e38]


def computed_by(patch: pytest.MonkeyPatch, isa: str | None) -> None:
    found = native.Passes(LIBRARY, isa) if LIBRARY and isa else None
    patch.setattr(passes, "passes", lambda: found)


def share(x: Tensor, t: float) -> Tensor:
    """127 times the derivative as a share of its peak, not rounded."""
    return (127 * (1 - torch.tanh(t * x.double()).square())).nan_to_num(0)


def shaped(data: st.DataObject, n: int) -> Tensor:
    """Random numbers and the special ones, in one of the layouts that native code takes or does not."""
    x = torch.cat([torch.tensor(SPECIAL), torch.randn(n)])
    layout = data.draw(st.sampled_from(["line", "table", "channels_last", "gaps"]))
    if layout == "line":
        return x
    if layout == "table":
        return x.repeat(3, 1)
    if layout == "gaps":
        return torch.stack([x, x], 1)[:, 0]
    return x.reshape(1, -1, 1, 1).repeat(2, 1, 3, 1).contiguous(memory_format=torch.channels_last)


@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_codes_signs_and_gradients(data: st.DataObject) -> None:
    torch.manual_seed(data.draw(st.integers(0, 2**31)))
    t = data.draw(st.sampled_from([1e-3, 0.1, 0.7, 1.0, 10.0, 1000.0]))
    n = data.draw(st.sampled_from([0, 1, 7, 8, 9, 15, 16, 17, 63, 1000, 33_000]))
    x = shaped(data, n) / min(t, 1e3)
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
    x, grad, ede = x.to(dtype), torch.randn(x.shape, dtype=dtype), torch.tensor([max(1 / t, 1.0), t])
    if dtype is torch.float64:
        ede = ede.double()
    with pytest.MonkeyPatch.context() as patch:
        computed_by(patch, data.draw(st.sampled_from(WAYS)))
        codes = ede_encode(x, ede)
        signs, found = coded_sign(codes), ede_coded_gradient(codes, grad, ede)
    assert codes.dtype is torch.uint8
    if dtype is torch.float32:
        assert codes.stride() == torch.empty_like(x).stride()
    assert torch.equal(signs, sign(x.float()))
    exact, level = share(x, float(ede[1])), (codes & 127).double()
    assert torch.equal(level[exact == 0], exact[exact == 0])
    # Where it is not halfway between two codes, there is one code that it can be.
    clear = ((exact - exact.floor()) - 0.5).abs() > 1e-4
    assert torch.equal(level[clear], exact.round()[clear])
    assert ((level - exact).abs() <= 0.5 + 1e-4).all()
    wide = ede.double().prod() / 127 * level * grad.double()
    torch.testing.assert_close(found.double(), wide, rtol=1e-6, atol=0)
    # And so the gradient is off by half a level at most.
    far = (found.double() - ede_gradient(x.double(), grad.double(), ede.double())).abs()
    assert (far <= grad.double().abs() * float(ede.prod()) * (0.5 / 127 + 1e-6)).all()


@pytest.mark.parametrize("isa", WAYS)
def test_special_values(isa: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    computed_by(monkeypatch, isa)
    codes = ede_encode(torch.tensor(SPECIAL), torch.tensor([1.0, 2.0]))
    assert codes.tolist() == [255, 255, 0, 128, 0, 255, 127, 128, 0]


@pytest.mark.parametrize("isa", WAYS)
def test_all_256_codes_are_read(isa: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    computed_by(monkeypatch, isa)
    codes = torch.arange(256).to(torch.uint8)
    assert coded_sign(codes).tolist() == [-1.0] * 128 + [1.0] * 128
    found = ede_coded_gradient(codes, torch.ones(256), torch.tensor([127.0, 1.0]))
    assert found.tolist() == [float(c % 128) for c in range(256)]


@pytest.mark.skipif(LIBRARY is None, reason="the native library was not built")
@pytest.mark.parametrize("isa", WAYS[1:])
def test_native_codes_are_those_of_the_operations_for_any_number_of_threads(isa: str, monkeypatch) -> None:
    x, grad = torch.randn(70_003), torch.randn(70_003)
    ede, found, threads = torch.tensor([1.0, 1.7]), [], torch.get_num_threads()
    for way, count in ((None, 1), (isa, 1), (isa, 3)):
        computed_by(monkeypatch, way)
        torch.set_num_threads(count)
        try:
            codes = ede_encode(x, ede)
            found.append((codes, coded_sign(codes), ede_coded_gradient(codes, grad, ede)))
        finally:
            torch.set_num_threads(threads)
    assert all(map(torch.equal, found[1], found[2]))
    clear = ((share(x, 1.7) % 1) - 0.5).abs() > 1e-4
    assert torch.equal(found[0][0][clear], found[1][0][clear])
    assert torch.equal(found[0][1], found[1][1])
    torch.testing.assert_close(found[0][2][clear], found[1][2][clear], rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_s_codes_say_what_the_method_does(name: str) -> None:
    method, x, grad = METHODS[name], torch.randn(500), torch.randn(500)
    for fraction in (0.0, 0.5, 1.0):
        state = torch.tensor(method.schedule(fraction, method.t_min, method.t_max))
        codes = method.encode(x, state)
        assert codes.dtype is torch.uint8
        assert torch.equal(method.coded_sign(codes), method.binarize_activation(x, state))
        exact = method.surrogate(x, grad, state)
        peak = method.surrogate(torch.zeros(1), torch.ones(1), state)
        assert ((method.coded_surrogate(codes, grad, state) - exact).abs() <= 0.004 * peak * grad.abs()).all()
