"""PackedModel: what it takes and refuses, copies, moves, and what PyTorch's tools make of it."""

from __future__ import annotations

import copy
import gc
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from program_cases import case_of, programs
from torch import Tensor, nn

import irnet_convert
from irnet_convert import BinaryConv2d, BinaryLinear
from irnet_convert.errors import ArgumentError, PackError, ProgramError
from irnet_convert.packed import PackedModel, ops, pack


class Tiny(nn.Module):
    """A stem, a block with a shortcut, an operator that stays in PyTorch, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.conv = BinaryConv2d(8, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.softmax = nn.Softmax2d()
        self.conv2 = BinaryConv2d(8, 8, 3, stride=2)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.relu(self.norm(self.conv(x)) + x)
        x = self.softmax(x) - 0.125
        return self.head(self.conv2(x).mean((2, 3)))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return Tiny().eval()


@pytest.fixture(scope="module")
def packed(model: nn.Module) -> PackedModel:
    return pack(model, example_input=torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize("shape", [(1, 3, 8, 8), (3, 3, 8, 8), (2, 3, 11, 6)])
def test_any_batch_and_size(model: nn.Module, packed: PackedModel, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    with torch.no_grad():
        torch.testing.assert_close(packed(x), model(x), rtol=1e-5, atol=1e-5)


def test_the_report_says_what_stays_in_pytorch(packed: PackedModel) -> None:
    report = packed.report()
    assert [r.steps for r in report.regions] == [
        {"conv": 1, "binary_conv": 1},
        {"binary_conv": 1, "global_avg_pool": 1, "linear": 1},
    ]
    assert report.operators == {"softmax.int": 1, "sub.Tensor": 1}
    assert "2 fused region(s) of 5 steps" in str(report)
    assert "softmax" in str(report)
    assert "any" in report.image_size
    assert report.summary() in repr(packed)
    # 8·8·9 bits and as many again; the rest is real.
    assert report.regions[0].bit_bytes == 8 * 9
    assert all(r.kernel == ops.engine().isa_in_use() for r in report.regions)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_inputs_are_computed_in_float32(packed: PackedModel, dtype: torch.dtype) -> None:
    x = torch.randn(2, 3, 8, 8).to(dtype)
    found = packed(x)
    assert found.dtype == dtype
    assert torch.equal(found, packed(x.float()).to(dtype))


def test_layouts_of_the_input(packed: PackedModel) -> None:
    x = torch.randn(4, 3, 9, 8)
    want = packed(x)
    wide = torch.randn(4, 3, 9, 16)
    wide[..., ::2] = x
    views = [
        x.to(memory_format=torch.channels_last),
        wide[..., ::2],
        x.transpose(2, 3).contiguous().transpose(2, 3),
    ]
    for view in views:
        torch.testing.assert_close(packed(view), want, rtol=1e-6, atol=1e-6)
    assert torch.equal(packed(x[1:2]), want[1:2])


@pytest.mark.parametrize("isa", ["reference", ""])
def test_maps_lie_as_the_input_does(isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As PyTorch's convolutions have it; not where operators of PyTorch follow, which may refuse it."""
    if isa:
        monkeypatch.setenv("IRNET_ISA", isa)
    torch.manual_seed(0)
    conv = torch.nn.Sequential(
        irnet_convert.BinaryConv2d(3, 20, 3, bias=False), torch.nn.BatchNorm2d(20)
    ).eval()
    x = torch.randn(2, 3, 9, 8)
    whole = irnet_convert.pack(conv, example_input=x)
    rest = irnet_convert.pack(torch.nn.Sequential(conv, torch.nn.Softmax(1)).eval(), example_input=x)
    assert whole(x).is_contiguous()
    want = whole(x)
    for form in (torch.contiguous_format, torch.channels_last):
        for _ in range(2):  # the second call is a repeat of the first one
            found = whole(x.contiguous(memory_format=form))
            assert torch.equal(found, want)
            assert found.is_contiguous(memory_format=form)
        assert found.is_contiguous(memory_format=form)
        assert torch.equal(found, whole(x))
        half = whole(x.half().contiguous(memory_format=form))
        assert half.is_contiguous(memory_format=form)
        assert torch.equal(rest(x.contiguous(memory_format=form)), rest(x))
    compiled = torch.compile(whole, fullgraph=True, backend="aot_eager")
    assert compiled(x.to(memory_format=torch.channels_last)).stride() == found.stride()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ((torch.zeros(3, 8, 8),), r"unsqueeze"),
        ((torch.zeros(1, 1, 3, 8, 8),), "pass 4 dimensions"),
        ((torch.zeros(1, 4, 8, 8),), r"\(1, 4, 8, 8\)"),
        ((torch.zeros(1, 4, 8, 8),), "pass 3 channels"),
        ((torch.zeros(1, 8, 8, 3),), r"permute\(0, 3, 1, 2\)"),
        ((torch.zeros(1, 3, 8, 8, dtype=torch.float64),), r"mend it: x.float\(\)$"),
        ((torch.zeros(1, 3, 8, 8, dtype=torch.uint8),), "uint8"),
        ((torch.zeros(1, 3, 8, 8, dtype=torch.float64),), "float64"),
        ((torch.zeros(1, 3, 8, 8, device="meta"),), "on meta"),
        ((torch.zeros(1, 3, 8, 8, requires_grad=True),), "gradient"),
        ((torch.zeros(1, 3, 1, 1),), "kernel"),
        (([[1.0]],), "a list"),
        ((), "0 inputs"),
        ((torch.zeros(1, 3, 8, 8), 1), "2 inputs"),
    ],
)
def test_inputs_that_are_refused(packed: PackedModel, given: tuple[Any, ...], says: str) -> None:
    with pytest.raises(ArgumentError, match=says):
        packed(*given)


