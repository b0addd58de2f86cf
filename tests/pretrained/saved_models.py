"""Networks to be saved: one of each kind of forward, after a few steps of training."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import irnet_convert
from irnet_convert.networks import create_model
from irnet_convert.recipe import ModelSpec

# The four kinds of forward that a conversion leaves: modules alone, a rewritten graph, torchvision's shared
# ReLU in it, a layer whose owner applies its weight itself.
MODELS = {
    "cifar_resnet20": (ModelSpec(name="timm/cifar_resnet20", kwargs={"head_bn": True}), 32),
    "timm_resnet": (ModelSpec(name="timm/test_resnet", kwargs={"num_classes": 5}), 64),
    "timm_vit": (ModelSpec(name="timm/test_vit", kwargs={"num_classes": 5, "img_size": 64}), 64),
    "timm_efficientnet": (ModelSpec(name="timm/test_efficientnet", kwargs={"num_classes": 3}), 64),
    "torchvision_resnet": (
        ModelSpec(name="torchvision/resnet18", kwargs={"num_classes": 4, "width_per_group": 64}),
        32,
    ),
    "beit": (
        ModelSpec(
            name="timm/beit_base_patch16_224",
            kwargs={"img_size": 32, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 4},
        ),
        32,
    ),
}


def trained(model: nn.Module, side: int, steps: int = 2) -> nn.Module:
    """A few steps of training: statistics, scales and the schedule leave their beginnings."""
    generator = torch.Generator().manual_seed(3)
    optimizer = torch.optim.SGD(irnet_convert.param_groups(model, 0.05, 1e-4), momentum=0.9)
    model.train()
    for step in range(steps):
        irnet_convert.set_progress(model, (step + 1) / 7, t_min=0.02, t_max=8.0)
        loss = model(torch.randn(4, 3, side, side, generator=generator)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


def student_of(name: str) -> tuple[nn.Module, Tensor]:
    spec, side = MODELS[name]
    torch.manual_seed(1)
    images = torch.randn(3, 3, side, side)
    return trained(irnet_convert.binarize(create_model(spec), example_input=images), side), images
