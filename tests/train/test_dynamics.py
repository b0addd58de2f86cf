"""What the log says of binary layers, against independent counts."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from irnet_convert.layers import (
    BinaryConv2d,
    BinaryLinear,
    BinaryMultiheadAttention,
    set_binarized,
    set_progress,
)
from irnet_convert.recipe import EdeSpec
from irnet_convert.train import finetune
from irnet_convert.train.checkpoint import load_checkpoint
from irnet_convert.train.dynamics import (
    describe_epoch,
    packed_signs,
    saturated_inputs,
    saturation,
    watched_inputs,
)


def network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(BinaryConv2d(3, 5, 3), nn.Linear(4, 4), BinaryLinear(7, 3))  # 135 and 21 weights


def signs_of(layer: nn.Module) -> np.ndarray:
    latent = layer.weight.detach().double().flatten(1).numpy()
    return latent - latent.mean(1, keepdims=True) >= 0


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 1000), st.floats(0, 1))
def test_flips_and_saturation_are_those_of_an_independent_count(seed: int, progress: float) -> None:
    model, ede = network(seed), EdeSpec(t_min=0.05, t_max=20.0)
    before, signs = packed_signs(model), {path: signs_of(model[int(path)]) for path in ("0", "2")}
    assert {path: len(bits) for path, bits in before.items()} == {"0": 17, "2": 3}
    assert describe_epoch(model, before, progress, ede)["flipped"] == 0
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    found = describe_epoch(model, before, progress, ede)
    changed = {path: signs_of(model[int(path)]) != signs[path] for path in signs}
    assert found["flipped_layers"] == {path: float(each.mean()) for path, each in changed.items()}
    assert found["flipped"] == sum(int(each.sum()) for each in changed.values()) / 156
    t = 0.05 * 400**progress
    assert found["ede"] == pytest.approx({"k": max(1 / t, 1), "t": t})
    for path, share in found["saturated_layers"].items():
        latent = model[int(path)].weight.detach().double().flatten(1).numpy()
        normed = (latent - latent.mean(1, keepdims=True)) / latent.std(1, ddof=1, keepdims=True)
        reach = np.abs(t * normed) - math.atanh(math.sqrt(0.99))
        certain = np.abs(reach) > 1e-4  # float32 decides the others
        assert abs(round(share * normed.size) - (reach > 0).sum()) <= (~certain).sum()
    assert found["progress"] == progress


def test_saturation_grows_with_the_sharpness_and_constant_filters_have_none() -> None:
    model, ede = network(0), EdeSpec()
    shares = [saturation(model, progress, ede)["0"] for progress in (0.0, 0.5, 0.8, 1.0)]
    assert shares[0] == 0  # t = 0.1 reaches |ŵ| = 30
    assert shares == sorted(shares)
    assert 0.5 < shares[-1] < 1
    nn.init.constant_(model[0].weight, 3.0)
    assert saturation(model, 1.0, ede)["0"] == 0


def test_every_epoch_is_logged(tiny: Any) -> None:
    result = finetune(tiny(optimizer={"lr": 0.05}))
    lines = [json.loads(line) for line in (result.run_dir / "metrics.jsonl").read_text().splitlines()]
    epochs = [line for line in lines if line["event"] == "epoch"]
    assert [line["ede"]["t"] for line in epochs] == pytest.approx([1.0, 10.0])
    for line in epochs:
        assert 0 < line["flipped"] < 0.5
        assert line["flipped_layers"].keys() == line["saturated_layers"].keys()
        assert "blocks.0.attn.qkv" in line["flipped_layers"]
        assert {"loss", "eval_top1", "lr", "samples_per_second", "progress"} <= line.keys()
    # Against the checkpoints: the second epoch began where the first one ended.
    first, last = (load_checkpoint(result.run_dir / "checkpoints" / f"step-00000000{n}") for n in (4, 8))
    name, flips, weights = "blocks.0.attn.qkv", 0, [c.tensors["model"] for c in (first, last)]
    a, b = (w[f"{name}.weight"].double() - w[f"{name}.weight"].double().mean(1, True) >= 0 for w in weights)
    flips = float((a != b).double().mean())
    assert epochs[1]["flipped_layers"][name] == pytest.approx(flips)


def test_a_full_precision_run_says_nothing_of_binary_layers(tiny: Any) -> None:
    result = finetune(tiny(policy=None, epochs=1))
    line = json.loads((result.run_dir / "metrics.jsonl").read_text().splitlines()[1])
    assert not {"ede", "flipped", "saturated_layers", "progress"} & line.keys()


def test_saturated_activations_are_those_of_an_independent_count() -> None:
    torch.manual_seed(0)
    conv, linear = BinaryConv2d(3, 4, 3).double(), BinaryLinear(4, 4).double()
    real = BinaryLinear(4, 2, act_bits=32).double()
    linear.add_threshold()
    nn.init.normal_(linear.threshold)
    attention = BinaryMultiheadAttention(4, 2).double()
    model = nn.ModuleDict({"conv": conv, "linear": linear, "real": real, "attention": attention})
    set_progress(model, 0.7)
    x, rows = 3 * torch.randn(2, 3, 5, 5).double(), [torch.randn(5, 4).double() for _ in range(2)]
    with watched_inputs(model) as noted:
        conv(x)
        real(linear(rows[0]))
        linear(rows[1])
        attention(rows[0], rows[0], rows[0])
    found = saturated_inputs(noted, Accelerator(cpu=True))
    limit = math.atanh(math.sqrt(0.99)) / float(conv.ede[1])

    def share(values: torch.Tensor) -> float:
        return float((values.abs() > limit).double().mean())

    shifted = [share(each - linear.threshold.detach()) for each in rows]
    wanted = {"conv": share(x), "linear": sum(shifted) / 2, "attention": share(rows[0])}
    assert found == pytest.approx(wanted)
    assert 0 < found["conv"] < 1
    conv(x)
    assert len(noted["conv"]) == 1  # it looks no longer
    set_binarized(model, "weights")
    with watched_inputs(model) as noted:
        conv(x)
    assert saturated_inputs(noted, Accelerator(cpu=True)) == {}


def test_every_epoch_logs_the_activations_of_its_last_batch(tiny: Any) -> None:
    result = finetune(tiny(grad_accumulation=2))
    lines = [json.loads(line) for line in (result.run_dir / "metrics.jsonl").read_text().splitlines()]
    first, second = (line["saturated_inputs"] for line in lines if line["event"] == "epoch")
    assert first.keys() == second.keys() == lines[1]["saturated_layers"].keys()
    assert all(0 <= value <= 1 for value in [*first.values(), *second.values()])
    assert max(second.values()) > max(first.values())  # t has grown tenfold
