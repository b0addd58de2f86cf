"""The sign that every binary tensor goes through, and its surrogate gradient (EDE).

One convention holds everywhere, training, export and packed inference: the sign is +1 where ``x >= 0``
(so for −0.0) and −1 elsewhere (so for NaN). There is no third level.
"""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch import Tensor

from irnet_convert.binary.passes import call, dense_float, laid_out_like, operator


def sign(x: Tensor) -> Tensor:
    """+1 where ``x >= 0``, −1 elsewhere; its gradient is zero.

    Args:
        x: any shape, memory format and real dtype.

    Returns:
        A tensor of the same shape, dtype and memory format that holds only +1 and −1.
    """
    return x.clone() if shape_only(x) else _sign(x)


def signs_for_now(x: Tensor) -> Tensor:
    """:func:`sign`, good until the next call in this thread: for a product that is made at once.

    On a CPU they are written where the last ones were. A fresh tensor in every layer, whose memory comes from
    the operating system and goes back, costs as much as the signs do.

    Args:
        x: any shape, memory format and real dtype.
    """
    if (
        not nobody_watches()
        or type(x) not in (Tensor, torch.nn.Parameter)
        or not (x.is_cpu and dense_float(x))
    ):
        return sign(x)
    kept = _room.signs
    if kept is None or kept.numel() < x.numel():
        with torch.inference_mode(False):
            kept = _room.signs = torch.empty(x.numel(), dtype=torch.float32, device="cpu")
    out = kept.as_strided(x.shape, x.stride())
    return out if call("sign", (x, out), x.numel()) else sign(x)


def nobody_watches() -> bool:
    """Whether no compiler, tracer or dispatch mode follows operations, who would not see a native pass."""
    return not watched() and torch._C._len_torch_dispatch_stack() == 0


def watched() -> bool:
    """Whether code is being compiled or traced, in which sizes may be symbols."""
    return torch.compiler.is_compiling() or torch._C._is_tracing()


class _Room(threading.local):
    """One tensor of the size of the largest input so far, for each thread."""

    signs: Tensor | None = None


_room = _Room()


def shape_only(x: Tensor) -> bool:
    """Whether a function of ``x`` has nothing to compute: no values (meta device) and no gradient wanted.

    PyTorch works out the shapes of meta tensors operator by operator in Python, which would be most of the
    time that recording a binary network takes.
    """
    return x.is_meta and not torch.is_grad_enabled()


class _EdeSign(torch.autograd.Function):
    """Forward: :func:`sign`. Backward: the derivative of k·tanh(t·x)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, ede: Tensor) -> Tensor:
        ctx.save_for_backward(x, ede)
        return sign(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        x, ede = ctx.saved_tensors
        return ede_gradient(x, grad, ede), None


def ede_gradient(x: Tensor, grad: Tensor, ede: Tensor) -> Tensor:
    """A gradient of sign(x) to one of x: times :func:`ede_derivative`.

    Args:
        x: what the sign was taken of.
        grad: shape of ``x``, any floating dtype.
        ede: ``[k, t]``, shape (2,), on the device of ``x``.

    Returns:
        Shape and dtype of ``x``.
    """
    # Somebody may want the gradient of this gradient; of compiled code nobody can have it.
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        return _gradient(x, grad, ede)
    return _ede_gradient(x, grad, ede)


def _sign_by_tensors(x: Tensor) -> Tensor:
    return torch.where(x >= 0, x.new_ones(()), x.new_full((), -1))


def _sign_natively(x: Tensor) -> Tensor | None:
    if not dense_float(x):
        return None
    out = torch.empty_like(x)
    return out if call("sign", (x, out), x.numel()) else None


def _gradient(x: Tensor, grad: Tensor, ede: Tensor) -> Tensor:
    return (grad * ede_derivative(x, ede)).to(x.dtype)


def _gradient_natively(x: Tensor, grad: Tensor, ede: Tensor) -> Tensor | None:
    if not dense_float(x):
        return None
    out, (k, t) = torch.empty_like(x), ede.tolist()
    return out if call("surrogate", (x, laid_out_like(grad, x), out), x.numel(), k, t) else None


_sign = operator("sign(Tensor x) -> Tensor", _sign_by_tensors, _sign_natively)
_ede_gradient = operator(
    "ede_gradient(Tensor x, Tensor grad, Tensor ede) -> Tensor", _gradient, _gradient_natively
)


def ede_derivative(x: Tensor, ede: Tensor) -> Tensor:
    """The surrogate's derivative k·t·(1 − tanh²(t·x)), in float32 at least.

    At ±inf it is 0, as its limit is. At NaN it is defined as 0: the forward pass made −1 of the NaN, and
    a NaN gradient would spread to every weight of the layer before.

    Args:
        x: where to evaluate it, any shape.
        ede: ``[k, t]``, shape (2,); read on its device, so without waiting for it.

    Returns:
        The derivative, shape of ``x``, of the wider of float32 and the dtype of ``x``.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    k, t = ede.to(dtype).unbind()
    return bell(x.to(dtype), t, k * t)


def bell(x: Tensor, t: Tensor, peak: Tensor | float) -> Tensor:
    """peak·(1 − tanh²(t·x)), 0 at NaN; of one dtype, float32 at least."""
    # 1 − tanh²(y) = 4e/(1 + e)² with e = exp(−2|y|): no difference of two numbers near 1, which would have no
    # correct digit left at |y| = 8.
    y = (t * x).abs()
    # Written so that it is compiled to vectors for a CPU: isnan, nan_to_num, or a choice in front of the
    # exponential, would be loops over single numbers.
    e = torch.where(y == y, torch.exp(-2 * y), 0)  # y == y is false at NaN alone
    return (4 * peak) * e / (1 + e).square()


def ede_sign(x: Tensor, ede: Tensor) -> Tensor:
    """Sign with the error decay estimator's gradient.

    Forward ``sign(x)``; backward ``grad · k·t·(1 − tanh²(t·x))``, the derivative of g(x) = k·tanh(t·x).
    ``k`` and ``t`` are read from a tensor, so that a compiled graph stays valid while they change.

    Args:
        x: any shape, memory format and floating dtype. It is all that is kept for the backward pass.
        ede: ``[k, t]``, shape (2,), on the device of ``x``. It must not be written to between forward and
            backward; hand over a copy where it may be.

    Returns:
        ±1, shape, dtype and memory format of ``x``.

    Source:
        Qin et al., Forward and Backward Information Retention for Accurate Binary Neural Networks, CVPR
        2020, section on EDE.
    """
    return _EdeSign.apply(x, ede) if torch.is_grad_enabled() else sign(x)
