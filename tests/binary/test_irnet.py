"""Libra-PB and the EDE schedule, against plain float64 loops over the paper's equations."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from irnet_convert.binary.irnet import ede_schedule, libra_pb, standardize
from irnet_convert.errors import ArgumentError


def reference(w, grad, k, t):
    """Values and gradient by the closed formula, filter by filter."""
    out, back = np.empty_like(w), np.empty_like(w)
    for o in range(len(w)):
        row, g_out = w[o].ravel(), grad[o].ravel()
        n = row.size
        mean = sum(row) / n
        sigma = math.sqrt(sum((v - mean) ** 2 for v in row) / (n - 1))
        hat = (row - mean) / sigma
        power = 2.0 ** round(math.log2(np.mean(np.abs(hat))))
        out[o] = (np.where(hat >= 0, 1.0, -1.0) * power).reshape(w[o].shape)
        g = g_out * power * k * t * (1 - np.tanh(t * hat) ** 2)
        back[o] = ((g - g.mean() - hat * (g @ hat) / (n - 1)) / sigma).reshape(w[o].shape)
    return out, back


def run(w, grad, ede):
    leaf = w.clone(memory_format=torch.preserve_format).requires_grad_()
    out = libra_pb(leaf, ede)
    out.backward(grad.to(out.dtype))
    return out.detach(), leaf.grad


shapes = st.one_of(
    st.tuples(st.integers(1, 5), st.integers(3, 40)),
    st.tuples(st.integers(1, 5), st.integers(1, 7), st.integers(1, 3), st.integers(3, 5)),
)


@settings(deadline=None, max_examples=60)
@given(
    shape=shapes,
    seed=st.integers(0, 10**6),
    t=st.sampled_from([1e-3, 0.1, 0.7, 3.0, 10.0]),
    magnitude=st.sampled_from([1e-25, 1e-3, 1.0, 1e25]),
    shift=st.sampled_from([0.0, 0.5, -20.0]),
    heavy=st.booleans(),
)
def test_values_and_gradients(shape, seed, t, magnitude, shift, heavy):
    rng = np.random.default_rng(seed)
    w = (rng.standard_t(1.2, shape) if heavy else rng.normal(size=shape)) + shift
    w = w * magnitude
    grad = rng.normal(size=shape)
    k = max(1 / t, 1)
    expected, expected_grad = reference(w, grad, k, t)
    ede = torch.tensor([k, t], dtype=torch.float64)
    out, back = run(torch.tensor(w), torch.tensor(grad), ede)
    assert out.dtype == torch.float64
    np.testing.assert_array_equal(out.numpy(), expected)
    scale = np.abs(expected_grad).max()
    np.testing.assert_allclose(back.numpy() / scale, expected_grad / scale, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_narrow_types_against_float64(dtype):
    w = torch.randn(16, 8, 3, 3).to(dtype)
    grad = torch.randn(16, 8, 3, 3)
    expected, expected_grad = reference(w.double().numpy(), grad.double().numpy(), 1.0, 2.0)
    out, back = run(w, grad, torch.tensor([1.0, 2.0]))
    assert out.dtype == torch.float32
    assert back.dtype == dtype
    np.testing.assert_array_equal(out.numpy(), expected)
    np.testing.assert_allclose(back.double().numpy(), expected_grad, atol=float(torch.finfo(dtype).eps) * 20)
    assert torch.equal(out.to(dtype).float(), out), "2^s is exact in every dtype"


def test_powers_of_two_are_exact():
    w = torch.zeros(20, 2**18)
    for o in range(20):
        w[o, : 2**o // 4 + 1] = 1.0  # ever denser filters, from one outlier on
    steps = libra_pb(w, torch.ones(2)).abs().amax(1)
    assert len(steps.unique()) > 5
    assert torch.equal(steps.log2(), steps.log2().round())


def test_gradient_is_orthogonal_to_one_and_to_the_centred_weights():
    w, grad = torch.randn(6, 50, dtype=torch.float64), torch.randn(6, 50, dtype=torch.float64)
    _, back = run(w, grad, torch.tensor([1.0, 1.5], dtype=torch.float64))
    centred = w - w.mean(1, keepdim=True)
    assert back.abs().max() > 0.01
    assert back.sum(1).abs().max() < 1e-12
    assert (back * centred).sum(1).abs().max() < 1e-12


def test_scale_and_shift_of_the_latents_do_not_matter():
    w = torch.randn(4, 9, dtype=torch.float64)
    ede = torch.ones(2)
    assert torch.equal(libra_pb(w, ede), libra_pb(3e-30 * w, ede))
    assert torch.equal(libra_pb(w, ede), libra_pb(w + 2, ede))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("value", [0.0, -0.0, 1.0, -0.1, 1 / 3, 1e-7, 6e4, 1e-40])
@pytest.mark.parametrize("n", [3, 9, 577, 4608])
def test_constant_filter(dtype, value, n):
    """The authors' code divides by σ = 0: NaN."""
    w = torch.randn(3, n).to(dtype)
    w[1] = value
    out, back = run(w, torch.randn(3, n), torch.tensor([1.0, 5.0]))
    assert (out[1] == 1).all()
    assert (back[1] == 0).all()
    others, others_back = run(w[[0, 2]], torch.ones(2, n), torch.tensor([1.0, 5.0]))
    assert torch.equal(out[[0, 2]], others)
    assert torch.isfinite(back).all()
    assert (others_back != 0).any()


