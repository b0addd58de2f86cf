"""Whatever a recipe's model block names → a network: a library's, or a saved one."""

from __future__ import annotations

from torch import nn

from irnet_convert.networks import create_model
from irnet_convert.networks.origin import Origin
from irnet_convert.pretrained.load import from_pretrained, locate, origin_from, read_config
from irnet_convert.pretrained.stored import open_weights
from irnet_convert.recipe import ModelSpec


def model_of(spec: ModelSpec) -> nn.Module:
    """The network that ``spec`` names, with its weights.

    Returns:
        It, in training mode on the CPU: a library's as ``create_model`` makes it, a saved one as
        ``from_pretrained`` does.

    Raises:
        IrnetError: as these two do.
    """
    return from_pretrained(spec.name).train() if spec.is_saved else create_model(spec)


def pinned(spec: ModelSpec, *, offline: bool | None = None) -> ModelSpec:
    """``spec`` with a repository's revision replaced by its commit, and its files in the cache.

    Raises:
        PretrainedError: a file is missing or malformed.
        HubError: the repository cannot be had.
    """
    if not spec.is_saved:
        return spec
    place = locate(spec.name, offline=bool(offline))
    config = read_config(place)
    open_weights(config.files, lambda name: place.get(name, config.files[name].size))
    return spec.model_copy(update={"name": place.name}) if place.commit is not None else spec


def architecture_of(spec: ModelSpec) -> Origin:
    """What it takes to build the network of a saved model without its weights; only its config is read.

    Raises:
        PretrainedError: it is missing or malformed.
        HubError: it cannot be had.
    """
    return origin_from(read_config(locate(spec.name)))
