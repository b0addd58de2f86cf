"""Summaries against numbers counted by hand."""

from __future__ import annotations

import json

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from irnet_convert.convert import binarize
from irnet_convert.report import summarize


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(),
        nn.Conv2d(4, 4, 3, stride=2, padding=1, groups=2, bias=False), nn.BatchNorm2d(4), nn.ReLU(),
        nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip


X = torch.zeros(1, 3, 8, 8)


def test_by_hand() -> None:
    """8×8 images; the grouped 3×3 with stride 2 makes 4×4 and is the binary one."""
    summary = summarize(binarize(net(), example_input=X))
    stem, middle, head = 64 * 4 * 27, 16 * 4 * 18, 640
    weights = 4 * 2 * 9
    params = (108 + 4) + 8 + weights + 8 + (640 + 10)
    assert (summary.params, summary.binary_params) == (params, weights)
    assert summary.memory_bits == 32 * (params - weights) + weights
    assert summary.memory_bits_fp32 == 32 * params
    assert (summary.flops, summary.bops) == (stem + head, middle)
    assert summary.flops_fp32 == stem + middle + head
    assert summary.ops == stem + head + middle / 64
    assert [r.path for r in summary.layers] == ["0", "3", "7"]
    assert [r.kind for r in summary.layers] == ["Conv2d", "BinaryConv2d", "Linear"]
    assert [(r.flops, r.bops) for r in summary.layers] == [(stem, 0), (0, middle), (head, 0)]
    assert [(r.weight_bits, r.act_bits) for r in summary.layers] == [(32, 32), (1, 1), (32, 32)]
    assert summary.uncounted == {"batch_norm": 2, "hardtanh": 1, "relu": 1}
    assert json.loads(json.dumps(summary.to_dict()))["bops"] == middle
    assert "OPs = FLOPs + BOPs/64" in str(summary)


def test_before_conversion_everything_is_real() -> None:
    before, after = summarize(net(), X), summarize(binarize(net(), example_input=X))
    assert (before.bops, before.binary_params) == (0, 0)
    assert before.flops == before.flops_fp32 == after.flops_fp32
    assert before.memory_bits == before.memory_bits_fp32 == after.memory_bits_fp32
    assert before.ops == before.flops


class Attention(nn.Module):
    """Self attention, or three different inputs: the packed weight is applied once, or by thirds."""

    def __init__(self, apart: bool) -> None:
        super().__init__()
        self.attn, self.apart = nn.MultiheadAttention(8, 2, batch_first=True), apart

    def forward(self, x: Tensor) -> Tensor:
        return self.attn(x, x.flip(1), x * 2)[0] if self.apart else self.attn(x, x, x)[0]


@pytest.mark.parametrize("apart", [False, True])
def test_an_attention_counts_its_packed_projection_and_no_other(apart: bool) -> None:
    model = nn.Sequential(nn.Linear(8, 8), Attention(apart), nn.Linear(8, 8)).eval()
    x = torch.zeros(1, 5, 8)
    before, after = summarize(model, x), summarize(binarize(model, example_input=x))
    inputs, out = 5 * 8 * 24, 5 * 8 * 8
    for summary in (before, after):
        assert [r.path for r in summary.layers] == ["0", "1.attn", "1.attn.out_proj", "2"]
        assert [r.flops_fp32 for r in summary.layers] == [out, inputs, out, out]
    assert [r.bops for r in after.layers] == [0, inputs, out, 0]
    assert (before.layers[1].params, after.layers[1].params) == (8 * 24 + 24, 8 * 24 + 2 * 24)  # the scale
    assert after.layers[1].memory_bits == 8 * 24 + 32 * 2 * 24
    assert after.binary_params == 8 * 24 + 8 * 8


