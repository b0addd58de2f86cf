"""A packed network that is one program: called again past PyTorch's dispatcher, but for those who look."""

from __future__ import annotations

import copy
import dataclasses
import gc
import pickle
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from irnet_convert import BinaryConv2d, BinaryLinear
from irnet_convert.errors import ArgumentError, NativeError
from irnet_convert.packed import PackedModel, engine, ops, pack
from irnet_convert.packed.again import MOST, Again
from irnet_convert.packed.library import Library


@pytest.fixture(scope="module")
def whole() -> PackedModel:
    """Fused whole: one program, whose only result is the network's."""
    net = nn.Sequential(nn.Conv2d(3, 8, 3), BinaryConv2d(8, 8, 3), nn.Flatten(), nn.Linear(128, 4)).eval()
    return pack(net, example_input=torch.zeros(1, 3, 8, 8))


class _Seen(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Any] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls.append(func)
        return func(*args, **(kwargs or {}))


class _FunctionsSeen(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Any] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls.append(func)
        return func(*args, **(kwargs or {}))


class _Sub(Tensor):
    pass


def test_whoever_looks_sees_the_operator(whole: PackedModel) -> None:
    """Where nobody looks, it is called past the dispatcher."""
    x = torch.randn(2, 3, 8, 8)
    plain = whole(x)
    assert torch.equal(plain, whole.body(x))
    for mode in (_Seen(), _FunctionsSeen()):
        with mode:
            assert torch.equal(whole(x), plain)
        assert ops.run_program in mode.calls
    with torch.autograd.profiler.profile() as profile:
        whole(x)
    assert any("run_program" in event.name for event in profile.function_events or ())
    graph = make_fx(whole)(x)
    assert any(node.target is ops.run_program for node in graph.graph.nodes)
    assert torch.equal(whole(x.as_subclass(_Sub)).as_subclass(Tensor), plain)


