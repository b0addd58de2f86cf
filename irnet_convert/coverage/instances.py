"""A small instance of every family: the architecture with the fewest weights, made smaller where it is safe.

A family is a module of timm or torchvision that defines architectures. Arguments take depth and width from
it, not kinds of blocks; rates of dropout and drop-path are set so that training mode drops something.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.optical_flow import RAFT
from torchvision.models.video.mvit import MSBlockConfig, MViT

from irnet_convert.coverage.names import build, needs_values
from irnet_convert.coverage.smaller import narrow, shorten
from irnet_convert.coverage.timm_instances import NARROW, TIMM
from irnet_convert.coverage.timm_made import TIMM_MADE
from irnet_convert.coverage.values import wake
from irnet_convert.graph.example import Example, example_of


@dataclass(frozen=True, kw_only=True)
class Instance:
    """One family's small instance.

    Attributes:
        name: ``LIBRARY/NAME``, which its row in a report is for.
        shape: of one sample; None for the project's own default example.
        images: how many of them the forward takes as arguments.
        other: another shape that the original takes too, if it does.
        kwargs: of the library's factory.
        make: a factory of its own, for architectures whose factory takes no such arguments.
        keep: how many blocks of a kind stay, see :func:`shorten`; None for all.
        narrow: arguments of :func:`narrow`, if channels are to be divided.
    """

    name: str
    shape: tuple[int, ...] | None = (3, 64, 64)
    images: int = 1
    other: tuple[int, ...] | None = None
    kwargs: dict[str, Any] = field(default_factory=dict)
    make: Callable[[], nn.Module] | None = None
    keep: int | None = 2
    narrow: dict[str, Any] = field(default_factory=dict)

    def build(self) -> nn.Module:
        """The instance with random weights, none of them zero, in evaluation mode."""
        torch.manual_seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # libraries' remarks on their own models
            model = self.make() if self.make else build(self.name, meta=False, kwargs=self.kwargs)
        if self.narrow:
            narrow(model, **self.narrow)
        if self.keep is not None:
            shorten(model, self.inputs(model, 1), self.keep)
        wake(model)
        return model.eval()

    def inputs(
        self, model: nn.Module, batch: int = 2, *, training: bool = False, other: bool = False
    ) -> tuple[Any, ...]:
        """Arguments of one forward pass, the same for the same request."""
        shape = self.other if other else self.shape
        if shape is None:
            example = example_of(model, training=training)
            return example.args if needs_values(self.name) else _repeated(example, batch)
        generator = torch.Generator().manual_seed(batch + shape[-1])
        return tuple(torch.randn(batch, *shape, generator=generator) for _ in range(self.images))


def _repeated(example: Example, batch: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(batch)
    return tuple(torch.randn(batch, *image.shape[1:], generator=generator) for image in example.args)


def _vgg() -> nn.Module:
    """vgg11 with its classifier's two hidden layers at a 64th of their width."""
    with torch.device("meta"):
        features = torchvision.models.vgg11(init_weights=False).features
    model = torchvision.models.VGG(features.to_empty(device="cpu"), num_classes=10, init_weights=False)
    for module in features.modules():
        if isinstance(module, nn.Conv2d):
            module.reset_parameters()
    model.classifier[0], model.classifier[3] = nn.Linear(512 * 49, 64), nn.Linear(64, 64)
    model.classifier[6] = nn.Linear(64, 10)
    return model


def _alexnet() -> nn.Module:
    model = torchvision.models.AlexNet(num_classes=10)
    model.classifier[1], model.classifier[4] = nn.Linear(256 * 36, 64), nn.Linear(64, 64)
    model.classifier[6] = nn.Linear(64, 10)
    return model


def _convnext() -> nn.Module:
    settings = [CNBlockConfig(24, 48, 2), CNBlockConfig(48, None, 2)]
    return torchvision.models.ConvNeXt(settings, stochastic_depth_prob=0.2, num_classes=10)


def _vit() -> nn.Module:
    return torchvision.models.VisionTransformer(
        image_size=64, patch_size=16, num_layers=3, num_heads=3, hidden_dim=96, mlp_dim=192, dropout=0.1,
        num_classes=10,
    )  # fmt: skip


def _swin() -> nn.Module:
    return torchvision.models.SwinTransformer(
        patch_size=[4, 4], embed_dim=24, depths=[2, 2], num_heads=[2, 4], window_size=[4, 4],
        stochastic_depth_prob=0.2, num_classes=10,
    )  # fmt: skip


