"""Layers whose weights or activations are real for a while, against the dense layers that they were."""

from __future__ import annotations

import copy

import pytest
import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.std_conv import ScaledStdConv2d, ScaledStdConv2dSame, StdConv2d, StdConv2dSame
from torch import Tensor, nn

from irnet_convert.binary import sign
from irnet_convert.errors import ArgumentError, ModelError, PackError
from irnet_convert.layers import BinaryConv2d, BinaryLinear, binary_class_of, set_binarized
from irnet_convert.packed import pack

DENSE = {
    "conv1d": lambda: nn.Conv1d(4, 6, 3, padding=1),
    "conv2d": lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2),
    "conv3d": lambda: nn.Conv3d(4, 6, 2),
    "reflect": lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"),
    "transposed": lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2),
    "linear": lambda: nn.Linear(4, 6),
    "same": lambda: Conv2dSame(4, 6, 3, stride=2),
    "std": lambda: StdConv2d(4, 6, 3),
    "std same": lambda: StdConv2dSame(4, 6, 3, stride=2),
    "scaled std": lambda: ScaledStdConv2d(4, 6, 3),
    "scaled std same": lambda: ScaledStdConv2dSame(4, 6, 3, stride=2),
    "attention": lambda: nn.MultiheadAttention(8, 2, batch_first=True),
}
SIZES = {"conv1d": (2, 4, 7), "conv3d": (2, 4, 5, 5, 5), "linear": (2, 3, 4), "attention": (2, 5, 8)}


def pair(kind: str, scale: bool) -> tuple[nn.Module, nn.Module, Tensor]:
    """A dense layer in float64, the binary layer of its weights, and an input."""
    torch.manual_seed(0)
    dense = DENSE[kind]().double()
    if "std" in kind:
        nn.init.normal_(dense.weight, 0.3, 0.5)
    cls = binary_class_of(dense)
    assert not isinstance(cls, str)
    binary = cls.from_dense(copy.deepcopy(dense), scale=scale and cls.takes_scale)
    return dense, binary, torch.randn(SIZES.get(kind, (2, 4, 6, 6)), dtype=torch.float64)


def call(layer: nn.Module, x: Tensor) -> Tensor:
    return layer(x, x, x)[0] if isinstance(layer, nn.MultiheadAttention) else layer(x)


@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("kind", DENSE)
def test_with_nothing_binarized_a_layer_computes_what_it_did_before(kind: str, scale: bool) -> None:
    """With a scale too, which begins as the magnitude that it stands for; and so do the gradients."""
    dense, binary, x = pair(kind, scale)
    set_binarized(binary, "none")
    inputs = x.clone().requires_grad_(), x.clone().requires_grad_()
    outputs = call(dense, inputs[0]), call(binary, inputs[1])
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-9, atol=1e-9)
    weights = torch.randn_like(outputs[0])
    for output in outputs:
        output.backward(weights)
    torch.testing.assert_close(inputs[1].grad, inputs[0].grad, rtol=1e-9, atol=1e-9)
    if not scale:
        for name, p in dense.named_parameters():
            torch.testing.assert_close(binary.get_parameter(name).grad, p.grad, rtol=1e-9, atol=1e-9)
    elif isinstance(binary.scale, nn.Parameter):
        assert binary.scale.grad is not None  # or DistributedDataParallel would wait for it


@pytest.mark.parametrize("kind", [k for k in DENSE if k != "attention"])
def test_with_activations_alone_it_is_the_dense_layer_of_the_signs(kind: str) -> None:
    dense, binary, x = pair(kind, scale=False)
    set_binarized(binary, "activations")
    torch.testing.assert_close(binary(x), dense(sign(x)), rtol=1e-9, atol=1e-9)
    x.requires_grad_()
    weights = torch.randn_like(binary(x))
    (of_input, of_latent) = torch.autograd.grad((binary(x) * weights).sum(), [x, binary.weight])
    signs = sign(x.detach()).requires_grad_()
    (of_signs, of_weight) = torch.autograd.grad((dense(signs) * weights).sum(), [signs, dense.weight])
    torch.testing.assert_close(of_latent, of_weight, rtol=1e-9, atol=1e-9)
    k, t = binary.ede.double()
    slope = k * t * (1 - torch.tanh(t * x.detach()) ** 2)
    torch.testing.assert_close(of_input, of_signs * slope, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kind", DENSE)
def test_with_weights_alone_it_is_the_layer_with_real_activations(kind: str) -> None:
    dense, binary, x = pair(kind, scale=True)
    cls = type(binary)
    other = cls.from_dense(dense, scale=cls.takes_scale, act_bits=32)
    set_binarized(binary, "weights")
    assert torch.equal(call(binary, x), call(other, x))


@pytest.mark.parametrize("what", ["both", "activations", "weights", "none"])
@pytest.mark.parametrize("kind", DENSE)
def test_the_plain_form_computes_the_same_in_every_state(kind: str, what: str) -> None:
    _, binary, x = pair(kind, scale=True)
    set_binarized(binary, what)
    torch.testing.assert_close(call(binary.to_dense(), x), call(binary, x), rtol=1e-9, atol=1e-9)


def test_both_is_how_it_begins_and_all_of_it() -> None:
    _, binary, x = pair("conv2d", scale=True)
    before = binary(x)
    for what in ("none", "activations", "weights"):
        set_binarized(binary, what)
        assert not torch.equal(binary(x), before)
        assert "real_" in repr(binary)
    set_binarized(binary, "both")
    assert torch.equal(binary(x), before)
    assert "real_" not in repr(binary)


def test_a_layer_whose_activations_are_never_binary_has_no_others() -> None:
    layer = BinaryLinear(4, 3, act_bits=32)
    x = torch.randn(2, 4)
    before = layer(x)
    set_binarized(layer, "weights")
    assert torch.equal(layer(x), before)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"(?s)'weight'.*'weights'"):
        set_binarized(BinaryLinear(4, 3), "weight")
    with pytest.raises(ModelError, match="no binary layer"):
        set_binarized(nn.Linear(4, 3), "both")
    model = nn.Sequential(BinaryConv2d(3, 4, 3), nn.Flatten())
    set_binarized(model, "activations")
    with pytest.raises(PackError, match="a stage of its training"):
        pack(model, example_input=torch.zeros(1, 3, 4, 4))
