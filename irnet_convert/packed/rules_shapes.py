"""Pooling, flattening, slices, zero channels and concatenation as pieces; see ``lowering.py``."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from irnet_convert.packed import captured
from irnet_convert.packed.lowering import (
    Lowering,
    NeedsFixedSizeError,
    Rule,
    map_piece,
    pair,
    zeros_around,
)
from irnet_convert.packed.pieces import Piece
from irnet_convert.packed.steps import AvgPool, Concat, Flatten, GlobalAvgPool, Layout, MaxPool, Subsample

aten = torch.ops.aten


def _max_pool(low: Lowering, node: fx.Node) -> Piece | None:
    x = low.arg(node, 0)
    if not low.is_map(x) or low.flow.items_read(node) - {0}:
        return None
    kernel = pair(node.args[1])
    fields = {
        "kernel": kernel, "stride": pair(low.arg(node, 2) or kernel), "padding": pair(low.arg(node, 3, 0)),
        "dilation": pair(low.arg(node, 4, 1)), "ceil_mode": low.arg(node, 5, False),
    }  # fmt: skip
    return map_piece(x, MaxPool, low.flow.value(x).shape[1], fields=fields)


def _avg_pool(low: Lowering, node: fx.Node) -> Piece | None:
    x = low.arg(node, 0)
    if not low.is_map(x) or low.arg(node, 6) is not None:
        return None
    kernel = pair(node.args[1])
    fields = {
        "kernel": kernel, "stride": pair(low.arg(node, 2) or kernel), "padding": pair(low.arg(node, 3, 0)),
        "ceil_mode": low.arg(node, 4, False), "count_include_pad": low.arg(node, 5, True),
    }  # fmt: skip
    return map_piece(x, AvgPool, low.flow.value(x).shape[1], fields=fields)


def _global_pool(low: Lowering, x: Any, keep: bool) -> Piece | None:
    if not low.is_map(x):
        return None
    channels = low.flow.value(x).shape[1]
    return Piece(
        inputs=(x,), reads="map", layout="map" if keep else "rows", channels=channels, rank=4 if keep else 2,
        step=GlobalAvgPool, fields={"keep_dims": keep},
    )  # fmt: skip


def _adaptive_pool(low: Lowering, node: fx.Node) -> Piece | None:
    x, out = low.arg(node, 0), pair(node.args[1])
    if out == (1, 1):
        return _global_pool(low, x, True)
    if not low.is_map(x):
        return None
    size = low.flow.shape(x)[2:]
    if any(s % o for s, o in zip(size, out, strict=True)):
        return None
    if not (low.flow.is_fixed(x, 2) and low.flow.is_fixed(x, 3)):
        # For one size of the image it is a plain pooling, or nothing at all.
        raise NeedsFixedSizeError(
            f"adaptive pooling to {out} of images of any size", expected="one size", mend="fix the size"
        )
    if size == out and x in low.pieces:
        return low.pointwise(x)
    kernel = (size[0] // out[0], size[1] // out[1])
    return map_piece(x, AvgPool, low.flow.shape(x)[1], fields={"kernel": kernel, "stride": kernel})


def _mean(low: Lowering, node: fx.Node) -> Piece | None:
    x, axes = low.arg(node, 0), low.arg(node, 1)
    if not low.is_map(x) or {a % 4 for a in axes or ()} != {2, 3} or node.kwargs.get("dtype"):
        return None
    return _global_pool(low, x, low.arg(node, 2, False))


def _flatten(low: Lowering, node: fx.Node) -> Piece | None:
    x = low.arg(node, 0)
    if not low.is_map(x) or low.flow.value(node).dim() != 2:
        return None
    before, after = low.flow.shape(x), low.flow.shape(node)
    # Where the size of the image is free, a linear layer behind fixes the features all the same.
    if before[0] != after[0] or not (low.flow.is_fixed(node, 1) or _feeds_linear(low, node)):
        return None
    return Piece(
        inputs=(x,), reads="map", layout="rows", channels=after[1], rank=2, step=Flatten,
        fields={"features": after[1]},
    )  # fmt: skip


def _feeds_linear(low: Lowering, node: fx.Node) -> bool:
    users = [u for n in (node, *(s for s in low.flow.same if low.flow.source(s) is node)) for u in n.users]
    linears = (aten.linear.default, captured.captured_linear)
    return all(u.target in linears or u in low.flow.same for u in users)


def _slice(low: Lowering, node: fx.Node) -> Piece | None:
    x, axis, step = low.arg(node, 0), low.arg(node, 1, 0), low.arg(node, 4, 1)
    if not low.is_map(x) or axis % 4 not in (2, 3) or not low.flow.slices_all(node) or step >= 1 << 10:
        return None
    stride = (step, 1) if axis % 4 == 2 else (1, step)
    return map_piece(x, Subsample, low.flow.value(x).shape[1], fields={"stride": stride})


def _pad(low: Lowering, node: fx.Node) -> Piece | None:
    """Zero channels; spatial zeros are the business of the convolution behind them."""
    x, amounts = low.arg(node, 0), zeros_around(low, node)
    if amounts is None or not low.is_map(x) or len(amounts) != 6 or any(amounts[:4]):
        return None
    fields = {"stride": (1, 1), "before": amounts[4], "after": amounts[5]}
    return map_piece(x, Subsample, low.flow.value(x).shape[1] + sum(amounts), fields=fields)


def _cat(low: Lowering, node: fx.Node) -> Piece | None:
    parts: Any = node.args[0]
    parts = tuple(low.flow.source(p) for p in parts)
    layout: Layout | None = next((low.layout_of(p) for p in parts if low.layout_of(p)), None)
    rank = low.flow.value(node).dim()
    axis = low.arg(node, 1, 0) % rank
    if layout is None or axis != (1 if layout == "map" else rank - 1):
        return None
    if not all(low.is_map(p) if layout == "map" else low.is_rows(p) for p in parts):
        return None
    channels = sum(low.flow.value(p).shape[axis] for p in parts)
    return Piece(
        inputs=parts, reads=layout, layout=layout, channels=channels, rank=rank, step=Concat,
        fields={"layout": layout},
    )  # fmt: skip


RULES: dict[Any, Rule] = {
    aten.max_pool2d.default: _max_pool,
    aten.max_pool2d_with_indices.default: _max_pool,
    aten.avg_pool2d.default: _avg_pool,
    aten.adaptive_avg_pool2d.default: _adaptive_pool,
    aten.mean.dim: _mean,
    aten.flatten.using_ints: _flatten,
    aten.view.default: _flatten,
    aten.reshape.default: _flatten,
    aten._unsafe_view.default: _flatten,
    aten.squeeze.dims: _flatten,
    aten.slice.Tensor: _slice,
    aten.constant_pad_nd.default: _pad,
    aten.pad.default: _pad,
    aten.cat.default: _cat,
}
