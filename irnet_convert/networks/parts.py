"""What the CIFAR networks are built from."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from irnet_convert.errors import ModelError


class PadShortcut(nn.Module):
    """He et al.'s option A: subsample by ``stride`` and fill the new channels with zeros. No parameters.

    (N, ``in_channels``, H, W) → (N, ``out_channels``, ⌈H/stride⌉, ⌈W/stride⌉); half of the new channels
    come before the old ones.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.before = (out_channels - in_channels) // 2
        self.after = out_channels - in_channels - self.before

    def forward(self, x: Tensor) -> Tensor:
        """Subsample and pad."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.after))


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut without parameters: act2(bn2(conv2(act1(bn1(conv1 x)))) + x)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.act1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        same = stride == 1 and in_channels == out_channels
        self.downsample = nn.Identity() if same else PadShortcut(in_channels, out_channels, stride)
        self.act2 = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) → (N, out, ⌈H/stride⌉, ⌈W/stride⌉)."""
        shortcut = self.downsample(x)
        x = self.act1(self.bn1(self.conv1(x)))
        return self.act2(self.bn2(self.conv2(x)) + shortcut)


class Classifier(nn.Module):
    """What timm models share: features, then a head around one linear layer named ``classifier``."""

    classifier = "fc"
    num_features: int
    num_classes: int

    def get_classifier(self, name_only: bool = False) -> nn.Module | str:
        """The last linear layer, or its name."""
        return self.classifier if name_only else getattr(self, self.classifier)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a fresh classifier of ``num_classes`` outputs in place; 0 leaves the features.

        Raises:
            ModelError: ``global_pool`` names another pooling than the network's own.
        """
        if global_pool not in (None, "avg"):
            raise ModelError(
                f"global_pool {global_pool!r} for {type(self).__name__}",
                expected="null: this network has its own pooling",
                mend="leave global_pool out",
            )
        old = next(self.parameters())
        self.num_classes = num_classes
        new = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()
        setattr(self, self.classifier, new.to(device=old.device, dtype=old.dtype).train(self.training))

    def forward_features(self, x: Tensor) -> Tensor:
        """Images → the last feature map."""
        raise NotImplementedError

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """The last feature map → logits, or what the classifier sees."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, num_classes)."""
        return self.forward_head(self.forward_features(x))


def init_weights(model: nn.Module) -> None:
    """He initialisation of every convolution, as in the CIFAR ResNets' paper."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
