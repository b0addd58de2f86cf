"""``irnet-convert bench train``."""

from __future__ import annotations

from typing import Annotated

import typer

from irnet_convert.cli.options import AsJson, InputSize, out, show
from irnet_convert.errors import ArgumentError

#: What is measured where no network is named, and the images a step.
DEFAULTS = {"timm/resnet18": 16, "timm/vit_tiny_patch16_224": 16, "timm/cifar_resnet20": 128}
_BATCH = 16


def bench_train(
    networks: Annotated[
        list[str] | None,
        typer.Argument(
            help=f"timm/NAME or torchvision/NAME. Default: {', '.join(DEFAULTS)}.", metavar="[MODEL]...",
        ),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(help=f"Images a step; {DEFAULTS} and {_BATCH} for others unless given.", min=1),
    ] = None,
    threads: Annotated[int, typer.Option(help="Threads.", min=1)] = 2,
    rounds: Annotated[int, typer.Option(help="How often each step is timed.", min=1)] = 15,
    compiled: Annotated[
        bool, typer.Option("--compile", help="Measure steps under torch.compile too.")
    ] = False,
    authors: Annotated[
        bool,
        typer.Option(
            "--authors/--no-authors",
            help="Measure the formulation of the authors' code too, in contiguous format: it has no other.",
        ),
    ] = True,
    compact: Annotated[
        bool,
        typer.Option("--compact", help="Measure the binarized network after set_compact too."),
    ] = False,
    device: Annotated[
        str, typer.Option(help="cpu (float32), or cuda (bfloat16 by autocast).")
    ] = "cpu",
    workers: Annotated[
        int, typer.Option(help="Processes that decode images, for the share of a step spent waiting.", min=0)
    ] = 2,
    input_size: InputSize = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Time training steps of binarized networks beside full precision, in turns, in one process.

    A step is forward pass, cross-entropy, backward pass and SGD with momentum, in channels_last; the
    binarized network has its Bi-Real shortcuts. Beside the times stand what the forward pass keeps for the
    backward pass, and the share of the time spent waiting for data: JPEG images, decoded and cropped.

    Examples: `irnet-convert bench train`, `irnet-convert bench train timm/resnet18 --compile --batch 8`
    """
    from rich.progress import Progress

    from irnet_convert.cli.bench import machine
    from irnet_convert.cost import Case, Request, measure

    if device not in ("cpu", "cuda"):
        raise ArgumentError(f"--device is {device!r}", expected="cpu or cuda", mend="write cpu")
    size = _image_size(input_size)
    cases = [
        Case(network=name, batch=batch or DEFAULTS.get(name, _BATCH), size=size)
        for name in networks or list(DEFAULTS)
    ]
    request = Request(
        cases=cases, rounds=rounds, compiled=compiled, authors=authors, compact=compact, device=device,
        threads=threads, workers=workers,
    )  # fmt: skip
    with Progress(console=out, transient=True, disable=as_json) as bar:
        task = bar.add_task("starting", total=request.work)
        found = measure(
            request, machine(), lambda text, done: bar.update(task, description=text, advance=done)
        )
    show(found, as_json)


def _image_size(text: str | None) -> tuple[int, int, int] | None:
    from irnet_convert.cli.options import example_sized

    if text is None:
        return None
    size = tuple(example_sized(text).shape)
    if len(size) != 4:
        raise ArgumentError(
            f"--input-size is {text!r}", expected="that of images: 1xCxHxW", mend="write it as 1x3x224x224"
        )
    return size[1], size[2], size[3]
