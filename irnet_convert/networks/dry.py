"""A recipe's networks, built and planned without memory for their weights."""

from __future__ import annotations

import torch

from irnet_convert.networks.create import create_model
from irnet_convert.recipe import Recipe
from irnet_convert.recipe.inputs import ModelSpec


def check_networks(recipe: Recipe) -> list[str]:
    """Build what the recipe names on the meta device.

    Returns:
        A line for each network: its name and its number of parameters.

    Raises:
        UnknownNameError: no such model.
        ModelError: its factory refuses the arguments.
    """
    specs = {"model": recipe.model}
    if isinstance(recipe.teacher, ModelSpec):
        specs["teacher"] = recipe.teacher
    lines = []
    for key, spec in specs.items():
        with torch.device("meta"):
            model = create_model(spec.model_copy(update={"pretrained": False, "checkpoint": None}))
        count = sum(parameter.numel() for parameter in model.parameters())
        lines.append(f"{key}: {spec.name}, {count:,} parameters")
    return lines
