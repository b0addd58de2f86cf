"""Commands for the deployed network: pack, bench."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from irnet_convert.cli.options import AsJson, InputSize, Rewrites, out, rewrites_named
from irnet_convert.errors import ArgumentError, UnknownNameError, nearest

_REAL = ("float32", "float16", "bfloat16")

StemBits = Annotated[
    int | None,
    typer.Option("--stem-bits", help="8 or 16: the first layer on integers; real unless given."),
]


def pack(
    run_dir: Annotated[
        str, typer.Argument(help="The directory that a training run wrote.", metavar="RUN_DIR")
    ],
    target: Annotated[
        Path,
        typer.Argument(
            help="What to write: NAME.safetensors for irnet-convert, NAME.xml for OpenVINO, NAME.onnx for "
            "ONNX Runtime and others.",
            metavar="OUT",
        ),
    ],
    real_dtype: Annotated[
        str, typer.Option("--real-dtype", help="How real weights are stored: float32, float16 or bfloat16.")
    ] = "float32",
    stem_bits: StemBits = None,
) -> None:
    """Pack a finished run's network: one bit a weight on disk, XNOR and popcount when it runs.

    In Python, `irnet_convert.load_packed(OUT)` gives the network back; it needs neither timm nor the training
    code.

    Examples: `irnet-convert pack runs/digits digits.safetensors`,
    `irnet-convert pack runs/digits digits.xml`
    """
    import torch

    from irnet_convert.networks.origin import origin_of
    from irnet_convert.packed import file
    from irnet_convert.packed.packing import pack as packed_of
    from irnet_convert.train import load
    from irnet_convert.train.rundir import read_recipe

    writers = {".safetensors": file.save_packed, **_exporters()}
    if target.suffix not in writers:
        raise ArgumentError(
            f"OUT is {str(target)!r}", expected="a name that ends in " + ", ".join(writers),
            mend=f"write {target.with_suffix('.safetensors')}",
        )  # fmt: skip
    _check_real(real_dtype)
    with out.status("loading the run"):
        model, images = load(run_dir), read_recipe(Path(run_dir)).transforms
    with out.status("packing"):
        example = torch.zeros(1, *images.input_size)
        packed = packed_of(
            model, example_input=example, real_dtype=getattr(torch, real_dtype), stem_bits=stem_bits
        )
        origin = origin_of(model)
        assert origin is not None, "load builds by name"
        packed.source.update(origin.for_packed())
    with out.status(f"writing {target}"):
        writers[target.suffix](packed, target)
    report = packed.report()
    out.print(
        f"{target}: {_size_of(target) / 1e6:.3f} MB; {report.summary()}", highlight=False, soft_wrap=True
    )
    if report.operators:
        out.print(
            "in PyTorch: " + ", ".join(f"{n} {op}" for op, n in report.operators.items()), soft_wrap=True
        )


def bench(
    name: Annotated[
        str,
        typer.Argument(
            help="A packed file, or timm/NAME, torchvision/NAME or the directory of a run: those are "
            "binarized and packed on the spot.",
            metavar="FILE|MODEL",
        ),
    ],
    against: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated: torch, compile, onnxruntime, onnxruntime-int8, openvino (the binary "
            "network), openvino-fp32, openvino-int8; '' for none. Default: torch, where the "
            "full-precision model is known.",
        ),
    ] = None,
    threads: Annotated[int, typer.Option(help="Threads of every contestant.", min=1)] = 1,
    batch: Annotated[int, typer.Option(help="Images a call.", min=1)] = 1,
    chart: Annotated[bool, typer.Option("--chart", help="Show bars.")] = False,
    layers: Annotated[bool, typer.Option("--layers", help="Show what each step takes.")] = False,
    fresh: Annotated[
        bool,
        typer.Option("--fresh/--no-fresh", help="Look at load time and memory too, from fresh processes."),
    ] = True,
    seconds: Annotated[float, typer.Option(help="About how long to measure.", min=0.0)] = 10.0,
    real_dtype: Annotated[
        str, typer.Option("--real-dtype", help="Of a MODEL's real weights: float32, float16 or bfloat16.")
    ] = "float32",
    stem_bits: StemBits = None,
    rewrites: Rewrites = None,
    input_size: InputSize = None,
    kwargs: Annotated[
        str, typer.Option("--model-kwargs", help='Arguments of the model as JSON: {"num_classes": 10}.')
    ] = "{}",
    as_json: AsJson = False,
) -> None:
    """Time a packed network against other ways to run the model: medians of runs in turns, in one process.

    Beside the times it prints the file's size, the load to the first result, the memory at its peak, the
    share of the machine's popcount limit that the binary layers reach, and which kernels ran.

    Examples: `irnet-convert bench timm/resnet18 --against torch,openvino --chart`,
    `irnet-convert bench digits.safetensors --threads 2`
    """
    from irnet_convert.cli.bench import Request, run

    _check_real(real_dtype)
    names = None if against is None else [a for a in against.split(",") if a]
    request = Request(
        name=name, against=names, threads=threads, batch=batch, layers=layers, fresh=fresh, seconds=seconds,
        real_dtype=real_dtype, input_size=input_size, kwargs=kwargs, chart=chart, stem_bits=stem_bits,
        rewrites=rewrites_named(rewrites),
    )  # fmt: skip
    with out.status("starting") as status:
        found = run(request, status.update)
    if as_json:
        print(json.dumps(found.to_dict(), indent=2))
    else:
        out.print(found)


def _check_real(name: str) -> None:
    if name not in _REAL:
        raise UnknownNameError(
            f"--real-dtype is {name!r}", expected=", ".join(_REAL), mend=nearest(name, _REAL)
        )


def _exporters() -> dict[str, Any]:
    from irnet_convert.packed.onnx import export_onnx
    from irnet_convert.packed.openvino import export_openvino

    return {".xml": export_openvino, ".onnx": export_onnx}


def _size_of(target: Path) -> int:
    """Bytes of a file and, for OpenVINO, of its weights beside it."""
    weights = target.with_suffix(".bin")
    more = weights.stat().st_size if target.suffix == ".xml" and weights.is_file() else 0
    return target.stat().st_size + more
