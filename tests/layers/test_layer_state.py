"""State of a binary layer: adopting, loading, moving, copying, progress, compiling."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

from irnet_convert.errors import ArgumentError
from irnet_convert.layers import BinaryConv2d, BinaryLinear, Sign, SignedLayer


def fresh(scale=False, **kwargs):
    return BinaryConv2d(4, 6, 3, padding=1, scale=scale, **kwargs)


def ede_ok(layer, dtype=torch.float32):
    """[k, t] as the plain floats say, on the weight's device, never half."""
    assert layer.ede.dtype == dtype
    assert layer.ede.device == layer.weight.device
    if not layer.ede.is_meta:
        t = layer.t_min * (layer.t_max / layer.t_min) ** layer.progress
        torch.testing.assert_close(layer.ede, torch.tensor([max(1 / t, 1), t], dtype=dtype))


def test_from_dense_adopts():
    dense = nn.Conv2d(4, 6, 3, padding=1).eval()
    weight, bias = dense.weight, dense.bias
    dense.extra, calls = "kept", []
    handle = dense.register_forward_hook(lambda *_: calls.append(1))
    layer = BinaryConv2d.from_dense(dense, scale=True)
    assert layer.weight is weight
    assert layer.bias is bias
    assert isinstance(layer, nn.Conv2d)
    assert not layer.training
    assert layer.extra == "kept"
    layer(torch.randn(1, 4, 5, 5))
    assert calls == [1]
    handle.remove()
    layer(torch.randn(1, 4, 5, 5))
    assert calls == [1]
    assert list(dense.state_dict()) == ["weight", "bias"], "the given layer stays whole"
    assert not hasattr(dense, "ede")


def test_from_dense_leaves_the_layer_alone_when_it_fails():
    dense = nn.Linear(9, 4)
    before = set(vars(dense))
    with pytest.raises(ArgumentError):
        BinaryLinear.from_dense(dense, act_bits=3)
    assert set(vars(dense)) == before


def test_frozen_weights_get_a_frozen_scale():
    assert not BinaryLinear.from_dense(nn.Linear(9, 4).requires_grad_(False), scale=True).scale.requires_grad


def test_keys_are_the_dense_layers():
    assert list(fresh().state_dict()) == ["weight", "bias"]
    assert list(fresh(scale=True).state_dict()) == ["weight", "bias", "scale"]


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("scale", [False, True])
def test_a_dense_checkpoint_loads_strictly(assign, scale):
    """Without a scale in it, the scale follows from its weights."""
    checkpoint = nn.Sequential(nn.Conv2d(4, 6, 3)).state_dict()
    keys = list(checkpoint)
    model = nn.Sequential(fresh(scale))
    model[0].set_progress(0.5)
    model.load_state_dict(checkpoint, assign=assign)
    assert list(checkpoint) == keys, "the caller's dict is not touched"
    assert torch.equal(model[0].weight, checkpoint["0.weight"])
    if scale:
        w = checkpoint["0.weight"].flatten(1)
        torch.testing.assert_close(model[0].scale.detach(), (w - w.mean(1, keepdim=True)).abs().mean(1))
        assert isinstance(model[0].scale, nn.Parameter)
    ede_ok(model[0])


def test_a_binary_checkpoint_keeps_its_scale():
    source, target = fresh(scale=True), fresh(scale=True)
    with torch.no_grad():
        source.scale.fill_(7)
    target.load_state_dict(source.state_dict())
    assert (target.scale == 7).all()


def test_a_checkpoint_of_another_layer_is_refused():
    layer = fresh(scale=True)
    scale = layer.scale.detach().clone()
    with pytest.raises(RuntimeError, match="size mismatch for weight"):
        layer.load_state_dict(nn.Conv2d(5, 6, 3).state_dict())
    assert torch.equal(scale, layer.scale)
    with pytest.raises(RuntimeError, match="Unexpected"):
        fresh().load_state_dict(layer.state_dict())


def test_from_meta_by_assign():
    with torch.device("meta"):
        layer = fresh(scale=True)
    layer.set_progress(0.3)
    assert layer.ede.is_meta
    layer.load_state_dict(nn.Conv2d(4, 6, 3).state_dict(), assign=True)
    ede_ok(layer)
    layer(torch.randn(1, 4, 5, 5)).sum().backward()
    assert torch.isfinite(layer.weight.grad).all()
    assert (layer.scale > 0).all()


def test_to_empty_from_meta():
    """In the authors' code k and t are plain tensors, which nothing moves or restores."""
    with torch.device("meta"):
        layer = fresh()
    layer.set_progress(0.7, t_min=1e-3)
    ede_ok(layer.to_empty(device="cpu"))


