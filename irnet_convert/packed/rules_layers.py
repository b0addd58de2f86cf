"""Convolutions, linear layers and normalisation as pieces; see ``lowering.py``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from irnet_convert.packed import captured
from irnet_convert.packed.lowering import Lowering, Rule, map_piece, pair, zeros_around
from irnet_convert.packed.pieces import AffinePiece, Piece, Weight
from irnet_convert.packed.steps import BinaryConv, BinaryLinear, Conv, Linear

aten = torch.ops.aten


def _conv(low: Lowering, node: fx.Node) -> Piece | None:
    x, weight = low.arg(node, 0), low.weight(low.arg(node, 1), 4)
    if weight is None or not low.is_map(x):
        return None
    post = low.bias(low.arg(node, 2), weight.shape[0])
    if post is None:
        return None
    stride, dilation = pair(low.arg(node, 3, 1)), pair(low.arg(node, 5, 1))
    padding = _conv_padding(low.arg(node, 4, 0), weight, dilation)
    x, padding = _with_zero_pad(low, x, padding)
    fields = {"stride": stride, "padding": padding, "dilation": dilation, "groups": low.arg(node, 6, 1)}
    return map_piece(x, Conv, weight.shape[0], fields=fields, weight=weight, post=post)


def _conv_padding(given: Any, weight: Weight, dilation: tuple[int, int]) -> tuple[int, int, int, int]:
    if given == "same":
        high, wide = ((k - 1) * d for k, d in zip(weight.shape[2:], dilation, strict=True))
        return (wide // 2, wide - wide // 2, high // 2, high - high // 2)
    high, wide = (0, 0) if given == "valid" else pair(given)
    return (wide, wide, high, high)


def _with_zero_pad(low: Lowering, x: fx.Node, padding: tuple[int, ...]) -> tuple[fx.Node, tuple[int, ...]]:
    """Looks through zeros that were put around the map before: the convolution can add them itself."""
    amounts: Any = zeros_around(low, x)
    before: Any = low.arg(x, 0)
    if amounts is None or len(amounts) > 4 or not low.is_map(before):
        return x, padding
    amounts += [0] * (4 - len(amounts))
    return before, tuple(a + b for a, b in zip(padding, amounts, strict=True))


def _captured_conv(low: Lowering, node: fx.Node) -> Piece | None:
    x, bits, shape, stride, padding, mode, dilation, groups, signed = (low.arg(node, i) for i in range(9))
    if not low.is_map(x):
        return None
    fields = {
        "stride": tuple(stride), "padding": tuple(padding) or "same", "pad_mode": mode,
        "dilation": tuple(dilation), "groups": groups,
    }  # fmt: skip
    step = BinaryConv if signed else Conv
    return map_piece(x, step, shape[0], fields=fields, weight=_bits(low, bits, shape))


def _bits(low: Lowering, node: fx.Node, shape: Any) -> Weight:
    """The weight of a captured layer: packed, but for a real layer with SAME padding."""
    name = low.flow.names[node].removesuffix("packed_weight") + "weight"
    tensor = low.flow.tensors[node]
    return Weight(name=name, tensor=tensor, shape=tuple(shape), bits=tensor.dtype == torch.uint8)


def _rows(low: Lowering, x: fx.Node, step: type, weight: Weight, post: tuple[Any, ...]) -> Piece:
    rank = low.flow.value(x).dim()
    return Piece(
        inputs=(x,), reads="rows", layout="rows", channels=weight.shape[0], rank=rank, step=step,
        weight=weight, post=post,
    )  # fmt: skip


def _captured_linear(low: Lowering, node: fx.Node) -> Piece | None:
    x, bits, shape, signed = (low.arg(node, i) for i in range(4))
    if not low.fits(x, shape[1]):
        return None
    return _rows(low, x, BinaryLinear if signed else Linear, _bits(low, bits, shape), ())


def _linear(low: Lowering, node: fx.Node) -> Piece | None:
    x, weight = low.arg(node, 0), low.weight(low.arg(node, 1), 2)
    if weight is None or not low.fits(x, weight.shape[1]):
        return None
    post = low.bias(low.arg(node, 2), weight.shape[0])
    return None if post is None else _rows(low, x, Linear, weight, post)


def _batch_norm(low: Lowering, node: fx.Node) -> Piece | None:
    x, weight, bias, mean, var = (low.arg(node, i) for i in range(5))
    takes_flag = node.target == aten.batch_norm.default
    eps: Any = node.args[7 if takes_flag else -1]
    if (takes_flag and node.args[5]) or low.flow.items_read(node) - {0} or not isinstance(x, fx.Node):
        return None
    # Channels are dimension 1 here: that of a map, and of rows (N, C).
    rank = low.flow.value(x).dim()
    layout = low.layout_of(x) or ("map" if low.is_map(x) else "rows")
    fits = low.is_map(x) if layout == "map" else low.is_rows(x) and rank == 2
    given = [n for n in (weight, bias, mean, var) if n is not None]
    if not fits or not all(low.flow.is_constant(n) for n in given):
        return None

    def vector(n: Any, default: float) -> Tensor:
        value = low.flow.tensors[mean]
        return torch.full_like(value, default).double() if n is None else low.flow.tensors[n].double()

    scale = vector(weight, 1.0) / (vector(var, 1.0) + eps).sqrt()
    shift = vector(bias, 0.0) - vector(mean, 0.0) * scale
    post = AffinePiece(scale=scale, shift=shift, name=low.name(mean))
    channels = low.flow.value(x).shape[1]
    return Piece(inputs=(x,), reads=layout, layout=layout, channels=channels, rank=rank, post=(post,))


RULES: dict[Any, Rule] = {
    captured.captured_conv: _captured_conv,
    captured.captured_linear: _captured_linear,
    aten.conv2d.default: _conv,
    aten.conv2d.padding: _conv,
    aten.linear.default: _linear,
    aten._native_batch_norm_legit_no_training.default: _batch_norm,
    aten.batch_norm.default: _batch_norm,
}
