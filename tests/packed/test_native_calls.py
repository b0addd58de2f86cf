"""How the native engine is called: threads, forks, memory formats, dtypes, cache, errors."""

from __future__ import annotations

import gc
import multiprocessing
import os
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from chosen_cases import assert_same
from program_cases import case_of
from torch import Tensor

from irnet_convert.errors import ArgumentError, UnknownNameError
from irnet_convert.packed import engine
from irnet_convert.packed.bits import pack_bits
from irnet_convert.packed.blob import make_blob
from irnet_convert.packed.encode import encode
from irnet_convert.packed.engine import Plan
from irnet_convert.packed.library import NativeError
from irnet_convert.packed.reference import run_reference
from irnet_convert.packed.steps import (
    Affine,
    BinaryConv,
    Clamp,
    ConstSpec,
    GlobalAvgPool,
    Pointwise,
    Program,
    ValueSpec,
)

pytestmark = pytest.mark.skipif(not engine.available_isas(), reason="the native library was not built")


def small_program(channels: int = 64, layers: int = 3) -> Program:
    specs, steps = [], []
    for i in range(layers):
        specs += [
            ConstSpec(name=f"{i}.weight", dtype="bits", shape=(channels, channels, 3, 3)),
            ConstSpec(name=f"{i}.scale", dtype="f32", shape=(channels,)),
            ConstSpec(name=f"{i}.shift", dtype="f32", shape=(channels,)),
        ]
        post = (Affine(scale=3 * i + 1, shift=3 * i + 2), Clamp(min=-1.0, max=1.0))
        steps.append(BinaryConv(input=i, weight=3 * i, padding=(1, 1, 1, 1), post=post))
    return Program(
        inputs=(ValueSpec(layout="map", rank=4, channels=channels),),
        constants=tuple(specs), steps=tuple(steps), outputs=(layers,),
    )  # fmt: skip


