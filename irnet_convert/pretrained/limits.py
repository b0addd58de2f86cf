"""What a saved model may ask for: bounds of its text, and of the memory and work of building it.

A config comes from anybody. An architecture in it is a name of timm or torchvision and arguments, and the
arguments can ask for anything: a width of a billion, a depth of a million. What is reasonable is known: the
tensors that lie in the weights file. So while the model is built everything that is made is counted, and the
building stops when it exceeds what the file holds.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from irnet_convert.errors import PretrainedError

#: Bytes of config.json: the plan of a network with 3,000 layers has less than 1 MiB.
MAX_CONFIG = 2 * 1024**2
#: Values in it, all levels together, and levels.
MAX_VALUES, MAX_DEPTH = 300_000, 20
#: Bytes of a safetensors file's header and of an index of shards: about 100 a tensor.
MAX_HEADER = 4 * 1024**2
#: Numbers, strings, lists and mappings in the arguments of an architecture, all levels together.
MAX_ARGUMENTS = 1000
#: Largest whole number among them; lists in them hold no more.
MAX_NUMBER = 65_536
#: Longest string among them.
MAX_STRING = 256


class _Exceeded(BaseException):
    """Leaves a constructor, past whatever ``except Exception`` it contains; never leaves this module."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How much a construction may make.

    Attributes:
        tensors: parameters and buffers.
        elements: of all parameters together, of all buffers together, and of any one tensor on the way.
        modules: submodules.
        calls: of functions, Python's and C's; not counted while somebody profiles the process.
    """

    tensors: int
    elements: int
    modules: int
    calls: int

    @classmethod
    def for_file(cls, tensors: int, elements: int) -> Budget:
        """What a model whose file holds so much may take.

        Twice the file's: constructors make heads and then replace them. The constants are for small files:
        a table of positions, the masks of windows, the first use of a library. Measured over timm and
        torchvision: 1.1 to 1.4 times the tensors, up to 2 modules and 700 to 5,000 calls a tensor.
        """
        return cls(
            tensors=2 * tensors + 64,
            elements=2 * elements + (1 << 22),
            modules=5 * tensors + 200,
            calls=8_000 * tensors + 200_000,
        )


@contextmanager
def counted(budget: Budget, what: str) -> Iterator[None]:
    """Stop what is built inside, in this thread, as soon as it takes more than ``budget``.

    Nothing is allocated first: parameters of absurd size are to be built on the meta device, and for what is
    put on the CPU all the same each operator is tried on the meta device before.

    Args:
        budget: what may be taken.
        what: the model, for the error.

    Raises:
        PretrainedError: it took more.
    """
    meter = _Meter(budget)
    try:
        with ExitStack() as stack:
            for register, hook in (
                (hooks.register_module_parameter_registration_hook, meter.parameter),
                (hooks.register_module_buffer_registration_hook, meter.buffer),
                (hooks.register_module_module_registration_hook, meter.module),
            ):
                stack.callback(register(hook).remove)
            stack.enter_context(_Sizes(budget.elements))
            if sys.getprofile() is None:  # a profiler of the caller's own could not be put back
                stack.callback(sys.setprofile, None)
                sys.setprofile(meter.call)
            yield
    except _Exceeded as error:
        raise PretrainedError(
            f"{what} would take {error}",
            expected="an architecture of the size of the weights that lie beside its config.json",
            mend="use a model that irnet_convert.save_pretrained wrote; this config.json was altered",
        ) from None


class _Meter:
    """Counts what is registered and called."""

    def __init__(self, budget: Budget) -> None:
        self.budget, self.thread = budget, threading.get_ident()
        self.tensors = self.modules = self.calls = 0
        self.elements = {"parameters": 0, "buffers": 0}

    def parameter(self, module: nn.Module, name: str, tensor: Any) -> None:
        """A hook of PyTorch's, called before a parameter is registered."""
        self._tensor("parameters", tensor)

    def buffer(self, module: nn.Module, name: str, tensor: Any) -> None:
        """A hook of PyTorch's, called before a buffer is registered."""
        self._tensor("buffers", tensor)

    def module(self, module: nn.Module, name: str, child: Any) -> None:
        """A hook of PyTorch's, called before a submodule is registered."""
        if threading.get_ident() == self.thread:
            self.modules += 1
            _stop_above(self.budget.modules, self.modules, "modules")

    def call(self, frame: Any, event: str, argument: Any) -> None:
        """A profile function of Python's."""
        if event in ("call", "c_call"):
            self.calls += 1
            if self.calls > self.budget.calls:
                raise _Exceeded(f"more than {self.budget.calls:,} function calls to build")

    def _tensor(self, kind: str, tensor: Any) -> None:
        if tensor is None or threading.get_ident() != self.thread:
            return
        self.tensors += 1
        self.elements[kind] += tensor.numel()
        _stop_above(self.budget.tensors, self.tensors, "parameters and buffers")
        _stop_above(self.budget.elements, self.elements[kind], f"elements of {kind}")


class _Sizes(TorchDispatchMode):
    """Refuses an operator whose result has more than ``most`` elements, before it is allocated."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if _allocates(args, kwargs):
            self._check(_shapes_only(func, args, kwargs))
        result = func(*args, **kwargs)
        self._check(result)
        return result

    def _check(self, result: Any) -> None:
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                _stop_above(self.most, prod(tensor.shape), "elements of one tensor")


def _allocates(args: Any, kwargs: dict[str, Any]) -> bool:
    """Whether an operator's result would be a tensor with memory."""
    if "device" in kwargs and kwargs["device"] is not None:
        return torch.device(kwargs["device"]).type != "meta"
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    return not tensors or not all(tensor.is_meta for tensor in tensors)


def _shapes_only(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """The operator's result on the meta device; None where it has no say there (it reads values)."""

    def empty(leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            return torch.empty_strided(leaf.shape, leaf.stride(), dtype=leaf.dtype, device="meta")
        return torch.device("meta") if isinstance(leaf, torch.device) else leaf

    kwargs = {**kwargs, "device": torch.device("meta")} if "device" in kwargs else kwargs
    try:
        return func(*tree_map(empty, args), **tree_map(empty, kwargs))
    except Exception:
        return None


def _stop_above(most: int, found: int, what: str) -> None:
    if found > most:
        raise _Exceeded(f"more than {most:,} {what}")
