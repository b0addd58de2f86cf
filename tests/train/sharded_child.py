"""One of two processes that train a sharded network beside a whole one and tell how far apart they are."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter, load, save
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from irnet_convert import BinaryConv2d, BinaryLinear, param_groups, set_progress

STEPS = 3


class Net(nn.Module):
    """Binary layers with and without a scale; five and seven filters, which two processes cannot halve."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3)
        self.blocks = nn.ModuleList(
            [
                BinaryConv2d(6, 5, 3, scale=True),
                BinaryConv2d(5, 7, 3, act_bits=32),
                BinaryLinear(7, 9, scale=True),
            ]
        )
        self.head = nn.Linear(9, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks[1](self.blocks[0](self.stem(x)))
        return self.head(self.blocks[2](x.mean((2, 3))))


def compare(rank: int, variables: dict[str, str], folder: Path) -> None:
    """Train, gather, save, load; what was found is written to ``folder/RANK.json``."""
    os.environ.update(variables)
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    try:
        found = _compare(rank, dist.get_world_size(), folder)
    finally:
        dist.destroy_process_group()
    (folder / f"{rank}.json").write_text(json.dumps(found))


def _compare(rank: int, world: int, folder: Path) -> dict[str, object]:
    torch.manual_seed(0)
    whole = Net().double()
    sharded = copy.deepcopy(whole)
    mesh = init_device_mesh("cpu", (world,))
    for block in sharded.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(sharded, mesh=mesh)
    images, labels = torch.randn(4 * world, 3, 10, 10, dtype=torch.float64), torch.arange(4 * world) % 4
    mine = slice(4 * rank, 4 * rank + 4)
    outputs = []
    optimizers = [
        torch.optim.SGD(param_groups(net, 0.1, 1e-2), lr=0.1, momentum=0.9) for net in (whole, sharded)
    ]
    for step in range(STEPS):
        logits = []
        for net, optimizer, part in zip((whole, sharded), optimizers, (slice(None), mine), strict=True):
            set_progress(net, step / STEPS)
            logits.append(net(images[part]))
            F.cross_entropy(logits[-1], labels[part]).backward()
            optimizer.step()
            optimizer.zero_grad()
        outputs.append(float((logits[0][mine] - logits[1]).abs().max()))
    state = sharded.state_dict()
    gathered = {key: _whole(value) for key, value in state.items()}
    distance = max(float((gathered[key] - value).abs().max()) for key, value in whole.state_dict().items())
    save(state, storage_writer=HuggingFaceStorageWriter(path=str(folder / "saved"), save_distributed=True))
    rows = {key: value.to_local().shape[0] for key, value in state.items() if isinstance(value, DTensor)}
    fresh = {key: torch.zeros_like(value) for key, value in state.items()}
    load(fresh, storage_reader=HuggingFaceStorageReader(path=str(folder / "saved")))
    return {
        "outputs": outputs, "weights": distance, "rows": rows,
        "loaded": all(torch.equal(_local(fresh[key]), _local(value)) for key, value in state.items()),
    }  # fmt: skip


def _whole(value: Tensor) -> Tensor:
    return value.full_tensor() if isinstance(value, DTensor) else value


def _local(value: Tensor) -> Tensor:
    return value.to_local() if isinstance(value, DTensor) else value
