"""Names of the architectures, and building them without weights."""

from __future__ import annotations

import fnmatch
import warnings
from typing import Any

import timm
import torch
import torchvision
from accelerate import init_empty_weights
from torch import nn

from irnet_convert.errors import ModelError, UnknownNameError, nearest
from irnet_convert.networks import create_model
from irnet_convert.recipe.inputs import ModelSpec

LIBRARIES = ("timm", "torchvision")


def list_names(library: str | None = None, match: str | None = None) -> list[str]:
    """``LIBRARY/NAME`` for everything that the libraries list.

    Args:
        library: "timm", "torchvision", or None for both.
        match: a glob over ``LIBRARY/NAME`` or over NAME alone.

    Raises:
        UnknownNameError: another library, or a glob that matches nothing.
    """
    if library is not None and library not in LIBRARIES:
        raise UnknownNameError(
            f"--library {library!r}", expected=nearest(library, LIBRARIES), mend="name one, or leave it out"
        )
    names = []
    if library != "torchvision":
        # This project registers networks of its own with timm.
        names += [f"timm/{n}" for n in timm.list_models() if _timm_module(n).startswith("timm.models.")]
    if library != "timm":
        names += [f"torchvision/{n}" for n in torchvision.models.list_models()]
    if match is None:
        return names
    found = [n for n in names if fnmatch.fnmatchcase(n, match) or fnmatch.fnmatchcase(n.split("/")[1], match)]
    if not found:
        raise UnknownNameError(
            f"--match {match!r} matches none of {len(names)} names", expected=nearest(match, names),
            mend="quote the glob for the shell, as in --match 'resnet*'",
        )  # fmt: skip
    return found


def _timm_module(name: str) -> str:
    return timm.models.model_entrypoint(name).__module__


def family_of(name: str) -> str:
    """The module that defines an architecture: ``timm/resnet``, ``torchvision/detection.faster_rcnn``."""
    library, _, bare = name.partition("/")
    if library == "timm":
        return f"timm/{_timm_module(bare).removeprefix('timm.models.')}"
    home = torchvision.models.get_model_builder(bare).__module__
    return f"torchvision/{home.removeprefix('torchvision.models.')}"


def needs_values(name: str) -> bool:
    """Whether a forward pass depends on values, so that it cannot run on the meta device: detectors."""
    return family_of(name).startswith("torchvision/detection.")


def build(name: str, *, meta: bool | None = None, kwargs: dict[str, Any] | None = None) -> nn.Module:
    """The architecture without weights, in evaluation mode.

    Args:
        name: ``LIBRARY/NAME``.
        meta: on the meta device; None: unless it needs values.
        kwargs: further arguments of the library's factory.
    """
    spec = ModelSpec(name=name, kwargs=kwargs or {})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # libraries' remarks on their own models
        if not (not needs_values(name) if meta is None else meta):
            return create_model(spec).eval()
        try:
            with torch.device("meta"):
                return create_model(spec).eval()
        except ModelError as error:
            if not isinstance(error.__cause__, NotImplementedError):
                raise
        # Its constructor reads values of tensors (torchvision's RegNet computes its widths by them), so only
        # its parameters can be without any.
        with init_empty_weights():
            return create_model(spec).eval().to("meta")