def _swin3d() -> nn.Module:
    return torchvision.models.video.SwinTransformer3d(
        patch_size=[2, 4, 4], embed_dim=24, depths=[2, 2], num_heads=[2, 4], window_size=[4, 4, 4],
        stochastic_depth_prob=0.2, num_classes=10,
    )  # fmt: skip


def _mvit() -> nn.Module:
    """mvit_v2_s with three of sixteen blocks.

    The last one pools no queries, as in mvit_v1_b: after it the class token is read alone, which is never
    pooled, so that no gradient would reach the pooling.
    """

    def block(heads: int, wide: int, out: int, kv: int, q: int, kernel_q: int = 3) -> MSBlockConfig:
        return MSBlockConfig(
            num_heads=heads, input_channels=wide, output_channels=out, kernel_q=[kernel_q] * 3,
            kernel_kv=[3, 3, 3], stride_q=[1, q, q], stride_kv=[1, kv, kv],
        )  # fmt: skip

    return MViT(
        spatial_size=(64, 64), temporal_size=8, num_classes=10, stochastic_depth_prob=0.2,
        block_setting=[block(1, 48, 48, 4, 1), block(2, 48, 96, 4, 2), block(2, 96, 96, 2, 1, 1)],
        residual_pool=True, residual_with_cls_embed=False, rel_pos_embed=True, proj_after_attn=True,
    )  # fmt: skip


class _TwoUpdates(RAFT):
    """RAFT that refines its flow twice by default, not twelve times."""

    def forward(self, image1: Tensor, image2: Tensor, num_flow_updates: int = 2) -> list[Tensor]:
        return super().forward(image1, image2, num_flow_updates)


def _raft() -> nn.Module:
    parts = dict(torchvision.models.optical_flow.raft_small().named_children())
    return _TwoUpdates(**parts)


def _s3d() -> nn.Module:
    """s3d whose last pooling, which takes 7 pixels of 224 / 32, takes the two of 64 / 32."""
    model = torchvision.models.video.s3d(num_classes=10)
    model.avgpool = nn.AvgPool3d((2, 2, 2), stride=1)
    return model


_SHAPE, _OTHER = (3, 64, 64), (3, 96, 96)
_VIDEO, _OTHER_VIDEO = (3, 8, 64, 64), (3, 8, 96, 96)
_torchvision = partial(Instance, shape=_SHAPE, other=_OTHER)
_detector = partial(Instance, shape=None, narrow={"factor": 8, "least": 64})
_TEN = {"num_classes": 10}
# A detector's work after its layers is done box by box.
_FEW_BOXES = {"num_classes": 5, "box_detections_per_img": 4}
_FEW_ANCHORS = {"num_classes": 5, "detections_per_img": 4, "topk_candidates": 16}
_narrow = partial(_torchvision, kwargs=_TEN, narrow={"factor": 4})

