"""Runs that are SIGKILLed at random moments, saving included, and resumed equal one that never was.

``IRNET_KILLS`` sets the number of kills for each number of processes (``make test-long``: 50), and
``IRNET_KILLS_SEED`` the moments.
"""

from __future__ import annotations

import functools
import json
import os
import random
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from children import Orders, start, warm_up, world_of
from conftest import TEACHER, TINY, VIT
from safetensors.torch import load_file
from test_resume import numbers_of

from irnet_convert.durable import UNFINISHED
from irnet_convert.train.checkpoint import list_checkpoints, load_checkpoint

# Everything that has state: drop-out and mixup draw numbers, augmentation, Adam and the average remember.
RECIPE: dict[str, Any] = {
    **TINY,
    **TEACHER,
    "model": {"name": TINY["model"]["name"], "kwargs": {**VIT, "num_classes": 10, "proj_drop_rate": 0.2}},
    "transforms": {"input_size": [3, 8, 8], "crop": {"padding": 1}, "hflip": 0.5, "color_jitter": 0.3},
    "mixup": {"mixup_alpha": 0.5},
    "ema": {"decay": 0.8},
    "epochs": 4,
}
KILLED = -9


@dataclass(frozen=True)
class Whole:
    """A run that was not interrupted, and what it took.

    Args:
        path: its directory.
        seconds: from start to end.
        operations: on files of its directory, by the main process.
    """

    path: Path
    seconds: float
    operations: int


class Campaign:
    """Runs of one recipe with a number of processes, and what is killed among them."""

    def __init__(self, folder: Path, processes: int, shard: bool, chance: random.Random) -> None:
        self.folder, self.processes, self.chance = folder, processes, chance
        self.kills = self.halves = 0
        self.recipe = folder / "recipe.yaml"
        self.recipe.write_text(yaml.safe_dump({**RECIPE, "shard": shard}))

    def start(self, run_dir: Path, die_at: int | None) -> list[Any]:
        """All processes of a run that goes on where it is; the main one kills itself at an operation."""
        workers = self.chance.choice([0, 0, 1])
        arguments = (str(self.recipe), f"output={run_dir}", f"data.workers={workers}", "--resume")
        children = []
        for rank, world in enumerate(world_of(self.processes)):
            orders = Orders(
                arguments=arguments,
                run_dir=run_dir,
                said=self.said(run_dir, rank),
                variables=world,
                die_at=die_at if rank == 0 else None,
            )
            children.append(start(orders))
        return children

    def said(self, run_dir: Path, rank: int) -> Path:
        """Where a process of a run prints to."""
        return run_dir.with_name(f"{run_dir.name}-{rank}.txt")

    def whole(self) -> Whole:
        """Run once without a kill."""
        warm_up()
        run_dir, begun = self.folder / "whole", time.monotonic()
        self.finish(run_dir, self.start(run_dir, None))
        found = re.findall(r"operations: (\d+)", self.said(run_dir, 0).read_text())
        return Whole(run_dir, time.monotonic() - begun, int(found[-1]))

    def finish(self, run_dir: Path, children: list[Any]) -> None:
        """Wait for a run's end."""
        for rank, child in enumerate(children):
            child.join(120)
            assert child.exitcode == 0, self.said(run_dir, rank).read_text()

    def kill(self, run_dir: Path, whole: Whole) -> bool:
        """Start or go on with a run and kill it at a random moment; whether that came before its end."""
        by_operation = self.chance.random() < 0.5
        die_at = self.chance.randrange(whole.operations) if by_operation else None
        children = self.start(run_dir, die_at)
        children[0].join(120 if by_operation else self.chance.uniform(0, whole.seconds))
        self.chance.shuffle(children)  # a launcher notices a little later that one is gone
        for child in children:
            child.kill()
            time.sleep(self.chance.choice([0, 0.02]))
        for child in children:
            child.join(120)
        if all(child.exitcode == 0 for child in children):
            return False
        assert any(child.exitcode == KILLED for child in children), self.said(run_dir, 0).read_text()
        self.kills += 1
        checkpoints = run_dir / "checkpoints"
        self.halves += any(checkpoints.glob(f"{UNFINISHED}*"))
        for path in list_checkpoints(checkpoints):
            load_checkpoint(path)  # what has the name of a checkpoint is whole
        return True


@functools.cache
def chance(processes: int) -> random.Random:
    """The moments, said aloud so that they can be had again."""
    seed = int(os.environ.get("IRNET_KILLS_SEED", "0"))
    return random.Random(f"{seed} {processes}")


@pytest.mark.parametrize(("processes", "shard"), [(1, False), (2, False), (2, True)])
def test_runs_that_are_killed_and_resumed_equal_one_that_never_was(
    tmp_path: Path, processes: int, shard: bool
) -> None:
    campaign = Campaign(tmp_path, processes, shard, chance(processes))
    whole = campaign.whole()
    wanted = int(os.environ.get("IRNET_KILLS", "4" if processes == 1 else "3"))
    for number in range(1000):
        run_dir = tmp_path / f"run{number}"
        while campaign.kills < wanted and campaign.kill(run_dir, whole):
            pass
        campaign.finish(run_dir, campaign.start(run_dir, None))
        assert_same_files(whole.path, run_dir)
        if campaign.kills >= wanted:
            break
    print(f"{campaign.kills} kills, {campaign.halves} while saving, {number + 1} runs, {whole}")
    assert campaign.kills == wanted
    assert campaign.halves or wanted < 20, "no kill came while saving"


def assert_same_files(one: Path, other: Path) -> None:
    """The log without its times, the weights, and all of the last checkpoint, bit for bit."""
    assert numbers_of(one) == numbers_of(other)
    assert (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()
    last, others = (list_checkpoints(run / "checkpoints")[-1] for run in (one, other))
    assert last.name == others.name == "step-000000016"
    assert json.loads((last / "state.json").read_text()) == json.loads((others / "state.json").read_text())
    for file in last.glob("*.safetensors"):
        a, b = load_file(file), load_file(others / file.name)
        assert a.keys() == b.keys()
        assert all(a[key].equal(b[key]) for key in a), file.name
