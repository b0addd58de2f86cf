"""Distillation losses against independent float64 computations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from irnet_convert.errors import ModelError, UnknownNameError
from irnet_convert.recipe import DistillSpec, FeatureSpec
from irnet_convert.train.distill import (
    DistillLoss,
    FeatureTap,
    attention_map,
    attention_transfer,
    feature_mse,
    kl_logits,
)


def softmax(logits: np.ndarray, temperature: float) -> np.ndarray:
    scaled = logits / temperature
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


@settings(deadline=None, max_examples=30)
@given(
    n=st.integers(1, 7),
    k=st.integers(2, 11),
    temperature=st.floats(0.5, 8),
    seed=st.integers(0, 2**31),
)
def test_kl_is_the_papers(n: int, k: int, temperature: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    student, teacher = rng.normal(size=(n, k)) * 3, rng.normal(size=(n, k)) * 3
    p, q = softmax(teacher, temperature), softmax(student, temperature)
    expected = temperature**2 * (p * (np.log(p) - np.log(q))).sum(axis=1).mean()
    logits = torch.tensor(student, requires_grad=True)
    loss = kl_logits(logits, torch.tensor(teacher), temperature)
    assert loss.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)
    # d/ds of T²·mean KL is T·(q − p)/n.
    loss.backward()
    np.testing.assert_allclose(logits.grad.numpy(), temperature * (q - p) / n, rtol=1e-8, atol=1e-12)


def test_kl_of_equal_logits_is_zero_and_the_teacher_gets_no_gradient() -> None:
    logits = torch.randn(4, 5, requires_grad=True)
    teacher = logits.detach().clone().requires_grad_()
    loss = kl_logits(logits, teacher, 4.0)
    loss.backward()
    assert loss.item() == 0
    assert teacher.grad is None
    assert kl_logits(logits, logits + 3.0).item() == pytest.approx(0, abs=1e-6)


def reference_attention(features: np.ndarray) -> np.ndarray:
    maps = (features**2).sum(axis=1).reshape(len(features), -1)
    return maps / np.sqrt((maps**2).sum(axis=1, keepdims=True))


def test_attention_transfer_is_the_papers_and_allows_other_channels() -> None:
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(size=(3, 4, 5, 6)), rng.normal(size=(3, 7, 5, 6))
    expected = ((reference_attention(ours) - reference_attention(theirs)) ** 2).sum(axis=1).mean()
    loss = attention_transfer(torch.tensor(ours), torch.tensor(theirs))
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    tokens = torch.tensor(ours).flatten(2).transpose(1, 2)
    torch.testing.assert_close(attention_map(tokens), torch.tensor(reference_attention(ours)))


def test_attention_has_a_gradient_where_the_maps_agree_and_where_they_are_zero() -> None:
    features = torch.randn(2, 3, 4, 4, requires_grad=True)
    attention_transfer(features, features.detach()).backward()
    assert features.grad.abs().max() == 0
    zeros = torch.zeros(2, 3, 4, 4, requires_grad=True)
    attention_transfer(zeros, torch.randn(2, 3, 4, 4)).backward()
    assert bool(zeros.grad.isfinite().all())


def test_features_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ModelError, match=r"shape \(2, 3\) differ from the teacher's \(2, 4\)"):
        feature_mse(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(ModelError, match="positions"):
        attention_transfer(torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 5, 5))
    with pytest.raises(ModelError, match=r"features of shape \(2, 3\)"):
        attention_map(torch.zeros(2, 3))


def test_the_sum_is_weighted_as_the_recipe_says() -> None:
    torch.manual_seed(0)
    spec = DistillSpec(
        temperature=2.0,
        weight=0.7,
        task_weight=0.3,
        features=(
            FeatureSpec(student="a", teacher="b", weight=5.0, kind="mse"),
            FeatureSpec(student="c", teacher="d", weight=0.5, kind="attention"),
        ),
    )
    s, t, task = torch.randn(3, 4).double(), torch.randn(3, 4).double(), torch.tensor(1.25).double()
    ours = {"a": torch.randn(3, 8).double(), "c": torch.randn(3, 2, 4, 4).double()}
    theirs = {"b": torch.randn(3, 8).double(), "d": torch.randn(3, 6, 4, 4).double()}
    parts = DistillLoss(spec)(s, t, task, ours, theirs)
    features = 5.0 * ((ours["a"] - theirs["b"]) ** 2).mean() + 0.5 * attention_transfer(
        ours["c"], theirs["d"]
    )
    assert parts["features"].item() == pytest.approx(features.item(), rel=1e-12)
    assert parts["loss"].item() == pytest.approx(
        (0.7 * kl_logits(s, t, 2.0) + 0.3 * task + features).item(), rel=1e-12
    )
    with pytest.raises(ModelError, match="logits"):
        DistillLoss(spec)(s, torch.randn(3, 5), task, ours, theirs)
    with pytest.raises(ModelError, match="'a' was not called"):
        DistillLoss(spec)(s, t, task, {}, theirs)


def test_taps_keep_features_once_and_leave_no_hook() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    with FeatureTap(net, ["0", "0", "1"]) as tap:
        out = net(torch.randn(2, 3))
        features = tap.take()
        assert features.keys() == {"0", "1"}
        assert features["1"] is out
        assert tap.take() == {}
    net(torch.randn(2, 3))
    assert tap.take() == {}
    assert not net[0]._forward_hooks


def test_unknown_and_unusable_layers_are_named() -> None:
    net = nn.Sequential()
    net.add_module("layer1", nn.LSTM(3, 3))
    with pytest.raises(UnknownNameError, match=r"(?s)the student has no layer 'layer2'.*'layer1'"):
        FeatureTap(net, ["layer2"], "student")
    with FeatureTap(net, ["layer1"]), pytest.raises(ModelError, match="returns a tuple"):
        net(torch.randn(2, 1, 3))
