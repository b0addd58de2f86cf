"""Modules of PyTorch that keep less for the backward pass, by hooks around their forward pass.

Around the forward pass of one module a :func:`~torch.autograd.graph.saved_tensors_hooks` puts something
smaller in the place of a tensor that it saves, and what is read of the tensor, bit for bit, in that one's
place when the backward pass asks for it. Nothing of the module changes.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from irnet_convert.layers.base import BinaryLayer
from irnet_convert.layers.counts import counts, from_counts
from irnet_convert.layers.signed import steps_of
from irnet_convert.layers.smooth import KeepsBytes, is_smooth

_AUTOGRAD: Any = getattr(torch._C, "_autograd")  # noqa: B009 (its stub names no submodules)

_FUNCTORCH: Any = getattr(torch._C, "_functorch")  # noqa: B009

Context = contextlib.AbstractContextManager[object]


class _Here(threading.local):
    def __init__(self) -> None:
        self.open: list[tuple[nn.Module, Context]] = []
        self.compact = 0


_here = _Here()


def functions_are_compact() -> bool:
    """Whether the forward pass of a module runs that :func:`keep_less` was applied to for its functions."""
    return _here.compact > 0


def keep_less(module: nn.Module, on: bool) -> None:
    """Hook a module that can keep less for the backward pass, or take the hooks away again.

    Args:
        module: a BatchNorm, nn.LayerNorm, nn.MaxPool2d, nn.GELU, nn.SiLU, an nn.Conv2d that skips pixels, or
            one whose forward pass was converted; others stay as they are.
        on: hook it, once; or unhook it.
    """
    for hooks in (module._forward_pre_hooks, module._forward_hooks):
        for number in [n for n, hook in hooks.items() if isinstance(hook, _Opens | _Closes)]:
            del hooks[number]
            module._forward_hooks_always_called.pop(number, None)
    if isinstance(vars(module).get("forward"), KeepsBytes):
        del module.forward
    if on and is_smooth(module):
        module.forward = KeepsBytes(module, _trains)
        return
    context = _context_for(module) if on else None
    if context is not None:
        module.register_forward_pre_hook(_Opens(context))
        module.register_forward_hook(_Closes(), always_call=True)


def _context_for(module: nn.Module) -> Callable[[Tensor], Context | None] | None:
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return _of_batch_norm
    if isinstance(module, nn.LayerNorm):
        return partial(_of_layer_norm, dims=len(module.normalized_shape))
    if isinstance(module, nn.MaxPool2d):
        return _of_max_pool
    if isinstance(module, nn.Conv2d) and not isinstance(module, BinaryLayer) and _skips(module):
        return partial(_of_skipping, strides=module.stride)
    # A graph of its own in the place of its class's forward: it may call functions that modules stand for.
    return _of_functions if "forward" in vars(module) else None


def _trains(inputs: tuple[Any, ...]) -> bool:
    """Whether a backward pass may follow, and it is for hooks to say what is kept for it."""
    # A compiler decides itself what to keep.
    if torch.compiler.is_compiling() or torch._C._is_tracing() or not torch.is_grad_enabled():
        return False
    # What torch.func transforms has no memory to compare, and it allows such hooks in part.
    inside = (
        _FUNCTORCH.peek_interpreter_stack() is not None or not _AUTOGRAD._saved_tensors_hooks_is_enabled()
    )
    return not inside and bool(inputs) and isinstance(inputs[0], Tensor)


@dataclass(frozen=True)
class _Opens:
    """A forward pre-hook: enters the context that belongs to this call."""

    context: Callable[[Tensor], Context | None]

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        context = self.context(inputs[0]) if _trains(inputs) else None
        if context is not None:
            context.__enter__()
            _here.open.append((module, context))


@dataclass(frozen=True)
class _Closes:
    """A forward hook, called whatever happens: leaves what :class:`_Opens` entered."""

    def __call__(self, module: nn.Module, inputs: object, output: object) -> None:
        if torch.compiler.is_compiling():
            return
        if _here.open and _here.open[-1][0] is module:
            _here.open.pop()[1].__exit__(None, None, None)


@contextlib.contextmanager
def _compact_functions() -> Iterator[None]:
    _here.compact += 1
    try:
        yield
    finally:
        _here.compact -= 1


def _of_functions(x: Tensor) -> Context:
    return _compact_functions()


#: Tensor that is saved → what is kept in its place, maybe nothing, and the way back; or None: kept as it is.
Replace = Callable[[Tensor], tuple[tuple[Tensor, ...], Callable[..., Tensor]] | None]


def _of_batch_norm(x: Tensor) -> Context | None:
    """What a binary layer returned is kept as integers, in 2 bytes each, times the steps of the channels."""
    steps = steps_of(x)
    if steps is None:
        return None

    def replace(t: Tensor) -> tuple[tuple[Tensor, ...], Callable[..., Tensor]] | None:
        return ((counts(t, steps),), lambda kept: from_counts(kept, steps)) if _same(t, x) else None

    return _replaced(replace)


def _of_layer_norm(x: Tensor, dims: int) -> Context | None:
    """Of what is normalised together, the distances from its mean in float16, as shares of the largest.

    That is what a LayerNorm looks at: neither a large mean nor other rows that are larger cost precision.
    """
    dense = all(step > 0 for step, size in zip(x.stride(), x.shape, strict=True) if size > 1)
    if x.dtype not in (torch.float32, torch.float64) or not x.numel() or not dense:
        return None
    dtype, last = x.dtype, tuple(range(-dims, 0))

    def replace(t: Tensor) -> tuple[tuple[Tensor, ...], Callable[..., Tensor]] | None:
        if not _same_memory(t, x):
            return None
        mean = t.detach().mean(last, keepdim=True)
        distance = t.detach() - mean
        farthest = distance.abs().amax(last, keepdim=True).clamp_min_(torch.finfo(dtype).tiny)
        return (distance.div_(farthest).half(), mean, farthest), back

    def back(kept: Tensor, mean: Tensor, farthest: Tensor) -> Tensor:
        return kept.to(dtype).mul_(farthest).add_(mean)

    return _replaced(replace)


def _of_max_pool(x: Tensor) -> Context | None:
    """The backward pass wants the input's layout alone, and places in a plane, which are small numbers."""
    if not x.requires_grad or x.dim() < 3:
        return None
    plane = x.shape[-1] * x.shape[-2]
    narrow = torch.int16 if plane <= 2**15 else torch.int32 if plane <= 2**31 else torch.int64
    layout = (tuple(x.shape), x.stride()), {"dtype": x.dtype, "device": x.device}
    met = False

    def replace(t: Tensor) -> tuple[tuple[Tensor, ...], Callable[..., Tensor]] | None:
        nonlocal met
        if _same(t, x):
            met = True
            return (), lambda: torch.empty_strided(*layout[0], **layout[1])
        # Where a subclass pools something else than its input, the plane may be a larger one.
        return ((t.to(narrow),), Tensor.long) if met and t.dtype is torch.int64 else None

    return _replaced(replace)


