"""Runs programs with the native kernels: which instruction set, and a cache of plans.

A plan is a program with its weights in a kernel's order. It is made at the first call and kept beside the
blob of constants that it was made from, until :func:`forget` or until many others were looked up since.
"""

from __future__ import annotations

import functools
import os
import threading
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from irnet_convert.errors import ArgumentError, NativeError, UnknownNameError, nearest
from irnet_convert.native import ISA_VARIABLE, ISAS, library_file
from irnet_convert.packed.check import maps_among_outputs
from irnet_convert.packed.encode import encode
from irnet_convert.packed.library import REMEDY, Library, described
from irnet_convert.packed.steps import Program, parse_program

#: Most plans that are kept.
MAX_PLANS = 64


@functools.cache
def library() -> Library | None:
    """The native library, or None, with one warning, where it was not built or does not load."""
    path = library_file()
    try:
        if path is not None:
            return Library(path)
        reason = "it was installed without a C++ compiler"
    except OSError as error:
        reason = str(error)
    except NativeError as error:
        reason = error.given
    _warn(f"irnet-convert has no native kernels ({reason}): packed networks run")
    return None


def _warn(what: str) -> None:
    warnings.warn(
        f"{what} in plain PyTorch, which is slower than the networks they were made from. To mend it: "
        + REMEDY,
        stacklevel=3,
    )


def available_isas() -> tuple[str, ...]:
    """Instruction sets that this processor and this build have kernels for, the fastest first."""
    found = library()
    return found.isas if found else ()


def isa_in_use() -> str:
    """The instruction set for calls that repeat none before ("reference": there are no native kernels).

    Raises:
        UnknownNameError: IRNET_ISA names nothing that can be used here.
    """
    wanted = os.environ.get(ISA_VARIABLE)
    if wanted == "reference":
        return wanted
    available = available_isas()
    if not wanted:
        return available[0] if available else "reference"
    if wanted not in available:
        raise UnknownNameError(
            f"{ISA_VARIABLE}={wanted}",
            expected="an instruction set of this processor: " + ", ".join((*available, "reference")),
            mend=f"unset {ISA_VARIABLE}"
            + ("" if wanted in ISAS else "; " + nearest(wanted.lower(), (*available, "reference"))),
        )
    return wanted


def measure_limit(isa: str | None = None, seconds: float = 0.2) -> float:
    """Binary multiply-adds per second of one core with every operand in a register: no layer can be faster.

    Args:
        isa: one of :func:`available_isas`; the one in use unless given.
        seconds: to measure for.

    Returns:
        0 where there are no native kernels.
    """
    found = library()
    return (
        found.measure_limit(isa or isa_in_use(), seconds) if found and (isa or isa_in_use()) in ISAS else 0.0
    )


class Plan:
    """A program ready to run on one instruction set.

    Args:
        program: validated.
        blob: its constants, on the CPU; copied.
        isa: one of the library's; the one in use unless given.
        native: the library; the package's unless given.

    Raises:
        NativeError: there is no library, or it has no kernel for a step of the program.
    """

    def __init__(
        self, program: Program, blob: Tensor, isa: str | None = None, native: Library | None = None
    ) -> None:
        native = native or library()
        if native is None:
            raise NativeError("there is no native library", expected="one that loads", mend=REMEDY)
        self.isa = isa or isa_in_use()
        self.steps = program.steps
        self._native = native
        self._rows = [spec.layout == "rows" for spec in program.inputs]
        self._outputs = len(program.outputs)
        self._maps = maps_among_outputs(program)
        self._shapes: dict[tuple[torch.Size, ...], list[tuple[int, ...]]] = {}
        self._plan = native.create(encode(program), blob, self.isa)
        weakref.finalize(self, native.free, self._plan)

    def run(
        self,
        inputs: Sequence[Tensor],
        *,
        threads: int | None = None,
        times: Tensor | None = None,
        maps: torch.memory_format = torch.contiguous_format,
    ) -> list[Tensor]:
        """One call.

        Args:
            inputs: on the CPU, of any floating dtype and memory format; computed in float32.
            threads: how many to use; torch's unless given.
            times: float64, (steps + 2,): receives the seconds that inputs, each step and outputs took.
            maps: the memory format of outputs that are maps. In channels_last they are written once,
                where contiguous ones are copied from the kernels' own order.

        Returns:
            The outputs, float32; contiguous but for maps.

        Raises:
            ArgumentError: inputs that the program does not take.
        """
        threads = threads or torch.get_num_threads()
        given = [
            x.float().contiguous() if rows else x.float() for x, rows in zip(inputs, self._rows, strict=True)
        ]
        try:
            outputs = [
                _empty(shape, maps if is_map else torch.contiguous_format)
                for shape, is_map in zip(self._output_shapes(given), self._maps, strict=True)
            ]
            self._native.run(self._plan, given, outputs, threads, times)
        except NativeError as error:
            raise ArgumentError(
                error.given, expected="inputs of the shapes that the packed model was made for",
                mend="pass an input of the size that the model was packed with",
            ) from error  # fmt: skip
        return outputs

    def run_again(self, x: Tensor, like_x: bytes, y: Tensor, like_y: bytes) -> bool:
        """:meth:`run` for one input and one output, which are known but for where they lie.

        Args:
            x: float32, on the CPU.
            like_x: :meth:`described`.
            y: likewise; written.
            like_y: likewise.

        Returns:
            Whether it was run; what is refused, :meth:`run` says.
        """
        return self._native.run_again(
            self._plan, x.data_ptr(), like_x, y.data_ptr(), like_y, torch.get_num_threads()
        )

    def takes(self, x: Tensor) -> bool:
        """Whether the one input can be given to :meth:`run_again` as it lies in memory."""
        return not self._rows[0] or x.is_contiguous()

    @staticmethod
    def described(x: Tensor) -> bytes:
        """A tensor's shape and strides, for :meth:`run_again`."""
        return described(x)

    def bytes(self) -> int:
        """Bytes of weights and tables that it holds."""
        return self._native.plan_bytes(self._plan)

    def _output_shapes(self, inputs: Sequence[Tensor]) -> list[tuple[int, ...]]:
        key = tuple(x.shape for x in inputs)
        shapes = self._shapes.get(key)
        if shapes is None:
            shapes = self._native.output_shapes(self._plan, inputs, self._outputs)
            if len(self._shapes) < MAX_PLANS:
                self._shapes[key] = shapes
        return shapes


