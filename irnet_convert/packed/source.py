"""What a file knows of the model that was packed: its name, its input, how its images are normalised."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from irnet_convert.packed.strict import plain, read_json


@dataclass(frozen=True, kw_only=True)
class Source:
    """The source of a packed network; what is not known is None.

    Attributes:
        model: the model's class.
        name: as the command line takes it ("timm/resnet18"), where the network was packed there.
        model_kwargs: arguments of that model, as JSON.
        architecture: timm's name of the model.
        input_size: (C, H, W) of one image.
        mean: subtracted from each channel of an image in [0, 1].
        std: what it is divided by afterwards.
        interpolation: how images are resized.
        crop_pct: side of the crop, as a share of the resized image's shorter side.
        labels: names of the classes, in the order of the outputs.
        notes: what was said when the model was packed.
    """

    model: str | None = None
    name: str | None = None
    model_kwargs: str | None = None
    architecture: str | None = None
    input_size: tuple[int, ...] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    interpolation: str | None = None
    crop_pct: float | None = None
    labels: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()


def read_source(text: str) -> dict[str, Any]:
    """The plain data of a :class:`Source`, from JSON.

    Raises:
        ProgramError: malformed, or a key that is not known.
    """
    return plain(read_json(Source, text, what="source"))
