"""Whole models with binary layers: walking, progress, optimizer groups."""

import pytest
import timm
import torch
from torch import nn

from irnet_convert.errors import ArgumentError, ModelError
from irnet_convert.layers import (
    BinaryConv2d,
    BinaryLinear,
    BinaryScaledStdConv2d,
    binary_layers,
    param_groups,
    set_progress,
)


def network():
    shared = BinaryLinear(8, 8, scale=True)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        BinaryConv2d(8, 8, 3),
        BinaryScaledStdConv2d(8, 8, 3),
        nn.Sequential(nn.Flatten(), shared, shared),
        nn.Linear(8, 2),
    )


def test_binary_layers_once_each():
    assert [name for name, _ in binary_layers(network())] == ["2", "3", "4.1"]


def test_set_progress_reaches_every_layer():
    """The authors' trainer names layers by path; one that it forgets stays at its start for ever."""
    model = network()
    set_progress(model, 0.5, t_max=1000.0)
    for _, layer in binary_layers(model):
        assert (layer.progress, layer.t_min, layer.t_max) == (0.5, 0.1, 1000.0)
        torch.testing.assert_close(layer.ede, torch.tensor([1.0, 10.0]))


def test_set_progress_is_all_or_nothing():
    model = network()
    model[3].set_progress(0.0, t_max=0.5)
    for bad in ({"fraction": 1.5}, {"fraction": 0.5, "t_min": 2.0}, {"fraction": float("nan")}):
        with pytest.raises(ArgumentError):
            set_progress(model, **bad)
        assert {layer.progress for _, layer in binary_layers(model)} == {0.0}
        assert {layer.t_min for _, layer in binary_layers(model)} == {0.1}


def test_set_progress_needs_a_binary_layer():
    with pytest.raises(ModelError, match=r"no binary layer(.*\n)+.*binarize the model first"):
        set_progress(nn.Linear(3, 3), 0.5)


def names_of(model, groups):
    names = {id(p): n for n, p in model.named_parameters()}
    return {group["name"]: [names[id(p)] for p in group["params"]] for group in groups}


def test_param_groups():
    model = network()
    groups = param_groups(
        model, 0.1, 1e-4, latent_lr=0.2, latent_weight_decay=0.0, scale_lr=0.3, scale_weight_decay=1e-5
    )
    assert names_of(model, groups) == {
        "latents": ["2.weight", "3.weight", "4.1.weight"],
        "scales": ["3.gain", "4.1.scale"],
        "decay": ["0.weight", "5.weight"],
        "no_decay": ["0.bias", "1.weight", "1.bias", "2.bias", "3.bias", "4.1.bias", "5.bias"],
    }
    rates = {group["name"]: (group["lr"], group["weight_decay"]) for group in groups}
    assert rates == {
        "latents": (0.2, 0.0),
        "scales": (0.3, 1e-5),
        "decay": (0.1, 1e-4),
        "no_decay": (0.1, 0.0),
    }
    torch.optim.SGD(groups, lr=1.0)


def test_param_groups_defaults():
    rates = {g["name"]: (g["lr"], g["weight_decay"]) for g in param_groups(network(), 0.1, 1e-4)}
    assert rates["latents"] == (0.1, 1e-4)
    assert rates["scales"] == (0.1, 0.0)


def test_param_groups_follow_the_models_own_names():
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1)
    model.blocks[0].mlp.fc1 = BinaryLinear.from_dense(model.blocks[0].mlp.fc1)
    groups = names_of(model, param_groups(model, 0.1, 1e-4))
    assert groups["latents"] == ["blocks.0.mlp.fc1.weight"]
    assert {"pos_embed", "cls_token"} <= set(groups["no_decay"])
    assert "blocks.0.mlp.fc2.weight" in groups["decay"]


def test_param_groups_every_trained_parameter_once():
    model = network()
    model[0].requires_grad_(False)
    model[5].weight = model[4][1].weight  # tied to a latent, of another shape than its own: only grouped here
    groups = param_groups(model, 0.1, 1e-4)
    listed = [id(p) for g in groups for p in g["params"]]
    assert len(listed) == len(set(listed))
    assert set(listed) == {id(p) for p in model.parameters() if p.requires_grad}
    assert all(g["params"] for g in groups)
    assert [g["name"] for g in groups] == ["latents", "scales", "no_decay"], "none is empty"


@pytest.mark.parametrize("bad", [{"lr": -0.1}, {"latent_weight_decay": -1.0}, {"scale_lr": float("nan")}])
def test_param_groups_refuses(bad):
    with pytest.raises(ArgumentError, match="0 or more"):
        param_groups(network(), **{"lr": 0.1, "weight_decay": 0.0} | bad)
