"""Both projections of nn.MultiheadAttention run packed, whatever its inputs are."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from irnet_convert import binarize
from irnet_convert.packed import pack


class Attention(nn.Module):
    def __init__(self, which: str) -> None:
        super().__init__()
        self.attn, self.which = nn.MultiheadAttention(16, 2, batch_first=True), which

    def forward(self, x: Tensor) -> Tensor:
        memory = x.flip(1) * 0.5
        given = {"self": (x, x, x), "memory": (x, memory, memory), "all": (x, memory, x * 2)}[self.which]
        return self.attn(*given, need_weights=False)[0]


@pytest.mark.parametrize(("which", "times"), [("self", 1), ("memory", 2), ("all", 3)])
def test_attention(which: str, times: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16), Attention(which), nn.Linear(16, 16)).eval()
    x = torch.randn(2, 5, 16)
    student = binarize(model, example_input=x)
    packed = pack(student)
    with torch.no_grad():
        torch.testing.assert_close(packed(x), student(x), rtol=1e-5, atol=1e-6)
    kinds = [type(step).__name__ for program in packed.programs for step in program.steps]
    assert kinds.count("BinaryLinear") == times + 1
