"""``irnet-convert bench``: of a packed network unless another kind is named first."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from irnet_convert.cli.bench_train import bench_train
from irnet_convert.cli.deployment import bench

_DEFAULT = "packed"


class _Benches(TyperGroup):
    """What follows ``bench`` and is no command of its own is an argument of ``bench packed``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = [_DEFAULT, *args]
        return super().parse_args(ctx, args)


bench_app = typer.Typer(
    cls=_Benches,
    help="Time packed networks, or training steps.\n\n"
    "`irnet-convert bench FILE|MODEL` is short for `irnet-convert bench packed FILE|MODEL`. A file whose "
    "name is that of a command is written as `./train`.\n\n"
    "Examples: `irnet-convert bench digits.safetensors`, `irnet-convert bench train timm/resnet18`",
    no_args_is_help=True,
)
bench_app.command(_DEFAULT)(bench)
bench_app.command("train")(bench_train)
