"""Networks by name: the paper's CIFAR networks, registered as timm models, and a recipe's model block."""

from irnet_convert.networks.cifar import BasicBlock, CifarResNet, CifarResNet18, PadShortcut, VggSmall
from irnet_convert.networks.create import create_model, load_checkpoint, model_spec_of, read_safetensors

__all__ = [
    "BasicBlock",
    "CifarResNet",
    "CifarResNet18",
    "PadShortcut",
    "VggSmall",
    "create_model",
    "load_checkpoint",
    "model_spec_of",
    "read_safetensors",
]
