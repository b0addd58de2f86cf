"""Native passes against the tensor operations that they stand for, for every instruction set."""

from __future__ import annotations

import ctypes
import math
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.aot_autograd import make_boxed_func
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from irnet_convert import native
from irnet_convert.binary import passes
from irnet_convert.binary.irnet import libra_pb
from irnet_convert.binary.sign import ede_sign, sign, signs_for_now
from irnet_convert.native import ISAS, Passes

FILE = native.library_file()
LIBRARY = ctypes.CDLL(str(FILE)) if FILE else None
USABLE = native.usable_isas(LIBRARY) if LIBRARY else ()

needs_library = pytest.mark.skipif(LIBRARY is None, reason="the native library was not built")


@pytest.fixture
def by() -> Iterator[Callable[[str | None], None]]:
    """Says what computes from now on: an instruction set, or None for tensor operations."""
    with pytest.MonkeyPatch.context() as patch:

        def choose(isa: str | None) -> None:
            found = None if isa is None or LIBRARY is None else Passes(LIBRARY, isa)
            patch.setattr(passes, "passes", lambda: found)

        yield choose


def sign_and_gradient(x: Tensor, grad: Tensor, ede: Tensor) -> tuple[Tensor, Tensor]:
    x = x.detach().requires_grad_()
    out = ede_sign(x, ede)
    return out.detach(), torch.autograd.grad(out, x, grad)[0]


def libra_and_gradient(w: Tensor, grad: Tensor, ede: Tensor) -> tuple[Tensor, Tensor]:
    w = w.detach().requires_grad_()
    out = libra_pb(w, ede)
    return out.detach(), torch.autograd.grad(out, w, grad)[0]


SPECIAL = torch.tensor([0.0, -0.0, math.nan, math.inf, -math.inf, 1e-40, -1e-40, 3e38, -3e38])


@needs_library
@pytest.mark.parametrize("isa", USABLE)
@pytest.mark.parametrize("t", [1e-3, 0.1, 1.0, 10.0, 1000.0])
@pytest.mark.parametrize("n", [0, 1, 3, 8, 33, 9000, 40_007])
def test_sign_and_surrogate(by, isa: str, t: float, n: int) -> None:
    x, grad = torch.cat([SPECIAL, torch.randn(n) / t]), torch.randn(len(SPECIAL) + n)
    ede = torch.tensor([max(1 / t, 1.0), t])
    by(None)
    out, back = sign_and_gradient(x, grad, ede)
    by(isa)
    found, found_back = sign_and_gradient(x, grad, ede)
    assert torch.equal(found, out)
    peak = float(ede.prod())
    torch.testing.assert_close(found_back, back, rtol=1e-5, atol=1e-7 * peak)
    assert torch.equal(found_back[2:5], torch.zeros(3))  # NaN, ±inf
    exact = grad.double() * peak / torch.cosh(t * x.double()).square()
    torch.testing.assert_close(found_back[9:].double(), exact[9:], rtol=2e-6, atol=1e-9 * peak)


@needs_library
@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_libra(data: st.DataObject) -> None:
    isa = data.draw(st.sampled_from(USABLE))
    # Two weights have the logarithm −1/2 whatever they are, so s hangs on a rounding; layers refuse them.
    filters, n = data.draw(st.integers(1, 9)), data.draw(st.integers(3, 80) | st.sampled_from([1, 577, 4608]))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31)))
    magnitude = 10.0 ** data.draw(st.integers(-30, 30))
    w = magnitude * (torch.randn(filters, n, generator=generator) + data.draw(st.sampled_from([0, 1, -20])))
    if data.draw(st.booleans()):
        w[0] = data.draw(st.sampled_from([0.0, -0.0, 0.1, 1e-40]))
    grad, t = torch.randn(filters, n, generator=generator), data.draw(st.sampled_from([0.1, 1.0, 10.0]))
    ede = torch.tensor([max(1 / t, 1.0), t])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passes, "passes", lambda: None)
        out, back = libra_and_gradient(w, grad, ede)
        patch.setattr(passes, "passes", lambda: Passes(LIBRARY, isa))  # pyright: ignore[reportArgumentType]
        found, found_back = libra_and_gradient(w, grad, ede)
    assert torch.equal(found, out)
    # Both are roundings of one formula, in which most may cancel: in three weights all but one part. So a
    # difference is measured by what there is before the mean and the deviation are taken out again.
    exact = w.double()
    deviation = exact.std(1, keepdim=True, correction=min(1, n - 1))
    z = (exact - exact.mean(1, keepdim=True)) / deviation
    parts = grad.double() * ede.prod() / torch.cosh(t * z).square() * out.double().abs() / deviation
    scale = back.abs().amax(1, keepdim=True).double().clamp(min=1e-38)
    scale = torch.maximum(scale, parts.nan_to_num(0, 0, 0).abs().amax(1, keepdim=True))
    assert n <= 2 or ((found_back - back).abs() / scale).max() < 2e-5 * max(
        1, abs(float(w.mean()) / magnitude)
    )


