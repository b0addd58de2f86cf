"""FSDP2 on binary layers: filters are sharded, and what is computed from a filter sees all of it."""

from __future__ import annotations

import json
from pathlib import Path

from children import CONTEXT, world_of
from sharded_child import STEPS, compare


def test_a_sharded_network_trains_as_a_whole_one_and_is_saved_without_pickle(tmp_path: Path) -> None:
    children = [
        CONTEXT.Process(target=compare, args=(rank, variables, tmp_path))
        for rank, variables in enumerate(world_of(2))
    ]
    for child in children:
        child.start()
    for child in children:
        child.join(timeout=120)
    assert [child.exitcode for child in children] == [0, 0]
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    for one in found:
        assert len(one["outputs"]) == STEPS
        assert max(one["outputs"]) < 1e-12
        assert one["weights"] < 1e-12
        assert one["loaded"]
    rows = [[one["rows"][f"blocks.{block}.weight"] for one in found] for block in range(3)]
    assert rows == [[3, 2], [4, 3], [5, 4]]  # whole filters, and neither process has all
    files = sorted(path.name for path in (tmp_path / "saved").rglob("*") if path.is_file())
    assert files
    assert all(name.endswith((".safetensors", ".json")) for name in files)
