"""A packed network's call with an input like one before: in as little time as Python takes.

A layer takes 0.1 ms, and what it reads and writes drives Python out of the processor's caches: whatever is
looked up for each call counts. The dispatcher, which copies a program's text to C++ and back, is passed by
where it would do nothing that anybody sees.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from irnet_convert.errors import NativeError
from irnet_convert.packed.ops import engine

_torch: Any = torch
_C: Any = torch._C
_CPU = torch.device("cpu")

#: Most inputs that are known; then all are forgotten.
MOST = 16


@dataclass(frozen=True, slots=True)
class _Known:
    """What calls with inputs of one shape and one set of strides have in common."""

    plan: weakref.ref[Any]  # the engine may drop it
    blob: weakref.ref[Tensor]
    address: int
    version: int
    x: bytes  # Plan.described()
    y: bytes
    shape: tuple[int, ...]  # of y
    strides: tuple[int, ...]


class Again:
    """Calls of one program with one input and one output, as they went before. Copies know of none."""

    def __init__(self) -> None:
        self._known: dict[tuple[torch.Size, tuple[int, ...]], _Known] = {}

    def run(self, x: Any, blob: Tensor) -> Tensor | None:
        """What the network returns for an input, if all is as it was for one like it; else None.

        Args:
            x: anything.
            blob: the program's constants.
        """
        if type(x) is not Tensor or x.layout is not torch.strided:
            return None
        known = self._known.get((x.shape, x.stride()))
        if (
            known is None
            or known.blob() is not blob
            or known.address != blob.data_ptr()
            or known.version != _version(blob)
            or (x.requires_grad and torch.is_grad_enabled())
            or not _unseen(x)
        ):
            return None
        plan = known.plan()
        if plan is None:
            return None
        # Whatever torch's default dtype and device are: the kernels write float32 there.
        y = torch.empty_strided(known.shape, known.strides, dtype=torch.float32, device=_CPU)
        return y if plan.run_again(x, known.x, y, known.y) else None

    def remember(self, text: str, blob: Tensor, x: Tensor, y: Any) -> None:
        """How the network was called.

        Args:
            text: the program's JSON.
            blob: its constants.
            x: the input.
            y: what was returned for it.
        """
        native = engine()
        if native is None or native.isa_in_use() == "reference" or not (_unseen(x) and type(y) is Tensor):
            return
        try:
            plan = native.plan_for(text, blob)
        except NativeError:  # no kernels for this program: the reference ran it
            return
        if not plan.takes(x):
            return
        if len(self._known) >= MOST:
            self._known.clear()
        self._known[x.shape, x.stride()] = _Known(
            plan=weakref.ref(plan), blob=weakref.ref(blob), address=blob.data_ptr(), version=_version(blob),
            x=plan.described(x), y=plan.described(y), shape=tuple(y.shape), strides=y.stride(),
        )  # fmt: skip

    def __reduce__(self) -> tuple[Any, ...]:
        return Again, ()


def _version(blob: Tensor) -> int:
    return 0 if blob.is_inference() else blob._version


def _unseen(x: Tensor) -> bool:
    """Whether the dispatcher would do nothing for a float32 input on the CPU that anybody sees.

    Tracers, transforms, modes and the profiler look at what the dispatcher is asked for. And it resolves
    negated views, and tensors that have no memory.
    """
    return (
        x.dtype is torch.float32
        and x.is_cpu
        and not (
            x.is_neg()
            or x._is_zerotensor()
            or _torch._is_functional_tensor(x)
            or _C._len_torch_dispatch_stack()
            or _C._len_torch_function_stack()
            or _C._autograd._profiler_enabled()
            or _C._is_tracing()
            or _C._functorch.peek_interpreter_stack() is not None
        )
    )
