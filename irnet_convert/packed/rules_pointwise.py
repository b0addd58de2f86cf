"""Arithmetic and activations as pieces; see ``lowering.py``."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from irnet_convert.packed.lowering import Lowering, Rule
from irnet_convert.packed.pieces import AddPiece, AffinePiece, Piece, PreluPiece
from irnet_convert.packed.steps import Activation, Clamp

aten = torch.ops.aten


def _add(low: Lowering, node: fx.Node) -> Piece | None:
    a, b = low.arg(node, 0), low.arg(node, 1)
    alpha: Any = node.kwargs.get("alpha", 1)
    if not isinstance(a, fx.Node) or low.flow.is_constant(a):
        a, b, flipped = b, a, True
    else:
        flipped = False
    if not isinstance(a, fx.Node) or (alpha != 1 and (flipped or not isinstance(b, int | float))):
        return None
    if not isinstance(b, fx.Node) or low.flow.is_constant(b):
        return low.affine(a, 1.0, b * alpha if not isinstance(b, fx.Node) else b, b)
    if a not in low.pieces:
        a, b = b, a
    # Sizes are compared as they were in the recorded run; where two symbols are one by a guard, they are
    # equal in every run, and each call checks shapes anyway.
    if low.flow.shape(a) != low.flow.shape(b) or not low.flow.is_real(b):
        return None
    return low.pointwise(a, AddPiece(other=b))


def _sub(low: Lowering, node: fx.Node) -> Piece | None:
    a, b = low.arg(node, 0), low.arg(node, 1)
    if node.kwargs.get("alpha", 1) != 1 or not isinstance(a, fx.Node):
        return None
    if isinstance(b, int | float):
        return low.affine(a, 1.0, -b, b)
    if low.flow.is_constant(b) and a in low.pieces:
        vector = low.vector(b, low.pieces[a])
        ones = None if vector is None else torch.ones_like(vector)
        return None if ones is None else low.pointwise(
            a, AffinePiece(scale=ones, shift=-vector, name=low.name(b))  # pyright: ignore
        )  # fmt: skip
    if low.flow.is_constant(a) and b in low.pieces:
        return low.affine(b, -1.0, a, a)
    return None


def _mul(low: Lowering, node: fx.Node) -> Piece | None:
    a, b = low.arg(node, 0), low.arg(node, 1)
    if not isinstance(a, fx.Node) or low.flow.is_constant(a):
        a, b = b, a
    return low.affine(a, b, 0.0, b) if isinstance(a, fx.Node) else None


def _div(low: Lowering, node: fx.Node) -> Piece | None:
    a, b = low.arg(node, 0), low.arg(node, 1)
    if a not in low.pieces or node.kwargs.get("rounding_mode"):
        return None
    vector = low.vector(b, low.pieces[a])
    if vector is None:
        return None
    zeros = torch.zeros_like(vector)
    return low.pointwise(a, AffinePiece(scale=1 / vector, shift=zeros, name=low.name(b)))


def _neg(low: Lowering, node: fx.Node) -> Piece | None:
    return low.affine(low.arg(node, 0), -1.0, 0.0, None)


# -- activations


def _clamp(low_default: float | None, high_default: float | None, *, given: bool = True) -> Rule:
    def rule(low: Lowering, node: fx.Node) -> Piece | None:
        least = low.arg(node, 1, low_default) if given else low_default
        most = low.arg(node, 2, high_default) if given else high_default
        if not all(v is None or isinstance(v, int | float) for v in (least, most)):
            return None
        bounds = [None if v is None or v in (torch.inf, -torch.inf) else float(v) for v in (least, most)]
        if bounds == [None, None] or (None not in bounds and bounds[0] > bounds[1]):  # type: ignore[operator]
            return None
        return low.pointwise(low.arg(node, 0), Clamp(min=bounds[0], max=bounds[1]))

    return rule


def _clamp_max(low: Lowering, node: fx.Node) -> Piece | None:
    most = node.args[1]
    return low.pointwise(low.arg(node, 0), Clamp(max=float(most))) if isinstance(most, int | float) else None


def _activation(name: str) -> Rule:
    return lambda low, node: low.pointwise(low.arg(node, 0), Activation(name=name))  # type: ignore[arg-type]


def _gelu(low: Lowering, node: fx.Node) -> Piece | None:
    name = "gelu_tanh" if node.kwargs.get("approximate", "none") == "tanh" else "gelu"
    return low.pointwise(low.arg(node, 0), Activation(name=name))


def _leaky_relu(low: Lowering, node: fx.Node) -> Piece | None:
    slope = torch.tensor([float(low.arg(node, 1, 0.01))])
    return low.pointwise(low.arg(node, 0), PreluPiece(slope=slope, name="leaky_relu"))


def _prelu(low: Lowering, node: fx.Node) -> Piece | None:
    x, slope = low.arg(node, 0), low.arg(node, 1)
    # F.prelu's weight goes along dimension 1, in whatever shape.
    if x not in low.pieces or not low.flow.is_constant(slope):
        return None
    piece, flat = low.pieces[x], low.flow.tensors[slope].reshape(-1).float()
    if piece.layout == "rows" and piece.rank != 2 and len(flat) != 1:
        return None
    if len(flat) not in (1, piece.channels):
        return None
    return low.pointwise(x, PreluPiece(slope=flat, name=low.name(slope)))


RULES: dict[Any, Rule] = {
    aten.add.Tensor: _add,
    aten.add.Scalar: _add,
    aten.sub.Tensor: _sub,
    aten.sub.Scalar: _sub,
    aten.mul.Tensor: _mul,
    aten.mul.Scalar: _mul,
    aten.div.Tensor: _div,
    aten.div.Scalar: _div,
    aten.neg.default: _neg,
    aten.relu.default: _clamp(0.0, None, given=False),
    aten.relu6.default: _clamp(0.0, 6.0, given=False),
    aten.hardtanh.default: _clamp(-1.0, 1.0),
    aten.clamp.default: _clamp(None, None),
    aten.clamp_min.default: _clamp(None, None),
    aten.clamp_max.default: _clamp_max,
    aten.leaky_relu.default: _leaky_relu,
    aten.prelu.default: _prelu,
    aten._prelu_kernel.default: _prelu,
    aten.hardswish.default: _activation("hardswish"),
    aten.hardsigmoid.default: _activation("hardsigmoid"),
    aten.silu.default: _activation("silu"),
    aten.sigmoid.default: _activation("sigmoid"),
    aten.tanh.default: _activation("tanh"),
    aten.gelu.default: _gelu,
}
