"""Example inputs that models describe themselves."""

import pytest
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
