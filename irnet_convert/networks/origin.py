"""Where a network comes from, kept on the network: what it takes to build it again without its weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field, JsonValue, ValidationError
from torch import nn

from irnet_convert.recipe import TransformSpec
from irnet_convert.recipe.block import Above0, Block, Count

#: Attribute under which a network carries its origin; conversion keeps it, in the copy too.
ORIGIN_ATTRIBUTE = "irnet_origin"


class Images(Block):
    """How images become inputs: resize, crop the centre, to [0, 1], less ``mean``, divided by ``std``.

    Attributes:
        input_size: (C, H, W).
        mean: one value a channel.
        std: one value a channel.
        interpolation: how images are resized.
        crop_pct: side of the crop, as a share of the resized image's shorter side.
    """

    input_size: Annotated[tuple[Count, Count, Count], Field()]
    mean: Annotated[tuple[float, ...], Field(min_length=1, max_length=64)]
    std: Annotated[tuple[Above0, ...], Field(min_length=1, max_length=64)]
    interpolation: str = Field(default="bilinear", pattern=r"^[a-z][a-z_-]{0,31}$")
    crop_pct: float = Field(default=1.0, gt=0, le=1)

    @classmethod
    def of_transforms(cls, spec: TransformSpec) -> Images:
        """Those that a recipe evaluates with."""
        return cls(
            input_size=spec.input_size, mean=spec.mean, std=spec.std, interpolation=spec.interpolation,
            crop_pct=spec.crop_pct,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What a network was made from.

    Attributes:
        name: ``timm/NAME`` or ``torchvision/NAME``.
        kwargs: of the library's factory, plain data.
        source: the weights that it started from, as in ``hf-hub:timm/resnet18.a1_in1k``; None is not known.
        images: how images become inputs; None is not known.
        labels: names of the classes, in the order of the outputs; None is not known.
    """

    name: str
    kwargs: Mapping[str, JsonValue] = field(default_factory=dict)
    source: str | None = None
    images: Images | None = None
    labels: tuple[str, ...] | None = None

    def for_packed(self) -> dict[str, Any]:
        """What a packed file says of the network, in ``packed.source``; what is not known is left out."""
        images = {} if self.images is None else self.images.model_dump(mode="json")
        # A packed file takes strings of such lengths alone.
        named = self.labels is not None and all(0 < len(label) <= 1024 for label in self.labels)
        labels = {"labels": list(self.labels or ())} if named else {}
        return {"name": self.name, "model_kwargs": json.dumps(dict(self.kwargs)), **images, **labels}


def origin_of(model: nn.Module) -> Origin | None:
    """What is known of where ``model`` comes from; None is nothing."""
    found = getattr(model, ORIGIN_ATTRIBUTE, None)
    return found if isinstance(found, Origin) else None


def set_origin(model: nn.Module, origin: Origin) -> None:
    """Keep ``origin`` on ``model``."""
    setattr(model, ORIGIN_ATTRIBUTE, origin)


def timm_config(model: nn.Module) -> dict[str, Any]:
    """Timm's ``pretrained_cfg`` of ``model`` as plain data; empty for other models."""
    config: Any = getattr(model, "pretrained_cfg", None)
    config = config.to_dict() if hasattr(config, "to_dict") else config
    return dict(config) if isinstance(config, Mapping) else {}


def images_of_timm(model: nn.Module) -> Images | None:
    """What timm says of the images that ``model`` takes, or None."""
    config = timm_config(model)
    keys = {key: config.get(key) for key in Images.model_fields}
    try:
        return Images.model_validate({key: value for key, value in keys.items() if value is not None})
    except ValidationError:
        return None
