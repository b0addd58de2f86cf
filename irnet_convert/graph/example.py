"""Example inputs: what the caller gave, or what timm's and torchvision's own descriptions say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from irnet_convert.errors import RecordError


@dataclass(frozen=True, kw_only=True)
class Example:
    """Arguments of one forward call."""

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    #: images in the batch, if the project made the example; None for a caller's own
    batch: int | None = None

    def to(self, device: torch.device) -> Example:
        """The same arguments with every tensor on ``device``."""
        moved = tree_map(lambda a: a.to(device) if isinstance(a, Tensor) else a, (self.args, self.kwargs))
        return Example(args=moved[0], kwargs=moved[1], batch=self.batch)

    def __str__(self) -> str:
        shown = tree_map(lambda a: _show(a), (*self.args, *self.kwargs.values()))
        return ", ".join(str(s) for s in shown)

    def to_dict(self) -> dict[str, Any] | None:
        """Shapes and dtypes as plain data, or None if the arguments are not all plain tensors."""
        if not all(isinstance(a, Tensor) for a in (*self.args, *self.kwargs.values())):
            return None
        return {
            "inputs": [_plain(a) for a in self.args],
            "named": {name: _plain(a) for name, a in self.kwargs.items()},
            "batch": self.batch,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Example:
        """Zeros of the shapes and dtypes that :meth:`to_dict` wrote."""
        return cls(
            args=tuple(_zeros(i) for i in data["inputs"]),
            kwargs={name: _zeros(i) for name, i in data.get("named", {}).items()},
            batch=data["batch"],
        )


def _plain(tensor: Tensor) -> dict[str, Any]:
    return {"shape": list(tensor.shape), "dtype": str(tensor.dtype).removeprefix("torch.")}


def _zeros(plain: dict[str, Any]) -> Tensor:
    return torch.zeros(plain["shape"], dtype=getattr(torch, plain["dtype"]))


def _show(leaf: Any) -> str:
    if isinstance(leaf, Tensor):
        return f"{tuple(leaf.shape)} {str(leaf.dtype).removeprefix('torch.')}"
    return repr(leaf)


def example_of(model: nn.Module, given: Any = None, *, training: bool = False) -> Example:
    """The example to run ``model`` on.

    Args:
        model: the model.
        given: a tensor, a tuple of positional arguments, a dict of keyword arguments, or None to ask
            timm's ``pretrained_cfg`` or what is known of torchvision's models.
        training: make the example fit for training mode (two images, because BatchNorm needs more
            than one value a channel; targets for detection models).

    Raises:
        RecordError: nothing was given and nothing is known of the model's input.
    """
    if isinstance(given, Example):
        return given
    if isinstance(given, Mapping):
        return Example(kwargs=dict(given))
    if isinstance(given, tuple):
        return Example(args=given)
    if isinstance(given, Tensor):
        return Example(args=(given,))
    if given is not None:
        raise RecordError(
            f"example_input is a {type(given).__name__}",
            expected="a tensor, a tuple of positional arguments, or a dict of keyword arguments",
            mend="wrap it: a model that takes a list as its first argument takes example_input=([...],)",
        )
    made = _from_timm(model, training) or _from_torchvision(model, training)
    if made is None:
        raise RecordError(
            f"no example input was given, and {type(model).__name__} does not describe its own",
            expected="a model with timm's pretrained_cfg, a torchvision model, or example_input",
            mend="pass example_input=torch.zeros(1, 3, 224, 224), or whatever shape the model takes",
        )
    return made


def _dtype(model: nn.Module) -> torch.dtype:
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)


def _images(model: nn.Module, batch: int, *shape: int) -> Example:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch, *shape, generator=generator).to(_dtype(model))
    return Example(args=(images,), batch=batch)


def _from_timm(model: nn.Module, training: bool) -> Example | None:
    cfg = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None)
    if cfg is None:
        return None
    cfg = cfg if isinstance(cfg, Mapping) else cfg.to_dict()
    if not cfg.get("input_size"):
        return None
    channels, height, width = cfg["input_size"]
    # The configuration describes the pretrained network; img_size= and in_chans= may have changed it.
    size = getattr(getattr(model, "patch_embed", None), "img_size", None)
    if isinstance(size, tuple) and len(size) == 2:
        height, width = size
    channels = _input_channels(model, cfg) or channels
    return _images(model, 2 if training else 1, channels, height, width)


def _input_channels(model: nn.Module, cfg: Mapping[str, Any]) -> int | None:
    first = cfg.get("first_conv")
    names = [first] if isinstance(first, str) else list(first or ())
    modules: dict[str, Any] = dict(model.named_modules())
    channels = next((m.in_channels for m in map(modules.get, names) if isinstance(m, nn.Conv2d)), None)
    # TResNet's first convolution reads the image's pixels of 4×4 places as channels.
    fold = next((m.bs for m in modules.values() if type(m).__name__ == "SpaceToDepth"), 1)
    return channels and channels // fold**2


#: Spatial (and temporal) sizes by the last part of the module that defines a torchvision model.
_TORCHVISION_SIZES: dict[str, tuple[int, ...]] = {
    "inception": (3, 299, 299),
    "resnet_video": (3, 16, 112, 112),
    "mvit_video": (3, 16, 224, 224),
    "s3d_video": (3, 16, 224, 224),
    "swin_transformer_video": (3, 8, 224, 224),
}


def _from_torchvision(model: nn.Module, training: bool) -> Example | None:
    home = type(model).__module__
    if not home.startswith("torchvision.models."):
        return None
    if ".detection." in home:
        return _detection(model, training)
    batch = 2 if training else 1
    if ".optical_flow." in home:
        one = _images(model, batch, 3, 128, 128).args[0]
        return Example(args=(one, one.clone()), batch=batch)
    kind = home.split(".")[-1] + ("_video" if ".video." in home else "")
    side = getattr(model, "image_size", None) or _side_of_weights(model) or 224
    return _images(model, batch, *_TORCHVISION_SIZES.get(kind, (3, side, side)))


def _side_of_weights(model: nn.Module) -> int | None:
    """The image side that the weights of this architecture are for, or None.

    An instance does not say which of its module's architectures it is; its number of parameters does.
    """
    import torchvision

    params = sum(p.numel() for p in model.parameters())
    for name in torchvision.models.list_models():
        if torchvision.models.get_model_builder(name).__module__ != type(model).__module__:
            continue
        for weights in torchvision.models.get_model_weights(name):
            side = getattr(weights.transforms, "keywords", {}).get("crop_size")
            if weights.meta.get("num_params") == params and isinstance(side, int):
                return side
    return None


#: Side of the images that a detection model is recorded with.
_DETECTION_SIDE = 128


def is_detector(model: nn.Module) -> bool:
    """Whether it is a detection model of torchvision, which resizes its images itself."""
    kind = type(getattr(model, "transform", None))
    return kind.__module__.startswith("torchvision.models.detection")


@contextmanager
def small_detection_images(model: nn.Module) -> Iterator[None]:
    """Let a torchvision detection model run on little: its transform enlarges images to 800 pixels, and its
    proposal network passes on a thousand boxes.
    """
    transform, rpn = getattr(model, "transform", None), getattr(model, "rpn", None)
    if not is_detector(model):
        yield
        return
    changes = [(transform, "min_size", (_DETECTION_SIDE,)), (transform, "max_size", _DETECTION_SIDE)]
    if rpn is not None:
        few = {"training": 1, "testing": 1}
        changes += [(rpn, "_pre_nms_top_n", few), (rpn, "_post_nms_top_n", few)]
    before = [(holder, name, getattr(holder, name)) for holder, name, _ in changes]
    try:
        for holder, name, value in changes:
            setattr(holder, name, value)
        yield
    finally:
        for holder, name, value in before:
            setattr(holder, name, value)


def _detection(model: nn.Module, training: bool) -> Example:
    """Two small images with one box each; targets hold every kind of label that the heads read."""
    side = _DETECTION_SIDE
    images = list(_images(model, 2, 3, side, side).args[0].unbind())
    if not training:
        return Example(args=(images,), batch=2)
    target = {
        "boxes": torch.tensor([[16.0, 16.0, 96.0, 96.0]]),
        "labels": torch.tensor([1]),
        "masks": torch.ones(1, side, side, dtype=torch.uint8),
        "keypoints": torch.tensor([[[40.0, 40.0, 1.0]] * 17]),
    }
    return Example(args=(images, [dict(target) for _ in images]), batch=2)
