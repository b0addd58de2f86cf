"""What is said never to be negative never is: random little networks, and the spellings one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from irnet_convert.graph.example import example_of
from irnet_convert.graph.record import record
from irnet_convert.graph.signs import never_negative

SHAPE = (2, 4, 6, 6)


def _written_by_view(x: Tensor, _: Tensor) -> Tensor:
    y = x.clone()
    y[:, :2].copy_(x[:, 2:])
    return y


def _overwritten(x: Tensor, y: Tensor) -> Tensor:
    return torch.relu(x).copy_(y)


#: Every operator takes two tensors of one shape and returns one of that shape.
OPS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "relu": lambda x, _: F.relu(x),
    "relu_in_place": lambda x, _: F.relu(x.clone(), inplace=True),
    "relu6": lambda x, _: F.relu6(x),
    "sigmoid": lambda x, _: x.sigmoid(),
    "hardsigmoid": lambda x, _: F.hardsigmoid(x),
    "abs": lambda x, _: x.abs(),
    "exp": lambda x, _: x.clamp(max=3).exp(),
    "square": lambda x, _: x.square(),
    "power_two": lambda x, _: x**2,
    "power_three": lambda x, _: x.clamp(-2, 2) ** 3,
    "softmax": lambda x, _: x.softmax(1),
    "gelu": lambda x, _: F.gelu(x),
    "silu": lambda x, _: F.silu(x),
    "hardswish": lambda x, _: F.hardswish(x),
    "tanh": lambda x, _: x.tanh(),
    "leaky": lambda x, _: F.leaky_relu(x, 0.1),
    "neg": lambda x, _: -x,
    "minus_one": lambda x, _: x - 1,
    "plus_negative": lambda x, _: x + (-0.5),
    "plus_one": lambda x, _: x + 1,
    "double": lambda x, _: x * 2,
    "negated": lambda x, _: x * -0.5,
    "halved": lambda x, _: x / 2,
    "by_negative": lambda x, _: x / -2,
    "add": lambda x, y: x + y,
    "add_negated": lambda x, y: torch.add(x, y, alpha=-1),
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "maximum": torch.maximum,
    "max_of_two": torch.max,
    "minimum": torch.minimum,
    "clamp_zero": lambda x, _: x.clamp(min=0),
    "clamp_min_negative": lambda x, _: x.clamp(min=-0.5),
    "clamp_max": lambda x, _: x.clamp(max=1),
    "clamp_max_negative": lambda x, _: x.clamp(max=-0.5),
    "clamp_both": lambda x, _: x.clamp(0, 1),
    "hardtanh": lambda x, _: F.hardtanh(x),
    "hardtanh_negative": lambda x, _: F.hardtanh(x, -2.0, -1.0),
    "max_pool": lambda x, _: F.max_pool2d(x, 3, 1, 1),
    "avg_pool": lambda x, _: F.avg_pool2d(x, 3, 1, 1),
    "pad": lambda x, _: F.pad(x, (1, 1, 0, 0))[..., :6],
    "pad_negative": lambda x, _: F.pad(x, (1, 1, 0, 0), value=-1.0)[..., :6],
    "flip": lambda x, _: x.flip(1),
    "permute": lambda x, _: x.permute(0, 1, 3, 2),
    "reshape": lambda x, _: x.reshape(2, -1).reshape(SHAPE),
    "chunk_first": lambda x, _: x.chunk(2, 1)[0].repeat(1, 2, 1, 1),
    "dropout": lambda x, _: F.dropout(x, 0.5, training=True),
    "alpha_dropout": lambda x, _: F.alpha_dropout(x, 0.5, training=True),
    "bilinear": lambda x, _: F.interpolate(F.interpolate(x, size=(3, 3), mode="bilinear"), size=(6, 6)),
    "bicubic": lambda x, _: F.interpolate(F.interpolate(x, size=(9, 9), mode="bicubic"), size=(6, 6)),
    "written_by_view": _written_by_view,
    "overwritten": _overwritten,
    "mean": lambda x, _: x.mean(1, keepdim=True).expand(SHAPE),
    "where": lambda x, y: torch.where(x > 0, x, y),
    "layer_norm": lambda x, _: F.layer_norm(x, (6,)),
}


class Program(nn.Module):
    """Values are numbered; each step is an operator on two of them. The last one is returned."""

    def __init__(self, steps: list[tuple[str, int, int]]) -> None:
        super().__init__()
        self.steps = steps

    def forward(self, x: Tensor) -> Tensor:
        values = [x]
        for name, first, second in self.steps:
            values.append(OPS[name](values[first % len(values)], values[second % len(values)]))
        return values[-1]


def claims_never_negative(model: nn.Module, shape: tuple[int, ...] = SHAPE) -> bool:
    rec = record(model, example_of(model, torch.zeros(shape)))
    return bool(rec.outputs & set(never_negative(rec)))


step = st.tuples(st.sampled_from(sorted(OPS)), st.integers(0, 8), st.integers(0, 8))


@settings(max_examples=150, deadline=None)
@given(st.lists(step, min_size=1, max_size=6))
def test_a_claim_is_never_contradicted_by_a_value(steps: list[tuple[str, int, int]]) -> None:
    model = Program(steps)
    if claims_never_negative(model):
        generator = torch.Generator().manual_seed(0)
        for _ in range(4):
            assert not (model(3 * torch.randn(SHAPE, generator=generator)) < 0).any()


@pytest.mark.parametrize("source", ["relu", "relu_in_place", "relu6", "clamp_zero", "clamp_both", "abs"])
@pytest.mark.parametrize(
    "then",
    ["max_pool", "avg_pool", "permute", "reshape", "chunk_first", "dropout", "double", "halved", "pad",
     "plus_one", "mean", "flip", "clamp_max", "clamp_min_negative", "tanh", "gelu", "silu",
     "hardtanh", "bilinear"],
)  # fmt: skip
def test_what_keeps_the_sign_passes_the_claim_on(source: str, then: str) -> None:
    assert claims_never_negative(Program([(source, 0, 0), (then, 1, 1)]))


@pytest.mark.parametrize("op", ["neg", "minus_one", "negated", "layer_norm", "pad_negative", "alpha_dropout",
                                "clamp_max_negative", "bicubic"])  # fmt: skip
def test_what_turns_the_sign_ends_the_claim(op: str) -> None:
    assert claims_never_negative(Program([("relu", 0, 0)]))
    assert not claims_never_negative(Program([("relu", 0, 0), (op, 1, 1)]))


@pytest.mark.parametrize("name", ["add", "mul", "maximum", "minimum", "max_of_two"])
def test_two_operands(name: str) -> None:
    both = [("relu", 0, 0), ("sigmoid", 0, 0), (name, 1, 2)]
    one = [("relu", 0, 0), (name, 0, 1)]
    assert claims_never_negative(Program(both))
    assert claims_never_negative(Program(one)) == (name in ("maximum", "max_of_two"))


def test_a_concatenation_counts_as_never_negative_if_one_part_is() -> None:
    """The signs of that part would be constant: its ReLU must change too."""

    class Half(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([F.relu(x), -x], 1)

    assert claims_never_negative(Half())


def test_a_relu_taken_as_changed_makes_no_claim() -> None:
    model = Program([("relu", 0, 0), ("max_pool", 1, 1)])
    rec = record(model, example_of(model, torch.zeros(SHAPE)))
    signs = never_negative(rec)
    (output,) = rec.outputs
    assert signs[output] == {0}
    assert never_negative(rec, {0}) == {}


class _Affine(nn.Module):
    def __init__(self, shape: tuple[int, ...], run: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.scale, self.bias = nn.Parameter(torch.ones(shape)), nn.Parameter(torch.zeros(shape))
        self.run = run

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x, self.scale, self.bias)


@pytest.mark.parametrize(
    ("run", "shape", "one_sided"),
    [
        (lambda x, scale, bias: scale * F.relu(x) + bias, (1,), True),
        (lambda x, scale, bias: scale * F.relu(x) ** 2 + bias, (), True),
        (lambda x, scale, bias: scale * x + bias, (1,), False),
        (lambda x, scale, bias: F.relu(x) + bias, (1, 4, 1, 1), False),  # a bias for each channel tells
        (lambda x, scale, bias: scale + bias, (1,), False),
    ],
)
def test_a_learnable_number_hides_no_relu(run: Any, shape: tuple[int, ...], one_sided: bool) -> None:
    net = _Affine(shape, run)
    rec = record(net, example_of(net, torch.zeros(SHAPE)))
    assert (rec.outputs <= never_negative(rec).keys()) == one_sided


@pytest.mark.parametrize("positive", ["query", "key", "value"])
def test_attention_has_the_sign_of_its_values(positive: str) -> None:
    def run(x: Tensor, *_: Tensor) -> Tensor:
        given = {name: x.flatten(2) for name in ("query", "key", "value")}
        given[positive] = given[positive].sigmoid()
        return F.scaled_dot_product_attention(**given)

    net = _Affine((1,), run)
    rec = record(net, example_of(net, torch.zeros(SHAPE)))
    assert (rec.outputs <= never_negative(rec).keys()) == (positive == "value")
