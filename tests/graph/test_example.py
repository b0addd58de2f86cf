"""Example inputs that models describe themselves."""

import pytest
import timm
import torch
import torchvision

from irnet_convert.graph.example import example_of


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("resnet18", 224),
        ("efficientnet_b1", 240),
        ("swin_v2_t", 256),
        ("vit_b_16", 224),
        ("efficientnet_b3", 300),
    ],
)
def test_torchvision_models_take_what_their_weights_say(name, side):
    with torch.device("meta"):
        model = torchvision.models.get_model(name, weights=None)
    assert example_of(model).args[0].shape == (1, 3, side, side)


def test_an_architecture_that_weights_do_not_know_takes_the_usual_size():
    with torch.device("meta"):
        model = torchvision.models.resnet18(weights=None, num_classes=7)
    assert example_of(model).args[0].shape == (1, 3, 224, 224)


@pytest.mark.parametrize(("name", "channels"), [("tresnet_m", 3), ("resnet18", 3), ("tresnet_m", 1)])
def test_timm_models_take_as_many_channels_as_they_were_built_for(name, channels):
    with torch.device("meta"):
        model = timm.create_model(name, in_chans=channels)
    assert example_of(model).args[0].shape == (1, channels, 224, 224)
