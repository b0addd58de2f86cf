"""Passes over whole tensors as operators: native on the CPU where that can be, else tensor operations.

They are operators of PyTorch's dispatcher, so that meta tensors and other devices take their own path.
Compiled and traced code uses the tensor operations themselves, which a compiler fuses with what stands around
and which run elsewhere too. None has a gradient: autograd functions call them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from irnet_convert.native import passes

_LIBRARY = torch.library.Library("irnet_convert", "FRAGMENT")
_FORMATS = (torch.contiguous_format, torch.channels_last, torch.channels_last_3d)


def operator(
    schema: str,
    tensors: Callable[..., Any],
    native: Callable[..., Any],
    *,
    native_in_compiled: bool = False,
) -> Callable[..., Any]:
    """A function that runs ``tensors`` in compiled code and on other devices, and ``native`` on the CPU.

    Args:
        schema: name and types, as torch.library writes them.
        tensors: by tensor operations; the reference.
        native: the same, or None where it cannot.
        native_in_compiled: run ``native`` in code compiled for the CPU too: for what is compiled to many
            small loops.
    """
    name = schema.split("(")[0]

    def on_cpu(*args: Any) -> Any:
        found = native(*args)
        return tensors(*args) if found is None else found

    _LIBRARY.define(schema)
    _LIBRARY.impl(name, tensors, "CompositeExplicitAutograd")
    _LIBRARY.impl(name, on_cpu, "CPU")
    overload = getattr(torch.ops.irnet_convert, name).default

    def run(*args: Any) -> Any:
        if torch.compiler.is_compiling() or torch._C._is_tracing():
            if native_in_compiled and _compiled_natively(args[0]):
                return overload(*args)
            return tensors(*args)
        return overload(*(a.detach() if isinstance(a, Tensor) else a for a in args))

    return run


def _compiled_natively(x: Tensor) -> bool:
    """Whether code is compiled for the CPU of this machine, and it has native passes."""
    runs_here = torch.compiler.is_dynamo_compiling() and not torch.compiler.is_exporting()
    return runs_here and x.device.type == "cpu" and x.dtype is torch.float32 and _has_passes()


@torch.compiler.assume_constant_result
def _has_passes() -> bool:
    return passes() is not None


def dense_float(x: Tensor) -> bool:
    """Whether native code can walk over ``x``: float32, without gaps."""
    return x.dtype is torch.float32 and dense(x)


def dense(x: Tensor) -> bool:
    """Whether ``x`` is without gaps, in one of PyTorch's memory formats."""
    return any(_is(x, f) for f in _FORMATS)


def rows_of_channels(x: Tensor, *parameters: Tensor) -> int:
    """Rows of channels that lie one behind the other in memory; 0 where native code cannot walk over them.

    Args:
        x: (N, C, ...).
        parameters: of each channel.
    """
    channels_last = x.dim() == 2 or (x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last))
    floats = all(p.dtype is torch.float32 and p.is_contiguous() for p in parameters)
    return x.numel() // x.shape[1] if channels_last and floats and dense(x) and x.shape[1] else 0


def rows_a_part(channels: int) -> int:
    """Rows that a thread takes at a time: 8,192 numbers, which stay in its cache from column to column."""
    return max(8192 // max(channels, 1), 1)


def _is(x: Tensor, format: torch.memory_format) -> bool:
    dims = {torch.channels_last: 4, torch.channels_last_3d: 5}.get(format, x.dim())
    return x.dim() == dims and x.is_contiguous(memory_format=format)


def laid_out_like(grad: Tensor, x: Tensor) -> Tensor:
    """``grad`` in float32 and in the memory format of ``x``, copied where it is not so already."""
    if grad.dtype is torch.float32 and grad.stride() == x.stride():
        return grad
    return torch.empty_like(x, dtype=torch.float32).copy_(grad)


def call(name: str, tensors: tuple[Tensor, ...], *numbers: float) -> bool:
    """Run a native pass; False where there is none."""
    found = passes()
    if found is None:
        return False
    found.call(name, tensors, *numbers)
    return True
