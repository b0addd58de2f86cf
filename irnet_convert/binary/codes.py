"""One byte in the place of a number that a sign was taken of: all that a backward pass wants to know of it.

The highest bit is the sign, the other seven the derivative of the surrogate as a share of its peak, rounded
to 127ths. Signs come back exactly; a gradient is off by half a 127th of the peak at most.
"""

from __future__ import annotations

import torch
from torch import Tensor

from irnet_convert.binary.passes import call, dense, dense_float, laid_out_like, operator
from irnet_convert.binary.sign import bell

LEVELS = 127
"""The code of the surrogate's peak."""


def ede_encode(x: Tensor, ede: Tensor) -> Tensor:
    """128 where ``x >= 0``, plus round(127·(1 − tanh²(t·x))); 0 at NaN.

    Args:
        x: what the sign is taken of: any shape, memory format and floating dtype.
        ede: ``[k, t]``, shape (2,), on the device of ``x``.

    Returns:
        uint8, shape and memory format of ``x``.
    """
    return _encode(x, ede)


def coded_sign(codes: Tensor) -> Tensor:
    """The signs of what was encoded: ±1 in float32, shape and memory format of ``codes``."""
    return _coded_sign(codes)


def ede_coded_gradient(codes: Tensor, grad: Tensor, ede: Tensor) -> Tensor:
    """A gradient of sign(x) to one of x, from the codes of x: times k·t·code/127.

    Args:
        codes: of :func:`ede_encode`, with the same ``ede``.
        grad: of the signs; shape of ``codes``, any floating dtype.
        ede: ``[k, t]``, shape (2,), on the device of ``codes``.

    Returns:
        Shape and memory format of ``codes``, in float32 at least.
    """
    return _coded_gradient(codes, grad, ede)


def _encode_by_tensors(x: Tensor, ede: Tensor) -> Tensor:
    dtype = torch.promote_types(x.dtype, torch.float32)
    share = bell(x.to(dtype), ede.to(dtype)[1], LEVELS)
    return share.round().to(torch.uint8) + (x >= 0).to(torch.uint8) * 128


def _encode_natively(x: Tensor, ede: Tensor) -> Tensor | None:
    if not dense_float(x):
        return None
    out = torch.empty_like(x, dtype=torch.uint8)
    return out if call("encode", (x, out), x.numel(), float(ede[1])) else None


def _sign_by_tensors(codes: Tensor) -> Tensor:
    one = torch.ones((), dtype=torch.float32, device=codes.device)
    return torch.where(codes > LEVELS, one, -one)


def _sign_natively(codes: Tensor) -> Tensor | None:
    if not dense(codes):
        return None
    out = torch.empty_like(codes, dtype=torch.float32)
    return out if call("coded_sign", (codes, out), codes.numel()) else None


def _gradient_by_tensors(codes: Tensor, grad: Tensor, ede: Tensor) -> Tensor:
    dtype = torch.promote_types(grad.dtype, ede.dtype)
    k, t = ede.to(dtype).unbind()
    return grad.to(dtype) * ((codes & LEVELS).to(dtype) * (k * t / LEVELS))


def _gradient_natively(codes: Tensor, grad: Tensor, ede: Tensor) -> Tensor | None:
    if not dense(codes) or torch.float64 in (grad.dtype, ede.dtype):
        return None
    out, (k, t) = torch.empty_like(codes, dtype=torch.float32), ede.tolist()
    arrays = codes, laid_out_like(grad, codes), out
    return out if call("coded_surrogate", arrays, codes.numel(), k * t / LEVELS) else None


_encode = operator("ede_encode(Tensor x, Tensor ede) -> Tensor", _encode_by_tensors, _encode_natively)
_coded_sign = operator("coded_sign(Tensor codes) -> Tensor", _sign_by_tensors, _sign_natively)
_coded_gradient = operator(
    "ede_coded_gradient(Tensor codes, Tensor grad, Tensor ede) -> Tensor",
    _gradient_by_tensors,
    _gradient_natively,
)
