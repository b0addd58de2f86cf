"""BinaryMultiheadAttention as a layer: arithmetic, keys, loading, hooks, groups, copies."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from irnet_convert.errors import ArgumentError
from irnet_convert.layers import (
    BinaryLinear,
    BinaryMultiheadAttention,
    SignedAttention,
    binary_class_of,
    binary_layers,
    param_groups,
    set_progress,
)

E, H, N, L = 12, 3, 2, 5


def dense(**kwargs: Any) -> nn.MultiheadAttention:
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(E, H, batch_first=True, **kwargs)
    with torch.no_grad():
        for name in ("in_proj_bias", "bias_k", "bias_v"):
            if getattr(layer, name) is not None:
                getattr(layer, name).normal_()
    return layer


def reference(layer: BinaryMultiheadAttention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """From the paper's equations and attention's, in float64, each projection for itself."""
    weight = layer.in_proj_weight.detach().double()
    centred = weight - weight.mean(1, keepdim=True)
    standard = centred / centred.square().sum(1, keepdim=True).div(E - 1).sqrt()
    binary = (
        torch.where(centred >= 0, 1.0, -1.0).double()
        * 2 ** standard.abs().mean(1, keepdim=True).log2().round()
    )
    if layer.scale is not None:
        binary = binary * layer.scale.detach().double()[:, None]
    parts = []
    for i, x in enumerate((query, key, value)):
        signs = torch.where(x >= 0, 1.0, -1.0).double() if layer.act_bits == 1 else x.double()
        part = signs @ binary[i * E : i * E + E].T
        if layer.in_proj_bias is not None:
            part = part + layer.in_proj_bias.detach().double()[i * E : i * E + E]
        parts.append(part.unflatten(-1, (H, -1)).transpose(1, 2))
    q, k, v = parts
    mixed = (q @ k.transpose(-1, -2) / (E // H) ** 0.5).softmax(-1) @ v
    mixed = mixed.transpose(1, 2).flatten(2)
    out = mixed @ layer.out_proj.weight.detach().double().T
    return out if layer.out_proj.bias is None else out + layer.out_proj.bias.detach().double()


@pytest.mark.parametrize("which", ["self", "memory", "all"])
@pytest.mark.parametrize("act_bits", [1, 32])
@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_like_the_equations(which: str, act_bits: int, scale: bool, bias: bool) -> None:
    layer = BinaryMultiheadAttention.from_dense(dense(bias=bias), act_bits=act_bits, scale=scale)
    query, memory, other = (torch.randn(N, length, E) for length in (L, L + 2, L + 2))
    given = {"self": (query,) * 3, "memory": (query, memory, memory), "all": (query, memory, other)}[which]
    for need_weights in (True, False):
        output, weights = layer(*given, need_weights=need_weights)
        torch.testing.assert_close(output.double(), reference(layer, *given), rtol=1e-4, atol=1e-5)
        assert (weights is not None) == need_weights
    layer(*given)[0].square().sum().backward()
    # Every row of the packed weight has its part in the result.
    assert (layer.in_proj_weight.grad.abs().amax(1) > 0).all()
    assert not scale or (layer.scale.grad != 0).all()


@pytest.mark.parametrize("batch_first", [True, False])
def test_layouts_agree(batch_first: bool) -> None:
    layer = BinaryMultiheadAttention.from_dense(dense())
    query, key = torch.randn(N, L, E), torch.randn(N, L + 1, E)
    want = layer(query, key, query.new_ones(1).expand_as(key) * key)[0]
    layer.batch_first = batch_first
    given = [x if batch_first else x.transpose(0, 1) for x in (query, key)]
    made = layer(given[0], given[1], given[1])[0]
    torch.testing.assert_close(made if batch_first else made.transpose(0, 1), want)
    alone = layer(query[0], key[0], key[0])[0]  # no batch: the layout says nothing
    torch.testing.assert_close(alone, want[0])


def test_the_dense_layer_is_adopted_and_stays_whole() -> None:
    layer = dense(add_bias_kv=True).eval()
    layer.note = "kept"
    seen: list[str] = []
    handle = layer.register_forward_hook(lambda *_: seen.append("hook"))
    before, modules = dict(layer.named_parameters()), dict(layer.named_modules())
    new = BinaryMultiheadAttention.from_dense(layer, scale=True)
    assert dict(layer.named_parameters()) == before
    assert dict(layer.named_modules()) == modules
    assert isinstance(new, nn.MultiheadAttention)
    assert not new.training
    assert new.note == "kept"
    assert new.in_proj_weight is layer.in_proj_weight is new.weight
    assert new.in_proj_bias is layer.in_proj_bias is new.bias
    assert new.out_proj is layer.out_proj
    assert [k for k in new.state_dict() if k != "scale"] == list(layer.state_dict())
    x = torch.randn(N, L, E)
    new(x, x, x)
    assert seen == ["hook"]
    handle.remove()
    new(x, x, x)
    assert seen == ["hook"]


def test_built_by_itself_it_is_what_from_dense_makes() -> None:
    torch.manual_seed(0)
    own = BinaryMultiheadAttention(E, H, batch_first=True, scale=True)
    torch.manual_seed(0)
    other = BinaryMultiheadAttention.from_dense(nn.MultiheadAttention(E, H, batch_first=True), scale=True)
    x = torch.randn(N, L, E)
    assert list(own.state_dict()) == list(other.state_dict())
    assert torch.equal(own(x, x, x)[0], other(x, x, x)[0])
    assert own.scale.shape == (3 * E,)
    own.reset_parameters()
    latents = own.weight.detach()
    assert torch.equal(own.scale, (latents - latents.mean(1, keepdim=True)).abs().mean(1))
    assert repr(own).startswith("BinaryMultiheadAttention(\n  method='irnet', act_bits=1, scale=True")


def test_checkpoints_of_the_dense_layer_load_strictly() -> None:
    layer, trained = BinaryMultiheadAttention.from_dense(dense(), scale=True), dense()
    with torch.no_grad():
        trained.in_proj_weight.mul_(torch.rand(3 * E, 1) * 4)
    layer.load_state_dict(trained.state_dict(), strict=True)
    assert torch.equal(layer.in_proj_weight, trained.in_proj_weight)
    assert torch.equal(layer.scale, BinaryMultiheadAttention.from_dense(trained, scale=True).scale)
    own = layer.state_dict()
    own["scale"] = torch.full((3 * E,), 0.25)
    layer.load_state_dict(own, strict=True)
    assert (layer.scale == 0.25).all()


def test_copies_are_their_own() -> None:
    """The projection refers to its attention: a copy's to the copy."""
    layer = BinaryMultiheadAttention.from_dense(dense(), scale=True)
    x = torch.randn(N, L, E)
    want = layer(x, x, x)[0]
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert other.in_proj.owner[0] is other
        assert torch.equal(other(x, x, x)[0], want)
        with torch.no_grad():
            other.in_proj_weight.neg_()
        assert not torch.equal(other(x, x, x)[0], want)
        assert torch.equal(layer(x, x, x)[0], want)


