"""Measures what docs/benchmarks.md shows and writes it there: ``python docs/benchmarks.py [--quick]``.

The page has a part for each set of kernels; what is written is that of this machine's fastest. What is
compared is timed in turns in one process. Close other programs first; it takes about ten minutes.
``--quick`` measures for a second a row: to try this script, not for numbers.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from irnet_convert.packed.engine import isa_in_use

PAGE = Path(__file__).with_name("benchmarks.md")
BEGIN, END = "<!-- begin of what docs/benchmarks.py writes with {} -->", "<!-- end of {} -->"
OTHERS = "torch,compile,onnxruntime,onnxruntime-int8,openvino-fp32,openvino-int8,openvino"
#: The 3×3 layers of ResNet-18: channels and side.
LAYERS = [(64, 56), (128, 28), (256, 14), (512, 7)]
ISAS = ("avx512", "avx2", "neon", "portable")


def bench(*arguments: str, seconds: float, isa: str = "") -> dict[str, Any]:
    """One benchmark's JSON."""
    print("irnet-convert bench", *arguments, isa, file=sys.stderr)
    environment = {**os.environ, **({"IRNET_ISA": isa} if isa else {})}
    done = subprocess.run(
        [sys.executable, "-m", "irnet_convert.cli", "bench", *arguments, "--json", "--seconds", str(seconds)],
        stdout=subprocess.PIPE, text=True, check=True, env=environment,
    )  # fmt: skip
    return json.loads(done.stdout)


def table(header: list[str], rows: list[list[str]]) -> str:
    """Markdown."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def engines(found: dict[str, Any]) -> str:
    """The table of one benchmark."""
    rows = [[one["what"], f"{one['median'] * 1e3:.3g}", f"{one['ratio']:.2f}×"] for one in found["timings"]]
    return table(["", "ms", "packed is"], rows)


def facts(found: dict[str, Any]) -> str:
    """What a benchmark says beside times."""
    return "\n".join(f"- {name}: {value}" for name, value in found["facts"].items())


def layer_rows(seconds: float) -> list[list[str]]:
    """3×3 layers alone: float32 in, sign, packing, convolution, affine, float32 out, against nn.Conv2d.

    Channels last, as inside a network, and contiguous, where the packed layer transposes twice.
    """
    import irnet_convert
    from irnet_convert.packed.bench import Contestant, time_in_turns

    def called(model: nn.Module, x: torch.Tensor) -> Any:
        def run() -> torch.Tensor:
            with torch.inference_mode():
                return model(x)

        return run

    torch.set_num_threads(1)
    rows = []
    for channels, side in LAYERS:
        row = [f"{channels} channels at {side}×{side}"]
        for form in (torch.channels_last, torch.contiguous_format):
            x = torch.randn(1, channels, side, side).to(memory_format=form)
            real = nn.Conv2d(channels, channels, 3, padding=1, bias=False).eval().to(memory_format=form)
            binary = nn.Sequential(
                irnet_convert.BinaryConv2d(channels, channels, 3, padding=1, bias=False),
                nn.BatchNorm2d(channels),
            )
            packed = irnet_convert.pack(binary.eval(), example_input=x)
            ours, theirs = time_in_turns(
                [Contestant(name="packed", what="", run=called(packed, x)),
                 Contestant(name="torch", what="", run=called(real, x))], seconds=seconds,
            )  # fmt: skip
            times = (ours.median * 1e3, theirs.median * 1e3)
            row += [*(f"{time:.3f}" for time in times), f"{times[1] / times[0]:.1f}×"]
        rows.append(row)
    return rows


def isa_rows(seconds: float) -> list[list[str]]:
    """ResNet-18 on each instruction set."""
    from irnet_convert.packed import engine

    rows = []
    for isa in ISAS:
        if isa not in engine.available_isas():
            rows.append([isa, "not measured: this processor has none", ""])
            continue
        found = bench("timm/resnet18", "--no-fresh", seconds=seconds, isa=isa)
        ours, theirs = found["timings"]
        rows.append([isa, f"{ours['median'] * 1e3:.3g}", f"{theirs['ratio']:.2f}×"])
    return rows


def stem_rows(seconds: float) -> list[list[str]]:
    """ResNet-18 with its first layer real, and on integers."""
    rows = []
    for bits in ("", "16", "8"):
        options = ("--stem-bits", bits) if bits else ()
        ours, theirs = bench("timm/resnet18", "--no-fresh", *options, seconds=seconds)["timings"]
        name = f"int{bits}" if bits else "float32"
        rows.append([name, f"{ours['median'] * 1e3:.3g}", f"{theirs['ratio']:.2f}×"])
    return rows


def packed_resnet18(**more: Any) -> Any:
    """With random statistics, shifts and thresholds."""
    import timm

    import irnet_convert
    from irnet_convert.packed.bench_engines import fill_statistics

    student = irnet_convert.binarize(timm.create_model("resnet18"), inplace=True, **more).eval()
    fill_statistics(student)
    return irnet_convert.pack(student)


def inferring(model: Any, x: torch.Tensor, threads: int = 1) -> Any:
    """A call."""

    def run() -> torch.Tensor:
        torch.set_num_threads(threads)
        with torch.inference_mode():
            return model(x)

    return run


def rewrite_rows(seconds: float) -> list[list[str]]:
    """ResNet-18 by what conversion puts around its binary layers."""
    import timm

    from irnet_convert.packed.bench import Contestant, time_in_turns

    real = timm.create_model("resnet18").eval()
    kinds = {
        "activation, shortcut (the default)": ("activation", "shortcut"),
        "rprelu, rsign": ("rprelu", "rsign"),
    }
    models = [packed_resnet18(rewrites=rewrites) for rewrites in kinds.values()]
    x = torch.randn(1, 3, 224, 224)
    *timings, theirs = time_in_turns(
        [Contestant(name="", what="", run=inferring(model, x)) for model in (*models, real)], seconds=seconds
    )
    return [
        [name, f"{ours.median * 1e3:.3g}", f"{theirs.median / ours.median:.2f}×"]
        for name, ours in zip(kinds, timings, strict=True)
    ]


def scaling_rows(seconds: float) -> list[list[str]]:
    """More threads, larger batches, per image: in turns in one process."""
    from irnet_convert.packed.bench import Contestant, time_in_turns

    packed = packed_resnet18()
    pairs = ((1, 1), (2, 1), (1, 8), (1, 32), (2, 32))
    timings = time_in_turns(
        [
            Contestant(name="", what="", run=inferring(packed, torch.randn(batch, 3, 224, 224), threads))
            for threads, batch in pairs
        ],
        seconds=seconds,
    )
    each = [timing.median / batch for timing, (_, batch) in zip(timings, pairs, strict=True)]
    return [
        [f"{threads}", f"{batch}", f"{time * 1e3:.3g}", f"{each[0] / time:.2f}×"]
        for (threads, batch), time in zip(pairs, each, strict=True)
    ]


def size_rows() -> list[list[str]]:
    """ResNet-18's file by the storage of its real weights."""
    import timm

    import irnet_convert

    student = irnet_convert.binarize(timm.create_model("resnet18"), inplace=True).eval()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for dtype in (torch.float32, torch.float16):
            path = Path(folder) / "net.safetensors"
            irnet_convert.save_packed(irnet_convert.pack(student, real_dtype=dtype), path)
            rows.append([str(dtype).removeprefix("torch."), f"{path.stat().st_size / 1e6:.2f} MB"])
    return rows


