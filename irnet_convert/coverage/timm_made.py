"""Small instances of timm's families whose factories do not take depth and width, made from classes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from timm.models.convmixer import ConvMixer
from timm.models.focalnet import FocalNet
from timm.models.gcvit import GlobalContextVit
from timm.models.mvitv2 import MultiScaleVit, MultiScaleVitCfg
from timm.models.nasnet import NASNetALarge, ReductionCell1
from timm.models.nest import Nest
from timm.models.pnasnet import PNASNet5Large
from timm.models.volo import VOLO
from torch import nn

from irnet_convert.coverage.smaller import Skipped


def _focalnet() -> nn.Module:
    return FocalNet(
        embed_dim=24, depths=(2, 2, 2, 2), focal_levels=(2, 2, 2, 2), focal_windows=(3, 3, 3, 3),
        drop_rate=0.1, drop_path_rate=0.1, num_classes=10,
    )  # fmt: skip


def _gcvit() -> nn.Module:
    return GlobalContextVit(
        img_size=64, depths=(2, 2, 2), num_heads=(2, 4, 8), embed_dim=24, window_ratio=(16, 16, 32),
        drop_rate=0.1, drop_path_rate=0.1, num_classes=10,
    )  # fmt: skip


def _mvitv2() -> nn.Module:
    cfg = MultiScaleVitCfg(depths=(1, 2, 2), embed_dim=24)
    return MultiScaleVit(cfg, drop_rate=0.1, drop_path_rate=0.1, num_classes=10)


def _nasnet() -> nn.Module:
    """One cell of each kind, and two normal ones: both stems, first, normal, reduction 0, reduction 1."""
    model = NASNetALarge(num_features=192, stem_size=16, drop_rate=0.1, num_classes=10)
    for index in range(3, 18):
        setattr(model, f"cell_{index}", Skipped())
    wide = 8 * 192 // 24  # what either reduction makes
    model.reduction_cell_1 = ReductionCell1(
        in_chs_left=wide, out_chs_left=wide // 4, in_chs_right=wide, out_chs_right=wide // 4, pad_type="same"
    )
    model.last_linear = nn.Linear(wide, 10)
    return model


def _nest() -> nn.Module:
    return Nest(
        img_size=64, embed_dims=(24, 48, 96), num_heads=(2, 4, 8), depths=(2, 2, 2), drop_rate=0.1,
        drop_path_rate=0.1, num_classes=10,
    )  # fmt: skip


def _pnasnet() -> nn.Module:
    """Up to its second reduction; nothing after it is of another kind."""
    model = PNASNet5Large(pad_type="same", drop_rate=0.1, num_classes=10)
    for index in [3, *range(5, 12)]:
        setattr(model, f"cell_{index}", Skipped(-1))
    model.last_linear = nn.Linear(2160, 10)
    return model


def _volo() -> nn.Module:
    return VOLO(
        img_size=64, layers=[2, 2, 1, 1], embed_dims=[48, 96, 96, 96], num_heads=[2, 4, 4, 4],
        stem_hidden_dim=16, drop_rate=0.1, drop_path_rate=0.1, num_classes=10,
    )  # fmt: skip


#: Family → what makes its small instance.
TIMM_MADE: dict[str, Callable[[], nn.Module]] = {
    "convmixer": partial(ConvMixer, dim=64, depth=3, drop_rate=0.1, num_classes=10),
    "focalnet": _focalnet,
    "gcvit": _gcvit,
    "mvitv2": _mvitv2,
    "nasnet": _nasnet,
    "nest": _nest,
    "pnasnet": _pnasnet,
    "volo": _volo,
}
