"""``F.multi_head_attention_forward`` with its projections as calls of the caller's choice.

PyTorch's function applies all four projections itself, from weights that it is handed, so that a layer which
holds one of them is never called. This one computes the same and leaves it to ``linear`` how a weight is
applied.
"""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

#: (input, weight, bias) → output.
Linear = Callable[[Tensor, Any, Any], Tensor]


def attention(
    linear: Linear,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Any,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Any,
    out_proj_bias: Tensor | None,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None,
    static_k: Tensor | None = None,
    static_v: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """As ``F.multi_head_attention_forward``, whose other arguments and results these are.

    What stands for the packed and the output weight is only handed to ``linear``, the packed one after its
    ``split(sizes)`` where the inputs differ.
    """
    batched = query.dim() == 3
    if not batched:
        query, key, value = (x.unsqueeze(1) for x in (query, key, value))
        key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
    if use_separate_proj_weight:
        biases = (None,) * 3 if in_proj_bias is None else in_proj_bias.chunk(3)
        weights = (q_proj_weight, k_proj_weight, v_proj_weight)
        q, k, v = (linear(*one) for one in zip((query, key, value), weights, biases, strict=True))
    else:
        q, k, v = _packed(linear, query, key, value, in_proj_weight, in_proj_bias)
    hint = is_causal and key_padding_mask is None and not need_weights
    mask = None if hint else _mask(attn_mask, query)
    padding = _mask(key_padding_mask, query)
    extra = (bias_k is not None) + bool(add_zero_attn)
    if bias_k is not None and bias_v is not None:
        batch = query.shape[1]
        k, v = torch.cat([k, bias_k.repeat(1, batch, 1)]), torch.cat([v, bias_v.repeat(1, batch, 1)])
    q, k, v = (_heads(x, num_heads) for x in (q, k, v))
    k = k if static_k is None else static_k.unflatten(0, q.shape[:2])
    v = v if static_v is None else static_v.unflatten(0, q.shape[:2])
    if add_zero_attn:
        k, v = (F.pad(x, (0, 0, 0, 1)) for x in (k, v))
    merged = _merged(mask, padding, q, extra)
    dropout = dropout_p if training else 0.0
    probabilities = None
    if need_weights:
        mixed, probabilities = _weighed(q, k, v, merged, dropout)
    else:
        mixed = F.scaled_dot_product_attention(q, k, v, merged, dropout, hint)
    mixed = mixed.permute(2, 0, 1, 3).flatten(2)
    output = linear(mixed, out_proj_weight, out_proj_bias)
    if probabilities is not None and average_attn_weights:
        probabilities = probabilities.mean(dim=1)
    if batched:
        return output, probabilities
    return output.squeeze(1), None if probabilities is None else probabilities.squeeze(0)


def _packed(
    linear: Linear, query: Tensor, key: Tensor, value: Tensor, weight: Any, bias: Tensor | None
) -> tuple[Tensor, ...]:
    """The three projections, in as few products as there are different inputs."""
    if query is key and key is value:
        return linear(query, weight, bias).chunk(3, -1)
    width = query.shape[-1]
    sizes = [width, 2 * width] if key is value else [width] * 3
    biases = (None,) * len(sizes) if bias is None else bias.split(sizes)
    inputs = (query, key) if key is value else (query, key, value)
    made = [linear(*one) for one in zip(inputs, weight.split(sizes), biases, strict=True)]
    return (made[0], *made[1].chunk(2, -1)) if key is value else tuple(made)


def _mask(mask: Tensor | None, query: Tensor) -> Tensor | None:
    """What is added to the products: −∞ where a boolean mask is true."""
    if mask is None or mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=query.dtype).masked_fill_(mask, float("-inf"))


def _heads(x: Tensor, heads: int) -> Tensor:
    """(L, N, E) to (N, H, L, E / H)."""
    return x.unflatten(2, (heads, -1)).permute(1, 2, 0, 3)


def _merged(mask: Tensor | None, padding: Tensor | None, q: Tensor, extra: int) -> Tensor | None:
    """Both masks as one, (1 or N, 1 or H, 1 or L, S + extra); keys that were appended are never masked."""
    if mask is not None:
        mask = mask[None, None] if mask.dim() == 2 else mask.unflatten(0, q.shape[:2])
    if padding is not None:
        padding = padding[:, None, None]
        mask = padding if mask is None else mask + padding
    return mask if mask is None or extra == 0 else F.pad(mask, (0, extra))


def _weighed(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float) -> tuple[Tensor, Tensor]:
    """Attention spelled out: what it yields, (N, H, L, E / H), and the weights, (N, H, L, S)."""
    shape = q.shape[:2]
    rows, keys, values = (x.flatten(0, 1) for x in (q, k, v))
    rows = rows * sqrt(1.0 / q.shape[-1])
    if mask is None:
        products = torch.bmm(rows, keys.transpose(1, 2))
    else:
        added = mask.expand(*shape, *mask.shape[2:]).flatten(0, 1)
        products = torch.baddbmm(added, rows, keys.transpose(1, 2))
    weights = F.softmax(products, dim=-1)
    if dropout > 0:
        weights = F.dropout(weights, p=dropout)
    return torch.bmm(weights, values).unflatten(0, shape), weights.unflatten(0, shape)