def main() -> None:
    """Measure everything and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="measure for a second a row")
    seconds = 1.0 if parser.parse_args().quick else 20.0
    begin, end = BEGIN.format(isa_in_use()), END.format(isa_in_use())
    if begin not in PAGE.read_text() or end not in PAGE.read_text():
        sys.exit(f"{PAGE.name} has no part for {isa_in_use()}: add the lines {begin} and {end}")
    resnet18 = bench("timm/resnet18", "--against", OTHERS, seconds=2 * seconds)
    resnet20 = bench("timm/cifar_resnet20", "--against", OTHERS, seconds=seconds)
    parts = [
        f"Machine: {resnet18['machine']}. Kernels: {resnet18['kernel']}.",
        "### ResNet-18 at 224×224, batch 1, one thread\n\n" + engines(resnet18) + "\n\n" + facts(resnet18),
        "### CIFAR ResNet-20 at 32×32, batch 1, one thread\n\n"
        + engines(resnet20)
        + "\n\n"
        + facts(resnet20),
        "### 3×3 layers alone, one thread\n\n"
        + table(
            [
                "layer, channels last",
                "packed, ms",
                "nn.Conv2d, ms",
                "packed is",
                "contiguous: packed, ms",
                "nn.Conv2d, ms",
                "packed is",
            ],
            layer_rows(seconds / 8),
        ),
        "### ResNet-18 by instruction set, one thread, against PyTorch eager\n\n"
        + table(["kernels", "ms", "packed is"], isa_rows(seconds)),
        "### ResNet-18 by its first layer, one thread, against PyTorch eager\n\n"
        + table(["first layer", "ms", "packed is"], stem_rows(seconds)),
        "### ResNet-18 by rewrites, one thread, against PyTorch eager\n\n"
        + table(["rewrites", "ms", "packed is"], rewrite_rows(seconds)),
        "### ResNet-18 by threads and batch\n\n"
        + table(["threads", "batch", "ms an image", "against 1, 1"], scaling_rows(2 * seconds)),
        "### ResNet-18 on disk\n\n" + table(["real weights", "file"], size_rows()),
    ]
    text = PAGE.read_text()
    before, after = text.split(begin)[0], text.split(end)[1]
    PAGE.write_text(before + begin + "\n\n" + "\n\n".join(parts) + "\n\n" + end + after)


if __name__ == "__main__":
    main()
