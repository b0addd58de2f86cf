"""A file is replaced whole or not at all, and is on the disk before it has its name."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from irnet_convert.durable import append_synced, sync_directory, write_whole


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_file_is_replaced_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "model.safetensors"
    write_whole(path, b"old")
    target = {"fsync": os, "replace": Path}[call]
    monkeypatch.setattr(target, call, lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "broken")))
    with pytest.raises(OSError, match="broken"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_content_is_synced_before_the_name_and_the_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    replace, fsync = Path.replace, os.fsync

    def syncing(handle: int) -> None:
        order.append("directory" if os.path.isdir(f"/proc/self/fd/{handle}") else "file")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", syncing)
    monkeypatch.setattr(Path, "replace", lambda a, b: (order.append("name"), replace(a, b))[1])
    write_whole(tmp_path / "file", b"text")
    append_synced(tmp_path / "file", b", more")
    assert order == ["file", "name", "directory", "file"]
    assert (tmp_path / "file").read_bytes() == b"text, more"
    sync_directory(tmp_path)
    assert order[-1] == "directory"
