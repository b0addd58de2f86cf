"""A disk that is full while a run saves: a clear error, the last checkpoint intact, nothing lost by it."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
import yaml
from children import Orders, start, world_of
from conftest import TINY
from test_resume import numbers_of

from irnet_convert.durable import UNFINISHED
from irnet_convert.errors import CheckpointError
from irnet_convert.train import finetune, rundir
from irnet_convert.train.checkpoint import list_checkpoints, load_checkpoint


def said_by(recipe: Path, run_dir: Path, **orders: Any) -> tuple[int, str]:
    """Exit status and words of a training in a process of its own."""
    said = run_dir.with_suffix(".txt")
    arguments = (str(recipe), f"output={run_dir}", "--resume")
    child = start(Orders(arguments=arguments, run_dir=run_dir, said=said, variables=world_of(1)[0], **orders))
    child.join(120)
    return child.exitcode, said.read_text()


def test_a_full_disk_is_a_clear_error_and_costs_nothing(tmp_path: Path) -> None:
    recipe, run_dir = tmp_path / "tiny.yaml", tmp_path / "run"
    recipe.write_text(yaml.safe_dump(TINY))
    # The log and what is printed stay below; the model has some 40 kB.
    code, said = said_by(recipe, run_dir, full_after=5, room=10_000)
    assert code == 2
    assert f"error: the checkpoint {run_dir / 'checkpoints/step-000000008'} could not be written" in said
    assert "File too large" in said
    assert "the last one, step-000000004, is intact; make room, then go on with --resume" in said
    assert "Traceback" not in said
    assert_left_tidy(run_dir)
    code, said = said_by(recipe, run_dir)
    assert code == 0, said
    assert "Going on from" in said
    assert_equals_an_uninterrupted_run(run_dir, recipe, tmp_path / "whole")


@pytest.mark.parametrize("name", ["append_synced", "write_whole"])
def test_so_it_is_when_the_log_or_the_weights_do_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    recipe, run_dir = tmp_path / "tiny.yaml", tmp_path / "run"
    recipe.write_text(yaml.safe_dump(TINY))
    real = getattr(rundir, name)

    def fitting_a_part(path: Path, data: bytes) -> None:
        if path.name == "model.safetensors" or b'"step": 8' in data:
            with path.open("ab") as file:
                file.write(data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, data)

    monkeypatch.setattr(rundir, name, fitting_a_part)
    with pytest.raises(CheckpointError, match=r"(?s)could not be written \(No space left.*--resume"):
        finetune(recipe, overrides=[f"output={run_dir}"])
    monkeypatch.undo()
    finetune(recipe, overrides=[f"output={run_dir}"], resume=True)
    assert_equals_an_uninterrupted_run(run_dir, recipe, tmp_path / "whole")


def assert_left_tidy(run_dir: Path) -> None:
    (last,) = list_checkpoints(run_dir / "checkpoints")
    assert last.name == "step-000000004"
    load_checkpoint(last)
    assert not list(run_dir.rglob(f"{UNFINISHED}*"))


def assert_equals_an_uninterrupted_run(run_dir: Path, recipe: Path, output: Path) -> None:
    whole = finetune(recipe, overrides=[f"output={output}"]).run_dir
    assert numbers_of(run_dir) == numbers_of(whole)
    assert (run_dir / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