def test_resnet18_is_what_the_papers_say() -> None:
    """Bi-Real Net's table: 33.6 Mbit and 1.63e8 OPs for ResNet-18."""
    with torch.device("meta"):
        student = binarize(timm.create_model("resnet18"))
    summary = summarize(student)
    assert summary.memory_bits / 1e6 == pytest.approx(33.5, abs=0.1)
    assert summary.bops / 1e9 == pytest.approx(1.68, abs=0.01)
    assert summary.ops / 1e8 == pytest.approx(1.64, abs=0.02)
    assert summary.params == 11689512
    assert summary.flops_fp32 / 1e9 == pytest.approx(1.814, abs=0.001)


def test_numbers_are_for_one_sample() -> None:
    student = binarize(net(), example_input=X)
    one = summarize(student)
    for batch in (1, 2, 5):
        assert summarize(student, torch.zeros(batch, 3, 8, 8)) == one
    assert summarize(binarize(net(), example_input=torch.zeros(4, 3, 8, 8))) == one


def test_real_activations_count_as_real_work() -> None:
    summary = summarize(binarize(net(), "irnet_w1a32", example_input=X))
    assert summary.bops == 0
    assert summary.flops == summary.flops_fp32 == summary.ops
    assert summary.binary_params == 72
    assert [(r.weight_bits, r.act_bits) for r in summary.layers] == [(32, 32), (1, 32), (32, 32)]


class Odd(nn.Module):
    """A layer called twice, one whose weight alone is used, and one that never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.shared, self.bypassed = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 4)
        self.idle = nn.Linear(8, 8)
        self.alias = self.shared

    def forward(self, x: Tensor) -> Tensor:
        x = self.alias(torch.tanh(self.shared(self.first(x))))
        y = F.linear(x, self.bypassed.weight)
        return y @ y.transpose(-1, -2)


def test_shared_bypassed_and_idle_layers() -> None:
    summary = summarize(Odd(), torch.zeros(1, 3, 8))
    rows = {r.path: r for r in summary.layers}
    assert set(rows) == {"first", "shared", "bypassed", "idle"}
    assert rows["first"].flops == 3 * 64
    assert rows["shared"].flops == 2 * 3 * 64
    assert rows["bypassed"].flops == 3 * 32
    assert rows["idle"].flops == 0
    assert summary.params == 3 * 72 + 36
    assert set(summary.uncounted) >= {"tanh", "matmul"}


def test_scale_counts_as_real_parameters() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 2))
    summary = summarize(binarize(model, example_input=torch.zeros(1, 8)))
    assert summary.params == 72 + 72 + 8 + 18
    assert summary.binary_params == 64
    assert summary.memory_bits == 32 * (summary.params - 64) + 64


def test_transposed_convolution() -> None:
    summary = summarize(nn.Sequential(nn.ConvTranspose2d(3, 5, 2, stride=2)), torch.zeros(1, 3, 4, 4))
    assert summary.flops == 16 * 3 * 5 * 4


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_binary_convolutions_of_every_dimension(dims: int) -> None:
    """A grouped transposed convolution takes each input place to 2^d output places of a group's channels."""
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    transposed = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[dims - 1]
    model = nn.Sequential(
        conv(4, 4, 1), nn.Tanh(), conv(4, 6, 3, padding=1), nn.Tanh(),
        transposed(6, 4, 2, stride=2, groups=2, bias=False), nn.Tanh(), conv(4, 2, 1),
    )  # fmt: skip
    summary = summarize(binarize(model, example_input=torch.zeros(1, 4, *[5] * dims)))
    rows = {r.path: r for r in summary.layers}
    assert rows["2"].bops == 5**dims * 6 * 4 * 3**dims
    assert rows["4"].bops == 5**dims * 6 * 2 * 2**dims
    assert (rows["2"].flops, rows["4"].flops) == (0, 0)
    assert rows["4"].binary_params == 6 * 2 * 2**dims
    assert rows["4"].kind == f"BinaryConvTranspose{dims}d"


def test_a_detector_says_what_it_was_counted_on() -> None:
    detector = torchvision.models.get_model(
        "ssdlite320_mobilenet_v3_large", weights=None, weights_backbone=None
    )
    assert "128×128" in str(summarize(detector))
    assert "per input sample" in str(summarize(net(), X))