#: Family → its small instance.
INSTANCES: dict[str, Instance] = {
    **{
        f"timm/{family}": Instance(
            name=f"timm/{name}", kwargs={"num_classes": 10, **kwargs}, shape=(3, size, size),
            other=None if other is None else (3, other, other), make=TIMM_MADE.get(family),
            narrow=NARROW.get(family, {}),
        )
        for family, (name, size, other, kwargs) in TIMM.items()
    },
    **{
        f"torchvision/{family}": instance
        for family, instance in {
            "alexnet": _torchvision(name="torchvision/alexnet", make=_alexnet, narrow={"factor": 4}),
            "convnext": _torchvision(name="torchvision/convnext_tiny", make=_convnext),
            "densenet": _torchvision(
                name="torchvision/densenet121",
                make=partial(
                    torchvision.models.DenseNet, growth_rate=8, block_config=(2, 2, 2, 2),
                    num_init_features=16, drop_rate=0.1, num_classes=10,
                ),
            ),
            "detection.faster_rcnn": _detector(
                name="torchvision/fasterrcnn_mobilenet_v3_large_320_fpn", kwargs=_FEW_BOXES
            ),
            "detection.fcos": _detector(name="torchvision/fcos_resnet50_fpn", kwargs=_FEW_ANCHORS),
            "detection.keypoint_rcnn": _detector(
                name="torchvision/keypointrcnn_resnet50_fpn", kwargs={**_FEW_BOXES, "num_classes": 2}
            ),
            "detection.mask_rcnn": _detector(name="torchvision/maskrcnn_resnet50_fpn", kwargs=_FEW_BOXES),
            "detection.retinanet": _detector(name="torchvision/retinanet_resnet50_fpn", kwargs=_FEW_ANCHORS),
            "detection.ssd": _detector(name="torchvision/ssd300_vgg16", kwargs=_FEW_ANCHORS),
            "detection.ssdlite": _detector(
                name="torchvision/ssdlite320_mobilenet_v3_large",
                kwargs={"num_classes": 5, "detections_per_img": 4},
            ),
            "efficientnet": _narrow(name="torchvision/efficientnet_b0"),
            "googlenet": _torchvision(
                name="torchvision/googlenet", kwargs={**_TEN, "init_weights": False}, narrow={"factor": 8}
            ),
            "inception": Instance(
                name="torchvision/inception_v3", shape=(3, 96, 96), other=(3, 128, 128),
                kwargs={**_TEN, "aux_logits": False, "init_weights": False}, narrow={"factor": 8},
            ),
            "maxvit": _torchvision(
                name="torchvision/maxvit_t",
                make=partial(
                    torchvision.models.MaxVit, input_size=(64, 64), stem_channels=16, partition_size=2,
                    block_channels=[16, 32], block_layers=[1, 2], head_dim=8, stochastic_depth_prob=0.2,
                    num_classes=10,
                ),
                other=None,
            ),
            "mnasnet": _torchvision(name="torchvision/mnasnet0_5", kwargs={**_TEN, "dropout": 0.1}),
            "mobilenetv2": _torchvision(name="torchvision/mobilenet_v2", kwargs={**_TEN, "width_mult": 0.5}),
            "mobilenetv3": _narrow(name="torchvision/mobilenet_v3_small"),
            "optical_flow.raft": Instance(
                name="torchvision/raft_small", shape=(3, 128, 128), images=2, make=_raft
            ),
            "quantization.googlenet": _torchvision(
                name="torchvision/quantized_googlenet", kwargs={**_TEN, "init_weights": False},
                narrow={"factor": 8},
            ),
            "quantization.inception": Instance(
                name="torchvision/quantized_inception_v3", shape=(3, 96, 96), other=(3, 128, 128),
                kwargs={**_TEN, "aux_logits": False, "init_weights": False}, narrow={"factor": 8},
            ),
            "quantization.mobilenetv2": _torchvision(
                name="torchvision/quantized_mobilenet_v2", kwargs={**_TEN, "width_mult": 0.5}
            ),
            "quantization.mobilenetv3": _torchvision(
                name="torchvision/quantized_mobilenet_v3_large", kwargs=_TEN, narrow={"factor": 2}
            ),
            "quantization.resnet": _narrow(name="torchvision/quantized_resnet18"),
            "quantization.shufflenetv2": _torchvision(
                name="torchvision/quantized_shufflenet_v2_x0_5", kwargs=_TEN
            ),
            "regnet": _narrow(name="torchvision/regnet_y_400mf"),
            "resnet": _narrow(name="torchvision/resnet18"),
            "segmentation.deeplabv3": _torchvision(
                name="torchvision/deeplabv3_mobilenet_v3_large", kwargs=_TEN, narrow={"factor": 4}
            ),
            "segmentation.fcn": _narrow(name="torchvision/fcn_resnet50"),
            "segmentation.lraspp": _torchvision(
                name="torchvision/lraspp_mobilenet_v3_large", kwargs=_TEN, narrow={"factor": 2}
            ),
            "shufflenetv2": _torchvision(name="torchvision/shufflenet_v2_x0_5", kwargs=_TEN),
            "squeezenet": _narrow(name="torchvision/squeezenet1_1"),
            "swin_transformer": _torchvision(name="torchvision/swin_t", make=_swin),
            "vgg": _torchvision(name="torchvision/vgg11", make=_vgg, narrow={"factor": 8}),
            "video.mvit": Instance(name="torchvision/mvit_v2_s", shape=_VIDEO, make=_mvit),
            "video.resnet": Instance(
                name="torchvision/mc3_18", shape=_VIDEO, other=_OTHER_VIDEO, kwargs=_TEN, narrow={"factor": 8}
            ),
            "video.s3d": Instance(
                name="torchvision/s3d", shape=(3, 16, 64, 64), make=_s3d, narrow={"factor": 8}
            ),
            "video.swin_transformer": Instance(
                name="torchvision/swin3d_t", shape=_VIDEO, other=_OTHER_VIDEO, make=_swin3d
            ),
            "vision_transformer": Instance(name="torchvision/vit_b_16", make=_vit),
        }.items()
    },
}  # fmt: skip

#: Name → the instance whose results belong in its row.
BY_NAME = {instance.name: instance for instance in INSTANCES.values()}


def longest_first(names: list[str]) -> list[str]:
    """The names in an order that leaves no long check for the end: detectors, families, then the others."""
    return sorted(names, key=lambda name: (not needs_values(name), name not in BY_NAME))
