"""What is said before the first step, of a recipe that can be trained and may not be what was meant."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from irnet_convert.convert import is_binarized
from irnet_convert.errors import IrnetError
from irnet_convert.native import ISA_VARIABLE, REMEDY, passes
from irnet_convert.networks.origin import Images, origin_of
from irnet_convert.recipe import Recipe
from irnet_convert.train.rundir import read_recipe

_COMPARED = ("input_size", "mean", "std")


def remarks(recipe: Recipe, student: nn.Module, device: torch.device) -> Iterator[str]:
    """Lines for the user: training takes longer than it need; images are prepared otherwise than they were
    for the weights that are begun with.

    Args:
        recipe: what is trained.
        student: made by it.
        device: where it is trained.
    """
    wanted = os.environ.get(ISA_VARIABLE) != "reference"
    if wanted and device.type == "cpu" and is_binarized(student) and passes() is None:
        yield f"Note: there is no native library, so training is half as fast on a CPU. To mend it: {REMEDY}"
    for whose, known in _known(recipe, student):
        ours = Images.of_transforms(recipe.transforms)
        keys = [key for key in _COMPARED if getattr(known, key) != getattr(ours, key)]
        if keys:
            values = {key: str(list(getattr(known, key))).replace(" ", "") for key in keys}
            mend = " ".join(f"transforms.{key}={value}" for key, value in values.items())
            yield f"Note: {whose} had images with other {' and '.join(keys)}. To prepare them alike: {mend}"


def _known(recipe: Recipe, student: nn.Module) -> Iterator[tuple[str, Images]]:
    origin, checkpoint = origin_of(student), recipe.model.checkpoint
    images = None if origin is None else origin.images
    if images is not None and (recipe.model.pretrained or recipe.model.is_saved):
        # Pretrained networks take other sizes well; mean and standard deviation are part of what they learnt.
        size = recipe.transforms.input_size
        yield f"{recipe.model.name}'s weights", images.model_copy(update={"input_size": size})
    if checkpoint is not None and (Path(checkpoint).parent / "recipe.yaml").is_file():
        try:
            trained = read_recipe(Path(checkpoint).parent)
        except IrnetError:  # of another version, or of something else: nothing is known
            return
        yield f"the run of {checkpoint}", Images.of_transforms(trained.transforms)
