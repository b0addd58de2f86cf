"""Networks by name: the paper's CIFAR networks, registered as timm models, and a recipe's model block."""

from irnet_convert.networks.cifar import CifarResNet, CifarResNet18, VggSmall
from irnet_convert.networks.create import create_model, model_spec_of
from irnet_convert.networks.parts import BasicBlock, PadShortcut

__all__ = [
    "BasicBlock",
    "CifarResNet",
    "CifarResNet18",
    "PadShortcut",
    "VggSmall",
    "create_model",
    "model_spec_of",
]
