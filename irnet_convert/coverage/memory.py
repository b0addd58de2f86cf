"""Memory: whether ``inplace=True`` holds parameters twice, and giving back what a checked model took."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import weakref
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from irnet_convert.convert import binarize


class Allocations(TorchDispatchMode):
    """Counts the bytes of storages that operators make while it is entered, as long as they live.

    Attributes:
        peak: the most bytes that were alive at once. The meta device's storages hold nothing and count 0.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._alive = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = {_storage(t) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and not tensor.is_meta and _storage(tensor) not in given:
                self._note(tensor)
        return result

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        address, size = storage._cdata, storage.nbytes()
        if address in self._known:
            return
        self._known.add(address)
        self._alive += size
        self.peak = max(self.peak, self._alive)
        weakref.finalize(storage, self._freed, address, size)

    def _freed(self, address: int, size: int) -> None:
        self._known.discard(address)
        self._alive -= size


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def conversion_peak(model: nn.Module, example_input: Any, *, inplace: bool = True) -> tuple[int, int]:
    """What converting ``model`` allocates at most, and what its parameters take.

    Args:
        model: with real weights; it is converted in place.
        example_input: as for binarize.
        inplace: False shows what a copy costs.

    Returns:
        Bytes of tensors that were made by the conversion and alive at the same time; bytes of the parameters.
    """
    own = sum(p.numel() * p.element_size() for p in model.parameters())
    with Allocations() as seen:
        binarize(model, example_input=example_input, inplace=inplace)
    return seen.peak, own


def give_back() -> None:
    """Return the memory of models that are gone to the system.

    glibc keeps what is freed between blocks that are still in use: a process that checks one network after
    another came to hold gigabytes, of which hardly one was in use.
    """
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # another C library does it itself
        ctypes.CDLL("libc.so.6").malloc_trim(0)
