"""A finished run's network and its packed form on the same images."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from irnet_convert.data import make_eval_loader
from irnet_convert.errors import DataError
from irnet_convert.recipe import Recipe
from irnet_convert.train.evaluate import as_logits
from irnet_convert.train.rundir import read_recipe
from irnet_convert.train.saved import load

#: Logits count as equal up to this difference, in every class.
TOLERANCE = 1e-4


def compare_run(
    run_dir: str | Path, packed: nn.Module, overrides: Iterable[str] = ()
) -> dict[str, float | int]:
    """Evaluate a run's network and a packed one side by side, on the recipe's evaluation data, on the CPU.

    Args:
        run_dir: the directory that ``finetune`` wrote.
        packed: takes images (N, C, H, W), float32, and returns logits.
        overrides: ``"key.sub=value"`` strings for the recipe, as in ``data.eval_limit=100``.

    Returns:
        ``top1`` of the packed network and ``eager_top1`` of the run's, ``same_top1`` (images of equal
        prediction) and ``close`` (logits that differ by at most 1e-4 in every class), all in percent;
        ``largest`` difference of a logit; ``count``.

    Raises:
        CheckpointError: see :func:`irnet_convert.load`.
        RecipeError: an override is malformed.
        DataError: the data is not what the recipe says, or empty.
        ModelError: a network does not return logits.
    """
    recipe = read_recipe(Path(run_dir))
    recipe = Recipe.from_dict(recipe.to_dict(), source=str(run_dir), overrides=overrides)
    eager = load(run_dir).float()
    loader, _ = make_eval_loader(recipe, processes=1, process_index=0)
    totals, largest = torch.zeros(5, dtype=torch.int64), 0.0
    with torch.inference_mode():
        for images, labels in loader:
            images = images.float()
            want, found = as_logits(eager(images)), as_logits(packed(images))
            totals += _counted(want, found, labels)
            largest = max(largest, float((want - found).abs().max()))
    top1, eager_top1, same, close, count = totals.tolist()
    if not count:
        raise DataError(
            "the evaluation data is empty", expected="at least one sample", mend="check data.eval_split"
        )
    share = 100.0 / count
    return {
        "top1": top1 * share, "eager_top1": eager_top1 * share, "same_top1": same * share,
        "close": close * share, "largest": largest, "count": count,
    }  # fmt: skip


def _counted(want: Tensor, found: Tensor, labels: Tensor) -> Tensor:
    """Right in ``found``, right in ``want``, equal predictions, close logits, samples."""
    guess, other = found.argmax(1), want.argmax(1)
    close = (want - found).abs().amax(1) <= TOLERANCE
    counts = [guess == labels, other == labels, guess == other, close]
    return torch.tensor([*(int(c.sum()) for c in counts), len(labels)])
