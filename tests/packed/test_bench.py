"""Timing in turns, and what is made of it; no test looks at a clock."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from chosen_cases import stem_cases
from packed_cases import packed_of, small_resnet
from rich.console import Console

from irnet_convert.errors import ArgumentError, MissingExtraError, UnknownNameError
from irnet_convert.extras import needs
from irnet_convert.packed import engine
from irnet_convert.packed.bench import Contestant, Result, StepTable, Timing, time_in_turns
from irnet_convert.packed.bench_engines import Match, contestants
from irnet_convert.packed.bench_steps import StepTime, _region, binary_share, step_times
from irnet_convert.packed.blob import make_blob
from irnet_convert.packed.steps import Add, Affine, BinaryConv, ConstSpec, Pointwise, Program, ValueSpec


def timing(name: str, median: float) -> Timing:
    return Timing(name=name, what=name, median=median, fastest=median, slowest=median, calls=1)


def shown(item: object) -> str:
    text = io.StringIO()
    Console(width=120, file=text).print(item)
    return text.getvalue()


def test_contestants_run_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, order = [0.0], []
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])

    def contestant(name: str, takes: float) -> Contestant:
        def run() -> None:
            order.append(name)
            clock[0] += takes

        return Contestant(name=name, what="", run=run)

    # 4 ms are a sample of their own; 1 ms is called twice a sample.
    found = time_in_turns([contestant("a", 4e-3), contestant("b", 1e-3)], seconds=0.0)
    assert "".join(order) == "aaabbb" + 3 * "aabb" + 9 * "abb"
    assert [(t.name, t.calls) for t in found] == [("a", 9), ("b", 18)]
    assert [t.median for t in found] == pytest.approx([4e-3, 1e-3])
    order.clear()
    time_in_turns([contestant("a", 4e-3)], seconds=1.0)
    assert len(order) == pytest.approx(9 + 250, abs=3)


def test_samples_are_as_long_as_calls_like_the_last_make_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the first calls took, those behind another contestant's, and those of one slow moment."""
    clock, last, counts = [0.0], [""], {"a": 0, "b": 0}
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])

    def contestant(name: str) -> Contestant:
        def run() -> None:
            counts[name] += 1
            slow = counts[name] < 6 or last[0] != name or counts[name] in (8, 9)
            clock[0] += 1e-3 if slow else 1e-4
            last[0] = name

        return Contestant(name=name, what="", run=run)

    found = time_in_turns([contestant("a"), contestant("b")], seconds=8.0)
    rounds = 8.0 / (2 * (1e-3 + 19 * 1e-4))  # as many as the time allows
    assert [one.calls for one in found] == pytest.approx([20 * rounds] * 2, rel=0.01)


def test_ratios_are_to_the_first() -> None:
    result = Result(
        model="net", machine="here", kernel="avx2", batch=2, threads=1, chart=True,
        timings=[timing("packed", 2e-3), timing("torch", 7e-3)], facts={"file": "1 MB"}, warnings=["beware"],
    )  # fmt: skip
    assert [t["ratio"] for t in result.to_dict()["timings"]] == [1.0, 3.5]
    json.dumps(result.to_dict())
    text = shown(result)
    for part in ("net, batch 2, 1 thread, here", "3.50×", "1.000", "file: 1 MB", "warning: beware"):
        assert part in text
    bars = [line.count("█") for line in text.splitlines() if "█" in line]
    assert bars == [11, 40]


def test_share_of_the_limit() -> None:
    def step(kind: str, seconds: float, macs: int) -> StepTime:
        return StepTime(kind=kind, name="a", shape=(1, 2), seconds=seconds, macs=macs)

    steps = [step("conv", 5.0, 10**9), step("binary_conv", 1.0, 300), step("binary_linear", 3.0, 100)]
    assert binary_share(steps, 1, 200.0) == 0.5
    assert binary_share(steps, 2, 200.0) == 0.25
    assert binary_share(steps, 1, 0.0) is None
    assert binary_share(steps[:1], 1, 200.0) is None
    text = shown(StepTable(steps=steps, limit=600.0))
    assert "50%" in text
    assert text.count("%") == 2