def _skips(conv: nn.Conv2d) -> bool:
    """Whether it never looks at some pixels: 1×1 with a stride, as ResNets' shortcuts are."""
    one, ends = all(k == 1 for k in conv.kernel_size), all(p == 0 for p in conv.padding)
    return one and ends and max(conv.stride) > 1


def _of_skipping(x: Tensor, strides: tuple[int, ...]) -> Context:
    """The pixels that are looked at are kept; between them come zeros."""
    down, right = strides
    layout = (tuple(x.shape), x.stride()), {"dtype": x.dtype, "device": x.device}

    def restored(seen: Tensor) -> Tensor:
        whole = torch.empty_strided(*layout[0], **layout[1]).zero_()
        whole[..., ::down, ::right] = seen
        return whole

    def replace(t: Tensor) -> tuple[tuple[Tensor, ...], Callable[..., Tensor]] | None:
        return ((t.detach()[..., ::down, ::right].clone(),), restored) if _same(t, x) else None

    return _replaced(replace)


def _same(t: Tensor, x: Tensor) -> bool:
    return (t.data_ptr(), t.dtype, t.shape, t.stride()) == (x.data_ptr(), x.dtype, x.shape, x.stride())


def _same_memory(t: Tensor, x: Tensor) -> bool:
    """As :func:`_same`, or with other dimensions, or some of them in another order."""
    return (t.data_ptr(), t.dtype, t.numel()) == (x.data_ptr(), x.dtype, x.numel())


def _replaced(replace: Replace) -> Context:
    """Saved tensors are replaced; what is kept goes through the hooks that are there already, if any.

    PyTorch asks the innermost hooks alone, and those around them (activation checkpointing, offloading,
    counting) would not hear of these tensors.
    """
    around = _AUTOGRAD._top_saved_tensors_default_hooks(False)

    def kept(t: Tensor) -> Any:
        return (t, t._version) if around is None else around[0](t)

    def given_back(kept: Any) -> Tensor:
        if around is not None:
            return around[1](kept)
        t, version = kept
        if t._version != version:  # what PyTorch says, who does not look where there are hooks
            raise RuntimeError(
                "one of the variables needed for gradient computation has been modified by an inplace "
                f"operation: {t.dtype}, shape {tuple(t.shape)}, version {t._version}; expected {version}"
            )
        return t

    # PyTorch holds on to the hook as long as to what it packed, and the input is not to live that long.
    asked = [replace]

    def pack(t: Tensor) -> Any:
        found = asked[0](t)
        return (kept(t), None) if found is None else ([kept(each) for each in found[0]], found[1])

    def unpack(packed: Any) -> Tensor:
        inner, restore = packed
        return given_back(inner) if restore is None else restore(*map(given_back, inner))

    @contextlib.contextmanager
    def during() -> Iterator[None]:
        try:
            with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
                yield
        finally:
            asked.clear()

    return during()