def test_inputs_by_name(packed: PackedModel) -> None:
    x = torch.randn(1, 3, 8, 8)
    assert torch.equal(packed(x=x), packed(x))
    with pytest.raises(ArgumentError, match="'y'"):
        packed(y=x)


def test_nothing_about_it_can_be_trained(packed: PackedModel) -> None:
    assert list(packed.parameters()) == []
    assert not packed.training
    assert packed.eval() is packed
    with pytest.raises(PackError, match="pack it again"):
        packed.train()
    assert not packed(torch.randn(1, 3, 8, 8)).requires_grad


def test_copies_and_casts(packed: PackedModel) -> None:
    x = torch.randn(1, 3, 8, 8)
    want = packed(x)
    twin = copy.deepcopy(packed)
    assert torch.equal(twin(x), want)
    assert {b.data_ptr() for b in twin.buffers()}.isdisjoint({b.data_ptr() for b in packed.buffers()})
    # A cast is for parameters; constants keep the precision that the results rest on.
    assert torch.equal(twin.half()(x), want)
    assert torch.equal(twin.double()(x), want)
    assert torch.equal(twin.to("cpu")(x), want)


def test_plans_go_with_their_network(packed: PackedModel) -> None:
    engine = ops.engine()
    before = set(engine._plans)
    twin = copy.deepcopy(packed)
    twin(torch.randn(1, 3, 8, 8))
    added = set(engine._plans) - before
    assert len(added) == (0 if engine.isa_in_use() == "reference" else len(twin.programs))
    del twin
    gc.collect()
    assert not added & set(engine._plans)


def test_torch_compile_and_export(packed: PackedModel) -> None:
    x = torch.randn(2, 3, 8, 8)
    compiled = torch.compile(packed, fullgraph=True, backend="aot_eager", dynamic=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), packed(x))
        y = torch.randn(3, 3, 12, 9)
        torch.testing.assert_close(compiled(y), packed(y))
        auto = torch.export.Dim.AUTO
        program = torch.export.export(packed, (x,), dynamic_shapes=(({0: auto, 2: auto, 3: auto},),))
        torch.testing.assert_close(program.module()(y), packed(y))
    calls = [n for n in program.graph.nodes if n.target is ops.run_program]
    assert len(calls) == 2