def test_what_only_the_dispatcher_can_resolve(whole: PackedModel) -> None:
    x = torch.randn(2, 3, 8, 8)
    negated = torch.view_as_complex(torch.stack([x, x], -1)).conj().imag
    assert negated.is_neg()
    alike = torch.empty_strided(negated.shape, negated.stride())
    for _ in range(2):  # also when an input that lies like it is known
        assert torch.equal(whole(negated), whole(-x))
        whole(alike.copy_(x))
    sparse = x.to_sparse()
    whole(x[:1, :1, :1, :1].expand(2, 3, 8, 8))
    with pytest.raises(ArgumentError, match="layout"):
        whole(sparse)
    nothing = torch._efficientzerotensor((2, 3, 8, 8))  # pyright: ignore[reportPrivateImportUsage]
    assert torch.equal(whole(nothing), whole(torch.zeros(2, 3, 8, 8)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_whatever_the_default_dtype_is(whole: PackedModel, dtype: torch.dtype) -> None:
    x = torch.randn(2, 3, 8, 8)
    plain = whole(x)
    torch.set_default_dtype(dtype)
    try:
        for run in (whole, whole.body, copy.deepcopy(whole)):
            assert torch.equal(run(x), plain)
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_blob_whose_storage_changed_gets_another_plan(whole: PackedModel) -> None:
    one, other = copy.deepcopy(whole), copy.deepcopy(whole)
    x, blob = torch.randn(2, 3, 8, 8), other.body.blob0
    blob[-200:] = 0
    plain, want = one(x), other(x)
    assert not torch.equal(plain, want)
    one.body.blob0.data = blob.data.clone()
    assert torch.equal(one(x), want)
    assert torch.equal(one(x.half()), other(x.half()))
    assert torch.equal(one(x), want)


def test_a_call_like_the_last_is_one_like_any_other(whole: PackedModel) -> None:
    """What is known of the last one's input is neither used for another, nor instead of a check."""
    torch.manual_seed(0)
    for x in (torch.randn(2, 3, 8, 8), torch.randn(5, 3, 8, 8)):
        want = whole.body(x)
        for _ in range(3):
            for given in (x, x.contiguous(memory_format=torch.channels_last), x.flip(3).flip(3)):
                assert torch.equal(whole(given), want)
        columns = x.transpose(2, 3).contiguous()
        assert torch.equal(whole(columns.transpose(2, 3)), want)
        assert torch.equal(whole(columns), whole.body(columns))
        assert torch.equal(whole(x.half()), whole.body(x.half().float()).half())
    twin = whole(x)
    assert twin.data_ptr() != whole(x).data_ptr()
    for wrong in (
        x[:, :, :7],
        x[:, :2],
        x.double(),
        x.to("meta"),
        x.clone().requires_grad_(),
        x[0],
        x.to_sparse(),
    ):
        with pytest.raises(ArgumentError):
            whole(wrong)
    with torch.no_grad():
        assert torch.equal(whole(x.clone().requires_grad_()), twin)


@pytest.fixture
def called(whole: PackedModel, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The inputs of the calls that were not repeats of one before."""
    inputs: list[Tensor] = []
    forward = whole.body.forward
    monkeypatch.setattr(whole.body, "forward", lambda x: inputs.append(x) or forward(x))
    monkeypatch.setattr(whole, "_again", Again())
    return inputs


native = pytest.mark.skipif(engine.isa_in_use() == "reference", reason="there are no native kernels")


@native
def test_a_call_is_a_repeat_if_its_input_is_like_one_before(whole: PackedModel, called: list[Tensor]) -> None:
    x = torch.randn(2, 3, 8, 8)
    for given in (x, x.clone(), x.to(memory_format=torch.channels_last), -x):
        whole(given)
    assert len(called) == 2
    with torch.no_grad(), _FunctionsSeen():
        whole(x)
    whole(x.half())
    assert len(called) == 4
    whole(x)
    with torch.no_grad():
        whole(x.clone().requires_grad_())
    whole(**{whole.network.inputs[0].name: x})
    assert len(called) == 4
    with pytest.raises(ArgumentError):
        whole(x, zzz=1)
    with pytest.raises(ArgumentError):
        whole(x.clone().requires_grad_())


@native
def test_copies_know_no_calls(whole: PackedModel) -> None:
    x = torch.randn(2, 3, 8, 8)
    want = whole(x)
    for twin in (copy.deepcopy(whole), pickle.loads(pickle.dumps(whole))):
        assert not twin._again._known
        assert torch.equal(twin(x), want)
        assert torch.equal(twin(x), want)


@native
def test_repeats_use_the_threads_that_there_are_now(
    whole: PackedModel, called: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[int] = []
    run = Library.run_again
    monkeypatch.setattr(Library, "run_again", lambda *a: used.append(a[-1]) or run(*a))
    before = torch.get_num_threads()
    try:
        for threads in (1, 1, 2):
            torch.set_num_threads(threads)
            whole(torch.randn(2, 3, 8, 8))
    finally:
        torch.set_num_threads(before)
    assert used == [1, 2]


@native
def test_nothing_is_kept_alive(whole: PackedModel) -> None:
    moved = copy.deepcopy(whole)
    moved(torch.randn(2, 3, 8, 8))
    blob = moved.body.get_buffer("blob0")
    seen = weakref.ref(blob)
    moved.to("meta")
    engine.forget(blob)
    del blob
    gc.collect()
    assert seen() is None


@native
def test_rows_that_are_not_contiguous_are_no_repeats() -> None:
    packed = pack(nn.Sequential(BinaryLinear(64, 5)).eval(), example_input=torch.zeros(1, 64))
    wide = torch.randn(3, 128)
    for _ in range(3):
        assert torch.equal(packed(wide[:, ::2]), packed(wide[:, ::2].clone()))
    assert len(packed._again._known) == 1


@native
def test_a_program_without_kernels_runs_in_the_reference(
    whole: PackedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any) -> None:
        raise NativeError("no kernel", expected="one", mend="none")

    x = torch.randn(2, 3, 8, 8)
    want, other = whole(x), copy.deepcopy(whole)
    monkeypatch.setattr(engine, "Plan", refuse)
    with pytest.warns(UserWarning, match="no kernel"):
        first = other(x)
    for found in (first, other(x)):
        torch.testing.assert_close(found, want, rtol=1e-5, atol=1e-5)


@native
def test_a_plan_that_was_dropped_is_made_anew(whole: PackedModel, called: list[Tensor]) -> None:
    x = torch.randn(2, 3, 8, 8)
    want = whole(x)
    engine.forget(whole.body.get_buffer("blob0"))
    for _ in range(2):
        assert torch.equal(whole(x), want)
    assert len(called) == 2


@native
def test_not_every_input_there_ever_was_is_known(whole: PackedModel, called: list[Tensor]) -> None:
    for size in range(1, MOST + 4):
        whole(torch.randn(size, 3, 8, 8))
        assert len(whole._again._known) <= MOST
    whole(torch.randn(MOST + 3, 3, 8, 8))
    assert len(called) == MOST + 3


@native
def test_what_the_native_code_refuses_is_said(whole: PackedModel, called: list[Tensor]) -> None:
    x = torch.randn(2, 3, 8, 8)
    whole(x)
    ((key, known),) = whole._again._known.items()
    whole._again._known[key] = dataclasses.replace(known, x=known.y)
    assert torch.equal(whole(x), whole.body(x))
    assert called[1] is x


def test_calls_between_those_of_compiled_code_compile_nothing_anew(whole: PackedModel) -> None:
    torch.compiler.reset()
    counter = CompileCounter()
    compiled = torch.compile(whole, fullgraph=True, backend=counter)
    x, more = torch.randn(2, 3, 8, 8), torch.randn(7, 3, 8, 8)
    for given in (more, x, more):
        whole(given)
        assert torch.equal(compiled(x), whole.body(x))
    assert counter.frame_count == 1


def test_networks_of_one_program_and_other_blobs(whole: PackedModel) -> None:
    """A copy that was moved, or whose constants were written to, is not the network that it was."""
    x = torch.randn(2, 3, 8, 8)
    plain = whole(x)
    other = copy.deepcopy(whole)
    assert torch.equal(other(x), plain)
    with torch.no_grad():
        other.body.get_buffer("blob0").copy_(whole.body.get_buffer("blob0").flip(0))
    assert torch.equal(whole(x), plain)
    assert not torch.equal(other(x), plain)
    meta = copy.deepcopy(whole).to("meta")
    with pytest.raises(ArgumentError, match="meta"):
        meta(x)
