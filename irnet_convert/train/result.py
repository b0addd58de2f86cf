"""A finished run's result, for a recipe's card: what was reached, with what, and the log that says so."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from irnet_convert.errors import CheckpointError, HubError
from irnet_convert.hub import Measured, parse_name
from irnet_convert.recipe import Recipe
from irnet_convert.train.rundir import ENVIRONMENT, LOG, PLAN, differing_keys, read_recipe

MAX_LOG = 16 * 1024 * 1024  # bytes, as pulling takes them

_ROWS = (("teacher", "teacher"), ("before", "as converted"), ("after", "trained"))
_VERSIONS = ("irnet-convert", "torch", "timm", "torchvision")


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What a finished run says of itself.

    Args:
        recipe: as it was trained.
        metrics: of the log's last record: ``after``, and where there were ``teacher`` and ``before``.
        environment: versions, device, processes, seed, data.
        files: the log and the plan, by the names that they get beside the recipe.
    """

    recipe: Recipe
    metrics: dict[str, dict[str, float]]
    environment: dict[str, Any]
    files: dict[str, Path]

    def measured(self) -> list[Measured]:
        """The trained network's accuracy, for a card's metadata; in [0, 1]."""
        data, after = self.recipe.data, self.metrics["after"]
        names = (("accuracy", "top1", "Top-1 accuracy"), ("top_5_accuracy", "top5", "Top-5 accuracy"))
        return [
            Measured(
                dataset=data.name,
                split=data.eval_split,
                metric=metric,
                value=round(after[key] / 100, 6),
                label=label,
                revision=data.revision,
            )
            for metric, key, label in names
        ]

    def to_markdown(self) -> str:
        """A table of what was reached, and one line of what it was reached with."""
        rows = [
            f"| {title} | {found['top1']:.2f} | {found['top5']:.2f} | {found['count']} |"
            for key, title in _ROWS
            if (found := self.metrics.get(key))
        ]
        versions = self.environment.get("versions") or {}
        made = ", ".join(f"{name} {versions[name]}" for name in _VERSIONS if versions.get(name))
        return "\n".join(
            [
                "| | top-1 % | top-5 % | images |",
                "|---|---|---|---|",
                *rows,
                "",
                f"Seed {self.recipe.seed}, {self.recipe.epochs} epochs, processes: "
                f"{self.environment.get('processes', 1)}, device: {self.environment.get('device', '?')}; "
                f"{made}. After the last epoch, on every image of the evaluation split.",
            ]
        )


def read_result(run_dir: Path, recipe: Recipe) -> RunResult:
    """The result of a run that trained this recipe to its end.

    Args:
        run_dir: that ``finetune`` wrote.
        recipe: that it is to be the result of.

    Raises:
        CheckpointError: there is no run, it has not ended, or it trained something else.
    """
    trained = read_recipe(run_dir)
    differing = differing_keys(_with_commits_of(trained, recipe), trained.to_dict())
    if differing:
        raise CheckpointError(
            f"the run in {run_dir} trained another recipe: {'; '.join(differing)}",
            expected="the result of this very recipe",
            mend=f"publish what was trained, {run_dir / 'recipe.yaml'}, or name this recipe's own run",
        )
    metrics = _final(run_dir)
    try:
        environment = json.loads((run_dir / ENVIRONMENT).read_text())
    except (OSError, ValueError):
        environment = {}
    files = {name: run_dir / name for name in (LOG, PLAN) if (run_dir / name).is_file()}
    return RunResult(
        recipe=trained,
        metrics=metrics,
        environment=environment if isinstance(environment, dict) else {},
        files={name: path for name, path in files.items() if path.stat().st_size <= MAX_LOG},
    )


def _with_commits_of(trained: Recipe, recipe: Recipe) -> dict[str, Any]:
    """The recipe, in which a model named by branch or tag has the commit that the run of it has kept."""
    data, kept = recipe.to_dict(), trained.to_dict()
    for key in ("model", "teacher"):
        given, found = data[key], kept[key]
        if isinstance(given, dict) and isinstance(found, dict) and _pins(found["name"], given["name"]):
            given["name"] = found["name"]
    return data


def _pins(name: str, of: str) -> bool:
    """Whether a name is another at a commit, and nothing else."""
    try:
        pinned, loose = parse_name(name), parse_name(of)
    except HubError:  # a directory
        return False
    same = (pinned.repo_id, pinned.path) == (loose.repo_id, loose.path)
    return same and pinned.pinned and not loose.pinned


def _final(run_dir: Path) -> dict[str, dict[str, float]]:
    """The metrics of the log's last record, if the run has ended."""
    try:
        last = json.loads((run_dir / LOG).read_text().splitlines()[-1])
        ended = last.get("event") == "final"
        metrics = {key: last[key] for key, _ in _ROWS if isinstance(last.get(key), dict)}
        if ended and all(isinstance(metrics["after"][key], int | float) for key in ("top1", "top5", "count")):
            return metrics
    except (OSError, ValueError, IndexError, KeyError, AttributeError):
        pass
    raise CheckpointError(
        f"the run in {run_dir} has no result in its {LOG}",
        expected="a run that was trained to its end",
        mend="go on with it by --resume",
    )
