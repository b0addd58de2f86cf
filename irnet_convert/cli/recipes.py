"""Commands on recipes: list, show, validate, diff."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from irnet_convert.cli.options import AsJson, Offline, Overrides, RecipeName, out

if TYPE_CHECKING:
    from irnet_convert.recipe import Recipe

Other = Annotated[str, typer.Argument(help="Another one.", metavar="RECIPE")]


def recipe_list(
    repo: Annotated[
        str | None,
        typer.Argument(
            help="A repository on the Hub, org/name[@revision]: list its recipes.", metavar="REPO"
        ),
    ] = None,
    offline: Offline = False,
) -> None:
    """List the recipes that ship with the package, or those of a repository on the Hub.

    Examples: `irnet-convert recipe list`, `irnet-convert recipe list org/recipes`
    """
    from irnet_convert.recipe import Recipe, bundled_recipes

    table = Table()
    table.add_column("name", no_wrap=True)
    table.add_column("what it does", overflow="fold")
    if repo is None:
        for name, path in bundled_recipes().items():
            table.add_row(name, escape(Recipe.load(path).description))
    else:
        for name, description in _in_repository(repo, offline):
            table.add_row(escape(name), escape(description))
    out.print(table)


def _in_repository(repo: str, offline: bool) -> list[tuple[str, str]]:
    from irnet_convert import hub
    from irnet_convert.errors import IrnetError
    from irnet_convert.recipe import Recipe
    from irnet_convert.recipe.find import fetch_recipe

    found = hub.resolve(hub.parse_name(repo), offline=offline or None)
    print(f"# {found.at()}", file=sys.stderr)
    rows = []
    for name in sorted(name for name in found.files if name.endswith((".yaml", ".yml")))[:200]:
        try:
            rows.append((name, Recipe.load(fetch_recipe(found, name), offline=offline or None).description))
        except IrnetError as error:
            rows.append((ascii(name)[1:-1], f"no recipe: {error.given}"))
    return rows


def recipe_show(recipe: RecipeName, overrides: Overrides = None, offline: Offline = False) -> None:
    """Print a recipe with every key resolved, what it extends merged in.

    Examples: `irnet-convert recipe show digits`, `irnet-convert recipe show org/name@v1 epochs=2`
    """
    print(_load(recipe, offline, overrides).to_yaml(), end="")


def validate(
    recipe: RecipeName,
    overrides: Overrides = None,
    offline: Offline = False,
) -> None:
    """Check a recipe without training: its keys and bases, its networks, and that they convert.

    The networks are built without memory for their weights, and the conversion is planned. Ends with status 2
    and says what to mend where something is wrong.

    Examples: `irnet-convert recipe validate my.yaml`, `irnet-convert recipe validate org/name`
    """
    from irnet_convert.pretrained.dry import check_conversion, check_networks

    found = _load(recipe, offline, overrides)
    for line in (*check_networks(found), check_conversion(found)):
        if line is not None:
            print(line)
    print(f"{found.name}: valid")


def diff(
    one: RecipeName,
    other: Other,
    as_json: AsJson = False,
    offline: Offline = False,
) -> None:
    """Print the keys whose resolved values differ; ends with status 1 if there are any.

    Examples: `irnet-convert recipe diff digits my.yaml`, `irnet-convert recipe diff org/name@v1 org/name@v2`
    """
    from irnet_convert.recipe.differences import differences

    found = differences(_load(one, offline), _load(other, offline))
    if as_json:
        print(json.dumps([each._asdict() for each in found], indent=2))
    else:
        table = Table()
        for column in ("key", one, other):
            table.add_column(escape(column), overflow="fold")
        for each in found:
            table.add_row(*map(escape, (each.key, _shown(each.one), _shown(each.other))))
        out.print(table if found else "No key differs.")
    raise typer.Exit(1 if found else 0)


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _load(name: str, offline: bool, overrides: list[str] | None = None) -> Recipe:
    """The recipe, once it has been said on stderr which it is."""
    from irnet_convert.recipe import Recipe
    from irnet_convert.recipe.read import read_recipe

    read = read_recipe(name, offline=offline or None)
    for number, each in enumerate((read.found, *read.bases)):
        print(f"# {'extends ' if number else ''}{each}", file=sys.stderr)
    return Recipe.from_dict(read.data, source=read.found.where, overrides=overrides or ())
