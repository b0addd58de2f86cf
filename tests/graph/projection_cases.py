"""Networks whose layers' weights their owner applies itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from timm.models.beit import Attention as BeitAttention
from timm.models.eva import EvaAttention
from timm.models.swin_transformer_v2 import WindowAttention as TimmWindows
from torch import Tensor, nn
from torchvision.models.swin_transformer import ShiftedWindowAttention, ShiftedWindowAttentionV2
from torchvision.models.video.swin_transformer import ShiftedWindowAttention3d

from irnet_convert.graph.nodes import is_layer, weight_of
from irnet_convert.policy import Policy, Rule

E = 8


class Own(nn.Module):
    """One layer applied with another bias, one with its own, one with none though it has one."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(E, 3 * E, bias=False)
        self.same, self.bare = nn.Linear(3 * E, E), nn.Linear(E, E)
        self.q_bias, self.v_bias = nn.Parameter(torch.randn(E)), nn.Parameter(torch.randn(E))
        self.drop = nn.Dropout(0.3)

    def forward(self, x: Tensor) -> Tensor:
        bias = torch.cat((self.q_bias, torch.zeros_like(self.q_bias), self.v_bias))
        x = torch.tanh(F.linear(x, weight=self.qkv.weight, bias=bias))
        x = self.drop(F.linear(x, self.same.weight, self.same.bias))
        return F.linear(bias=None, weight=self.bare.weight, input=x)


class SelfAttention(nn.Module):
    """nn.MultiheadAttention as torchvision's ViT calls it."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(E, 2, dropout=0.3, batch_first=True, **kwargs)

    def forward(self, x: Tensor) -> Tensor:
        return self.attn(x, x, x, need_weights=False)[0]


class Cross(SelfAttention):
    def forward(self, x: Tensor) -> Tensor:
        return self.attn(x[:, :2], x, x, attn_mask=torch.zeros(2, x.shape[1]).to(x))[0]


class Apart(SelfAttention):
    """Query, key and value of three different inputs, with weights returned."""

    def forward(self, x: Tensor) -> Tensor:
        output, weights = self.attn(x[:, :2], x.flip(1), torch.tanh(x))
        return output + weights.mean()


class Clip(nn.Module):
    """Attention by the function alone, with all four projections in layers."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.c_proj = (nn.Linear(E, E) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(0, 1)
        return F.multi_head_attention_forward(
            x[:1], x, x, E, 2, None, torch.cat([self.q_proj.bias, self.k_proj.bias, self.v_proj.bias]),
            None, None, False, 0.0, self.c_proj.weight, self.c_proj.bias, use_separate_proj_weight=True,
            q_proj_weight=self.q_proj.weight, k_proj_weight=self.k_proj.weight,
            v_proj_weight=self.v_proj.weight, training=self.training, need_weights=False,
        )[0]  # fmt: skip


_WINDOWS = {"window_size": [4, 4], "shift_size": [2, 2], "attention_dropout": 0.2, "dropout": 0.2}
KINDS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], set[str]]] = {
    "own": (Own, (5, E), {"qkv", "same", "bare"}),
    "beit": (lambda: BeitAttention(E, 2, qkv_bias=True, attn_drop=0.2, proj_drop=0.2), (5, E), {"qkv"}),
    "eva": (lambda: EvaAttention(E, 2, norm_layer=nn.LayerNorm, attn_drop=0.2), (5, E), {"qkv"}),
    "swin v2 of timm": (lambda: TimmWindows(E, (4, 4), 2, attn_drop=0.2), (16, E), {"qkv"}),
    "swin": (lambda: ShiftedWindowAttention(E, num_heads=2, **_WINDOWS), (8, 8, E), {"qkv", "proj"}),
    "swin v2": (lambda: ShiftedWindowAttentionV2(E, num_heads=2, **_WINDOWS), (8, 8, E), {"qkv", "proj"}),
    "swin 3d": (
        lambda: ShiftedWindowAttention3d(E, [2, 4, 4], [1, 2, 2], 2, attention_dropout=0.2, dropout=0.2),
        (4, 8, 8, E), {"qkv", "proj"},
    ),
    "attention": (SelfAttention, (5, E), {"attn", "attn.out_proj"}),
    "attention, no bias": (lambda: SelfAttention(bias=False), (5, E), {"attn", "attn.out_proj"}),
    "attention, all options": (
        lambda: SelfAttention(add_bias_kv=True, add_zero_attn=True), (5, E), {"attn", "attn.out_proj"}
    ),
    "cross attention": (Cross, (5, E), {"attn", "attn.out_proj"}),
    "attention apart": (Apart, (5, E), {"attn", "attn.out_proj"}),
    "clip": (Clip, (5, E), {"q_proj", "k_proj", "v_proj", "c_proj"}),
}  # fmt: skip


def network(kind: str) -> tuple[nn.Module, Tensor, set[str]]:
    """The owner between two layers, its projections' weights ±1, so that binarization changes none."""
    torch.manual_seed(0)
    build, shape, names = KINDS[kind]
    model = nn.Sequential(nn.Linear(E, E), build(), nn.LayerNorm(E), nn.Linear(E, E)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.abs().max() < 1e-4:  # initialised to nothing
                parameter.copy_(torch.randn_like(parameter))
        for layer in [m for m in model[1].modules() if is_layer(m)]:
            weight = weight_of(layer)
            # Rows that differ, so that one taken for another shows: pairs of signs change places, not counts.
            columns, rows = torch.arange(weight.shape[1]), torch.arange(weight.shape[0])[:, None]
            swapped = (columns // 2 + rows) % 3 == 0
            weight.copy_(torch.where((columns % 2 == 0) ^ swapped, 1.0, -1.0))
    return model, torch.randn(2, *shape), {f"1.{name}" for name in names}


REAL = Policy(
    [
        *(Rule(action="keep", position=p) for p in ("first", "last")),
        Rule(action="keep", role="constant_fed", optional=True),
        Rule(action="binarize", act_bits=32),
    ]
)
