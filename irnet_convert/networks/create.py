"""A recipe's model block → a network."""

from __future__ import annotations

import inspect
from contextlib import nullcontext
from typing import Any

import timm
import torchvision
from pydantic import ValidationError
from torch import nn

from irnet_convert.errors import IrnetError, ModelError, UnknownNameError, nearest
from irnet_convert.networks import cifar  # noqa: F401  its import registers the CIFAR networks with timm
from irnet_convert.networks.origin import Origin, images_of_timm, set_origin, timm_config
from irnet_convert.networks.timm_weights import safe_weights
from irnet_convert.networks.torchvision_weights import default_weights, images_of_weights, weights_alone
from irnet_convert.recipe.inputs import ModelSpec
from irnet_convert.weights import load_strictly, read_safetensors

# These choose weights, which is what `pretrained` and `checkpoint` are for; some would read pickles.
RESERVED = frozenset(
    [
        "pretrained",
        "pretrained_cfg",
        "pretrained_cfg_overlay",
        "checkpoint_path",
        "cache_dir",
        "weights",
        "weights_backbone",
    ]
)


def model_spec_of(name: str, *, pretrained: bool = False, checkpoint: str | None = None) -> ModelSpec:
    """The model block that ``timm/NAME`` or ``torchvision/NAME`` means.

    Raises:
        UnknownNameError: it has no such prefix.
    """
    try:
        return ModelSpec(name=name, pretrained=pretrained, checkpoint=checkpoint)
    except ValidationError as error:
        raise UnknownNameError(
            f"the model {name!r}"
            + (" with pretrained and a checkpoint" if pretrained and checkpoint else ""),
            expected="timm/NAME or torchvision/NAME, with one source of weights",
            mend=f"write timm/{name} or torchvision/{name}",
        ) from error


def create_model(spec: ModelSpec | str) -> nn.Module:
    """Build the network that ``spec`` names and load its weights.

    Args:
        spec: a recipe's model block, or ``"timm/NAME"`` / ``"torchvision/NAME"`` for fresh weights.

    Returns:
        The network in training mode, on the CPU, in float32.

    Raises:
        UnknownNameError: no such model, with the nearest names.
        ModelError: the library refuses the arguments or cannot get its pretrained weights.
        CheckpointError: the checkpoint is missing, damaged or for another network.
    """
    spec = model_spec_of(spec) if isinstance(spec, str) else spec
    library, _, name = spec.name.partition("/")
    if spec.is_saved:
        raise ModelError(
            f"create_model of the saved model {spec.name}",
            expected="timm/NAME or torchvision/NAME",
            mend=f"irnet_convert.from_pretrained({spec.name!r})",
        )
    reserved = sorted(RESERVED & spec.kwargs.keys())
    if reserved:
        raise ModelError(
            f"model.kwargs of {spec.name} has {', '.join(reserved)}",
            expected="arguments that shape the network, not its weights",
            mend="use pretrained: true or checkpoint: FILE.safetensors",
        )
    make = _timm if library == "timm" else _torchvision
    model = make(name, spec.pretrained, dict(spec.kwargs))
    if spec.checkpoint is not None:
        load_strictly(
            model,
            read_safetensors(spec.checkpoint),
            source=f"the checkpoint {spec.checkpoint}",
            mend=f"check {spec.name} and its kwargs (num_classes, head_bn, ...) against the file",
        )
    set_origin(model, _origin(spec, model))
    return model


# What torchvision's factories of these set by themselves where they are given weights.
_SET_BY_WEIGHTS: dict[str, tuple[str, ...]] = {
    "googlenet": ("transform_input", "aux_logits"),
    "inception_v3": ("transform_input", "aux_logits"),
}


def _origin(spec: ModelSpec, model: nn.Module) -> Origin:
    """What it takes to build ``model`` again, less its weights."""
    library, _, name = spec.name.partition("/")
    kwargs, source, images = dict(spec.kwargs), None, images_of_timm(model)
    if spec.pretrained and library == "timm":
        hub = timm_config(model).get("hf_hub_id")
        source = f"hf-hub:{hub}" if hub else spec.name
    elif spec.pretrained:
        weights = torchvision.models.get_model_weights(name)["DEFAULT"]
        source, images = f"torchvision:{weights}", images_of_weights(weights)
        kwargs |= {key: getattr(model, key) for key in _SET_BY_WEIGHTS.get(name, ())}
    return Origin(name=spec.name, kwargs=kwargs, source=source, images=images)


def _timm(name: str, pretrained: bool, kwargs: dict[str, Any]) -> nn.Module:
    if not timm.is_model(name):
        raise _unknown(f"timm/{name}", [f"timm/{each}" for each in timm.list_models()])

    def make() -> nn.Module:
        with safe_weights(name) if pretrained else nullcontext():
            return timm.create_model(name, pretrained=pretrained, **kwargs)

    return _call(f"timm/{name}", make, kwargs, pretrained)


def _torchvision(name: str, pretrained: bool, kwargs: dict[str, Any]) -> nn.Module:
    known = torchvision.models.list_models()
    if name not in known:
        raise _unknown(f"torchvision/{name}", [f"torchvision/{each}" for each in known])
    takes = inspect.signature(torchvision.models.get_model_builder(name)).parameters
    if "weights_backbone" in takes:
        kwargs = {**kwargs, "weights_backbone": None}  # its default downloads, even with weights=None
    if not pretrained and name in ("googlenet", "inception_v3"):
        kwargs.setdefault("init_weights", True)  # what leaving it out means, less the warning

    def make() -> nn.Module:
        if not pretrained:
            return torchvision.models.get_model(name, weights=None, **kwargs)
        with weights_alone():
            return torchvision.models.get_model(name, weights=default_weights(name), **kwargs)

    return _call(f"torchvision/{name}", make, kwargs, pretrained)


def _call(name: str, factory: Any, kwargs: dict[str, Any], pretrained: bool) -> nn.Module:
    try:
        return factory()
    except IrnetError:
        raise
    except Exception as error:  # a library's factory may raise anything at all for arguments it dislikes
        raise ModelError(
            f"{name} with kwargs {kwargs}{' and pretrained: true' if pretrained else ''}: "
            f"{type(error).__name__}: {error}",
            expected="arguments that the library's factory accepts"
            + (", and weights that it can reach" if pretrained else ""),
            mend="correct model.kwargs"
            + ("; offline, copy the cache of a machine that has loaded them" if pretrained else ""),
        ) from error


def _unknown(name: str, known: list[str]) -> UnknownNameError:
    library = name.partition("/")[0]
    return UnknownNameError(
        f"the model {name!r} is not one of {library}'s",
        expected=f"one of the {len(known)} models of {library}",
        mend=nearest(name, known),
    )
