"""A network's parameters, gradients and optimizer state spread over the processes: FSDP2, ``fully_shard``.

A binary layer's weight is sharded between its filters and is whole while the layer computes, so Libra-PB's
mean and deviation are those of whole filters. Whatever is saved is whole as well: a checkpoint does not tell
whether, and over how many processes, the run that wrote it was sharded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn
from torch.distributed import broadcast
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import tree_map_only

from irnet_convert.errors import CheckpointError, ModelError

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def prepared(
    accelerator: Accelerator, student: nn.Module, average: ModelEmaV3 | None, *, sharded: bool
) -> nn.Module:
    """The student as it trains: by itself or in DDP, or sharded over all processes, and so its average.

    Raises:
        ModelError: as :func:`shard`.
    """
    if not sharded:
        return accelerator.prepare(student)
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    wrapped = accelerator.prepare_model(student, evaluation_mode=True)  # its precision, and no DDP
    shard(wrapped, mesh)
    if average is not None:
        shard(average.module, mesh)
        average.foreach = False  # which takes no sharded and plain tensors together
    return wrapped


def sync_gradients(model: nn.Module, now: bool) -> None:
    """Reduce the gradients of a sharded network over the processes in the next backward pass, or not yet."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(now)


def shard(model: nn.Module, mesh: DeviceMesh) -> None:
    """Shard a network in place, each of its :func:`units` by itself and then the rest.

    The process that comes first in the mesh decides what the weights are, as with DDP.

    Args:
        model: on the mesh's device, the same in all processes; its parameters become contiguous.
        mesh: of one dimension.

    Raises:
        ModelError: it has a parameter that cannot be sharded.
    """
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.data = tensor.data.contiguous()  # nothing else can be sharded
            broadcast(tensor.data, 0)
    try:
        for unit in units(model):
            fully_shard(unit, mesh=mesh, reshard_after_forward=True)
        fully_shard(model, mesh=mesh, reshard_after_forward=False)
    except (ValueError, RuntimeError, AssertionError, NotImplementedError) as error:
        raise ModelError(
            f"the {type(model).__name__} cannot be sharded: {error}",
            expected="parameters of one dimension at least, all of one dtype",
            mend="leave shard out: every process then holds the whole network",
        ) from error


def units(model: nn.Module) -> list[nn.Module]:
    """The parts of a network that are gathered one at a time: the blocks in its Sequentials and lists.

    A block of more than half of the parameters is looked into for blocks of its own. A layer alone is no
    unit: one whose weight is read, and that is never called, would never be gathered. Nor is a block that
    shares a parameter with what is outside: each would go its own way.
    """
    most = sum(p.numel() for p in model.parameters()) / 2
    owners: dict[int, set[int]] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(id(parameter), set()).add(id(module))
    found: dict[int, nn.Module] = {}

    def look(module: nn.Module) -> None:
        for child in module.children():
            inside = {id(each) for each in child.modules()}
            parameters = list(child.parameters())
            is_block = (
                isinstance(module, _CONTAINERS) and not isinstance(child, _CONTAINERS) and len(inside) > 1
            )
            alone = all(owners[id(parameter)] <= inside for parameter in parameters)
            if is_block and alone and 0 < sum(p.numel() for p in parameters) <= most:
                found[id(child)] = child
            else:
                look(child)

    look(model)
    return list(found.values())


@contextmanager
def whole(*models: nn.Module | None) -> Iterator[None]:
    """Every process holds the whole of the sharded ones, so that each may run them by itself.

    Not for what needs gradients, and not for ``state_dict``. Networks that are not sharded are left alone.
    """
    parts = [part for model in models if model is not None for part in model.modules()]
    sharded = [part for part in dict.fromkeys(parts) if isinstance(part, FSDPModule)]
    roots = {id(model) for model in models}
    try:
        for part in sharded:
            part.set_reshard_after_forward(False, recurse=False)
            part.unshard()
        yield
    finally:
        for part in sharded:
            part.set_reshard_after_forward(id(part) not in roots, recurse=False)
            part.reshard()


def gathered(tree: Any) -> Any:
    """Nested data with every sharded tensor whole, on the CPU; all processes must ask for it."""
    return tree_map_only(DTensor, _whole, tree)


def spread(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Whole tensors, each sharded as the one of the same name in ``own`` is; others stay as they are."""
    return {
        key: _like(value, own[key]) if key in own and own[key].shape == value.shape else value
        for key, value in tensors.items()
    }


def spread_state(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """An optimizer's whole ``state_dict``, sharded as the parameters of ``optimizer`` are.

    Raises:
        CheckpointError: it holds tensors of other shapes than its parameters' beside single numbers.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    # In a state dict parameters are numbered in the order of their groups.
    numbers = [n for group in state["param_groups"] for n in group["params"]]
    owned = dict(zip(numbers, parameters, strict=True))
    return {**state, "state": {n: _of_parameter(each, owned[n]) for n, each in state["state"].items()}}


def _of_parameter(state: Mapping[str, Any], parameter: Tensor) -> dict[str, Any]:
    found = {}
    for name, value in state.items():
        if isinstance(value, Tensor) and value.dim() and isinstance(parameter, DTensor):
            if value.shape != parameter.shape:
                raise CheckpointError(
                    f"the optimizer keeps {name!r} of shape {tuple(value.shape)} for a parameter of "
                    f"{tuple(parameter.shape)}",
                    expected="state of the parameter's own shape, as Adam's and SGD's is",
                    mend="go on without shard, or with another optimizer",
                )
            value = _like(value.to(parameter.device), parameter)
        found[name] = value
    return found


def _whole(tensor: DTensor) -> Tensor:
    return tensor.detach().full_tensor().cpu()  # type: ignore[attr-defined]


def _like(value: Tensor, own: Tensor) -> Tensor:
    if not isinstance(own, DTensor):
        return value
    # Every process has read the same file: none has to send anything.
    value = value.to(device=own.device, dtype=own.dtype)
    return distribute_tensor(value, own.device_mesh, own.placements, src_data_rank=None)