def test_the_reference_gives_the_same(packed: PackedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(2, 3, 8, 8)
    want = packed(x)
    monkeypatch.setattr(ops, "engine", lambda: None)
    torch.testing.assert_close(packed(x), want, rtol=1e-5, atol=1e-5)
    assert {r.kernel for r in packed.report().regions} == {"reference"}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_real_weights_in_half_precision(model: nn.Module, dtype: torch.dtype) -> None:
    small = pack(model, example_input=torch.zeros(1, 3, 8, 8), real_dtype=dtype)
    kinds = {c.name: c.dtype for p in small.programs for c in p.constants}
    short = {torch.float16: "f16", torch.bfloat16: "bf16"}[dtype]
    assert kinds["stem.weight"] == kinds["head.weight"] == short
    assert {v for k, v in kinds.items() if k.endswith((".scale", ".shift"))} == {"f32"}
    rounded = copy.deepcopy(model)
    with torch.no_grad():
        for layer in (rounded.stem, rounded.head):
            layer.weight.copy_(layer.weight.to(dtype))
        x = torch.randn(2, 3, 8, 8)
        torch.testing.assert_close(small(x), rounded(x), rtol=1e-5, atol=1e-5)


def test_packing_leaves_the_model_as_it_was(model: nn.Module) -> None:
    twin = copy.deepcopy(model).train()
    before = {k: v.clone() for k, v in twin.state_dict().items()}
    found = pack(twin, example_input=torch.zeros(1, 3, 8, 8))
    assert twin.training
    assert "forward" not in vars(twin.conv)
    assert all(torch.equal(v, before[k]) for k, v in twin.state_dict().items())
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(found(x), model(x), rtol=1e-5, atol=1e-5)


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = BinaryLinear(8, 4), BinaryLinear(8, 4)

    def forward(self, left: Tensor, right: Tensor) -> dict[str, Any]:
        return {"sum": self.a(left) + self.b(right), "both": (self.a(left), [self.b(right)])}


def test_several_inputs_and_outputs() -> None:
    model = Named()
    left, right = torch.randn(3, 8), torch.randn(3, 8)
    packed = pack(model, example_input={"left": left, "right": right})
    found, want = packed(right=right, left=left), model(left, right)
    assert isinstance(found["both"], tuple)
    assert isinstance(found["both"][1], list)
    torch.testing.assert_close(found, want)
    half = packed(left.half(), right.half())
    assert half["both"][1][0].dtype == torch.float16


def test_parts_that_do_not_fit(packed: PackedModel) -> None:
    parts = (packed.network, packed.programs, packed.blobs, packed.constants)
    assert torch.equal(PackedModel(*parts)(torch.ones(1, 3, 8, 8)), packed(torch.ones(1, 3, 8, 8)))
    with pytest.raises(ProgramError, match="1 programs"):
        PackedModel(parts[0], parts[1][:1], *parts[2:])
    with pytest.raises(ProgramError, match="a blob of"):
        PackedModel(*parts[:2], [b[:-1] for b in parts[2]], parts[3])


@given(made=programs(), seed=st.integers(0, 3))
@settings(deadline=None, max_examples=8)
def test_the_operator_passes_opcheck(made, seed: int) -> None:
    program, shapes = made
    # opcheck compares results, and NaN with NaN is no equality to it.
    case = case_of(program, shapes, seed, special=False)
    torch.library.opcheck(ops.run_program, (case.inputs, case.blob, program.to_json()))
    if case.inputs[0].dim() == 4:
        last = [x.to(memory_format=torch.channels_last) if x.dim() == 4 else x for x in case.inputs]
        torch.library.opcheck(ops.run_program, (last, case.blob, program.to_json(), True))


def test_the_operator_checks_devices_and_dtypes() -> None:
    program, shapes = irnet_convert.packed.ops.program_of, None
    assert program is not None
    assert shapes is None
    blob = torch.zeros(0, dtype=torch.uint8)
    text = (
        '{"version":1,"inputs":[{"layout":"rows","channels":2,"rank":2}],"constants":[],'
        '"steps":[{"kind":"pointwise","input":0}],"outputs":[1]}'
    )
    with pytest.raises(ArgumentError, match="float64"):
        ops.run_program([torch.zeros(1, 2, dtype=torch.float64)], blob, text)
    with pytest.raises(ArgumentError, match="meta"):
        ops.run_program([torch.zeros(1, 2, device="meta")], blob, text)
    assert torch.equal(ops.run_program([torch.ones(1, 2)], blob, text)[0], torch.ones(1, 2))


class _Joined(torch.nn.Module):
    """The signs of two maps lie beside each other in every pixel of the third layer's input."""

    def __init__(self) -> None:
        super().__init__()
        self.a = irnet_convert.BinaryConv2d(32, 32, 3, padding=1, bias=False)
        self.b = irnet_convert.BinaryConv2d(32, 32, 3, padding=1, bias=False)
        self.p, self.q = torch.nn.BatchNorm2d(32), torch.nn.BatchNorm2d(32)
        self.c = irnet_convert.BinaryConv2d(64, 8, 3, padding=1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c(torch.cat([self.p(self.a(x)), self.q(self.b(x))], 1))


def test_signs_of_maps_that_are_joined() -> None:
    torch.manual_seed(0)
    model, x = _Joined().eval(), torch.randn(2, 32, 9, 10)
    packed = irnet_convert.pack(model, example_input=x)
    with torch.no_grad():
        assert torch.equal(packed(x), model(x))
