"""Every recipe that ships runs: loaded, planned, two steps on synthetic images, evaluated, read back."""

import json

import pytest
import torch

from irnet_convert import finetune, is_binarized, load
from irnet_convert.recipe import Recipe, bundled_recipes

BATCH = 4


@pytest.mark.parametrize("name", bundled_recipes())
def test_two_steps(name, tmp_path):
    plain = Recipe.load(name)
    stages = max(len(plain.stages), 1)  # one epoch each
    overrides = [
        "data.name=builtin/synthetic", "data.workers=0", "data.eval_limit=6",
        f"data.train_limit={2 * BATCH // stages}",
        "model.checkpoint=null", "model.pretrained=false", "expect=null",
        f"batch_size={BATCH}", "eval_batch_size=4", f"epochs={stages}", f"output={tmp_path / 'run'}",
    ]  # fmt: skip
    size = plain.transforms.input_size
    if size[-1] > 64:
        overrides.append("transforms.input_size=[3, 64, 64]")
    recipe = Recipe.load(name, overrides)
    result = finetune(recipe)
    assert result.steps == 2
    assert result.metrics["after"]["count"] == 6

    network = load(result.run_dir)
    assert is_binarized(network) == (recipe.policy is not None)
    assert not network.training
    if recipe.policy is not None:
        plan = json.loads((result.run_dir / "plan.json").read_text())
        kept = {d["path"] for d in plan["decisions"] if d["action"] == "keep"}
        roles = {d["path"] for d in plan["decisions"] if d["positions"] or d["roles"]}
        assert kept == roles, "only first, last and downsample layers stay real in the paper's networks"
    assert all(torch.isfinite(p).all() for p in network.parameters())
