"""sign and its surrogate gradient, against float64 formulas."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from irnet_convert.binary.sign import ede_sign, sign

FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
EDGES = [0.0, -0.0, math.nan, math.inf, -math.inf, 1e-30, -1e-30, 3.0, -3.0]
SIGNS = [1, 1, -1, 1, -1, 1, -1, 1, -1]


@pytest.mark.parametrize("dtype", FLOATS)
def test_edges(dtype):
    x = torch.tensor(EDGES, dtype=torch.float64)
    x = x.to(dtype)
    expected = torch.tensor(SIGNS, dtype=dtype)
    # In float16 ±1e-30 rounds to ±0, whose sign is +1.
    expected[6] = 1 if dtype == torch.float16 else -1
    for out in (sign(x), ede_sign(x, torch.tensor([1.0, 1.0]))):
        assert out.dtype == dtype
        assert torch.equal(out, expected)


def test_integers():
    assert torch.equal(sign(torch.tensor([-2, 0, 5])), torch.tensor([-1, 1, 1]))


def test_never_a_third_level():
    """The authors' torch.sign makes 0 of 0."""
    assert sign(torch.zeros(7)).unique().tolist() == [1.0]


@pytest.mark.parametrize("take", [sign, lambda x: ede_sign(x, torch.ones(2))])
def test_memory_format(take):
    x = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    assert take(x).is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(take(x), take(x.contiguous()))


@settings(deadline=None, max_examples=40)
@given(
    x=st.lists(st.floats(-30, 30), min_size=1, max_size=20),
    t=st.floats(1e-3, 50),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_gradient_is_that_of_k_tanh_tx(x, t, dtype):
    k = max(1 / t, 1)
    leaf = torch.tensor(x, dtype=dtype, requires_grad=True)
    grad = torch.linspace(-2, 2, len(x), dtype=dtype)
    ede_sign(leaf, torch.tensor([k, t], dtype=torch.float64)).backward(grad)
    at = leaf.detach().double().numpy()
    with np.errstate(over="ignore"):
        expected = grad.double().numpy() * k * t / np.cosh(t * at) ** 2  # sech² = 1 − tanh²
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    np.testing.assert_allclose(leaf.grad.double().numpy(), expected, rtol=tolerance, atol=tolerance * k * t)


@pytest.mark.parametrize("dtype", FLOATS)
def test_gradient_at_nan_and_infinity_is_zero(dtype):
    x = torch.tensor([math.nan, math.inf, -math.inf], dtype=dtype, requires_grad=True)
    ede_sign(x, torch.tensor([1.0, 10.0])).sum().backward()
    assert x.grad.dtype == dtype
    assert x.grad.tolist() == [0, 0, 0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_gradient_is_computed_in_float32(dtype):
    """1 − tanh² cancels: taken in half, little of a small slope is left."""
    ede = torch.tensor([1.0, 1.7])
    x = torch.linspace(-2, 2, 101).to(dtype).requires_grad_()
    ede_sign(x, ede).sum().backward()
    exact = 1.7 / torch.cosh(1.7 * x.detach().double()).square()
    torch.testing.assert_close(x.grad.double(), exact, rtol=torch.finfo(dtype).eps, atol=0)


def test_only_the_input_is_kept():
    saved = []
    x = torch.randn(1000, requires_grad=True)
    ede = torch.ones(2)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        ede_sign(x, ede)
    assert [t.numel() for t in saved] == [1000, 2]
    assert saved[0].data_ptr() == x.data_ptr()