@needs_library
@pytest.mark.parametrize("isa", USABLE)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_broken_latent_is_seen_in_its_filter_alone(by, isa: str, bad: float) -> None:
    by(isa)
    w = torch.randn(3, 37)
    w[1, 35] = bad
    out = libra_pb(w, torch.ones(2))
    assert out[1].isnan().all()
    assert torch.isfinite(out[[0, 2]]).all()


@needs_library
@pytest.mark.parametrize("shape", [(6, 5, 3, 3), (6, 5, 2, 3, 2), (64, 48, 3, 3)])
def test_any_memory_format_and_number_of_threads(by, shape: tuple[int, ...]) -> None:
    """A gradient arrives in a format of its own."""
    w, grad, ede = torch.randn(shape), torch.randn(shape), torch.tensor([1.0, 3.0])
    last = torch.channels_last if len(shape) == 4 else torch.channels_last_3d
    for isa in USABLE:
        by(isa)
        for function in (sign_and_gradient, libra_and_gradient):
            out, back = function(w, grad, ede)
            found, found_back = function(w.to(memory_format=last), grad, ede)
            assert found.is_contiguous(memory_format=last)
            assert torch.equal(found, out)
            torch.testing.assert_close(found_back, back)
            threads = torch.get_num_threads()
            torch.set_num_threads(3)
            try:
                assert all(map(torch.equal, function(w, grad, ede), (out, back)))
            finally:
                torch.set_num_threads(threads)


@needs_library
def test_what_native_code_cannot_walk_over_takes_tensor_operations(by, monkeypatch) -> None:
    by("portable")
    called: list[str] = []
    call = Passes.call
    monkeypatch.setattr(
        Passes, "call", lambda self, name, *rest: (called.append(name), call(self, name, *rest))[1]
    )
    gaps = torch.randn(8, 10)[:, ::2]
    for x in (gaps, torch.randn(8, 5).t(), torch.randn(4, 5).double(), torch.randn(4, 5).bfloat16()):
        for function in (sign_and_gradient, libra_and_gradient):
            out, back = function(x, torch.ones_like(x), torch.ones(2, dtype=x.dtype))
            assert out.shape == back.shape == x.shape
    assert called == []
    sign(torch.randn(4, 5))
    assert called == ["sign"]


def test_the_gradient_of_the_gradient() -> None:
    """By the operations themselves: as if each surrogate were the function."""
    k, t = 1.0, 2.0
    ede = torch.tensor([k, t], dtype=torch.float64)
    x = torch.randn(3, 7, dtype=torch.float64, requires_grad=True)
    first = torch.autograd.grad(ede_sign(x, ede).sum(), x, create_graph=True)[0]
    second = torch.autograd.grad(first.sum(), x)[0]
    y = t * x.detach()
    torch.testing.assert_close(second, -2 * k * t * t * torch.tanh(y) / torch.cosh(y).square())

    w, grad = torch.randn_like(x).requires_grad_(), torch.randn(3, 7, dtype=torch.float64)
    plain = torch.autograd.grad(libra_pb(w, ede), w, grad)[0]
    found = torch.autograd.grad(libra_pb(w, ede), w, grad, create_graph=True)[0]
    torch.testing.assert_close(found, plain)

    def gradient(w: Tensor) -> Tensor:
        return torch.autograd.grad(libra_pb(w, ede), w, grad, create_graph=True)[0]

    assert torch.autograd.gradcheck(gradient, (w,))


