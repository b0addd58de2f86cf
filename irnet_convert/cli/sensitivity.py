"""``irnet-convert sensitivity``: what each layer costs, and a policy that follows from it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from irnet_convert.cli.options import AsJson, Overrides, out
from irnet_convert.errors import ArgumentError

if TYPE_CHECKING:
    from rich.table import Table

    from irnet_convert.train.sensitivity import Sensitivity


def sensitivity(
    source: Annotated[
        str,
        typer.Argument(
            help="A finished run's directory, or a recipe's name or file.", metavar="RUN_OR_RECIPE"
        ),
    ],
    overrides: Overrides = None,
    images: Annotated[int, typer.Option(help="Evaluation images each time.")] = 1000,
    bn_batches: Annotated[
        int, typer.Option(help="Training batches for BatchNorm's statistics before each evaluation; 0: none.")
    ] = 10,
    keep: Annotated[int, typer.Option(help="Layers that the suggested policy keeps real.")] = 1,
    by: Annotated[
        Literal["only", "without"],
        typer.Option(help="Rank by accuracy with only the layer binarized, or with all but it."),
    ] = "only",
    policy: Annotated[
        Path | None, typer.Option(help="Write the suggested policy to this new YAML file.", metavar="FILE")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Accuracy with only one layer binarized, and with all but it, for every layer; and a policy from it.

    Of a run it is the trained network, of a recipe the one that it starts from.

    Examples: `irnet-convert sensitivity runs/digits`,
    `irnet-convert sensitivity my.yaml --images 500 --keep 2 --policy keep2.yaml`
    """
    if policy is not None and policy.exists():
        raise ArgumentError(
            f"--policy {policy}, which exists", expected="a new file: the suggested policy is written to it",
            mend="name another file, or remove that one; the policy that is measured is the recipe's",
        )  # fmt: skip

    from irnet_convert.policy import Policy
    from irnet_convert.train.sensitivity import sensitivity as measure

    tell = (lambda line: None) if as_json else (lambda line: print(line, file=sys.stderr, flush=True))
    found = measure(source, overrides=overrides or [], images=images, bn_batches=bn_batches, tell=tell)
    suggested = Policy.from_dict(found.suggestion(keep, by))
    if policy is not None:
        suggested.dump(policy)
    if as_json:
        print(json.dumps({**found.to_dict(), "suggestion": suggested.to_dict()}, indent=2))
        return
    out.print(_table(found))
    kept = ", ".join(layer.path for layer in found.costliest(by)[:keep])
    out.print(f"Costliest: {kept}", highlight=False, soft_wrap=True)
    if policy is not None:
        out.print(f"Suggested policy: {policy}", highlight=False, soft_wrap=True)


def _table(found: Sensitivity) -> Table:
    from rich.table import Table

    title = f"top-1, %, of {found.images} images: real {found.real:.2f}, binarized {found.binary:.2f}"
    table = Table(title=title, title_justify="left")
    table.add_column("layer", overflow="fold")
    for column in ("only it", "costs", "all but it", "gives back"):
        table.add_column(column, justify="right")
    for layer in found.layers:
        numbers = (layer.only, found.real - layer.only, layer.without, layer.without - found.binary)
        table.add_row(layer.path, *(f"{number:.2f}" for number in numbers))
    return table
