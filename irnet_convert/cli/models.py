"""Commands that share models by the Hugging Face Hub: push."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from irnet_convert.cli.options import out


def push(
    run_dir: Annotated[
        Path, typer.Argument(help="The directory that a training run wrote.", metavar="RUN_DIR")
    ],
    repo: Annotated[str, typer.Argument(help="Where to: org/name.", metavar="REPO")],
    license: Annotated[
        str | None, typer.Option(help="Of the weights, for the card's metadata, as in apache-2.0.")
    ] = None,
    message: Annotated[str, typer.Option("--message", "-m", help="Of the commit.")] = "Upload a model",
    private: Annotated[
        bool, typer.Option("--private", help="If the repository is new, make it private.")
    ] = False,
    packed: Annotated[
        bool, typer.Option("--packed/--no-packed", help="Upload the packed file too, where it can be packed.")
    ] = True,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Publish a finished run's network on the Hugging Face Hub: write it, show what goes up, ask, upload.

    `irnet_convert.from_pretrained(REPO)` gives it back. The token is that of `hf auth login`, or HF_TOKEN.

    Examples: `irnet-convert push runs/digits org/digits-binary`,
    `irnet-convert push runs/digits org/digits-binary --private --yes`
    """
    from irnet_convert.hub import is_on_hub
    from irnet_convert.pretrained.push import check_repo_id, push_folder
    from irnet_convert.pretrained.save import save_pretrained
    from irnet_convert.train import load
    from irnet_convert.train.result import read_result
    from irnet_convert.train.rundir import read_recipe

    check_repo_id(repo)
    with out.status("loading the run"):
        model, recipe = load(run_dir), read_recipe(run_dir)
        data = recipe.data.name
        metrics = read_result(run_dir, recipe).metrics["after"]
    with tempfile.TemporaryDirectory(prefix="irnet-convert-") as place:
        with out.status("writing"):
            folder = save_pretrained(
                model, Path(place, "model"), metrics=metrics, license=license,
                # A directory's name is nobody else's business, and means nothing to others.
                dataset=data if is_on_hub(data) or data.startswith("builtin/") else None,
                packed=packed, name=repo,
            )  # fmt: skip
        out.print(_table(folder, repo))
        if not yes:
            typer.confirm("Upload these?", abort=True)
        with out.status("uploading"):
            done = push_folder(folder, repo, message=message, private=True if private else None)
    out.print(
        f'{done.url}\nLoad it: irnet_convert.from_pretrained("{done.repo_id}", revision="{done.commit}")',
        highlight=False, soft_wrap=True,
    )  # fmt: skip


def _table(folder: Path, repo: str) -> Table:
    table = Table(title=f"to {escape(repo)}")
    table.add_column("file", overflow="fold")
    table.add_column("bytes", justify="right")
    for path in sorted(folder.iterdir()):
        table.add_row(escape(path.name), f"{path.stat().st_size:,}")
    return table