def test_latents_progress_and_casts() -> None:
    model = nn.Sequential(BinaryMultiheadAttention.from_dense(dense(), scale=True))
    model[0].out_proj = BinaryLinear.from_dense(model[0].out_proj)
    groups = {g["name"]: g["params"] for g in param_groups(model, 0.1, 0.01)}
    assert {id(p) for p in groups["latents"]} == {id(model[0].in_proj_weight), id(model[0].out_proj.weight)}
    assert [id(p) for p in groups["scales"]] == [id(model[0].scale)]
    assert "decay" not in groups
    assert [path for path, _ in binary_layers(model)] == ["0", "0.out_proj"]
    set_progress(model, 1.0)
    x = torch.randn(N, L, E)
    assert model[0].ede[1] == model[0].t_max
    meta = copy.deepcopy(model).to("meta")
    assert meta[0](x.to("meta"), x.to("meta"), x.to("meta"))[0].shape == (N, L, E)
    half = copy.deepcopy(model).to(torch.bfloat16)
    assert half[0].ede.dtype == torch.float32
    assert half[0](*[x.to(torch.bfloat16)] * 3)[0].dtype == torch.bfloat16


@pytest.mark.parametrize("act_bits", [1, 32])
def test_the_dense_form(act_bits: int) -> None:
    layer = BinaryMultiheadAttention.from_dense(dense(add_bias_kv=True), act_bits=act_bits, scale=True).eval()
    layer.out_proj = BinaryLinear.from_dense(layer.out_proj)
    plain = layer.to_dense()
    assert isinstance(plain, SignedAttention)
    assert not list(binary_layers(plain))
    query, key = torch.randn(N, L, E), torch.randn(N, L + 1, E)
    for given in ((query, query, query), (query, key, key), (query, key, key.flip(1))):
        torch.testing.assert_close(plain(*given)[0], layer(*given)[0])
    shared = {id(p) for p in layer.parameters()} & {id(p) for p in plain.parameters()}
    assert not shared
    assert not plain.training
    wanted = layer.binary_weight() if act_bits == 1 else layer.binary_weight() * layer.scale[:, None]
    assert torch.equal(plain.in_proj_weight, wanted)
    assert plain.scale is None if act_bits == 32 else torch.equal(plain.scale, layer.scale)


def test_the_fused_evaluation_path_is_never_taken() -> None:
    """It would hand the latents to one operator. PyTorch takes it for an even number of heads, without
    gradients, in evaluation mode.
    """
    torch.manual_seed(0)
    layer = BinaryMultiheadAttention.from_dense(nn.MultiheadAttention(E, 2, batch_first=True).eval())
    x = torch.randn(N, L, E)
    want = layer(x, x, x)[0]
    with torch.inference_mode():
        torch.testing.assert_close(layer(x, x, x)[0], want)


def test_which_attentions_are_taken() -> None:
    assert binary_class_of(dense()) is BinaryMultiheadAttention
    why = binary_class_of(nn.MultiheadAttention(E, H, kdim=4, vdim=4))
    assert isinstance(why, str)
    assert "a weight each" in why
    with pytest.raises(ArgumentError, match="kdim=4"):
        BinaryMultiheadAttention(E, H, kdim=4)
    with pytest.raises(ArgumentError, match="2 weight"):
        BinaryMultiheadAttention(2, 1)
    taken = dense()
    taken.in_proj = nn.Identity()
    assert "in_proj" in str(binary_class_of(taken))
