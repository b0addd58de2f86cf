"""The native code outside Python: under sanitizers, and for processors that this one is not.

One build with the address and undefined behaviour sanitizers serves AVX-512 through SIMDe, the fuzzing of the
C interface, and Python that loads and runs spoiled files; another is for AArch64, under qemu.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from chosen_cases import assert_same, chained_case, decided, stem_cases
from native_cases import build, make_cases, read_outputs, run, write_cases
from program_cases import Case
from torch import Tensor

from irnet_convert.packed import engine
from irnet_convert.packed.library import ISAS
from irnet_convert.packed.reference import run_reference

#: Changed programs to try; ``make test-long`` sets it to many.
CHANGES = int(os.environ.get("IRNET_FUZZ", "2000"))
#: Spoiled files to try, half of them as bytes, half in their parts; likewise.
FILES = int(os.environ.get("IRNET_FUZZ_FILES", "400"))
HERE = Path(__file__).parent
#: Where Debian's packages libsimde-dev and g++-aarch64-linux-gnu with qemu-user put things.
SIMDE = Path("/usr/include/simde/x86/avx512.h")
CROSS = "aarch64-linux-gnu"


@pytest.fixture(scope="module", params=["exact", "close"])
def cases(request: pytest.FixtureRequest) -> tuple[bool, list[Case], list[list[Tensor]]]:
    exact = request.param == "exact"
    found = make_cases(80, exact=exact) + [chained_case(c) for c in (4, 12, 16, 20, 33, 48, 80)]
    stems = stem_cases()
    assert all(decided(case) for case in stems)
    found += stems[1:] if exact else stems  # sums of integers have one result
    return exact, found, [run_reference(c.program, c.blob, c.inputs) for c in found]


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of run_cases, train_cases and fuzz."""
    simde = "ON" if SIMDE.exists() else "OFF"
    return build(tmp_path_factory.mktemp("sanitized"), "-DSANITIZE=ON", f"-DIRN_SIMDE={simde}")


@pytest.fixture(scope="module")
def crossed(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path]:
    """What runs a program for AArch64, and the folder of run_cases and train_cases."""
    for tool in (f"{CROSS}-g++", "qemu-aarch64"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed (Debian: g++-{CROSS} and qemu-user)")
    folder = build(
        tmp_path_factory.mktemp("neon"), f"-DCMAKE_CXX_COMPILER={CROSS}-g++", "-DCMAKE_SYSTEM_NAME=Linux",
        "-DCMAKE_SYSTEM_PROCESSOR=aarch64", "-DCMAKE_CXX_FLAGS_RELEASE=-O1",
    )  # fmt: skip
    return ["qemu-aarch64", "-L", f"/usr/{CROSS}"], folder


def check(
    command: list[str], isa: str, cases: tuple[bool, list[Case], list[list[Tensor]]], tmp_path: Path
) -> None:
    exact, found, want = cases
    write_cases(found, tmp_path / "cases")
    run([*command, str(tmp_path / "cases"), str(tmp_path / "out"), str(ISAS.index(isa)), "2"])
    for case, one, other in zip(found, read_outputs(tmp_path / "out", want), want, strict=True):
        try:
            assert_same(one, other, exact=exact)
        except AssertionError as error:
            raise AssertionError(case.program.to_json()) from error


def test_avx512(sanitized: Path, cases, tmp_path: Path) -> None:
    if not SIMDE.exists():
        pytest.skip("SIMDe is not installed (Debian: libsimde-dev)")
    if "avx2" not in engine.available_isas():
        pytest.skip("the emulation is built for AVX2")
    check([str(sanitized / "run_cases")], "avx512", cases, tmp_path)


@pytest.mark.parametrize("isa", ["neon", "portable"])
def test_aarch64(crossed: tuple[list[str], Path], isa: str, cases, tmp_path: Path) -> None:
    emulator, folder = crossed
    check([*emulator, str(folder / "run_cases")], isa, cases, tmp_path)


def test_passes_of_training_on_aarch64(crossed: tuple[list[str], Path]) -> None:
    emulator, folder = crossed
    assert compared([*emulator, str(folder / "train_cases")], "neon") > 100_000


@pytest.mark.parametrize("isa", engine.available_isas())
def test_passes_of_training_stay_in_their_arrays(sanitized: Path, isa: str) -> None:
    assert compared([str(sanitized / "train_cases")], isa) > 100_000


def compared(command: list[str], isa: str) -> int:
    """How many numbers train_cases found as they are portably."""
    return int(run([*command, str(ISAS.index(isa))]).split()[0])


def test_no_change_of_a_program_is_a_finding(sanitized: Path, tmp_path: Path) -> None:
    cases = make_cases(100, exact=True) + make_cases(100, exact=False) + stem_cases()
    write_cases(cases, tmp_path / "cases")
    printed = run(
        [str(sanitized / "fuzz"), str(tmp_path / "cases"), str(CHANGES), "1"], timeout=60 + CHANGES / 50
    )
    ran = int(printed.split()[-2])
    assert ran > CHANGES / 50, f"too few changed programs pass the checks for this to test much: {printed}"


def child(library: Path, folder: Path, files: int) -> subprocess.CompletedProcess[str]:
    """Run sanitized_child.py. The sanitizer, and the exceptions that it watches, are loaded before Python."""
    # Leaks, and allocations of one kind freed as another, are those of Python and PyTorch.
    options = "detect_leaks=0:alloc_dealloc_mismatch=0:new_delete_type_mismatch=0"
    environment = {**os.environ, "LD_PRELOAD": _preloaded(library), "ASAN_OPTIONS": options}
    environment.pop("IRNET_ISA", None)
    command = [sys.executable, str(HERE / "sanitized_child.py"), str(library), str(folder), str(files), "0"]
    return subprocess.run(command, capture_output=True, text=True, timeout=300 + files / 10, env=environment)


def _preloaded(library: Path) -> str:
    linked = run(["ldd", str(library)]) if shutil.which("ldd") else ""
    paths = [
        line.split()[2]
        for line in linked.splitlines()
        if line.split()[0].startswith(("libasan", "libstdc++"))
    ]
    if len(paths) != 2:
        pytest.skip("the library is not linked to a shared runtime of the address sanitizer")
    return " ".join(paths)


def test_no_spoiled_file_is_a_finding(sanitized: Path, tmp_path: Path) -> None:
    done = child(sanitized / "irnet_native.so", tmp_path, FILES)
    assert done.returncode == 0, done.stderr[-4000:]
    ran = int(done.stdout.split()[-1])
    assert ran > FILES / 100, f"too few spoiled files still load for this to test much: {done.stdout}"


def test_a_read_behind_an_array_is_a_finding(sanitized: Path, tmp_path: Path) -> None:
    done = child(sanitized / "irnet_native.so", tmp_path, 0)
    assert done.returncode != 0
    assert "ERROR: AddressSanitizer" in done.stderr
    assert "nobody noticed" not in done.stdout
