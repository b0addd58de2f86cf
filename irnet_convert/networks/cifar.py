"""The networks of the binary literature for 32×32 images, as timm models.

Importing this module registers them, so that ``timm.create_model("cifar_resnet20")`` works.

Sources: CIFAR ResNets, He et al. 2015 (arXiv 1512.03385), section 4.2; ResNet-18 with a 3×3 stem and
VGG-Small, the forms that binary networks report on CIFAR-10 (Zhang et al. 2018, LQ-Nets,
arXiv 1807.10029, and IR-Net, arXiv 1909.10788, section 4).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock as TimmBasicBlock
from timm.models.resnet import ResNet
from torch import Tensor, nn

from irnet_convert.networks.parts import BasicBlock, Classifier, init_weights


def _cfg(classifier: str, **more: Any) -> dict[str, Any]:
    return {
        "num_classes": 10,
        "input_size": (3, 32, 32),
        "crop_pct": 1.0,
        "interpolation": "bilinear",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "conv1",
        "classifier": classifier,
        **more,
    }


default_cfgs = generate_default_cfgs(
    {
        "cifar_resnet20": _cfg("linear"),
        "cifar_resnet32": _cfg("linear"),
        "cifar_resnet44": _cfg("linear"),
        "cifar_resnet56": _cfg("linear"),
        "cifar_resnet110": _cfg("linear"),
        "cifar_resnet18": _cfg("fc"),
        "vgg_small": _cfg("fc", first_conv="features.conv1", fixed_input_size=True),
    }
)


class CifarResNet(Classifier):
    """ResNet of depth 6n + 2 for 32×32 images: three stages of n basic blocks with 16, 32, 64 channels.

    Args:
        depth: 20, 32, 44, 56, 110, ...
        num_classes: outputs; 0 leaves the features.
        in_chans: input channels.
        head_bn: a BatchNorm1d before the classifier, as IR-Net's CIFAR ResNet-20 has it.
        drop_rate: drop-out before the classifier.
    """

    classifier = "linear"
    num_features = head_hidden_size = 64

    def __init__(
        self,
        depth: int,
        num_classes: int = 10,
        in_chans: int = 3,
        head_bn: bool = False,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.drop_rate = drop_rate
        self.conv1 = nn.Conv2d(in_chans, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.act1 = nn.ReLU(inplace=True)
        blocks = (depth - 2) // 6
        self.layer1 = _stage(16, 16, blocks, stride=1)
        self.layer2 = _stage(16, 32, blocks, stride=2)
        self.layer3 = _stage(32, 64, blocks, stride=2)
        if head_bn:
            self.head_bn = nn.BatchNorm1d(64)
        self.linear = nn.Linear(64, num_classes) if num_classes else nn.Identity()
        self.feature_info = [
            {"num_chs": channels, "reduction": reduction, "module": module}
            for channels, reduction, module in ((16, 1, "layer1"), (32, 2, "layer2"), (64, 4, "layer3"))
        ]
        init_weights(self)

    def forward_features(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, 64, ⌈H/4⌉, ⌈W/4⌉)."""
        x = self.act1(self.bn1(self.conv1(x)))
        return self.layer3(self.layer2(self.layer1(x)))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(N, 64, h, w) → logits, or the (N, 64) that the classifier sees."""
        x = x.mean(dim=(2, 3))
        if hasattr(self, "head_bn"):
            x = self.head_bn(x)
        if self.drop_rate:
            x = F.dropout(x, self.drop_rate, self.training)
        return x if pre_logits else self.linear(x)


class CifarResNet18(ResNet):
    """timm's ResNet-18 with a 3×3 stem of stride 1 and no max-pooling, for 32×32 images."""

    def __init__(self, in_chans: int = 3, **kwargs: Any) -> None:
        block: Any = TimmBasicBlock  # timm annotates an instance where it takes the class
        super().__init__(block=block, layers=(2, 2, 2, 2), in_chans=in_chans, **kwargs)
        self.conv1 = nn.Conv2d(in_chans, 64, 3, 1, 1, bias=False)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.maxpool = nn.Identity()
        # The stem and the pooling no longer subsample: every reduction is a quarter, the stem's own is 1.
        self.feature_info = [
            {**each, "reduction": max(1, each["reduction"] // 4)} for each in self.feature_info
        ]


_VGG_SMALL = ((128, False), (128, True), (256, False), (256, True), (512, False), (512, True))


class VggSmall(Classifier):
    """VGG-Small: 3×3 convolutions 128-128-M-256-256-M-512-512-M, then one linear layer.

    Each convolution is followed by max-pooling (M), BatchNorm and ReLU, in this order: pooling sees
    the convolution's own output, as is usual where the next convolution is binary.

    Args:
        num_classes: outputs; 0 leaves the features.
        in_chans: input channels.
        img_size: side of the (square) input, which fixes the classifier's width.
        drop_rate: drop-out before the classifier.
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_chans: int = 3,
        img_size: int | tuple[int, int] = 32,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        self.num_classes = num_classes
        self.drop_rate = drop_rate
        self.features = nn.Sequential()
        channels = in_chans
        for number, (out, pool) in enumerate(_VGG_SMALL, start=1):
            self.features.add_module(f"conv{number}", nn.Conv2d(channels, out, 3, 1, 1, bias=False))
            if pool:
                self.features.add_module(f"pool{number}", nn.MaxPool2d(2))
            self.features.add_module(f"bn{number}", nn.BatchNorm2d(out))
            self.features.add_module(f"act{number}", nn.ReLU(inplace=True))
            channels = out
        self.num_features = self.head_hidden_size = 512 * (height // 8) * (width // 8)
        self.fc = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()
        self.feature_info = [{"num_chs": 512, "reduction": 8, "module": "features"}]
        init_weights(self)

    def forward_features(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, 512, ⌊H/8⌋, ⌊W/8⌋)."""
        return self.features(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(N, 512, h, w) → logits, or the (N, 512·h·w) that the classifier sees."""
        x = torch.flatten(x, 1)
        if self.drop_rate:
            x = F.dropout(x, self.drop_rate, self.training)
        return x if pre_logits else self.fc(x)


def _stage(in_channels: int, out_channels: int, blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(in_channels, out_channels, stride)
    return nn.Sequential(first, *(BasicBlock(out_channels, out_channels, 1) for _ in range(blocks - 1)))


def _resnet(depth: int, pretrained: bool, **kwargs: Any) -> CifarResNet:
    return build_model_with_cfg(CifarResNet, f"cifar_resnet{depth}", pretrained, depth=depth, **kwargs)


@register_model
def cifar_resnet20(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ResNet-20 for 32×32 images, 0.27 M parameters."""
    return _resnet(20, pretrained, **kwargs)


@register_model
def cifar_resnet32(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ResNet-32 for 32×32 images, 0.46 M parameters."""
    return _resnet(32, pretrained, **kwargs)


@register_model
def cifar_resnet44(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ResNet-44 for 32×32 images, 0.66 M parameters."""
    return _resnet(44, pretrained, **kwargs)


@register_model
def cifar_resnet56(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ResNet-56 for 32×32 images, 0.85 M parameters."""
    return _resnet(56, pretrained, **kwargs)


@register_model
def cifar_resnet110(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ResNet-110 for 32×32 images, 1.73 M parameters."""
    return _resnet(110, pretrained, **kwargs)


@register_model
def cifar_resnet18(pretrained: bool = False, **kwargs: Any) -> CifarResNet18:
    """ResNet-18 for 32×32 images, 11.2 M parameters."""
    return build_model_with_cfg(CifarResNet18, "cifar_resnet18", pretrained, **kwargs)


@register_model
def vgg_small(pretrained: bool = False, **kwargs: Any) -> VggSmall:
    """VGG-Small for 32×32 images, 4.66 M parameters."""
    return build_model_with_cfg(VggSmall, "vgg_small", pretrained, **kwargs)
