"""The networks that the issue of conversion lists, how to build them small, and what to feed them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

torch.set_num_threads(1)  # small work: more threads wait for each other

#: Few boxes: a thousand proposals through a box head of four convolutions would take minutes.
_FEW_BOXES = {
    "min_size": 64, "max_size": 64, "box_detections_per_img": 4,
    "rpn_pre_nms_top_n_train": 16, "rpn_post_nms_top_n_train": 8,
    "rpn_pre_nms_top_n_test": 16, "rpn_post_nms_top_n_test": 8,
    "box_score_thresh": 0.0, "box_batch_size_per_image": 8,
}  # fmt: skip


#: Four of the networks have a hundred million weights. What is tested here does not depend on their width.
_NARROW = {"embed_dim": 192, "num_heads": 3}


def _narrow_vit() -> nn.Module:
    return torchvision.models.VisionTransformer(
        image_size=64, patch_size=16, num_layers=12, num_heads=3, hidden_dim=192, mlp_dim=768
    )


def _narrow_vgg() -> nn.Module:
    with torch.device("meta"):
        features = torchvision.models.vgg11(init_weights=False).features
    model = torchvision.models.VGG(features.to_empty(device="cpu"), init_weights=False, num_classes=10)
    model.classifier[0], model.classifier[3] = nn.Linear(512 * 49, 64), nn.Linear(64, 64)
    model.classifier[6] = nn.Linear(64, 10)
    for module in features:
        if isinstance(module, nn.Conv2d):
            module.reset_parameters()
    return model


_SMALLER: dict[str, Callable[[], nn.Module]] = {"vit_b_16": _narrow_vit, "vgg11": _narrow_vgg}


@dataclass(frozen=True, kw_only=True)
class ModelCase:
    """One network: ``size`` is the side of the images, ``other`` another one if it takes any."""

    library: str
    name: str
    size: int = 64
    other: int | None = 96
    kwargs: dict[str, Any] = field(default_factory=dict)
    example: tuple[int, ...] | None = None

    @property
    def id(self) -> str:
        return f"{self.library}-{self.name}"

    @property
    def detects(self) -> bool:
        return self.name.startswith("fasterrcnn")

    def build(self) -> nn.Module:
        """The network with its own random initialisation, in evaluation mode."""
        torch.manual_seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if self.library == "timm":
                model = timm.create_model(self.name, **self.kwargs)
            elif self.name in _SMALLER:
                model = _SMALLER[self.name]()
            else:
                model = torchvision.models.get_model(self.name, **self.kwargs)
        _wake(model)
        return model.eval()

    def inputs(self, batch: int = 1, size: int | None = None, *, training: bool = False) -> tuple[Any, ...]:
        """Arguments of one forward call, the same for the same request."""
        side = size or self.size
        images = torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(side + batch))
        if not self.detects:
            return (images,)
        target = {"boxes": torch.tensor([[8.0, 8.0, 48.0, 48.0]]), "labels": torch.tensor([1])}
        return (list(images), [target] * batch) if training else (list(images),)

    def example_input(self) -> Any:
        return None if self.example is None else torch.ones(self.example)


def _wake(model: nn.Module) -> None:
    """Give what is initialised to zero, or next to it, values that let signal and gradient through."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.abs().max() < 1e-4:
                noise = torch.randn(parameter.shape, generator=generator)
                centre = 0.5 if parameter.dim() == 1 and "bias" not in name else 0.0
                parameter.copy_(0.2 * noise + centre)


_DROP = {"drop_rate": 0.2, "drop_path_rate": 0.2}
_TIMM = (
    ModelCase(library="timm", name="resnet18", kwargs=_DROP),
    ModelCase(library="timm", name="resnet50", kwargs=_DROP),
    ModelCase(library="timm", name="resnet18d", kwargs=_DROP),
    ModelCase(library="timm", name="vgg11_bn", kwargs={"drop_rate": 0.2, "mlp_ratio": 1 / 16}),
    ModelCase(library="timm", name="mobilenetv3_small_100", kwargs=_DROP),
    ModelCase(library="timm", name="efficientnet_b0", kwargs=_DROP),
    ModelCase(library="timm", name="tf_efficientnet_b0", kwargs=_DROP, size=65),
    ModelCase(library="timm", name="convnext_tiny", kwargs=_DROP),
    ModelCase(library="timm", name="vit_tiny_patch16_224", kwargs={**_DROP, "img_size": 64}, other=None),
    ModelCase(
        library="timm", name="deit_tiny_distilled_patch16_224", kwargs={**_DROP, "img_size": 64}, other=None
    ),
    ModelCase(library="timm", name="swin_tiny_patch4_window7_224", kwargs=_DROP, size=224, other=None),
    ModelCase(library="timm", name="regnety_002", kwargs=_DROP),
    ModelCase(library="timm", name="repvgg_a0", kwargs=_DROP),
    ModelCase(library="timm", name="densenet121", kwargs={"drop_rate": 0.2}),
    ModelCase(library="timm", name="resnetv2_50", kwargs=_DROP),
    ModelCase(library="timm", name="nf_resnet50", kwargs=_DROP),
    ModelCase(library="timm", name="levit_128s", kwargs=_DROP, size=224, other=None),
    ModelCase(
        library="timm", name="coat_tiny", kwargs={**_DROP, "img_size": 64}, other=None, example=(1, 3, 64, 64)
    ),
    ModelCase(
        library="timm", name="beit_base_patch16_224", kwargs={**_DROP, **_NARROW, "img_size": 64}, other=None
    ),
)
_TORCHVISION = (
    ModelCase(library="torchvision", name="resnet18"),
    ModelCase(library="torchvision", name="vgg11"),
    ModelCase(library="torchvision", name="googlenet", kwargs={"init_weights": True}),
    ModelCase(library="torchvision", name="mobilenet_v2"),
    ModelCase(library="torchvision", name="squeezenet1_1"),
    ModelCase(library="torchvision", name="swin_t"),
    ModelCase(library="torchvision", name="vit_b_16", other=None),
    ModelCase(library="torchvision", name="densenet121"),
    ModelCase(
        library="torchvision", name="fasterrcnn_resnet50_fpn_v2",
        kwargs={"weights": None, "weights_backbone": None, **_FEW_BOXES},
    ),
)  # fmt: skip
CASES = (*_TIMM, *_TORCHVISION)


def tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def shapes(tree: Any, *, detects: bool = False) -> Any:
    """The tree with tensors turned into shapes; a detector finds as many boxes as it likes."""

    def shape(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return type(leaf)
        return tuple(leaf.shape)[1:] if detects and leaf.dim() else tuple(leaf.shape)

    return tree_map(shape, tree)


def same(one: Any, other: Any) -> bool:
    """Whether two outputs are equal bit for bit."""
    a, b = tensors(one), tensors(other)
    return len(a) == len(b) > 0 and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
