"""A finished run, used again: rebuild its network, evaluate it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from irnet_convert.data import make_eval_loader
from irnet_convert.errors import CheckpointError
from irnet_convert.graph.plan import Plan
from irnet_convert.graph.replay import replay
from irnet_convert.networks import create_model
from irnet_convert.networks.origin import Images, origin_of, set_origin
from irnet_convert.recipe import ModelSpec, Recipe
from irnet_convert.train.evaluate import evaluate
from irnet_convert.train.launch import make_accelerator
from irnet_convert.train.rundir import ARCHITECTURE, ENVIRONMENT, PLAN, WEIGHTS, read_recipe
from irnet_convert.weights import load_strictly, read_safetensors


def load(run_dir: str | Path) -> nn.Module:
    """The network of a finished run, rebuilt from its recipe, its plan and its weights.

    Nothing is downloaded: the weights that the run started from are not needed again.

    Args:
        run_dir: the directory that ``finetune`` wrote.

    Returns:
        The network in eval mode on the CPU, binary layers with their latent weights.

    Raises:
        CheckpointError: the directory is missing, is no run's, is unfinished or has been damaged.
    """
    run_dir = Path(run_dir)
    recipe = read_recipe(run_dir)
    if not (run_dir / WEIGHTS).is_file():
        raise CheckpointError(
            f"the run in {run_dir} has no {WEIGHTS}",
            expected="a run that was trained to its end",
            mend="go on with it by --resume",
        )
    spec = recipe.model.model_copy(update={"pretrained": False, "checkpoint": None})
    known = spec.is_saved or (run_dir / ARCHITECTURE).is_file()
    model = create_model(_read_architecture(run_dir / ARCHITECTURE) if known else spec)
    if recipe.policy is not None or (run_dir / PLAN).is_file():
        model = replay(model, _read_plan(run_dir / PLAN))
    model.to(torch.float64 if recipe.precision == "fp64" else torch.float32)
    load_strictly(model, read_safetensors(run_dir / WEIGHTS), source=str(run_dir / WEIGHTS))
    origin = origin_of(model)
    if origin is not None:
        images = Images.of_transforms(recipe.transforms)
        set_origin(model, replace(origin, images=images, labels=_labels(run_dir / ENVIRONMENT)))
    return model.eval()


def _labels(path: Path) -> tuple[str, ...] | None:
    """What the classes of a run's data are called; None where nothing that can be read says it."""
    try:
        labels = json.loads(path.read_text())["data"]["labels"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    named = isinstance(labels, list) and all(isinstance(each, str) for each in labels)
    return tuple(labels) if named else None


def _read_architecture(path: Path) -> ModelSpec:
    try:
        data = json.loads(path.read_text())
        return ModelSpec(name=data["name"], kwargs=data["kwargs"])
    except (OSError, ValueError, KeyError, TypeError) as error:  # a ValidationError is a ValueError
        raise CheckpointError(
            f"the architecture {path} cannot be read ({error})",
            expected="the one that the run was started with",
            mend="restore the file; without it the network cannot be rebuilt",
        ) from error


def _read_plan(path: Path) -> Plan:
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"the plan {path} cannot be read ({error})",
            expected="the plan that the run was converted by",
            mend="restore the file; without it the network cannot be rebuilt",
        ) from error
    return Plan.from_dict(data)


def evaluate_run(run_dir: str | Path, overrides: Iterable[str] = ()) -> dict[str, float | int]:
    """Evaluate a finished run on its recipe's evaluation data, over all processes that were launched.

    Args:
        run_dir: the directory that ``finetune`` wrote.
        overrides: ``"key.sub=value"`` strings for the recipe, as in ``data.eval_limit=100``.

    Returns:
        ``top1`` and ``top5`` in percent, ``loss``, ``count``.

    Raises:
        CheckpointError: see :func:`load`.
        RecipeError: an override is malformed.
        DataError: the data is not what the recipe says.
        LaunchError: the launcher was asked for what does not run.
    """
    recipe = read_recipe(Path(run_dir))
    recipe = Recipe.from_dict(recipe.to_dict(), source=str(run_dir), overrides=overrides)
    # In the memory format of training: sums in the same order, the same numbers.
    model = load(run_dir).to(memory_format=torch.channels_last)
    accelerator = make_accelerator(precision=recipe.precision)  # any number of processes counts the same
    loader, _ = make_eval_loader(
        recipe, processes=accelerator.num_processes, process_index=accelerator.process_index
    )
    return evaluate(model, loader, accelerator)
