"""The native library: where it is, its C functions through ctypes, its errors as exceptions."""

from __future__ import annotations

import ctypes
import functools
import struct
from collections.abc import Sequence
from ctypes import POINTER, byref, c_char, c_char_p, c_double, c_int, c_int64, c_size_t, c_void_p
from pathlib import Path

import torch
from torch import Tensor

from irnet_convert.errors import NativeError
from irnet_convert.native import INTERFACE_VERSION, ISAS, REMEDY, usable_isas

_MAX_RANK = 8


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", c_void_p),
        ("rank", c_int64),
        ("shape", c_int64 * _MAX_RANK),
        ("strides", c_int64 * _MAX_RANK),
    )


#: The same structure, for what is only read: as bytes, which are made faster than ctypes' structures.
_ADDRESS = struct.Struct("@P")
_DESCRIPTION = struct.Struct(f"@q{_MAX_RANK}q{_MAX_RANK}q")


class Library:
    """The C interface of native/irnet.h.

    Args:
        path: of the shared library.

    Raises:
        OSError: no library for this processor.
        NativeError: of another version of the interface.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._c = _declare(ctypes.CDLL(str(path)))
        if self._c.irn_version() != INTERFACE_VERSION:
            raise NativeError(
                f"{path} of version {self._c.irn_version()}", expected=f"version {INTERFACE_VERSION}",
                mend=REMEDY,
            )  # fmt: skip

    @functools.cached_property
    def isas(self) -> tuple[str, ...]:
        """The instruction sets that can be used here, the fastest first."""
        return usable_isas(self._c)

    def measure_limit(self, isa: str, seconds: float = 0.2) -> float:
        """Binary multiply-adds per second of one core, register to register: what no layer can exceed."""
        return self._c.irn_measure_limit(ISAS.index(isa), seconds)

    def create(self, code: Sequence[int], blob: Tensor, isa: str) -> int:
        """A plan: an opaque address, for :meth:`run` and :meth:`free`.

        Args:
            code: of ``encode``.
            blob: the constants, uint8; not needed any more afterwards.
            isa: one of :attr:`isas`.

        Raises:
            NativeError: what the native code refuses.
        """
        plan = c_void_p()
        words = torch.tensor(code, dtype=torch.int64)
        self._check(
            self._c.irn_plan_create, words.data_ptr(), len(code), blob.data_ptr(), blob.numel(),
            ISAS.index(isa), byref(plan),
        )  # fmt: skip
        assert plan.value
        return plan.value

    def free(self, plan: int) -> None:
        """Releases a plan that nobody runs any more."""
        self._c.irn_plan_free(plan)

    def plan_bytes(self, plan: int) -> int:
        """Bytes of a plan's weights and tables."""
        return self._c.irn_plan_bytes(plan)

    def output_shapes(self, plan: int, inputs: Sequence[Tensor], outputs: int) -> list[tuple[int, ...]]:
        """The shapes of the outputs for such inputs.

        Raises:
            NativeError: inputs that the program does not take.
        """
        found = (_Tensor * outputs)()
        self._check(self._c.irn_plan_shapes, plan, _tensors(inputs), len(inputs), found, outputs)
        return [tuple(t.shape[: t.rank]) for t in found]

    def run(self, plan: int, inputs: Sequence[Tensor], outputs: Sequence[Tensor], threads: int,
            times: Tensor | None = None) -> None:  # fmt: skip
        """Runs a plan.

        Args:
            plan: of :meth:`create`.
            inputs: float32, on the CPU; maps of any strides, rows contiguous.
            outputs: likewise, of the shapes of :meth:`output_shapes`; they are written.
            threads: how many to use.
            times: float64, (steps + 2,): receives seconds, see irn_plan_run.

        Raises:
            NativeError: what the native code refuses.
        """
        address, size = (times.data_ptr(), times.numel()) if times is not None else (None, 0)
        self._check(
            self._c.irn_plan_run, plan, _tensors(inputs), len(inputs), _tensors(outputs), len(outputs),
            threads, address, size,
        )  # fmt: skip

    def run_again(self, plan: int, x: int, like_x: bytes, y: int, like_y: bytes, threads: int) -> bool:
        """:meth:`run` for one input and one output, at these addresses, whose :func:`described` is known.

        Returns:
            Whether it was run; what the native code refuses, :meth:`run` says.
        """
        return not self._c.irn_plan_run(
            plan, _ADDRESS.pack(x) + like_x, 1, _ADDRESS.pack(y) + like_y, 1, threads, None, 0, None, 0
        )

    def _check(self, function, *arguments: object) -> None:
        message = (c_char * 512)()
        if function(*arguments, message, len(message)):
            raise NativeError(
                message.value.decode(errors="replace"),
                expected="a program and inputs that the native kernels take",
                mend="run the network in plain PyTorch: IRNET_ISA=reference",
            )


def _tensors(tensors: Sequence[Tensor]) -> bytes:
    """An array of irn_tensor."""
    return b"".join(_ADDRESS.pack(tensor.data_ptr()) + described(tensor) for tensor in tensors)


def described(tensor: Tensor) -> bytes:
    """An irn_tensor but for the address.

    Raises:
        NativeError: it has too many dimensions.
    """
    rank = tensor.dim()
    if rank > _MAX_RANK:
        raise NativeError(
            f"a tensor of {rank} dimensions", expected=f"at most {_MAX_RANK}", mend="flatten some of them"
        )
    rest = (0,) * (_MAX_RANK - rank)
    return _DESCRIPTION.pack(rank, *tensor.shape, *rest, *tensor.stride(), *rest)


def _declare(c: ctypes.CDLL) -> ctypes.CDLL:
    message = (c_char_p, c_size_t)
    read, written = (c_char_p, c_size_t), (POINTER(_Tensor), c_size_t)
    for name, result, arguments in (
        ("irn_version", c_int, ()),
        ("irn_isa_available", c_int, (c_int,)),
        (
            "irn_plan_create",
            c_int,
            (c_void_p, c_size_t, c_void_p, c_size_t, c_int, POINTER(c_void_p), *message),
        ),
        ("irn_plan_free", None, (c_void_p,)),
        ("irn_plan_bytes", c_size_t, (c_void_p,)),
        ("irn_plan_shapes", c_int, (c_void_p, *read, *written, *message)),
        ("irn_plan_run", c_int, (c_void_p, *read, *read, c_int, c_void_p, c_size_t, *message)),
        ("irn_measure_limit", c_double, (c_int, c_double)),
    ):
        function = getattr(c, name)
        function.restype, function.argtypes = result, list(arguments)
    return c
