"""What goes wrong in one of two processes ends both, with the same words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from accelerate import Accelerator
from children import Orders, start, world_of
from conftest import RESNET, TINY

from irnet_convert.data import make_loaders
from irnet_convert.recipe import Recipe
from irnet_convert.train import load
from irnet_convert.train.batchnorm import reestimate_unless
from irnet_convert.train.checkpoint import list_checkpoints


def run_two(folder: Path, *orders: dict[str, Any], recipe: dict[str, Any] = TINY) -> list[tuple[int, str]]:
    """Exit status and words of the two processes of a run in ``folder/run``."""
    (folder / "tiny.yaml").write_text(yaml.safe_dump(recipe))
    arguments, run_dir = (str(folder / "tiny.yaml"), f"output={folder / 'run'}"), folder / "run"
    saids = [folder / f"{rank}.txt" for rank in range(2)]
    children = [
        start(Orders(arguments=arguments, run_dir=run_dir, said=said, variables=world, **further))
        for said, world, further in zip(saids, world_of(2), orders, strict=True)
    ]
    try:
        for child in children:
            child.join(60)
    finally:
        for child in children:
            child.kill()
    return [(child.exitcode, said.read_text()) for child, said in zip(children, saids, strict=True)]


@pytest.mark.parametrize("shard", [False, True])
def test_what_is_not_finite_in_the_other_process_is_located_there(tmp_path: Path, shard: bool) -> None:
    for code, said in run_two(tmp_path, {}, {"poison_at": 6}, recipe={**TINY, "shard": shard}):
        assert code == 2, said
        assert "error: the gradient is not finite in step 6 of 8" in said
        assert "what is not finite first: the images" in said
        assert "checkpoints/step-000000004" in said
        assert "Traceback" not in said


@pytest.mark.parametrize("shard", [False, True])
def test_a_disk_that_is_full_for_the_main_process_ends_both(tmp_path: Path, shard: bool) -> None:
    orders: tuple[dict[str, Any], ...] = {"full_after": 5, "room": 10_000}, {}
    for code, said in run_two(tmp_path, *orders, recipe={**TINY, "shard": shard}):
        assert code == 2, said
        assert "step-000000008 could not be written (File too large)" in said
        assert "Traceback" not in said
    assert [path.name for path in list_checkpoints(tmp_path / "run" / "checkpoints")] == ["step-000000004"]


def test_statistics_computed_anew_are_the_mean_over_both(tmp_path: Path) -> None:
    recipe = {**TINY, "model": RESNET, "epochs": 1, "reestimate_bn": {"batches": 2}}
    for code, said in run_two(tmp_path, {}, {}, recipe=recipe):
        assert code == 0, said
    resolved, found = Recipe.load(tmp_path / "run" / "recipe.yaml"), load(tmp_path / "run")
    sums: dict[str, torch.Tensor] = {}
    for index in range(2):
        loaders = make_loaders(resolved, processes=2, process_index=index)
        model = load(tmp_path / "run").to(memory_format=torch.channels_last)  # as it was trained
        batches = [images for images, _ in loaders.train][:2]
        assert len(batches[0]) == 4
        reestimate_unless(lambda: False, model, batches, Accelerator(cpu=True))
        for name, value in model.named_buffers():
            sums[name] = sums.get(name, torch.zeros(())) + value
    assert "bn1.running_var" in sums
    for name, value in found.named_buffers():
        if "running" in name:
            torch.testing.assert_close(value, sums[name] / 2)


@pytest.mark.parametrize("shard", [False, True])
def test_stages_and_rewrites_leave_no_parameter_without_a_gradient(tmp_path: Path, shard: bool) -> None:
    """DistributedDataParallel would wait for it: a scale beside real weights, a threshold of real inputs."""
    rules = [{"action": "keep", "position": "first"}, {"action": "binarize"}]  # the head too: it has a scale
    binarize = ("none", "activations", "weights", "both")
    stages = [
        {"epochs": 1, "binarize": what, "optimizer": {"lr": 0.01 * i}} for i, what in enumerate(binarize, 1)
    ]
    recipe = {
        **{key: value for key, value in TINY.items() if key != "epochs"},
        "model": RESNET,
        "shard": shard,
        "policy": rules,
        "rewrites": ["rprelu", "rsign", "shortcut"],
        "stages": stages,
        "ema": {"decay": 0.5},
    }
    for code, said in run_two(tmp_path, {}, {}, recipe=recipe):
        assert code == 0, said
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    epochs = [line for line in map(json.loads, lines) if line["event"] == "epoch"]
    assert [(line["stage"], line["flipped"] > 0) for line in epochs] == [(i, True) for i in range(1, 5)]
    assert [set(line["saturated_inputs"]) == set(line["flipped_layers"]) for line in epochs] == [
        False, True, False, True,
    ]  # fmt: skip
    assert load(tmp_path / "run").get_parameter("linear.scale").shape == (10,)