def _empty(shape: tuple[int, ...], memory_format: torch.memory_format) -> Tensor:
    """Whatever torch's default dtype and device are: the kernels write float32 there."""
    return torch.empty(shape, dtype=torch.float32, device="cpu", memory_format=memory_format)


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """A cached plan; it holds the blob and its memory, so that no other can get its address."""

    blob: Tensor
    memory: torch.UntypedStorage  # ``blob.data = other`` would let it go
    version: int
    text: str
    plan: Plan | NativeError


_plans: OrderedDict[tuple[int, str], _Entry] = OrderedDict()
_lock = threading.RLock()  # the garbage collector may come to forget() while it is held
os.register_at_fork(after_in_child=lambda: globals().update(_lock=threading.RLock()))


def plan_for(text: str, blob: Tensor, isa: str | None = None) -> Plan:
    """The plan of a program for an instruction set, from the cache if it is there.

    Args:
        text: the program's JSON, validated.
        blob: its constants, on the CPU. A blob written to since gets a new plan.
        isa: the one in use unless given.

    Raises:
        NativeError: see :class:`Plan`. A program that a build has no kernels for is refused at each call,
            with a warning at the first.
    """
    isa = isa or isa_in_use()
    version = 0 if blob.is_inference() else blob._version
    key = (blob.data_ptr(), isa)
    with _lock:
        entry = _plans.get(key)
    if not (
        entry
        and entry.version == version
        and entry.text == text
        and entry.blob.numel() == blob.numel()
        and entry.blob.data_ptr() == blob.data_ptr()  # not moved away, as share_memory() does
    ):
        plan = _made(text, blob, isa)
        entry = _Entry(blob=blob, memory=blob.untyped_storage(), version=version, text=text, plan=plan)
    with _lock:
        _plans.pop(key, None)
        _plans[key] = entry
        while len(_plans) > MAX_PLANS:
            _plans.popitem(last=False)
    return _usable(entry)


def _usable(entry: _Entry) -> Plan:
    if isinstance(entry.plan, NativeError):
        raise entry.plan.with_traceback(None)
    return entry.plan


def _made(text: str, blob: Tensor, isa: str) -> Plan | NativeError:
    try:
        return Plan(parse_program(text), blob, isa)
    except NativeError as error:
        _warn(f"the {isa} kernels cannot run a packed network ({error.given}): such networks run")
        return error


def forget(blob: Tensor) -> None:
    """Drops the plans made from a blob (wherever it lay then), and the reference to it."""
    address = blob.data_ptr()
    with _lock:
        for key, entry in _entries():
            if key[0] == address or entry.blob is blob:
                _plans.pop(key, None)


def _entries() -> list[tuple[tuple[int, str], _Entry]]:
    while True:
        try:
            return list(_plans.items())
        except RuntimeError:  # the garbage collector came to forget() meanwhile
            continue