def blob_of(program: Program, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    values = {c.name: torch.randn(c.shape, generator=g) for c in program.constants}
    return make_blob(program, {n: pack_bits(v) if v.dim() > 1 else v for n, v in values.items()})


@pytest.fixture(scope="module")
def program() -> Program:
    return small_program()


@pytest.fixture(scope="module")
def blob(program: Program) -> Tensor:
    return blob_of(program)


@pytest.fixture(scope="module")
def plan(program: Program, blob: Tensor) -> Plan:
    return Plan(program, blob)


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_any_number_of_threads_gives_the_same(
    plan: Plan, program: Program, blob: Tensor, threads: int
) -> None:
    for batch in (1, 3):
        x = torch.randn(batch, 64, 13, 17)
        assert torch.equal(plan.run([x], threads=threads)[0], run_reference(program, blob, [x])[0])


@pytest.mark.parametrize("side", [6, 80])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_batch_is_its_images_however_it_is_cut(plan: Plan, threads: int, side: int) -> None:
    """Large images go through the program one by one, small ones some at a time, the last ones fewer."""
    for batch in (2, 5, 7):
        x = torch.randn(batch, 64, side, side)
        singly = torch.cat([plan.run([image])[0] for image in x.split(1)])
        for form in (torch.contiguous_format, torch.channels_last):
            assert torch.equal(plan.run([x.contiguous(memory_format=form)], threads=threads)[0], singly)


def test_a_batch_that_does_not_fit_is_refused_in_any_thread(plan: Plan) -> None:
    for threads in (1, 2):
        with pytest.raises(ArgumentError, match="input 0 has the shape"):
            plan.run([torch.zeros(8, 63, 80, 80)], threads=threads)


def test_python_threads_share_a_plan(plan: Plan, program: Program, blob: Tensor) -> None:
    inputs = [torch.randn(1, 64, 8 + i % 3, 11) for i in range(12)]
    want = [run_reference(program, blob, [x])[0] for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            found = list(pool.map(lambda x: plan.run([x], threads=2)[0], inputs))
            assert all(torch.equal(a, b) for a, b in zip(found, want, strict=True))


def _in_child(plan: Plan, x: Tensor, want: Tensor) -> None:
    same = all(torch.equal(plan.run([x], threads=2)[0], want) for _ in range(3))
    os._exit(0 if same else 1)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_gets_threads_of_its_own(plan: Plan, program: Program, blob: Tensor) -> None:
    x = torch.randn(1, 64, 20, 20)
    (want,) = plan.run([x], threads=2)
    child = multiprocessing.get_context("fork").Process(target=_in_child, args=(plan, x, want))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert torch.equal(plan.run([x], threads=2)[0], want)


@pytest.mark.parametrize("isa", engine.available_isas())
@pytest.mark.parametrize("channels", [1, 3, 8, 20, 31, 32, 33, 64, 80])
def test_outputs_are_written_where_they_lie_and_nowhere_else(isa: str, channels: int) -> None:
    """Maps whose memory is channels last have no other place in between: nothing around them changes."""
    torch.manual_seed(0)
    program = Program(
        inputs=(ValueSpec(layout="map", rank=4, channels=5),),
        constants=(ConstSpec(name="w", dtype="bits", shape=(channels, 5, 3, 3)),),
        steps=(BinaryConv(input=0, weight=0, padding=(1, 1, 1, 1)), GlobalAvgPool(input=1, keep_dims=False)),
        outputs=(1, 2),
    )
    case = case_of(program, [(2, 5, 7, 9)], special=False)
    want = run_reference(program, case.blob, case.inputs)
    for outputs in ((1, 2), (1,), (2,)):  # a map that is read again, one that is not
        plan = Plan(replace(program, outputs=outputs), case.blob, isa)
        around = [torch.full((want[i - 1].numel() + 256,), 7.0) for i in outputs]
        inside = [a[128:-128] for a in around]
        views = [
            x.view(2, 7, 9, channels).permute(0, 3, 1, 2) if i == 1 else x.view(2, channels)
            for i, x in zip(outputs, inside, strict=True)
        ]
        native = engine.library()
        assert native is not None
        native.run(plan._plan, case.inputs, views, 2)
        for i, view, a in zip(outputs, views, around, strict=True):
            assert_same([view.clone()], [want[i - 1]], exact=i == 1)
            assert (a[:128] == 7).all()
            assert (a[-128:] == 7).all()


def test_any_strides_and_real_dtype(plan: Plan) -> None:
    x = torch.randn(2, 64, 9, 10)
    (want,) = plan.run([x])
    assert torch.equal(plan.run([x.to(memory_format=torch.channels_last)])[0], want)
    assert torch.equal(plan.run([x.transpose(2, 3).contiguous().transpose(2, 3)])[0], want)
    wide = torch.randn(2, 128, 18, 20)
    wide[:, ::2, ::2, ::2] = x
    assert torch.equal(plan.run([wide[:, ::2, ::2, ::2]])[0], want)
    last = torch.randn(2, 128, 18, 20).to(memory_format=torch.channels_last)
    for part in (last[:, 32:96, 3:12, 5:15], last[:, :64, ::2, ::2]):  # not what follows in memory
        part.copy_(x)
        assert torch.equal(plan.run([part])[0], want)
    rows = torch.randn(2, 64, 9, 12).to(memory_format=torch.channels_last)[..., 1:11]
    rows.copy_(x)
    assert torch.equal(plan.run([rows])[0], want)
    assert torch.equal(plan.run([x.double()])[0], want)
    one = torch.randn(1, 64, 1, 1)
    assert torch.equal(plan.run([one.expand(2, 64, 9, 10)])[0], plan.run([one.repeat(2, 1, 9, 10)])[0])


def test_no_image_at_all(plan: Plan) -> None:
    assert plan.run([torch.empty(0, 64, 8, 8)])[0].shape == (0, 64, 8, 8)


def test_wrong_inputs_are_refused(plan: Plan) -> None:
    for shape in ((1, 63, 8, 8), (64, 8, 8), (1, 64, 8, 8, 1)):
        with pytest.raises(ArgumentError, match=r"input 0 has the shape"):
            plan.run([torch.zeros(shape)])


def test_code_that_python_would_refuse_is_refused(program: Program, blob: Tensor) -> None:
    library = engine.library()
    assert library
    code = encode(program)
    for wrong in (code[:-1], [*code, 0], [9, *code[1:]], [code[0], *[1 << 40] * 4], []):
        with pytest.raises(NativeError, match="malformed program"):
            library.create(wrong, blob, "portable")
    with pytest.raises(NativeError, match="behind the blob"):
        library.create(code, blob[:-64], "portable")


def test_times_say_where_a_call_spends_them(plan: Plan) -> None:
    times = torch.full((len(plan.steps) + 2,), -1.0, dtype=torch.float64)
    plan.run([torch.randn(1, 64, 16, 16)], times=times)
    assert (times >= 0).all()


def test_plans_are_cached_by_constants(program: Program) -> None:
    text, blob = program.to_json(), blob_of(program, 1)
    first = engine.plan_for(text, blob)
    assert engine.plan_for(str(text), blob) is first
    blob[:64] ^= 255
    changed = engine.plan_for(text, blob)
    x = torch.randn(1, 64, 5, 5)
    assert changed is not first
    assert torch.equal(changed.run([x])[0], run_reference(program, blob, [x])[0])
    engine.forget(blob)
    assert engine.plan_for(text, blob) is not changed
    engine.forget(blob)


def test_a_blob_that_was_moved_leaves_no_plan_for_what_comes_to_its_place(program: Program) -> None:
    """As a second network's constants do after ``packed.share_memory()`` of the first."""
    text, first, second = program.to_json(), blob_of(program, 1), blob_of(program, 2)
    place = first.numpy()  # memory that one tensor after the other lies in
    one = torch.from_numpy(place)
    engine.plan_for(text, one)
    one.data = first.clone()
    place[:] = second.numpy()
    other, x = torch.from_numpy(place), torch.randn(1, 64, 5, 5)
    assert torch.equal(engine.plan_for(text, other).run([x])[0], run_reference(program, second, [x])[0])
    engine.forget(other)


def test_the_memory_of_a_blob_that_was_moved_is_kept(program: Program) -> None:
    """While there is a plan of it: nothing else may come to lie there."""
    text, place = program.to_json(), blob_of(program, 1).numpy().copy()
    blob, there = torch.from_numpy(place), weakref.ref(place)
    del place
    engine.plan_for(text, blob)
    blob.data = blob_of(program, 2)
    assert there() is not None
    engine.forget(blob)
    assert there() is None


def test_a_network_that_is_collected_while_another_is_forgotten(program: Program) -> None:
    text, blob, other, calls = program.to_json(), blob_of(program, 1), blob_of(program, 2), [0]
    more = [blob_of(program, seed) for seed in range(3, 23)]  # whose plans there are to go through
    for one in more:
        engine.plan_for(text, one)

    class Network:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            calls[0] += 1
            engine.forget(blob)

    def run() -> None:
        for allocations in range(3, 60):  # one of them lets the collector run inside forget()
            gc.set_threshold(allocations, 1, 1)
            for _ in range(50):
                engine.plan_for(text, blob)
                Network()
                engine.forget(other)

    thresholds = gc.get_threshold()
    thread = threading.Thread(target=run, daemon=True)
    try:
        thread.start()
        thread.join(60)
        assert not thread.is_alive()
    finally:
        gc.set_threshold(*thresholds)
    gc.collect()
    assert calls[0] == 57 * 50
    for one in more:
        engine.forget(one)


def test_a_blob_that_was_moved_is_forgotten(program: Program) -> None:
    text, blob = program.to_json(), blob_of(program, 1)
    plan = weakref.ref(engine.plan_for(text, blob))
    blob.data = blob.clone()
    engine.forget(blob)
    assert plan() is None


def test_an_instruction_set_can_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(engine.ISA_VARIABLE, "portable")
    assert engine.isa_in_use() == "portable"
    monkeypatch.setenv(engine.ISA_VARIABLE, "reference")
    assert engine.isa_in_use() == "reference"
    monkeypatch.setenv(engine.ISA_VARIABLE, "portabel")
    with pytest.raises(UnknownNameError, match="'portable'"):
        engine.isa_in_use()
    monkeypatch.setenv(engine.ISA_VARIABLE, "PORTABLE")
    with pytest.raises(UnknownNameError, match="'portable'"):
        engine.isa_in_use()
    monkeypatch.setenv(engine.ISA_VARIABLE, "nonsense")
    with pytest.raises(UnknownNameError) as error:
        engine.isa_in_use()
    elsewhere = {*engine.ISAS} - {*engine.available_isas()}
    assert elsewhere  # no processor has all of them
    assert not any(repr(isa) in error.value.mend for isa in elsewhere)


def test_the_limit_is_measured() -> None:
    for isa in engine.available_isas():
        assert engine.measure_limit(isa, 0.01) > 0


def test_without_the_library_one_warning_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    engine.library.cache_clear()
    monkeypatch.setattr(engine, "library_file", lambda: None)
    try:
        with pytest.warns(UserWarning, match="install a C\\+\\+17 compiler"):
            assert engine.isa_in_use() == "reference"
        assert engine.available_isas() == ()
        with pytest.raises(NativeError):
            Plan(
                Program(
                    inputs=(ValueSpec(layout="rows", rank=2, channels=1),), constants=(),
                    steps=(Pointwise(input=0),), outputs=(1,),
                ),
                torch.zeros(0, dtype=torch.uint8),
            )  # fmt: skip
    finally:
        engine.library.cache_clear()
