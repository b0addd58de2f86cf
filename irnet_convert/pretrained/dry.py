"""A recipe's networks, built and planned without memory for their weights, nor patience for absurd ones."""

from __future__ import annotations

import torch
from torch import nn

from irnet_convert.convert import plan
from irnet_convert.errors import ModelError, PretrainedError
from irnet_convert.networks import create_model
from irnet_convert.pretrained.build import on_meta
from irnet_convert.pretrained.limits import Budget, counted
from irnet_convert.recipe import Recipe
from irnet_convert.recipe.inputs import ModelSpec

#: The largest models of timm have 3,000 tensors and 5·10⁹ parameters.
_MOST = Budget(tensors=10_000, elements=10**10, modules=50_000, calls=20_000_000)


def check_networks(recipe: Recipe) -> list[str]:
    """Build what the recipe names on the meta device; a saved model is not fetched for that.

    Returns:
        A line for each network: its name and its number of parameters.

    Raises:
        UnknownNameError: no such model.
        ModelError: its factory refuses the arguments, or would make more than any network has.
    """
    specs = {"model": recipe.model}
    if isinstance(recipe.teacher, ModelSpec):
        specs["teacher"] = recipe.teacher
    return [f"{key}: {_described(spec)}" for key, spec in specs.items()]


def check_conversion(recipe: Recipe) -> str | None:
    """Plan the conversion of the recipe's student, without memory for its weights.

    Returns:
        How many of its layers become binary; None where nothing is converted, or the student is saved.

    Raises:
        PolicyError: a rule matches nothing.
        UnknownNameError: no such rewrite.
        RecordError: the network does not run on images of the recipe's size.
    """
    if recipe.policy is None or recipe.model.is_saved:
        return None
    images = torch.zeros(2, *recipe.transforms.input_size, device="meta")
    found = plan(
        _on_meta(recipe.model), recipe.build_policy(), example_input=images, rewrites=recipe.rewrites
    )
    return f"conversion: {len(found.binarized)} of {len(found.decisions)} layers become binary"


def _described(spec: ModelSpec) -> str:
    if spec.is_saved:
        return f"{spec.name}, a saved model"
    count = sum(parameter.numel() for parameter in _on_meta(spec).parameters())
    return f"{spec.name}, {count:,} parameters"


def _on_meta(spec: ModelSpec) -> nn.Module:
    fresh = spec.model_copy(update={"pretrained": False, "checkpoint": None})
    try:
        with counted(_MOST, spec.name):
            return on_meta(lambda: create_model(fresh))
    except PretrainedError as error:
        raise ModelError(
            error.given,
            expected=f"at most {_MOST.tensors:,} tensors and {_MOST.elements:,} parameters",
            mend="correct model.kwargs",
        ) from None
