"""Attention whose projections are calls, against PyTorch's own, in values, weights, gradients and dropout."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from irnet_convert.layers.attention import attention

L, S, N, E, H = 5, 7, 3, 8, 2


def inputs(kind: str, batched: bool) -> tuple[Tensor, Tensor, Tensor]:
    def one(length: int) -> Tensor:
        return torch.randn((length, N, E) if batched else (length, E), requires_grad=True)

    query = one(S if kind == "self" else L)
    key = query if kind == "self" else one(S)
    return query, key, key if kind != "all" else one(S)


def masks(which: str, length: int, batched: bool) -> dict[str, Any]:
    shape = (N, S) if batched else (S,)
    padding = torch.zeros(shape, dtype=torch.bool)
    padding[..., -2:] = True
    causal = torch.triu(torch.ones(length, S, dtype=torch.bool), diagonal=1)
    found: dict[str, Any] = {}
    if "attn" in which:
        found["attn_mask"] = causal
    if "heads" in which:
        found["attn_mask"] = torch.randn((N if batched else 1) * H, length, S)
    if "padding" in which:
        found["key_padding_mask"] = padding
    if "float" in which:
        found = {k: torch.zeros_like(m, dtype=torch.float).masked_fill(m, -3.0) for k, m in found.items()}
    return found


@pytest.mark.parametrize("kind", ["self", "memory", "all"])
@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("which", ["", "attn", "padding", "attn padding", "heads", "attn padding float"])
def test_like_pytorchs(kind: str, batched: bool, need_weights: bool, which: str) -> None:
    for bias, bias_kv, zero, separate, p in itertools.product((True, False), repeat=5):
        torch.manual_seed(0)
        query, key, value = inputs(kind, batched)
        weights = torch.randn(3, E, E, requires_grad=True)
        packed = {"q_proj_weight": weights[0], "k_proj_weight": weights[1], "v_proj_weight": weights[2]}
        args = (
            E, H, None if separate else weights.flatten(0, 1), torch.randn(3 * E) if bias else None,
            torch.randn(1, 1, E) if bias_kv else None, torch.randn(1, 1, E) if bias_kv else None, zero,
            0.5 * p, torch.randn(E, E), torch.randn(E) if bias else None,
        )  # fmt: skip
        named = {
            "training": True, "need_weights": need_weights, "use_separate_proj_weight": separate,
            "average_attn_weights": zero, **(packed if separate else {}),
            **masks(which, len(query), batched),
        }  # fmt: skip
        made = []
        for run in (F.multi_head_attention_forward, lambda *a, **k: attention(F.linear, *a, **k)):
            torch.manual_seed(1)
            output, probabilities = run(query, key, value, *args, **named)
            grads = torch.autograd.grad(output.square().sum(), {query, key, value, weights})
            made.append((output, probabilities, *grads))
        for want, got in zip(*made, strict=True):
            if want is None:
                assert got is None
            else:
                torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("zero", [False, True])
def test_keys_and_values_that_are_projected_already(zero: bool) -> None:
    x, static = torch.randn(L, N, E), torch.randn(2, N * H, S, E // H)
    args = (E, H, torch.randn(3 * E, E), None, None, None, zero, 0.0, torch.randn(E, E), None)
    named = {"static_k": static[0], "static_v": static[1]}
    for want, got in zip(
        F.multi_head_attention_forward(x, x, x, *args, **named),
        attention(F.linear, x, x, x, *args, **named),
        strict=True,
    ):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_a_causal_hint() -> None:
    layer = nn.MultiheadAttention(E, H).eval()
    x = torch.randn(L, N, E)
    mask = nn.Transformer.generate_square_subsequent_mask(L)
    args = (E, H, layer.in_proj_weight, layer.in_proj_bias, None, None, False, 0.0,
            layer.out_proj.weight, layer.out_proj.bias)  # fmt: skip
    for need in (True, False):
        want, _ = F.multi_head_attention_forward(
            x, x, x, *args, attn_mask=mask, is_causal=True, need_weights=need
        )
        got, _ = attention(F.linear, x, x, x, *args, attn_mask=mask, is_causal=True, need_weights=need)
        torch.testing.assert_close(got, want)
