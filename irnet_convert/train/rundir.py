"""A run's directory: who may write into it, the log, what the run was made with."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from irnet_convert.durable import UNFINISHED, append_synced, sync_directory, write_whole
from irnet_convert.errors import CheckpointError, IrnetError
from irnet_convert.networks.origin import Origin
from irnet_convert.recipe import ModelSpec, Recipe
from irnet_convert.train.provenance import Given, environment

RECIPE, PLAN, WEIGHTS, LOG = "recipe.yaml", "plan.json", "model.safetensors", "metrics.jsonl"
ARCHITECTURE = "architecture.json"
ENVIRONMENT, CHECKPOINTS, GIVEN = "environment.json", "checkpoints", "recipe.given.yaml"

# Fields of the log that no two runs share.
TIME_FIELDS = ("seconds", "samples_per_second")

# What a resumed run may change: nothing of it has a part in the numbers.
_FREE = (
    "name",
    "description",
    "output",
    "processes",
    "shard",
    "tracking",
    "expect",
    "checkpoint",
    "data.workers",
    "eval_batch_size",
)


def check_run_dir(run_dir: Path, recipe: Recipe, *, resume: bool) -> None:
    """Refuse a directory that this run must not write into; touches nothing.

    Raises:
        CheckpointError: it holds something and the run does not resume, or it holds another recipe's run.
    """
    above = next(p for p in run_dir.absolute().parents if p.exists())
    if not run_dir.exists() and not (above.is_dir() and os.access(above, os.W_OK)):
        raise _unusable(run_dir, NotADirectoryError(f"{above} is no directory that can be written to"))
    if run_dir.exists() and not run_dir.is_dir():
        raise CheckpointError(
            f"the run directory {run_dir} is a file", expected="a directory", mend="set output=DIRECTORY"
        )
    if not run_dir.is_dir() or not any(run_dir.iterdir()):
        return
    if not resume:
        raise CheckpointError(
            f"the run directory {run_dir} is not empty",
            expected="a new or empty directory",
            mend="go on with that run by --resume, or choose another place with output=DIRECTORY",
        )
    if not (run_dir / RECIPE).is_file():
        raise CheckpointError(
            f"{run_dir} is not empty and holds no {RECIPE}",
            expected="the directory of a run to go on with",
            mend="name the run's directory with output=DIRECTORY",
        )
    if not (run_dir / RECIPE).stat().st_size:
        return  # claimed by a run that was killed before it wrote anything
    differing = differing_keys(read_recipe(run_dir).to_dict(), recipe.to_dict())
    if differing:
        moved = any("hf://" in each for each in differing)
        raise CheckpointError(
            f"the run in {run_dir} was started with another recipe: {'; '.join(differing)}",
            expected="the same values as when it was started",
            mend="resume with the same recipe and overrides, or start another run with output=DIRECTORY"
            + ("; where a branch of the Hub has moved on, override the name with the one it was" * moved),
        )


def read_recipe(run_dir: Path) -> Recipe:
    """The resolved recipe of a run.

    Raises:
        CheckpointError: the directory is missing, or holds no run, or its recipe cannot be read.
    """
    path = run_dir / RECIPE
    if not path.is_file():
        what = f"has no {RECIPE}" if run_dir.is_dir() else "does not exist"
        mend = "name the directory that the training printed"
        if run_dir.is_file():
            what = "is a file"
            mend += "; irnet_convert.load_packed reads a packed network"
        elif (run_dir / "config.json").is_file():
            mend += "; irnet_convert.from_pretrained reads what save_pretrained wrote"
        raise CheckpointError(
            f"the run directory {run_dir} {what}",
            expected=f"a directory that finetune() wrote, with {RECIPE} and {WEIGHTS}",
            mend=mend,
        )
    try:
        # Not find_recipe's bare name: a path with a separator never means a bundled recipe.
        return Recipe.load(path.resolve())
    except IrnetError as error:
        raise CheckpointError(
            f"{path} cannot be used: {error.given}", expected=error.expected, mend="restore the file"
        ) from error


def differing_keys(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """``key is A, was B`` for every key of the two recipes that matters to the numbers."""
    flat_before, flat_now = _dotted(before), _dotted(now)
    return [
        f"{key} is {flat_now.get(key)!r}, was {flat_before.get(key)!r}"
        for key in sorted({*flat_before, *flat_now})
        if flat_before.get(key) != flat_now.get(key)
        and not any(key == free or key.startswith(f"{free}.") for free in _FREE)
    ]


def _dotted(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat.update(
            _dotted(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
        )
    return flat


class MetricsLog:
    """``metrics.jsonl``: one JSON object a line, written by the main process, and to trackers.

    Args:
        path: the file.
        accelerator: decides who writes; holds the trackers.
        lines: keep so many lines of an earlier part of the run (those that its checkpoint knows of).

    Attributes:
        lines: how many lines the file has.
    """

    def __init__(self, path: Path, accelerator: Accelerator, lines: int = 0) -> None:
        self.path, self.accelerator, self.lines = path, accelerator, lines
        if accelerator.is_main_process:
            kept = path.read_text().splitlines(keepends=True)[:lines] if path.exists() else []
            if len(kept) < lines:
                accelerator.print(f"WARNING: {path} has lost {lines - len(kept)} of its {lines} lines")
            self.lines = len(kept)
            with _written(path):
                write_whole(path, "".join(kept).encode())

    def write(self, event: str, step: int, **values: Any) -> None:
        """Append one record; numbers also go to the trackers under ``event/name``.

        Raises:
            CheckpointError: the disk refused it.
        """
        self.lines += 1
        if self.accelerator.is_main_process:
            line = json.dumps({"event": event, "step": step, **values}) + "\n"
            # On the disk before the checkpoint that counts it.
            with _written(self.path):
                append_synced(self.path, line.encode())
        self.accelerator.log(_numbers(values, f"{event}/"), step=step)


def _numbers(values: dict[str, Any], prefix: str) -> dict[str, float]:
    flat: dict[str, float] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat.update(_numbers(value, f"{prefix}{key}/"))
        elif isinstance(value, int | float) and not isinstance(value, bool):
            flat[f"{prefix}{key}"] = value
    return flat


def write_description(
    run_dir: Path,
    recipe: Recipe,
    plan: Any,
    accelerator: Accelerator,
    *,
    given: Given | None = None,
    data: dict[str, Any] | None = None,
    resume: bool = False,
) -> None:
    """Write the recipe as given and as resolved, plan and environment; by the main process, before a step.

    Args:
        run_dir: made if it is missing.
        recipe: resolved.
        plan: ``plan_of`` the student, or None for a full-precision network.
        accelerator: says which process this is, and on what it runs.
        given: the recipe as it was handed over.
        data: what is known of the data set.
        resume: the directory is this run's already.

    Raises:
        CheckpointError: the directory cannot be made, or another run has begun in it meanwhile.
    """
    if not accelerator.is_main_process:
        return
    given = given or Given()
    if not (resume and (run_dir / RECIPE).is_file()):
        _claim(run_dir)
    with _written(run_dir):
        for leftover in run_dir.glob(f"{UNFINISHED}*"):  # of a process that was killed
            leftover.unlink()
        now = environment(accelerator, recipe, given, data or {})
        write_json(run_dir / ENVIRONMENT, _with_history(run_dir / ENVIRONMENT, now))
        if given.text is not None:
            write_whole(run_dir / GIVEN, given.text)
        if plan is not None:
            write_json(run_dir / PLAN, plan.to_dict())
        # Last: a directory whose recipe is empty is one in which nothing has begun.
        write_whole(run_dir / RECIPE, recipe.to_yaml().encode())


def write_architecture(run_dir: Path, origin: Origin | None, spec: ModelSpec) -> None:
    """Keep what the student is built from, where the recipe's block alone does not say it.

    That is so for a saved model, and where pretrained weights set arguments (torchvision's GoogLeNet). The
    run is then loaded without the place that its weights came from.

    Raises:
        CheckpointError: the disk refused it.
    """
    if origin is None or (origin.name, dict(origin.kwargs)) == (spec.name, spec.kwargs):
        return
    with _written(run_dir):
        write_json(run_dir / ARCHITECTURE, {"name": origin.name, "kwargs": dict(origin.kwargs)})


def _with_history(path: Path, now: dict[str, Any]) -> dict[str, Any]:
    """What a resumed run was made with before, where that differs, goes along under ``before``."""
    try:
        last = json.loads(path.read_text())
        history = last.pop("before", [])
    except (OSError, ValueError, AttributeError):
        return now
    history = history if last == now else [*history, last]
    return {**now, "before": history} if history else now


def _claim(run_dir: Path) -> None:
    """Make the directory this run's: of two runs that start together, one gets it."""
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        sync_directory(run_dir.parent)
        (run_dir / RECIPE).open("x").close()
    except FileExistsError as error:
        raise CheckpointError(
            f"another run has begun in {run_dir}",
            expected="a directory for each run",
            mend="choose another place with output=DIRECTORY",
        ) from error
    except OSError as error:
        raise _unusable(run_dir, error) from error


def _unusable(run_dir: Path, error: OSError) -> CheckpointError:
    return CheckpointError(
        f"the run directory {run_dir} cannot be made: {error}",
        expected="a place that can be written to",
        mend="choose another place with output=DIRECTORY",
    )


@contextmanager
def _written(path: Path) -> Iterator[None]:
    """Turn the disk's refusal into an error that says what to do."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"{path} could not be written ({error.strerror or error})",
            expected="room and permission to write it",
            mend="make room, then go on with --resume; checkpoints that were saved are intact",
        ) from error


def write_weights(run_dir: Path, data: bytes) -> None:
    """Write the weights of a run that has ended, whole or not at all.

    Raises:
        CheckpointError: the disk refused it.
    """
    with _written(run_dir / WEIGHTS):
        write_whole(run_dir / WEIGHTS, data)


def write_json(path: Path, data: Any) -> None:
    """Write indented JSON, whole or not at all."""
    write_whole(path, (json.dumps(data, indent=1) + "\n").encode())
