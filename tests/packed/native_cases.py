"""Random programs for the native code outside Python: the file of cases that tests/packed/native reads."""

from __future__ import annotations

import shutil
import struct
import subprocess
import warnings
from pathlib import Path

import hypothesis
import pytest
import torch
from chosen_cases import decided
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from program_cases import Case, Made, case_of, programs
from torch import Tensor

from irnet_convert.packed.encode import encode

SOURCES = Path(__file__).parent / "native"


def make_cases(count: int, *, exact: bool) -> list[Case]:
    """The same random cases in every run, ``count`` at most."""
    cases: list[Case] = []

    @hypothesis.seed(0)
    @settings(
        max_examples=count, deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(made=programs(exact=exact), seed=st.integers(0, 1000))
    def draw(made: Made, seed: int) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            case = case_of(*made, seed)
            if exact or decided(case):
                cases.append(case)

    draw()
    return cases


def write_cases(cases: list[Case], path: Path) -> None:
    """Writes what cases.h describes."""
    parts: list[bytes] = [_numbers(len(cases))]
    for case in cases:
        code = encode(case.program)
        parts += [_numbers(len(code), *code), _numbers(case.blob.numel()), _bytes(case.blob)]
        parts.append(_numbers(len(case.inputs)))
        for x in case.inputs:
            parts += [_numbers(x.dim(), *x.shape), _bytes(x)]
        parts.append(_numbers(len(case.program.outputs)))
    path.write_bytes(b"".join(parts))


def read_outputs(path: Path, like: list[list[Tensor]]) -> list[list[Tensor]]:
    """The outputs that run_cases wrote, in the shapes of those that are expected."""
    data = torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.float32)
    flat = [y for one in like for y in one]
    parts = iter(data.split([y.numel() for y in flat]))
    return [[next(parts).reshape(y.shape) for y in one] for one in like]


def build(folder: Path, *options: str) -> Path:
    """Builds the programs in a folder and returns it; skips the test where the tools are missing."""
    for tool in ("cmake", "c++"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    run(["cmake", "-S", str(SOURCES), "-B", str(folder), *options])
    run(["cmake", "--build", str(folder), "--parallel", "2"])
    return folder


def run(command: list[str], timeout: float = 600) -> str:
    """Runs a command that must succeed; what it printed."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def _numbers(*numbers: int) -> bytes:
    return struct.pack(f"={len(numbers)}q", *numbers)


def _bytes(tensor: Tensor) -> bytes:
    raw = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return raw + bytes(-len(raw) % 8)