def test_half_never_reaches_k_and_t():
    layer = fresh()
    layer.set_progress(0.25, t_min=1e-3)
    ede_ok(layer.half())
    ede_ok(layer.bfloat16())
    ede_ok(layer.double(), torch.float64)
    ede_ok(layer.float())
    assert layer.ede[0] == pytest.approx(100.0, rel=1e-5), "not rounded by the way through half"


@pytest.mark.parametrize(
    "copied",
    [
        copy.deepcopy,
        lambda layer: pickle.loads(pickle.dumps(layer)),
        lambda layer: _saved(layer),
        lambda layer: BinaryConv2d.from_dense(_as_dense(layer), scale=True),
    ],
    ids=["deepcopy", "pickle", "torch.save", "from_dense"],
)
def test_copies(copied):
    layer = fresh(scale=True)
    if copied.__name__ == "<lambda>" and "from_dense" in copied.__code__.co_names:
        layer.set_progress(0.0)
    else:
        layer.set_progress(0.6, t_min=0.01)
    other = copied(layer)
    assert (other.progress, other.t_min, other.t_max) == (layer.progress, layer.t_min, layer.t_max)
    ede_ok(other)
    x = torch.randn(1, 4, 5, 5)
    assert torch.equal(layer(x), other(x))
    other.set_progress(1.0)
    assert not torch.equal(layer.ede, other.ede)


def _saved(layer):
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def _as_dense(layer):
    dense = nn.Conv2d(4, 6, 3, padding=1)
    dense.load_state_dict({k: v for k, v in layer.state_dict().items() if k != "scale"})
    return dense


def test_progress_changes_gradients_and_never_values():
    layer = fresh()
    x = torch.randn(2, 4, 5, 5)
    values, grads = [], []
    for fraction in (0.0, 0.5, 1.0):
        layer.set_progress(fraction)
        layer.zero_grad()
        y = layer(x)
        y.square().sum().backward()
        values.append(y.detach())
        grads.append(layer.weight.grad.clone())
    assert torch.equal(values[0], values[1])
    assert torch.equal(values[1], values[2])
    assert not torch.allclose(grads[0], grads[1])
    assert not torch.allclose(grads[1], grads[2])


def test_progress_is_written_in_place():
    layer = fresh()
    buffer = layer.ede
    layer.set_progress(0.5)
    assert layer.ede is buffer
    with pytest.raises(ArgumentError):
        layer.set_progress(0.5, t_min=20.0)
    assert (layer.progress, layer.t_min) == (0.5, 0.1)


def test_progress_between_forward_and_backward_belongs_to_the_next_pass():
    layer = fresh()
    x = torch.randn(2, 4, 5, 5)
    layer(x).sum().backward()
    expected = layer.weight.grad.clone()
    layer.zero_grad()
    y = layer(x)
    layer.set_progress(1.0)
    y.sum().backward()
    assert torch.equal(layer.weight.grad, expected)


@pytest.mark.parametrize("backend", ["aot_eager"])
@pytest.mark.parametrize("scale", [False, True])
def test_compile_once_for_the_whole_schedule(backend, scale):
    torch._dynamo.reset()
    layer = fresh(scale)
    compiled = torch.compile(layer, fullgraph=True, backend=backend)
    x = torch.randn(2, 4, 5, 5)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for fraction in (0.0, 0.3, 1.0):
            layer.set_progress(fraction)
            layer.zero_grad()
            layer(x).square().sum().backward()
            expected = layer.weight.grad.clone()
            layer.zero_grad()
            y = compiled(x)
            y.square().sum().backward()
            torch.testing.assert_close(y, layer(x))
            largest = float(expected.abs().max())  # small elements are differences of large ones
            torch.testing.assert_close(layer.weight.grad, expected, rtol=0, atol=3e-6 * largest)


@pytest.mark.parametrize("act_bits", [1, 32])
@pytest.mark.parametrize("scale", [False, True])
def test_to_dense(act_bits, scale):
    layer = fresh(scale, act_bits=act_bits).eval()
    dense = layer.to_dense()
    x = torch.randn(2, 4, 5, 5)
    assert torch.equal(dense(x), layer(x))
    assert not dense.training
    kinds = [type(m) for m in dense.modules()]
    assert kinds == ([SignedLayer, Sign, nn.Conv2d] if act_bits == 1 else [nn.Conv2d])
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.zero_()
    assert dense(x).abs().sum() > 0, "a copy"
    if act_bits == 1:
        same = BinaryLinear(5, 3)
        rows = torch.randn(2, 3)
        assert torch.equal(same.to_dense()(rows, zero_pad=(1, 1)), same(rows, zero_pad=(1, 1)))


def test_repr_says_what_it_is():
    assert "method='irnet', act_bits=1, scale=True" in repr(fresh(scale=True))
