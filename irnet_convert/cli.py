"""The command line: parse, call, print."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from irnet_convert.errors import IrnetError, ModelError

if TYPE_CHECKING:
    from torch import nn

    from irnet_convert.policy import Policy

app = typer.Typer(
    name="irnet-convert",
    help="Convert timm and torchvision models to IR-Net binary networks, fine-tune them, look at the result.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    add_completion=False,
)
recipe_app = typer.Typer(help="Recipes: one YAML file a run.", no_args_is_help=True)
app.add_typer(recipe_app, name="recipe")

_out = Console()

_Model = Annotated[
    str, typer.Argument(help="timm/NAME, torchvision/NAME, or the directory of a run.", metavar="MODEL")
]
_Policy = Annotated[
    str | None,
    typer.Option("--policy", help="Name of a preset (irnet, irnet_w1a32, interior) or a YAML file."),
]
_Input = Annotated[
    str | None,
    typer.Option(
        "--input-size", help="Shape of the example input, as in 1x3x32x32. Default: the model's own."
    ),
]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
_Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="Recipe keys to set, as in epochs=2 optimizer.lr=1e-3.", metavar="[KEY=VALUE]..."),
]


@app.command()
def plan(
    model: _Model,
    policy: _Policy = None,
    rewrites: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated rewrites out of activation, shortcut; '' for none. Default: both."
        ),
    ] = None,
    input_size: _Input = None,
    kwargs: Annotated[
        str, typer.Option("--model-kwargs", help='Arguments of the model as JSON: {"num_classes": 10}.')
    ] = "{}",
    as_json: _Json = False,
) -> None:
    """Show what converting MODEL would do to each of its layers, and why. Nothing is changed.

    Example: `irnet-convert plan timm/resnet18`
    """
    import irnet_convert

    found = irnet_convert.plan(
        _model(model, kwargs), _read_policy(policy), example_input=_example(input_size),
        rewrites=None if rewrites is None else [r for r in rewrites.split(",") if r],
    )  # fmt: skip
    _show(found, as_json)
    if not as_json:
        for note in found.notes:
            _out.print(f"note: {note}", markup=False)


@app.command()
def summarize(
    model: _Model,
    policy: _Policy = None,
    input_size: _Input = None,
    kwargs: Annotated[
        str, typer.Option("--model-kwargs", help='Arguments of the model as JSON: {"num_classes": 10}.')
    ] = "{}",
    full_precision: Annotated[
        bool, typer.Option("--full-precision", help="Count the model as it is, without converting it.")
    ] = False,
    as_json: _Json = False,
) -> None:
    """Count parameters, memory, FLOPs and binary operations of MODEL once it is converted.

    Examples: `irnet-convert summarize timm/resnet18`, `irnet-convert summarize runs/digits`
    """
    import irnet_convert

    built = _model(model, kwargs)
    if not full_precision and not irnet_convert.is_binarized(built):
        built = irnet_convert.binarize(
            built, _read_policy(policy), example_input=_example(input_size), inplace=True
        )
    _show(irnet_convert.summarize(built, _example(input_size)), as_json)


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="A bundled recipe's name or a YAML file.", metavar="RECIPE")],
    overrides: _Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest whole checkpoint.")] = False,
) -> None:
    """Train what RECIPE says, in one process: build, binarize, fine-tune, evaluate, keep.

    For several processes or machines: `accelerate launch -m irnet_convert.train RECIPE [KEY=VALUE]...`

    Examples: `irnet-convert train digits_teacher`, `irnet-convert train my.yaml epochs=2 output=runs/short`
    """
    from irnet_convert.train.__main__ import main as train_main

    code = train_main([recipe, *(overrides or []), *(["--resume"] if resume else [])])
    raise typer.Exit(code)


@app.command("eval")
def evaluate(
    run_dir: Annotated[
        Path, typer.Argument(help="The directory that a training run wrote.", metavar="RUN_DIR")
    ],
    overrides: _Overrides = None,
    as_json: _Json = False,
) -> None:
    """Evaluate a finished run on its recipe's evaluation data, every sample once.

    Example: `irnet-convert eval runs/digits`
    """
    from irnet_convert.train import evaluate_run

    found = evaluate_run(run_dir, overrides or [])
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        _out.print(
            f"{run_dir}: top-1 {found['top1']:.2f} %, top-5 {found['top5']:.2f} %, loss {found['loss']:.4f} "
            f"({found['count']} images)",
            highlight=False,
            soft_wrap=True,
        )


@recipe_app.command("list")
def recipe_list() -> None:
    """List the recipes that ship with the package."""
    from rich.table import Table

    from irnet_convert.recipe import Recipe, bundled_recipes

    table = Table()
    table.add_column("name", no_wrap=True)
    table.add_column("what it does", overflow="fold")
    for name, path in bundled_recipes().items():
        table.add_row(name, Recipe.load(path).description)
    _out.print(table)


@recipe_app.command("show")
def recipe_show(
    recipe: Annotated[str, typer.Argument(help="A bundled recipe's name or a YAML file.", metavar="RECIPE")],
    overrides: _Overrides = None,
) -> None:
    """Print a recipe with every key resolved."""
    from irnet_convert.recipe import Recipe, find_recipe

    found = find_recipe(recipe)
    print(f"# {found}", file=sys.stderr)
    print(Recipe.load(found.path, overrides or []).to_yaml(), end="")


def main() -> None:
    """Entry point: errors of the project's own are printed as text and end with status 2."""
    try:
        app()
    except IrnetError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def _show(item: Any, as_json: bool) -> None:
    if as_json:
        print(json.dumps(item.to_dict(), indent=2))
    else:
        _out.print(item)


def _model(name: str, kwargs: str) -> nn.Module:
    """The model that the command line names: a run's, or a library's with fresh weights."""
    from irnet_convert.networks import create_model
    from irnet_convert.networks.create import model_spec_of

    if (Path(name) / "recipe.yaml").is_file():
        from irnet_convert.train import load

        return load(name)
    spec = model_spec_of(name)
    return create_model(spec.model_copy(update={"kwargs": _json_object(kwargs)}))


def _json_object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        found = error
    if not isinstance(found, dict):
        raise ModelError(
            f"--model-kwargs is {text!r}", expected="a JSON object",
            mend="""write it as '{"num_classes": 10}', quoted for the shell""",
        )  # fmt: skip
    return found


def _read_policy(given: str | None) -> Policy | None:
    from irnet_convert.policy import PRESETS, Policy

    if given is None:
        return None
    return Policy.preset(given) if given in PRESETS or not Path(given).suffix else Policy.load(given)


def _example(size: str | None) -> Any:
    if size is None:
        return None
    import torch

    parts = size.lower().replace(",", "x").split("x")
    if not all(p.isdigit() and int(p) > 0 for p in parts) or len(parts) < 2:
        raise ModelError(
            f"--input-size is {size!r}", expected="positive numbers joined by x, batch first",
            mend="write it as 1x3x224x224",
        )  # fmt: skip
    return torch.zeros(*map(int, parts))


if __name__ == "__main__":
    main()
