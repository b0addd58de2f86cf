"""FSDP2 on binary layers: filters are sharded, and what is computed from a filter sees all of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import yaml
from children import CONTEXT, Orders, start, world_of
from conftest import RESNET, TEACHER, TINY
from safetensors.torch import load_file
from sharded_child import STEPS, compare
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from irnet_convert import binarize
from irnet_convert.errors import CheckpointError, LaunchError, ModelError, RecipeError
from irnet_convert.networks import create_model
from irnet_convert.recipe import Recipe
from irnet_convert.train import finetune
from irnet_convert.train.notfinite import gradient_norm, locate
from irnet_convert.train.sharding import gathered, shard, spread, spread_state, units, whole

DOUBLE: dict[str, Any] = {**TINY, **TEACHER, "precision": "fp64", "batch_size": 12, "clip_grad": 1.0}


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


def run(folder: Path, recipe: dict[str, Any], *arguments: str, name: str, processes: int = 2) -> Path:
    """A finished run in ``folder/name``."""
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    where, children = folder / name, []
    for rank, world in enumerate(world_of(processes)):
        said = folder / f"{name}-{rank}.txt"
        everything = (str(folder / "recipe.yaml"), f"output={where}", *arguments)
        children.append(start(Orders(arguments=everything, run_dir=where, said=said, variables=world)))
    for rank, child in enumerate(children):
        child.join(60)
        child.kill()
        assert child.exitcode == 0, (folder / f"{name}-{rank}.txt").read_text()
    return where


def assert_close_runs(one: Path, other: Path) -> None:
    """Weights and every number of the log to 1e-9."""
    a, b = (load_file(run / "model.safetensors") for run in (one, other))
    assert a.keys() == b.keys()
    for key in a:
        assert a[key].dtype == b[key].dtype
        torch.testing.assert_close(a[key], b[key], rtol=1e-9, atol=1e-9)
    logs = [
        [json.loads(line) for line in (each / "metrics.jsonl").read_text().splitlines()]
        for each in (one, other)
    ]
    for first, second in zip(*logs, strict=True):
        for key in {*first, *second} - {"seconds", "samples_per_second", "event"}:
            assert second[key] == pytest.approx(first[key], rel=1e-9), key


def test_a_sharded_recipe_reaches_what_one_process_does(tmp_path: Path) -> None:
    recipe = {**DOUBLE, "ema": {"decay": 0.5}}
    alone = run(tmp_path, recipe, name="alone", processes=1)
    assert_close_runs(alone, run(tmp_path, recipe, "shard=true", name="sharded"))


def test_a_compact_recipe_reaches_the_same_however_it_is_spread(tmp_path: Path) -> None:
    recipe = {**DOUBLE, "compact": True}
    alone = run(tmp_path, recipe, name="alone", processes=1)
    assert_close_runs(alone, run(tmp_path, recipe, name="two"))
    assert_close_runs(alone, run(tmp_path, recipe, "shard=true", name="sharded"))


@pytest.mark.parametrize("compact", [False, True])
def test_batch_statistics_are_those_of_the_same_processes_unsharded(tmp_path: Path, compact: bool) -> None:
    """And a checkpoint of one is gone on with by the other."""
    recipe = {
        "compact": compact,
        **DOUBLE, "model": RESNET, "transforms": {"input_size": [3, 32, 32]}, "reestimate_bn": {"batches": 2},
        "rewrites": ["rprelu", "rsign", "shortcut"], "optimizer": {"name": "momentum", "lr": 0.01},
        "grad_accumulation": 2,
    }  # fmt: skip
    whole = run(tmp_path, recipe, name="whole")
    sharded = run(tmp_path, recipe, "shard=true", name="sharded")
    assert_close_runs(whole, sharded)
    for one, arguments in ((whole, ("shard=true",)), (sharded, ())):
        last = one / "checkpoints" / "step-000000004"
        for file in last.iterdir():
            file.unlink()
        last.rmdir()
        assert_close_runs(sharded, run(tmp_path, recipe, *arguments, "--resume", name=one.name))


def test_what_cannot_be_sharded_is_refused() -> None:
    recipe = Recipe.from_dict({**TINY, "shard": True})
    with pytest.raises(LaunchError, match="shard is true, and one process runs"):
        finetune(recipe)
    with pytest.raises(RecipeError, match=r"precision is 'fp16' with shard: true"):
        Recipe.from_dict({**TINY, "shard": True, "precision": "fp16"})


def test_units_are_blocks() -> None:
    for name, count in (("timm/cifar_resnet20", 9), ("timm/vit_tiny_patch16_224", 12)):
        with torch.device("meta"):
            model = create_model(name)
        found = units(model)
        assert len(found) == count
        parts = [part for unit in found for part in unit.modules()]
        assert len({id(part) for part in parts}) == len(parts)  # none lies in another


def test_a_block_of_most_weights_is_looked_into_and_a_shared_weight_keeps_one_from_being_a_unit() -> None:
    def block(width: int = 4) -> nn.Module:
        return nn.TransformerEncoderLayer(width, 1, width, batch_first=True)

    class Stage(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.Sequential(block(16), block(16), block(16))

    small, stage = block(), Stage()
    net: Any = nn.ModuleDict({"layers": nn.ModuleList([small, stage]), "head": nn.Linear(4, 4)})
    assert units(net) == [small, *stage.blocks]
    net.head.weight = small.linear1.weight
    assert units(net) == [*stage.blocks]


def test_state_of_another_shape_than_its_parameter_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    optimizer = torch.optim.Adafactor([nn.Parameter(torch.zeros(3, 4))])
    optimizer.param_groups[0]["params"][0].grad = torch.ones(3, 4)
    optimizer.step()
    state = optimizer.state_dict()
    assert spread_state(state, optimizer) == state  # nothing is sharded
    monkeypatch.setattr("irnet_convert.train.sharding.DTensor", torch.Tensor)
    with pytest.raises(CheckpointError, match=r"row_var.*\(3, 1\) for a parameter of \(3, 4\)"):
        spread_state(state, optimizer)


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[DeviceMesh]:
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store")), rank=0, world_size=1)
    try:
        yield init_device_mesh("cpu", (1,))
    finally:
        dist.destroy_process_group()


def test_weights_are_sharded_and_whole_for_a_while(mesh: DeviceMesh) -> None:
    net = binarize(create_model("timm/cifar_resnet20"))
    images, before = (
        torch.randn(2, 3, 32, 32),
        {key: value.clone() for key, value in net.state_dict().items()},
    )
    with torch.no_grad():
        wanted = net.eval()(images)
    shard(net.to(memory_format=torch.channels_last), mesh)
    assert sum(isinstance(part, FSDPModule) for part in net.modules()) == 10
    for _ in range(2):
        assert all(isinstance(parameter, DTensor) for parameter in net.parameters())
        with whole(net, None, nn.Linear(1, 1)), torch.no_grad():
            assert not any(isinstance(parameter, DTensor) for parameter in net.parameters())
            torch.testing.assert_close(net(images), wanted)
            # Another forward pass has to gather nothing, so no process waits for another.
            assert not any(isinstance(parameter, DTensor) for parameter in net.parameters())
    found = gathered({"all": [net.state_dict()]})["all"][0]
    assert all(
        type(value) is torch.Tensor and torch.equal(value, before[key]) for key, value in found.items()
    )
    again = spread(found, net.state_dict())
    assert all(isinstance(again[key], DTensor) for key, _ in net.named_parameters())
    net.load_state_dict(again)
    (net.train()(images).sum()).backward()
    assert all(isinstance(p.grad, DTensor) for p in net.parameters())
    assert gradient_norm(net, scaled=False).item() > 0
    net.get_parameter("layer2.0.conv1.weight").grad.fill_(torch.nan)  # type: ignore[union-attr]
    assert "the gradient of 'layer2.0.conv1.weight'" in locate({"student": net}, [images], {"loss": 1.0})


def test_what_fsdp_refuses_is_said(mesh: DeviceMesh) -> None:
    net = nn.Linear(2, 2)
    net.gain = nn.Parameter(torch.tensor(1.0))
    with pytest.raises(ModelError, match=r"(?s)the Linear cannot be sharded: .*leave shard out"):
        shard(net, mesh)
