"""Checkpoints are whole or absent, and say so when they are not."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from irnet_convert.errors import CheckpointError
from irnet_convert.train import checkpoint as module
from irnet_convert.train.checkpoint import (
    Checkpoint,
    list_checkpoints,
    load_checkpoint,
    newest_whole,
    save_checkpoint,
    set_aside_after,
)
from irnet_convert.weights import load_strictly


def some(number: float = 1.0) -> Checkpoint:
    tensors = {"model": {"w": torch.full((3, 2), number)}, "state": {"m": torch.arange(4)}}
    return Checkpoint(state={"position": {"total": number}}, tensors=tensors)


def test_what_was_saved_is_what_is_loaded(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path / "deep" / "checkpoints", 7, some(2.5))
    assert path.name == "step-000000007"
    assert {file.name for file in path.iterdir()} == {
        "manifest.json",
        "model.safetensors",
        "state.json",
        "state.safetensors",
    }
    again = load_checkpoint(path)
    assert again.state == some(2.5).state
    assert torch.equal(again.tensors["model"]["w"], torch.full((3, 2), 2.5))
    assert torch.equal(again.tensors["state"]["m"], torch.arange(4))


def test_older_ones_go_only_after_the_new_one_is_whole(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, step, some(step), keep=2)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-000000002", "step-000000003"]
    save_checkpoint(tmp_path, 3, some(9), keep=1)  # a step that is there already
    assert newest_whole(tmp_path).state == some(9).state
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000003"]


@pytest.mark.parametrize("call", ["write", "fsync", "rename"])
def test_a_full_disk_leaves_the_last_one_and_no_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    save_checkpoint(tmp_path, 1, some())

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    places = {"write": (module, "write_synced"), "fsync": (os, "fsync"), "rename": (Path, "rename")}
    target, name = places[call]
    monkeypatch.setattr(target, name, full)
    with pytest.raises(CheckpointError, match=r"(?s)No space left.*step-000000001, is intact"):
        save_checkpoint(tmp_path, 2, some(2))
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000001"]
    assert newest_whole(tmp_path).state == some().state


def save_and_die(folder: Path, step: int, keep: int, at: int) -> bool:
    """Save in a process of its own, SIGKILLed before its ``at``-th operation there; whether it died."""
    child = os.fork()
    if child == 0:
        left = at

        def count(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal left
            # rmtree names files by their directory's descriptor, without the folder.
            here = event in ("os.remove", "os.rmdir") or str(folder) in str(arguments[0])
            if event in FILE_EVENTS and here:
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        save_checkpoint(folder, step, some(step + 0.5), keep=keep)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert status in (0, signal.SIGKILL)
    return status == signal.SIGKILL


FILE_EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.listdir", "os.scandir"}


@pytest.mark.parametrize("keep", [1, 2])
@pytest.mark.parametrize("step", [2, 3])  # a name that is taken, and a new one
def test_a_kill_at_any_operation_leaves_a_whole_one_and_the_next_save_tidies_up(
    tmp_path: Path, step: int, keep: int
) -> None:
    """After a kill the newest is the one before or the new one, whole, and nothing was lost on the way."""
    at, died, outcomes = 0, True, set()
    while died:
        folder = tmp_path / str(at)
        for each in (1, 2):
            save_checkpoint(folder, each, some(each))
        died = save_and_die(folder, step, keep, at)
        said: list[str] = []
        newest = newest_whole(folder, said.append)
        assert said == []
        assert newest.state["position"]["total"] in (2.0, step + 0.5)
        assert float(newest.tensors["model"]["w"][0, 0]) == newest.state["position"]["total"]
        outcomes.add(newest.state["position"]["total"])
        for path in list_checkpoints(folder):
            load_checkpoint(path)  # no name ever holds half
        save_checkpoint(folder, 4, some(4), keep=keep)
        assert len(list(folder.iterdir())) == keep
        assert newest_whole(folder).state == some(4).state
        at += 1
    assert outcomes == {2.0, step + 0.5}
    assert at > 12


def damage(path: Path, how: str) -> None:
    file = path / "model.safetensors"
    if how == "flip":
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)
    elif how == "cut":
        file.write_bytes(file.read_bytes()[:-5])
    elif how == "missing":
        file.unlink()
    elif how == "manifest":
        (path / "manifest.json").write_text("{")
    elif how == "no manifest":
        (path / "manifest.json").unlink()
    elif how == "escape":
        manifest = json.loads((path / "manifest.json").read_text())
        manifest["files"]["../x"] = {"size": 0, "sha256": ""}
        (path / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("how", ["flip", "cut", "missing", "manifest", "no manifest", "escape"])
def test_a_damaged_one_is_refused_and_the_one_before_it_used_aloud(tmp_path: Path, how: str) -> None:
    for step in (1, 2):
        save_checkpoint(tmp_path, step, some(step))
    newest = tmp_path / "step-000000002"
    damage(newest, how)
    with pytest.raises(CheckpointError, match="step-000000002 is damaged"):
        load_checkpoint(newest)
    said: list[str] = []
    assert newest_whole(tmp_path, said.append).path.name == "step-000000001"
    assert len(said) == 1
    assert "step-000000002 is damaged" in said[0]
    set_aside_after(tmp_path, 1)
    assert {path.name for path in tmp_path.iterdir()} == {"step-000000001", "damaged-step-000000002"}


def test_no_checkpoint_is_not_an_error_and_no_whole_one_is(tmp_path: Path) -> None:
    assert newest_whole(tmp_path / "absent") is None
    damage(save_checkpoint(tmp_path, 1, some()), "flip")
    with pytest.raises(CheckpointError, match="none of the 1 checkpoints"):
        newest_whole(tmp_path, lambda _: None)


def test_weights_of_another_model_are_refused_by_key_and_change_nothing() -> None:
    model = nn.Linear(2, 3)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for tensors, message in (
        ({"weight": torch.zeros(3, 2)}, "missing keys: bias"),
        ({**before, "extra": torch.zeros(1)}, "unexpected keys: extra"),
        ({**before, "weight": torch.zeros(3, 4)}, r"weight \(3, 4\), not \(3, 2\)"),
    ):
        with pytest.raises(CheckpointError, match=message):
            load_strictly(model, tensors, source="the file")
        assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    load_strictly(model, {key: value + 1 for key, value in before.items()}, source="the file")
    assert torch.equal(model.bias, before["bias"] + 1)