def test_constant_filter_in_any_memory_format():
    w = torch.full((2, 64, 3, 3), 0.1).to(memory_format=torch.channels_last)
    out, back = run(w, torch.randn_like(w), torch.tensor([1.0, 5.0]))
    assert (out == 1).all()
    assert (back == 0).all()


def test_a_gradient_that_is_not_finite_stays_out_of_constant_filters():
    _, back = run(torch.zeros(1, 5), torch.full((1, 5), math.inf), torch.ones(2))
    assert (back == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dead_filters_are_not_constant(dtype):
    """Their squares underflow in float32, their signs do not."""
    w = torch.randn(4, 64, dtype=dtype)
    assert torch.equal(libra_pb(w, torch.ones(2)), libra_pb(w * 2.0**-100, torch.ones(2)))
    assert torch.equal(libra_pb(w, torch.ones(2)), libra_pb(w * 2.0**100, torch.ones(2)))


@pytest.mark.parametrize("n", [1, 2])
def test_tiny_fan_in_makes_no_nan(n):
    """Layers refuse it; the function still has no NaN (the authors' code has, at n = 1)."""
    w = torch.randn(4, n)
    out, back = run(w, torch.randn(4, n), torch.ones(2))
    assert torch.isfinite(out).all()
    unit = w.std(1, keepdim=True) if n > 1 else torch.ones(())  # gradients grow by 1/σ, and so do roundings
    assert (back * unit).abs().max() < 1e-6


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_broken_latent_is_seen_in_its_filter_alone(bad):
    w = torch.randn(3, 9)
    w[1, 4] = bad
    out = libra_pb(w, torch.ones(2))
    assert out[1].isnan().all()
    assert torch.isfinite(out[[0, 2]]).all()


def test_channels_last_agrees_bit_for_bit():
    """The authors' .view fails; a sum in another order could flip a weight that is at the mean."""
    w = at_the_mean(64, 432).reshape(64, 48, 3, 3)
    grad = torch.randn_like(w)
    ede = torch.tensor([1.0, 3.0])
    last = w.to(memory_format=torch.channels_last)
    out, back = run(w, grad, ede)
    out_last, back_last = run(last, grad, ede)
    assert out_last.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(out, out_last)
    torch.testing.assert_close(back, back_last)
    rows = at_the_mean(64, 432)
    assert torch.equal(libra_pb(rows.t().contiguous().t(), ede), libra_pb(rows, ede))


def at_the_mean(filters, n):
    """Filters a third of whose weights are their mean, up to rounding: the sign hangs on how a sum rounds."""
    spread = torch.randn(filters, n // 3)
    rows = torch.cat([spread, -spread, torch.zeros_like(spread)], 1) + 0.1
    return rows[:, torch.randperm(n)]


def test_a_filter_that_differs_from_constant_by_rounding_alone():
    w = torch.full((1, 90), 0.1)
    w[:, ::2] = torch.nextafter(w[:, ::2], torch.ones(()))
    out, back = run(w, torch.randn(1, 90), torch.tensor([1.0, 5.0]))
    assert (out == 1).all()
    assert (back == 0).all()
    w[:, 0] = 0.1001
    out, back = run(w, torch.randn(1, 90), torch.tensor([1.0, 5.0]))
    assert (out < 0).any()
    assert (back != 0).any()


def test_autocast_changes_nothing():
    w, grad, ede = torch.randn(8, 30), torch.randn(8, 30), torch.tensor([1.0, 3.0])
    out, back = run(w, grad, ede)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside, inside_back = run(w, grad, ede)
    assert inside.dtype == torch.float32
    assert torch.equal(out, inside)
    assert torch.equal(back, inside_back)


def test_meta():
    w = torch.randn(8, 4, 3, 3, device="meta", requires_grad=True)
    libra_pb(w, torch.ones(2, device="meta")).sum().backward()
    assert w.grad.shape == w.shape


def test_standardize_is_unbiased():
    w = torch.randn(5, 11, dtype=torch.float64)
    normed, flat = standardize(w)
    assert not flat.any()
    np.testing.assert_allclose(normed.std(1).numpy(), 1, rtol=1e-12)
    np.testing.assert_allclose(normed.mean(1).numpy(), 0, atol=1e-12)


@pytest.mark.parametrize("t_min", [0.1, 1e-3, 2.0])
def test_schedule(t_min):
    for i in range(11):
        k, t = ede_schedule(i / 10, t_min, 10.0)
        expected = t_min * 10 ** ((i / 10) * math.log10(10.0 / t_min))
        assert t == pytest.approx(expected, rel=1e-12)
        assert k == max(1 / t, 1)
    assert ede_schedule(0.0) == (10.0, 0.1)
    assert ede_schedule(1.0)[0] == 1.0
    assert ede_schedule(1.0)[1] == pytest.approx(10.0)


@pytest.mark.parametrize("fraction", [-0.01, 1.01, math.nan, math.inf])
def test_schedule_refuses_a_fraction(fraction):
    with pytest.raises(ArgumentError, match="fraction from 0"):
        ede_schedule(fraction)


@pytest.mark.parametrize("bounds", [(0, 1), (-1, 1), (2, 1), (math.nan, 1), (0.1, math.inf), (0.1, math.nan)])
def test_schedule_refuses_bounds(bounds):
    with pytest.raises(ArgumentError, match="t_min"):
        ede_schedule(0.5, *bounds)
