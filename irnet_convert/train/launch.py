"""Which processes run, on what: the Accelerator, and a check that it is what was asked for."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import broadcast_object_list

from irnet_convert.errors import IrnetError, LaunchError, RecipeError

_T = TypeVar("_T")

# What the recipe's precision means to Accelerate; fp64 is plain arithmetic on a float64 model.
MIXED = {"fp32": "no", "fp64": "no", "bf16": "bf16", "fp16": "fp16"}
_ACCUMULATION = "ACCELERATE_GRADIENT_ACCUMULATION_STEPS"


def on_cpu() -> bool:
    """Whether this run uses the CPU: asked for by Accelerate's variable, or nothing else is there."""
    asked = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
    return asked or not torch.accelerator.is_available()


def in_main_process(call: Callable[[], _T]) -> _T:
    """``call()`` in the main process alone; what it returns, or raises, in all of them.

    Raises:
        IrnetError: as ``call`` does.
        LaunchError: there should be other processes, and nothing says where.
    """
    if os.environ.get("WORLD_SIZE", "1") in ("", "1"):
        return call()
    _refuse_half_launched()
    state = PartialState(cpu=on_cpu())
    box: list[Any] = [None]
    if state.is_main_process:
        try:
            box = [call()]
        except IrnetError as error:
            box = [error]
    broadcast_object_list(box)
    if isinstance(box[0], IrnetError):
        raise box[0]
    return box[0]


def make_accelerator(
    *,
    precision: str = "fp32",
    accumulation: int = 1,
    processes: int | None = None,
    sharded: bool = False,
    trackers: list[str] | None = None,
    run_dir: Path | None = None,
) -> Accelerator:
    """The Accelerator of a run, in the world that was asked for.

    Args:
        precision: ``fp32``, ``bf16``, ``fp16`` or ``fp64``.
        accumulation: micro-batches that make one step.
        processes: the number of processes that the recipe asks for; None takes any.
        sharded: the recipe shards its network, which takes several.
        trackers: Accelerate's names of trackers.
        run_dir: where trackers write.

    Raises:
        LaunchError: the launcher was asked for what this run is not: other processes, sharding, another
            precision or accumulation.
        RecipeError: the precision does not exist on this device.
    """
    _refuse_half_launched()
    _refuse_other_wishes(precision, accumulation)
    cpu = on_cpu()
    if cpu and precision == "fp16":
        raise RecipeError(
            "precision: fp16 on a CPU",
            expected="fp32, bf16 or fp64 there (fp16 needs a GPU's loss scaling)",
            mend="set precision=bf16",
        )
    # Accelerate keeps one state for each interpreter and refuses another precision for a second run.
    AcceleratorState._reset_state()
    accelerator = Accelerator(
        cpu=cpu,
        mixed_precision=MIXED[precision],
        gradient_accumulation_steps=accumulation,
        log_with=[*trackers] if trackers else None,
        project_dir=str(run_dir) if run_dir else None,
    )
    check_world(accelerator.num_processes, processes)
    if sharded and accelerator.num_processes == 1:
        raise LaunchError(
            "shard is true, and one process runs",
            expected="several, over which the network is spread",
            mend=f"{_command(2)}; or set shard=false",
        )
    return accelerator


def check_world(world: int, processes: int | None) -> None:
    """Refuse a world of another size than the recipe or the launcher asked for.

    ``accelerate launch --cpu --num_processes 2`` starts one process and says nothing: what it leaves in
    the environment is a port to meet at, and nobody to meet.

    Args:
        world: processes that run.
        processes: what the recipe asks for, if it does.

    Raises:
        LaunchError: with the command to type.
    """
    launched = "ACCELERATE_MIXED_PRECISION" in os.environ
    if world == 1 and launched and "MASTER_PORT" in os.environ and "WORLD_SIZE" not in os.environ:
        raise LaunchError(
            "accelerate launch was asked for several processes and started one",
            expected="as many processes as --num_processes says",
            mend=_command(processes or 2),
        )
    if processes is not None and world != processes:
        raise LaunchError(
            f"{world} process{'es run' if world > 1 else ' runs'} and the recipe asks for {processes}",
            expected=f"{processes} of them, or processes=null in the recipe",
            mend=_command(processes) if processes > 1 else "start it with python -m irnet_convert.train",
        )


def _refuse_half_launched() -> None:
    # Accelerate would run alone, or wait for ever for the others.
    size = os.environ.get("WORLD_SIZE", "1")
    if size not in ("", "1") and "RANK" not in os.environ and not PartialState._shared_state:
        raise LaunchError(
            f"WORLD_SIZE is {size} in the environment, but no launcher gave this process a RANK",
            expected="both from a launcher, or neither",
            mend=f"unset WORLD_SIZE, or {_command(int(size) if size.isdigit() else 2)}",
        )


def _refuse_other_wishes(precision: str, accumulation: int) -> None:
    """Refuse what ``accelerate launch`` was told to do and this run would not do, or would do unasked."""
    for name in ("FSDP", "DEEPSPEED", "MEGATRON_LM", "PARALLELISM_CONFIG"):
        if os.environ.get(f"ACCELERATE_USE_{name}", "").lower() in ("1", "true", "yes"):
            raise LaunchError(
                f"accelerate launch was asked for {name}",
                expected="processes alone: it is the recipe that shards a network (FSDP2), or does not (DDP)",
                mend=f"set shard=true after the recipe, and {_command('N')}",
            )
    for option, key, variable, own in (
        ("--mixed_precision", "precision", "ACCELERATE_MIXED_PRECISION", MIXED[precision]),
        ("--gradient_accumulation_steps", "grad_accumulation", _ACCUMULATION, str(accumulation)),
    ):
        asked = os.environ.get(variable, own)
        if asked not in (own, "no"):
            raise LaunchError(
                f"accelerate launch was given {option} {asked}, and the recipe says {own}",
                expected="one place that says it: the recipe",
                mend=f"leave {option} out, and set {key}=VALUE after the recipe",
            )


def _command(processes: int | str) -> str:
    return (
        f"start it with: accelerate launch --multi_gpu --num_processes {processes} "
        "-m irnet_convert.train RECIPE (--multi_gpu also where there is no GPU: Accelerate's --cpu "
        "starts one process)"
    )
