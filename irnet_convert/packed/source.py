"""What is known of the model that was packed: its name, its input, how its images are normalised."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from irnet_convert.packed.strict import plain, read, read_json


@dataclass(frozen=True, kw_only=True)
class Source:
    """The source of a packed network; what is not known is None.

    Attributes:
        name: as the command line takes it ("timm/resnet18"), or of the model's class.
        input_size: (C, H, W) of one image.
        mean: subtracted from each channel of an image in [0, 1].
        std: what it is divided by afterwards.
    """

    name: str | None = None
    input_size: tuple[int, ...] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


def source_of(model: nn.Module) -> dict[str, Any]:
    """What a model says of itself by timm's ``pretrained_cfg``; else the name of its class.

    Returns:
        The fields of :class:`Source` that are known, as plain data.
    """
    cfg = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None)
    if cfg is not None and not isinstance(cfg, Mapping):
        cfg = cfg.to_dict()
    cfg = cfg or {}
    known = {key: list(cfg[key]) for key in ("input_size", "mean", "std") if cfg.get(key)}
    name = f"timm/{cfg['architecture']}" if cfg.get("architecture") else type(model).__name__
    return plain(read(Source, {"name": name, **known}, "source"))


def read_source(text: str) -> dict[str, Any]:
    """The plain data of a :class:`Source` from JSON.

    Raises:
        ProgramError: malformed, or a key that is not known.
    """
    return plain(read_json(Source, text, what="source"))