def test_a_name_that_is_no_instruction_set_here_leaves_the_fastest(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is packed networks that refuse it, by name."""
    try:
        for wanted, expected in (("portable", "portable"), ("reference", None), ("sse9", (*USABLE, None)[0])):
            native.passes.cache_clear()
            monkeypatch.setenv(native.ISA_VARIABLE, wanted)
            found = native.passes()
            assert (found.isa if found else None) == (expected if USABLE else None)
        assert set(USABLE) <= set(ISAS)
    finally:
        native.passes.cache_clear()


@needs_library
@pytest.mark.parametrize(
    ("dtype", "isa", "natively"),
    [(torch.float32, "portable", True), (torch.float32, None, False), (torch.float64, "portable", False)],
)
def test_code_compiled_for_this_cpu_has_libra_natively(
    by, dtype: torch.dtype, isa: str | None, natively: bool
) -> None:
    by(isa)
    torch._dynamo.reset()
    called: set[str] = set()

    def noting(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        called.update(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return make_boxed_func(graph.forward)

    backend = aot_autograd(fw_compiler=noting, bw_compiler=noting)
    x, grad, w = (torch.randn(4, 12, dtype=dtype) for _ in range(3))
    ede = torch.tensor([1.0, 2.0], dtype=dtype)

    def loss(x: Tensor, w: Tensor) -> Tensor:
        return (ede_sign(x, ede) * libra_pb(w, ede) * grad).sum()

    found, wanted = [], []
    for run, into in ((loss, wanted), (torch.compile(loss, fullgraph=True, backend=backend), found)):
        leaves = [t.clone().requires_grad_() for t in (x, w)]
        run(*leaves).backward()
        into += [leaf.grad for leaf in leaves]
    torch.testing.assert_close(found[0], wanted[0])
    tolerance = {"rtol": 0, "atol": 0} if natively else {}
    torch.testing.assert_close(found[1], wanted[1], **tolerance)
    names = {"irnet_convert.libra.default", "irnet_convert.libra_gradient.default"}
    assert {name for name in called if name.startswith("irnet_convert.")} == (names if natively else set())


@needs_library
@pytest.mark.parametrize("isa", USABLE)
def test_signs_for_now_are_the_signs_in_one_place_for_each_thread(by, isa: str) -> None:
    by(isa)
    large = torch.cat([torch.randn(2 * 3 * 5 * 4 - len(SPECIAL)), SPECIAL]).view(2, 3, 5, 4)
    small = torch.randn(7)
    last = large.to(memory_format=torch.channels_last)
    with torch.inference_mode():
        first = signs_for_now(large)
        assert torch.equal(first, sign(large))
    place = first.data_ptr()
    for x in (small, last, torch.nn.Parameter(small), large.requires_grad_()):
        found = signs_for_now(x)
        assert found.data_ptr() == place
        assert found.stride() == x.stride()
        assert not found.requires_grad
        assert torch.equal(found, sign(x))
    with ThreadPoolExecutor(1) as other:
        assert other.submit(lambda: signs_for_now(small).data_ptr()).result() != place


@pytest.mark.parametrize(
    "x",
    [
        torch.randn(6, dtype=torch.float64), torch.randn(6, dtype=torch.bfloat16),
        torch.arange(-3, 3), torch.randn(4, 6)[:, ::2], torch.randn(6, device="meta"),
    ],
    ids=["float64", "bfloat16", "integers", "gaps", "meta"],
)  # fmt: skip
def test_signs_for_now_of_what_native_passes_do_not_take(x: Tensor) -> None:
    found = signs_for_now(x)
    assert (found.shape, found.dtype, found.device) == (x.shape, x.dtype, x.device)
    assert x.is_meta or torch.equal(found, sign(x))
    assert x.is_meta or found.data_ptr() != signs_for_now(x).data_ptr()


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.trace:DeprecationWarning")
def test_signs_for_now_are_seen_by_who_watches() -> None:
    x = torch.randn(6)
    again = make_fx(signs_for_now, tracing_mode="real")(x)
    traced = torch.jit.trace(signs_for_now, (x,), check_trace=False)
    for run in (again, traced):
        assert torch.equal(run(-x), sign(-x))
    with FakeTensorMode():
        assert type(signs_for_now(torch.randn(1000))) is FakeTensor
    assert torch.equal(signs_for_now(torch.ones(2000)), torch.ones(2000))


@needs_library
def test_passes_run_on_the_threads_that_pytorch_has() -> None:
    """And give the same on threads of the library's own."""
    assert LIBRARY is not None
    threads, x = torch.get_num_threads(), torch.randn(200_000)
    try:
        torch.set_num_threads(2)
        for openmp in (native.openmp(), None):
            LIBRARY.irn_train_on(ctypes.c_void_p(openmp))
            out = torch.empty_like(x)
            Passes(LIBRARY, "portable").call("sign", (x, out), x.numel())
            assert torch.equal(out, torch.where(x >= 0, 1.0, -1.0))
    finally:
        LIBRARY.irn_train_on(ctypes.c_void_p(native.openmp()))
        torch.set_num_threads(threads)
    if sys.platform == "linux":
        assert native.openmp(), "this PyTorch has no GOMP_parallel"