def test_steps_of_a_network() -> None:
    case = small_resnet()
    times = step_times(packed_of(case), case.inputs[0])
    if engine.isa_in_use() == "reference":
        assert times == []
        return
    assert [t.kind for t in times] == ["inputs", *(s.kind for s in case.program.steps), "outputs"]
    first = next(t for t in times if t.kind == "binary_conv")
    assert (first.name, first.shape) == ("block.conv1", (2, 16, 9, 8))
    assert first.macs == 2 * 16 * 9 * 8 * 16 * 9


def test_names_that_lead_nowhere(tmp_path) -> None:
    case = small_resnet()
    match = Match(packed=packed_of(case), dense=None, images=case.inputs[0], threads=1, folder=tmp_path)
    assert [c.name for c in contestants(match, ["openvino"], lambda text: None)] == ["packed", "openvino"]
    with pytest.raises(UnknownNameError, match="openvino-int8"):
        contestants(match, ["openvino-int9"], lambda text: None)
    with pytest.raises(ArgumentError, match="--against torch for a packed file"):
        contestants(match, ["torch"], lambda text: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'irnet-convert\[onnx\]'"), needs("onnx"):
        import no_such_package  # noqa: F401  # pyright: ignore[reportMissingImports]


ENGINES_COME_AND_GO = """
import faulthandler, os, signal
from pathlib import Path
import torch
import irnet_convert
from irnet_convert.networks import create_model
from irnet_convert.packed.bench_engines import Match, contestants

faulthandler.enable()  # its alternate stack is the one that a second plugin puts back too early
model = irnet_convert.binarize(create_model("timm/cifar_resnet20"), inplace=True).eval()
match = Match(
    packed=irnet_convert.pack(model), dense=None, images=torch.randn(1, 3, 32, 32), threads=1, folder=Path()
)
first, second = (contestants(match, ["openvino"], lambda text: None) for _ in range(2))
first[1].run(), second[1].run()
del first
del second
signal.signal(signal.SIGCHLD, lambda number, frame: print("handled"))
os.kill(os.getpid(), signal.SIGCHLD)
"""


def test_a_signal_is_survived_after_engines_came_and_went(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ENGINES_COME_AND_GO],
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr


@pytest.mark.skipif(not engine.available_isas(), reason="the native library was not built")
def test_pooling_that_is_one_step_with_its_convolution_says_so() -> None:
    """The convolution's row has the time of both; a pooling of its own has its time."""
    case = stem_cases()[0]
    plan = engine.Plan(case.program, case.blob)
    conv, pool, binary = _region(case.program, plan, case.inputs)[1:-1]
    assert (conv.joined, pool.joined, binary.joined) == (False, True, False)
    text = shown(StepTable(steps=[conv, pool, binary], limit=0.0))
    assert "↑ in the time of a step above" in text
    apart = replace(case.program, outputs=(1, 3))
    assert not any(step.joined for step in _region(apart, engine.Plan(apart, case.blob), case.inputs))
    assert "↑" not in shown(StepTable(steps=[conv, binary], limit=0.0))


@pytest.mark.skipif(not engine.available_isas(), reason="the native library was not built")
def test_a_threshold_whose_signs_the_step_before_it_writes_says_so() -> None:
    first, threshold, block = (f"m.{name}" for name in ("w", "shift", "v"))
    program = Program(
        inputs=(ValueSpec(layout="map", rank=4, channels=64),),
        constants=(
            ConstSpec(name=first, dtype="bits", shape=(64, 64, 3, 3)),
            ConstSpec(name=threshold, dtype="f32", shape=(64,)),
            ConstSpec(name=block, dtype="bits", shape=(64, 64, 1, 1)),
        ),
        steps=(
            BinaryConv(input=0, weight=0),
            Pointwise(input=1, post=(Affine(scale=1, shift=1),)),
            BinaryConv(input=2, weight=2, post=(Add(value=1),)),
        ),
        outputs=(3,),
    )
    tensors = {
        first: torch.zeros(64, 72, dtype=torch.uint8), threshold: torch.ones(64),
        block: torch.zeros(64, 8, dtype=torch.uint8),
    }  # fmt: skip
    plan = engine.Plan(program, make_blob(program, tensors))
    rows = _region(program, plan, [torch.randn(1, 64, 8, 8)])[1:-1]
    assert [row.joined for row in rows] == [False, True, False]
