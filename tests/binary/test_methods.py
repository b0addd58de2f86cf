"""What every row of METHODS must keep, whatever the method."""

import dataclasses
import re

import pytest
import torch

from irnet_convert.binary import METHODS, method
from irnet_convert.errors import UnknownNameError

pytestmark = pytest.mark.parametrize("name", list(METHODS))


def states(row):
    return [torch.tensor(row.schedule(f, row.t_min, row.t_max)) for f in (0.0, 0.5, 1.0)]


def test_row(name):
    row = method(name)
    assert row.name == name
    assert row.min_fan_in >= 1
    assert re.search(r"\d{4}", row.paper)
    with pytest.raises(dataclasses.FrozenInstanceError):
        row.name = "other"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("extra", [0, 1, 20])
def test_weights_have_two_levels_a_filter_and_learn(name, dtype, extra):
    row = method(name)
    n = row.min_fan_in + extra
    w = torch.randn(16, n).to(dtype).requires_grad_()
    for state in states(row):
        w.grad = None
        out = row.binarize_weight(w, state)
        assert out.shape == w.shape
        for levels in out.detach():
            magnitude = levels.abs().unique()
            assert len(magnitude) == 1
            assert torch.frexp(magnitude).mantissa.item() == 0.5, "a power of two"
        out.backward(torch.randn_like(out))
        assert w.grad.dtype == dtype
        assert torch.isfinite(w.grad).all()
        assert (w.grad != 0).any()


def test_the_forward_pass_does_not_depend_on_the_state(name):
    row = method(name)
    w, x = torch.randn(5, 20), torch.randn(7, 20)
    first, *rest = states(row)
    for state in rest:
        assert torch.equal(row.binarize_weight(w, first), row.binarize_weight(w, state))
        assert torch.equal(row.binarize_activation(x, first), row.binarize_activation(x, state))


def test_the_gradient_depends_on_the_state(name):
    row = method(name)
    grads = []
    for state in states(row):
        x = torch.linspace(-2, 2, 9, requires_grad=True)
        row.binarize_activation(x, state).sum().backward()
        grads.append(x.grad)
    assert not torch.allclose(grads[0], grads[1])
    assert not torch.allclose(grads[1], grads[2])


def test_activations_are_plus_or_minus_one(name):
    row = method(name)
    x = torch.tensor([0.0, -0.0, float("nan"), -2.0, 2.0])
    assert row.binarize_activation(x, states(row)[0]).tolist() == [1, 1, -1, -1, 1]


def test_unknown_name(name):
    with pytest.raises(UnknownNameError, match=f"did you mean '{name}'"):
        method(name + "s")
