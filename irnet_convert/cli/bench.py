"""What ``irnet-convert bench`` does: build, pack, time, and look from another process."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from irnet_convert.cli.options import example_sized, model_named
from irnet_convert.errors import ArgumentError, IrnetError
from irnet_convert.packed import engine
from irnet_convert.packed.bench import Result, StepTable, time_in_turns
from irnet_convert.packed.bench_engines import Match, contestants, fill_statistics
from irnet_convert.packed.bench_steps import StepTime, binary_share, step_times
from irnet_convert.packed.file import load_packed, save_packed
from irnet_convert.packed.model import PackedModel


@dataclass(frozen=True, kw_only=True)
class Request:
    """The options of one benchmark, as the command line has them.

    ``against`` None is PyTorch, where the full-precision model is known.
    """

    name: str
    against: list[str] | None
    threads: int = 1
    batch: int = 1
    layers: bool = False
    chart: bool = False
    fresh: bool = True
    seconds: float = 10.0
    real_dtype: str = "float32"
    stem_bits: int | None = None
    rewrites: list[str] | None = None
    input_size: str | None = None
    kwargs: str = "{}"


@dataclass(frozen=True, kw_only=True)
class _Subject:
    """The packed network, its file, and how to build the full-precision model by name."""

    packed: PackedModel
    file: Path
    dense_name: str | None
    dense_kwargs: str


def run(request: Request, progress: Callable[[str], None]) -> Result:
    """Benchmark.

    Args:
        request: what.
        progress: is told what happens.

    Raises:
        IrnetError: a name, file or option that leads nowhere.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(request.threads)
    try:
        with tempfile.TemporaryDirectory() as folder:
            return _run(_sized(request), Path(folder), progress)
    finally:
        torch.set_num_threads(before)


def _run(request: Request, folder: Path, progress: Callable[[str], None]) -> Result:
    subject = _subject(request, folder, progress)
    size = _image_size(request, subject.packed)
    torch.manual_seed(0)
    images = torch.randn(request.batch, *size)
    against = request.against
    if against is None:
        against = ["torch"] if subject.dense_name else []
    dense = None
    if subject.dense_name and any(name != "openvino" for name in against):
        dense = model_named(subject.dense_name, subject.dense_kwargs).eval()
    match = Match(packed=subject.packed, dense=dense, images=images, threads=request.threads, folder=folder)
    timings = time_in_turns(contestants(match, against, progress), seconds=request.seconds, progress=progress)
    progress("timing steps")
    steps = step_times(subject.packed, images)
    kernel = engine.isa_in_use()
    facts, warnings = _facts(subject, request, size, steps, kernel, progress)
    return Result(
        model=request.name, machine=machine(), kernel=kernel, batch=request.batch, threads=request.threads,
        timings=timings, facts=facts, warnings=warnings, chart=request.chart,
        steps=StepTable(steps=steps, limit=engine.measure_limit()) if request.layers else None,
    )  # fmt: skip


def _subject(request: Request, folder: Path, progress: Callable[[str], None]) -> _Subject:
    if Path(request.name).is_file():
        _check_nothing_asks_for_packing(request)
        packed = load_packed(request.name)
        return _Subject(
            packed=packed, file=Path(request.name), dense_name=packed.source.get("name"),
            dense_kwargs=packed.source.get("model_kwargs", "{}"),
        )  # fmt: skip
    from irnet_convert.packed.packing import pack

    progress(f"building {request.name}")
    student, name, kwargs = _binarized(request)
    progress("packing")
    packed = pack(
        student, example_input=_example(request), real_dtype=getattr(torch, request.real_dtype),
        stem_bits=request.stem_bits,
    )  # fmt: skip
    if "input_size" not in packed.source and len(packed.network.inputs) == 1:
        packed.source["input_size"] = _recorded_size(student)
    file = folder / "packed.safetensors"
    save_packed(packed, file)
    return _Subject(packed=packed, file=file, dense_name=name, dense_kwargs=kwargs)


def _check_nothing_asks_for_packing(request: Request) -> None:
    given = [
        option
        for option, is_given in (
            ("--stem-bits", request.stem_bits is not None),
            ("--rewrites", request.rewrites is not None),
            ("--real-dtype", request.real_dtype != "float32"),
            ("--model-kwargs", request.kwargs != "{}"),
        )
        if is_given
    ]
    if given:
        raise ArgumentError(
            f"{' and '.join(given)} for {request.name}, which is packed already",
            expected="such options with a model, which is packed for the benchmark",
            mend="leave them out, or pack the file again: irnet-convert pack RUN_DIR OUT --stem-bits 8",
        )


def _example(request: Request) -> Any:
    return example_sized(request.input_size)


def _sized(request: Request) -> Request:
    """The request with a run's size of images, which may not be its architecture's."""
    if request.input_size is not None or not (Path(request.name) / "recipe.yaml").is_file():
        return request
    from irnet_convert.train.rundir import read_recipe

    size = read_recipe(Path(request.name)).transforms.input_size
    return replace(request, input_size="x".join(map(str, (1, *size))))


