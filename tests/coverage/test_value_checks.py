"""Properties 4 to 6 by value: a sound conversion has nothing to report, and damage is reported."""

from __future__ import annotations

import copy

import pytest
import torch
from broken_models import EXAMPLE, images, pair
from torch import nn

from irnet_convert.convert import plan_of
from irnet_convert.coverage.reference import expected_output, weight_problem
from irnet_convert.coverage.skeleton import differences, skeleton, unedited
from irnet_convert.coverage.values import trained_once, wake, without_dropping
from irnet_convert.layers import BinaryConv2d, BinaryConvTranspose2d, BinaryLinear


def test_a_sound_conversion_has_nothing_to_report() -> None:
    net, student = pair()
    assert trained_once(student, (images(),)) == ([], [])
    others = [unedited(net, plan_of(student)), skeleton(net, EXAMPLE)]
    for other in others:
        assert other is not None
        for training in (False, True):
            assert list(differences(net, other, (images(),), training=training, what="it")) == []


# -- property 4


def test_a_layer_with_real_operands_is_reported() -> None:
    _, student = pair()
    conv = student.conv1
    conv.forward = lambda x: nn.Conv2d.forward(conv, x)
    values, _ = trained_once(student, (images(),))
    assert values == ["conv1: its output is not that of ±1 operands"]


def test_an_input_without_negative_values_is_reported() -> None:
    _, student = pair()
    student.act = nn.ReLU()
    assert trained_once(student, (images(),))[0] == ["conv2 received no negative value"]
    assert trained_once(student, (images(),), both_signs=False)[0] == []


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda w: w * torch.linspace(0.5, 1, w[0].numel()).reshape(w[0].shape), "more than one magnitude"),
        (lambda w: w * 3, "no power of two"),
        (lambda w: w * 4, "not the one nearest"),
        (lambda w: -w, "not the sign"),
    ],
)
def test_wrong_weights_are_reported(damage: object, message: str) -> None:
    layer = BinaryConv2d(4, 6, 3)
    assert weight_problem(layer) is None
    binary = layer.binary_weight()
    layer.binary_weight = lambda: damage(binary)  # type: ignore[operator]
    assert message in (weight_problem(layer) or "")


def test_the_reference_agrees_with_the_layers() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 6, 9, 7)
    for layer in (
        BinaryConv2d(6, 4, 3, stride=2, padding=1, groups=2, scale=True),
        BinaryConv2d(6, 4, 3, padding=1, padding_mode="reflect", dilation=2),
        BinaryConvTranspose2d(6, 4, 3, stride=2, padding=1, groups=2, scale=True, output_padding=1),
    ):
        assert weight_problem(layer) is None
        torch.testing.assert_close(layer(x).double(), expected_output(layer, x), rtol=1e-5, atol=1e-5)
    linear = BinaryLinear(7, 3, scale=True)
    torch.testing.assert_close(linear(x).double(), expected_output(linear, x), rtol=1e-5, atol=1e-5)


# -- property 5


def test_a_latent_without_gradient_is_reported() -> None:
    _, student = pair()
    student.conv1.weight.requires_grad_(False)
    assert trained_once(student, (images(),))[1] == ["no gradient reaches the latents of conv1"]
    _, student = pair()
    student.norm2.weight.data.zero_()
    assert trained_once(student, (images(),))[1] == ["the gradient of the latents of conv2 is zero"]


def test_a_gradient_that_is_not_finite_is_reported() -> None:
    _, student = pair()
    student.conv2.weight.register_hook(lambda grad: grad / 0)
    assert trained_once(student, (images(),))[1] == ["the gradient of the latents of conv2 is not finite"]


def test_waking_and_dropping() -> None:
    net, _ = pair()
    net.norm1.weight.data.zero_()
    bias = net.stem.bias.detach().clone()
    wake(net)
    assert net.norm1.weight.abs().min() > 0
    assert torch.equal(net.stem.bias, bias)
    without_dropping(net)
    assert net.drop.p == 0.0


# -- property 6


@pytest.mark.parametrize("what", ["dropout", "batch statistics", "values"])
def test_a_skeleton_that_trains_otherwise_is_reported(what: str) -> None:
    net, _ = pair()
    other = copy.deepcopy(net)
    if what == "dropout":
        other.drop.p = 0.0
    elif what == "batch statistics":
        other.norm1.momentum = 0.5
    else:
        other.act = nn.GELU()
    found = list(differences(net, other, (images(),), training=True, what="it"))
    assert found
    assert all(f.startswith("it, training mode: ") for f in found)
    in_evaluation = list(differences(net, other, (images(),), training=False, what="it"))
    assert bool(in_evaluation) == (what == "values")
