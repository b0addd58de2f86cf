"""What a student starts from, once it is converted."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from irnet_convert.errors import CheckpointError
from irnet_convert.layers import rescale_latents
from irnet_convert.recipe import Recipe
from irnet_convert.train.rundir import WEIGHTS
from irnet_convert.weights import load_strictly, read_safetensors


def make_ready(student: nn.Module, recipe: Recipe) -> None:
    """Give a converted network the weights that the recipe says it starts from.

    Raises:
        CheckpointError: ``init`` is missing, damaged, unfinished, or of another network.
    """
    if recipe.init is not None:
        path = weights_of(recipe.init)
        load_strictly(
            student,
            read_safetensors(path),
            source=f"init, {path},",
            mend="init is for networks that were converted alike: model, policy and rewrites; weights of the "
            "network before conversion are model.checkpoint",
        )
    if recipe.latents is not None:
        rescale_latents(student, recipe.latents.std)


def weights_of(init: str) -> Path:
    """The file of weights that ``init`` means: itself, or that of a finished run or of a checkpoint.

    Raises:
        CheckpointError: it is neither.
    """
    path = Path(init)
    found = path / WEIGHTS if path.is_dir() else path
    if not found.is_file():
        raise CheckpointError(
            f"init is {init}, and {found} does not exist",
            expected="the directory of a finished run or of one checkpoint, or a .safetensors file",
            mend="finish that run by --resume, name one of its checkpoints, or correct init",
        )
    return found
