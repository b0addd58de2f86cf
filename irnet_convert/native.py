"""The native library as training uses it: its passes over arrays, or None where it was not built.

Without it everything is computed by tensor operations, so nothing is said here; ``packed`` and ``train`` say
it, whose speed depends on it.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from ctypes import c_float, c_int, c_int64, c_void_p
from pathlib import Path

import torch
from torch import Tensor

import irnet_convert

#: The version of irnet.h and irnet_train.h, and of the programs that they take.
INTERFACE_VERSION = 1
#: Instruction sets by their number in irnet.h.
ISAS = ("portable", "avx2", "avx512", "neon")
#: Those that a processor may have, the fastest first.
FASTEST_FIRST = ("avx512", "avx2", "neon", "portable")
#: The library's file name, beside ``irnet_convert.packed``.
LIBRARY_NAME = "irnet_native" + (".dylib" if sys.platform == "darwin" else ".so")
#: Names the instruction set to use instead of the fastest: one of ``ISAS``, or "reference" for none.
ISA_VARIABLE = "IRNET_ISA"

#: What to do where the library is missing.
REMEDY = (
    "install a C++17 compiler (gcc or clang) and install irnet-convert again: "
    "pip install --force-reinstall --no-deps irnet-convert"
)

_ARRAYS = (c_void_p,)
_FUNCTIONS = {
    "irn_sign": (*2 * _ARRAYS, c_int64, c_int),
    "irn_surrogate": (*3 * _ARRAYS, c_int64, c_float, c_float, c_int),
    "irn_encode": (*2 * _ARRAYS, c_int64, c_float, c_int),
    "irn_coded_sign": (*2 * _ARRAYS, c_int64, c_int),
    "irn_coded_surrogate": (*3 * _ARRAYS, c_int64, c_float, c_int),
    "irn_inside": (*2 * _ARRAYS, c_int64, c_float, c_float, c_int),
    "irn_where_inside": (*3 * _ARRAYS, c_int64, c_int),
    "irn_counts": (*3 * _ARRAYS, c_int64, c_int64, c_int64, c_int),
    "irn_from_counts": (*3 * _ARRAYS, c_int64, c_int64, c_int64, c_int),
    "irn_libra": (*3 * _ARRAYS, c_int64, c_int64, c_int),
    "irn_libra_gradient": (*4 * _ARRAYS, c_int64, c_int64, c_float, c_float, c_int),
    "irn_rprelu": (*5 * _ARRAYS, c_int64, c_int64, c_int64, c_int),
    "irn_rprelu_gradient": (*6 * _ARRAYS, c_int64, c_int64, c_int64, c_int),
}


class Passes:
    """The functions of irnet_train.h, for one instruction set. Arguments are checked by the caller."""

    def __init__(self, library: ctypes.CDLL, isa: str) -> None:
        self.isa, self._number = isa, ISAS.index(isa)
        self._functions = {name: getattr(library, name) for name in _FUNCTIONS}
        for name, arguments in _FUNCTIONS.items():
            self._functions[name].argtypes = [c_int, *arguments]

    def call(self, name: str, tensors: tuple[Tensor, ...], *numbers: float) -> None:
        """Run ``irn_<name>`` over dense arrays, with as many threads as PyTorch uses."""
        addresses = (t.data_ptr() for t in tensors)
        refused = self._functions[f"irn_{name}"](self._number, *addresses, *numbers, torch.get_num_threads())
        assert not refused, f"no {self.isa} on this processor"


def library_file() -> Path | None:
    """The library that was built at installation, if one was."""
    files = (Path(folder) / "packed" / LIBRARY_NAME for folder in irnet_convert.__path__)
    return next((file for file in files if file.is_file()), None)


@functools.cache
def passes() -> Passes | None:
    """The passes of the instruction set that IRNET_ISA names, or of the fastest of this processor."""
    file, wanted = library_file(), os.environ.get(ISA_VARIABLE)
    if file is None or wanted == "reference":
        return None
    try:
        library = ctypes.CDLL(str(file))
        if library.irn_version() != INTERFACE_VERSION:
            return None
        usable = usable_isas(library)
        library.irn_train_on(c_void_p(openmp()))
        return Passes(library, wanted if wanted in usable else usable[0])
    except (OSError, AttributeError):  # for another processor; of an older build
        return None


def openmp() -> int | None:
    """Where PyTorch's own OpenMP starts a team of threads, if it has one of that kind: see team.h."""
    try:  # it is among the libraries that PyTorch's extension module needs
        return ctypes.cast(ctypes.CDLL(torch._C.__file__).GOMP_parallel, c_void_p).value
    except (OSError, AttributeError):
        return None


def usable_isas(library: ctypes.CDLL) -> tuple[str, ...]:
    """The instruction sets that the library has code for and this processor runs, the fastest first."""
    return tuple(isa for isa in FASTEST_FIRST if library.irn_isa_available(ISAS.index(isa)))