def _binarized(request: Request) -> tuple[nn.Module, str, str]:
    """A binarized model in eval mode, and the full-precision model's name and arguments."""
    import irnet_convert

    model = model_named(request.name, request.kwargs)
    if irnet_convert.is_binarized(model):
        from irnet_convert.train.rundir import read_recipe

        if request.rewrites is not None:
            raise ArgumentError(
                f"--rewrites for {request.name}, which is a run, whose recipe says them",
                expected="that option with a model, which is binarized for the benchmark",
                mend=f"leave it out, or bench {read_recipe(Path(request.name)).model.name}",
            )
        spec = read_recipe(Path(request.name)).model
        return model, spec.name, json.dumps(spec.kwargs)
    student = irnet_convert.binarize(
        model, example_input=_example(request), rewrites=request.rewrites, inplace=True
    ).eval()
    fill_statistics(student)
    return student, request.name, request.kwargs


def _recorded_size(student: nn.Module) -> list[int]:
    """The size of one image that the model was converted with."""
    import irnet_convert

    example = irnet_convert.plan_of(student).example or {}
    return [int(size) for each in example.get("inputs", [])[:1] for size in each["shape"][1:]]


def _image_size(request: Request, packed: PackedModel) -> tuple[int, ...]:
    if request.input_size is not None:
        return tuple(example_sized(request.input_size).shape[1:])
    size = packed.source.get("input_size") or packed.network.inputs[0].shape[1:]
    known = tuple(side for side in size if side is not None)
    if len(packed.network.inputs) > 1 or len(known) < len(size):
        raise ArgumentError(
            f"bench of {request.name}, whose input is not known", expected="one image input of known size",
            mend="pass --input-size 1x3x224x224",
        )  # fmt: skip
    return known


def _facts(
    subject: _Subject, request: Request, size: tuple[int, ...], steps: list[StepTime], kernel: str,
    progress: Callable[[str], None],
) -> tuple[dict[str, str], list[str]]:  # fmt: skip
    report = subject.packed.report()
    shape = "x".join(map(str, (request.batch, *size)))
    facts = {
        "input": shape, "file": f"{subject.file.stat().st_size / 1e6:.3f} MB", "kernels": report.summary()
    }  # fmt: skip
    if request.rewrites is not None:
        facts["rewrites"] = ", ".join(request.rewrites) or "none"
    if request.fresh:
        facts.update(_from_fresh_processes(subject, request, shape, progress))
    limit = engine.measure_limit()
    share = binary_share(steps, request.threads, limit)
    if share is not None:
        facts["binary layers"] = (
            f"{share:.0%} of the popcount limit ({limit / 1e9:.0f} GMAC/s a core, measured, {kernel})"
        )
    warnings = []
    if kernel == "reference":
        warnings.append(f"the reference in PyTorch ran, not native kernels: {engine.REMEDY}")
    if request.against is None and not subject.dense_name:
        warnings.append(
            "the file does not say by what name its model can be built, so it ran alone: "
            "bench timm/NAME compares with PyTorch, --against openvino with OpenVINO"
        )
    if report.operators:
        kept = ", ".join(f"{n} {op}" for op, n in report.operators.items())
        warnings.append(f"in PyTorch, outside the fused regions: {kept}")
    return facts, warnings


def _from_fresh_processes(
    subject: _Subject, request: Request, shape: str, progress: Callable[[str], None]
) -> dict[str, str]:
    progress("loading in a fresh process")
    found = _measured("packed", str(subject.file), shape, str(request.threads))
    loaded = (
        f"{found['load'] + found['first']:.3f} s (importing torch {found['torch_import']:.2f} s, "
        f"irnet_convert {found['own_import']:.2f} s)"
    )
    facts = {"load to first result": loaded}
    if found["peak"] >= 0:
        memory = f"{found['peak'] / 1e6:.1f} MB"
        if subject.dense_name and (request.against is None or "torch" in request.against):
            progress("loading the full-precision model in a fresh process")
            dense = _measured("torch", subject.dense_name, shape, str(request.threads), subject.dense_kwargs)
            memory += f" (torch {dense['peak'] / 1e6:.1f} MB)"
        facts["memory at the peak, beside the weights"] = memory
    return facts


def _measured(*arguments: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-m", "irnet_convert.cli.measure", *arguments], capture_output=True, text=True,
        env={**os.environ, "OMP_NUM_THREADS": arguments[3]}, check=False,
    )  # fmt: skip
    if done.returncode:
        raise IrnetError(
            f"a fresh process could not run {arguments[1]}: {done.stderr.strip().splitlines()[-1:]}",
            expected="what runs in this process to run in another", mend="report it, with this message",
        )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def machine() -> str:
    """The processor's name and its number of cores."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{name}, {os.cpu_count()} cores, torch {torch.__version__}"
