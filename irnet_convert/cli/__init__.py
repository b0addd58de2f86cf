"""The command line: parse, call, print. One file a group of commands."""

from __future__ import annotations

import sys

import typer

from irnet_convert.cli import conversion, coverage, deployment, models, recipes, sensitivity, share, training
from irnet_convert.cli.benches import bench_app
from irnet_convert.errors import IrnetError

app = typer.Typer(
    name="irnet-convert",
    help="Convert timm and torchvision models to IR-Net binary networks, fine-tune them, look at the result.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    add_completion=False,
)
recipe_app = typer.Typer(
    help="Recipes: one YAML file a run; bundled, your own, or shared on the Hugging Face Hub.",
    no_args_is_help=True,
)

app.command("plan")(conversion.plan)
app.command("summarize")(conversion.summarize)
app.command("coverage")(coverage.coverage)
app.command("train")(training.train)
app.command("eval")(training.evaluate)
app.command("plot")(training.plot)
app.command("sensitivity")(sensitivity.sensitivity)
app.command("pack")(deployment.pack)
app.command("push")(models.push)
app.add_typer(bench_app, name="bench")
app.add_typer(recipe_app, name="recipe")
recipe_app.command("list")(recipes.recipe_list)
recipe_app.command("show")(recipes.recipe_show)
recipe_app.command("validate")(recipes.validate)
recipe_app.command("diff")(recipes.diff)
recipe_app.command("push")(share.push)
recipe_app.command("pull")(share.pull)


def main() -> None:
    """Entry point: errors of the project's own are printed as text and end with status 2."""
    try:
        app()
    except IrnetError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
