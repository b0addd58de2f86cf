"""Commands that share recipes by the Hugging Face Hub: recipe push, recipe pull."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from irnet_convert.cli.options import Offline, out


def push(
    file: Annotated[Path, typer.Argument(help="The recipe's YAML file.", metavar="FILE")],
    repo: Annotated[str, typer.Argument(help="Where to: org/name.", metavar="REPO")],
    run: Annotated[
        Path | None,
        typer.Option(
            "--run", help="A finished run of this recipe: its result goes into the card, and its log along."
        ),
    ] = None,
    name: Annotated[
        str, typer.Option("--as", help="The file's name in the repository.", metavar="NAME.yaml")
    ] = "recipe.yaml",
    card: Annotated[
        Path | None, typer.Option(help="A card of your own instead of the one that is written.")
    ] = None,
    license: Annotated[str | None, typer.Option(help="For the card's metadata, as in apache-2.0.")] = None,
    message: Annotated[str, typer.Option("--message", "-m", help="Of the commit.")] = "Upload a recipe",
    private: Annotated[
        bool, typer.Option("--private", help="If the repository is new, make it private.")
    ] = False,
    dataset: Annotated[
        bool, typer.Option("--dataset", help="A dataset repository instead of a model's.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Publish a recipe on the Hugging Face Hub: check it, write its card, show what goes up, ask, upload.

    What it extends by a relative path goes along. The token is that of `hf auth login`, or HF_TOKEN.

    Examples: `irnet-convert recipe push my.yaml org/name --run runs/my`,
    `irnet-convert recipe push my.yaml org/name --private --yes`
    """
    from irnet_convert import hub
    from irnet_convert.train.push import prepare

    hub.parse_name(repo)
    ready = prepare(file, repo, run_dir=run, name=name, card=card, license=license)
    table = Table(title=f"to {'datasets/' if dataset else ''}{escape(repo)}")
    table.add_column("file", overflow="fold")
    table.add_column("bytes", justify="right")
    for path, content in ready.files.items():
        table.add_row(escape(path), f"{ready.size(content):,}")
    out.print(table)
    for note in ready.notes:
        out.print(f"Note: {escape(note)}", highlight=False, soft_wrap=True)
    if not yes:
        typer.confirm("Upload these?", abort=True)
    done = hub.upload(
        repo,
        ready.files,
        message=message,
        private=True if private else None,
        repo_type="dataset" if dataset else "model",
    )
    at = f"{done.repo_id}@{done.commit}"
    if dataset or name != "recipe.yaml":
        at = f"hf://{'datasets/' if dataset else ''}{at}/{name}"
    out.print(
        f"{done.url}\nTrain it: irnet-convert train {at}",
        highlight=False,
        soft_wrap=True,
    )


def pull(
    name: Annotated[
        str, typer.Argument(help="A repository on the Hub: org/name[@revision].", metavar="REPO")
    ],
    folder: Annotated[
        Path | None, typer.Argument(help="Directory to write into. Default: ./NAME.", metavar="DIRECTORY")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.")] = False,
    offline: Offline = False,
) -> None:
    """Copy a repository's recipes, card and log into a directory, at one commit.

    Texts only (YAML, Markdown, JSON): nothing is written outside the directory, and nothing that is there is
    replaced without --force.

    Examples: `irnet-convert recipe pull org/name`, `irnet-convert recipe pull org/name@v1 there --force`
    """
    from irnet_convert import hub
    from irnet_convert.recipe.pull import pull as pull_recipe

    repo = hub.resolve(hub.parse_name(name), offline=offline or None)
    print(f"# {repo.at()}")
    for path in pull_recipe(repo, folder or Path(repo.repo_id.split("/")[1]), force=force):
        print(path)
