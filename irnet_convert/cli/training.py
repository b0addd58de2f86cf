"""Commands that train and evaluate by recipes: train, eval, plot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from irnet_convert.cli.options import AsJson, Offline, Overrides, RecipeName, out

#: Percent of images on which a run's packed network predicts what the run's own does, at least.
_ALIKE = 99.0


def train(
    recipe: RecipeName,
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest whole checkpoint.")] = False,
    offline: Offline = False,
) -> None:
    """Train what RECIPE says, in one process: build, binarize, fine-tune, evaluate, keep.

    For several processes or machines: `accelerate launch -m irnet_convert.train RECIPE [KEY=VALUE]...`

    Examples: `irnet-convert train digits_teacher`, `irnet-convert train my.yaml epochs=2 output=runs/short`,
    `irnet-convert train org/name@v1`
    """
    from irnet_convert.train.__main__ import main as train_main

    flags = [*(["--resume"] if resume else []), *(["--offline"] if offline else [])]
    code = train_main([recipe, *(overrides or []), *flags])
    raise typer.Exit(code)


def evaluate(
    run_dir: Annotated[
        Path, typer.Argument(help="The directory that a training run wrote.", metavar="RUN_DIR")
    ],
    overrides: Overrides = None,
    packed: Annotated[
        Path | None,
        typer.Option(
            help="A packed file of this run: evaluate it beside the run's own network, on the CPU, and say "
            "where they differ."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Evaluate a finished run on its recipe's evaluation data, every sample once.

    Examples: `irnet-convert eval runs/digits`, `irnet-convert eval runs/digits --packed digits.safetensors`
    """
    if packed is not None:
        _evaluate_packed(run_dir, packed, overrides or [], as_json)
        return
    from irnet_convert.train import evaluate_run

    found = evaluate_run(run_dir, overrides or [])
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        out.print(
            f"{run_dir}: top-1 {found['top1']:.2f} %, top-5 {found['top5']:.2f} %, loss {found['loss']:.4f} "
            f"({found['count']} images)",
            highlight=False,
            soft_wrap=True,
        )


def _evaluate_packed(run_dir: Path, packed: Path, overrides: list[str], as_json: bool) -> None:
    from irnet_convert.packed.file import load_packed
    from irnet_convert.train.compare import TOLERANCE, compare_run

    network = load_packed(packed)
    found = compare_run(run_dir, network, overrides)
    if as_json:
        print(json.dumps(found, indent=2))
        return
    for line in (
        f"{packed}: top-1 {found['top1']:.2f} % ({found['count']} images)",
        f"{run_dir}: top-1 {found['eager_top1']:.2f} %",
        f"the same prediction on {found['same_top1']:.2f} %; logits within {TOLERANCE:g} on "
        f"{found['close']:.2f} %, largest difference {found['largest']:.2g}",
    ):
        out.print(line, highlight=False, soft_wrap=True)
    if found["same_top1"] < _ALIKE:
        steps = (step for program in network.programs for step in program.steps)
        bits = next((b for step in steps if (b := getattr(step, "input_bits", None))), None)
        out.print(
            f"Its first layer is on {bits}-bit integers, which turns signs behind it: what that costs, or "
            "brings, the difference in accuracy says"
            if bits
            else f"That is more than packing explains: is {packed} of this run? To make it anew: "
            f"irnet-convert pack {run_dir} {packed}",
            highlight=False,
            soft_wrap=True,
        )


def plot(
    run_dir: Annotated[
        Path, typer.Argument(help="The directory of a run, finished or not.", metavar="RUN_DIR")
    ],
    output: Annotated[
        Path | None, typer.Option(help="Directory of the pictures. Default: RUN_DIR.", metavar="DIRECTORY")
    ] = None,
) -> None:
    """Draw a run's log as plot.png and plot.svg: loss, accuracy, rates, and how the binary layers fared.

    Needs matplotlib: `pip install 'irnet-convert[plot]'`.

    Examples: `irnet-convert plot runs/digits`, `irnet-convert plot runs/digits --output pictures`
    """
    from irnet_convert.train.plot import plot_run

    for path in plot_run(run_dir, output):
        print(path)
